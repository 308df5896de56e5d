"""Every word the artist reads on the page. Knows nothing about what happens; code elsewhere uses the field's own terms."""

# starting
ABOUT = "The sdlora studio: teach Stable Diffusion your style, in the browser, on your own computer."
HELP_HOST = "address to serve on; anything but this computer needs --password"
HELP_PORT = "port of the page"
HELP_DATA = "data folder (default: SDLORA_HOME, else the platform's own place)"
HELP_LIBRARY = "a folder of LoRA files to show (A1111, Forge, ComfyUI...); read in place, never modified"
HELP_PASSWORD = "password that the page asks for; other users of this computer can see it in the list of processes"
HELP_PASSWORD_FILE = "file whose first line is the password; or set the environment variable SDLORA_PASSWORD"
HELP_PROXY = "address of a reverse proxy in front of the page, whose X-Forwarded-For is believed"
REACH_LOCAL = "The studio is open at http://{host}:{port} - only this computer can reach it. Stop it with Ctrl-C."
REACH_OPEN = (
    "The studio is open at http://{host}:{port} - every computer that can reach this one can open it with the password.\n"
    "The password travels unencrypted: use it in networks you trust. Stop it with Ctrl-C."
)
NEEDS_PASSWORD = "Serving on {host} lets other computers in, and no password is set."
PASSWORD_SHORT = "The password must have 4 to 1024 letters."
PASSWORD_HINT = "Add --password-file FILE or set SDLORA_PASSWORD, or leave --host out to stay on this computer."
PASSWORD_FILE_UNREAD = "The password file {file} could not be read ({reason})."
PASSWORD_FILE_EMPTY = "The first line of the password file {file} is empty."
PASSWORD_FILE_HINT = "Write the password into its first line."
NOT_UTF8 = "it is not text in UTF-8"
BAD_PROXY = "{proxy} is no address of a proxy."
BAD_PROXY_HINT = "Write an IP address, for example: --proxy 127.0.0.1"
TOO_MANY_TRIES = "Too many wrong passwords from this address. Try again in {seconds} seconds."
NOT_THE_PASSWORD = "This is not the password."
NO_ANSWER = "The studio does not answer. Is it still running?"
OPEN_STUDIO = "Open the studio"
PASSWORD = "Password"
ASKS_PASSWORD = "sdlora asks for its password first: open the page."
NOTHING_ELSEWHERE = "sdlora fetches nothing from other machines."
UPLOAD_INSTEAD = "Save the file on your computer and upload it."
BAD_PORT = "{port} is no port: ports go from 1 to 65535."
PORT_TAKEN = "Port {port} is already in use, perhaps by a studio that is open already."
PORT_HINT = "Start this one with --port {port}."

# what goes wrong
BUG = "Something went wrong in sdlora (code {code}). Your pictures and runs are safe; try again."
CHOOSE_FIRST = "That {what} is not there any more. Choose one from the list."
NOT_TEXT = "Only text can be written there. Type it again."
TOO_LONG = "That text is too long. Keep it under {limit} letters."
OUT_OF_RANGE = "{name} must be a number from {low} to {high}. Change it and try again."
NOT_UNDERSTOOD = "The page sent something that sdlora does not understand. Reload it and try again."
UNSAVED = "not saved: the studio does not answer"

# the page
PAGE_TITLE, TITLE = "sdlora studio", "sdlora"
TAGLINE = "Teach Stable Diffusion your style: pictures in, a small style file (LoRA) out. Everything stays on this computer."
TAB_STUDIO, TAB_GALLERY, TAB_RUNS = "Studio", "Gallery", "Past runs"

# act 1
PICTURES = "1 · Pictures"
PICTURES_LEAD = (
    "Ten to forty pictures in one style, showing different things. Say under each *what* is in it, not how it is painted."
)
SET, SET_NAME, NEW_SET, DELETE_SET = "Picture set", "Name of the set", "New set", "Delete set"
SET_SURE = "Delete this picture set with its captions? Files on your disk stay."
FIRST_SET = "My pictures"
DROP = "Drop pictures here, or a zip of them (captions in .txt files are read too)"
EXAMPLES = "No pictures at hand? Start with a ready set:"
DEFAULT_CAPTION = "Caption for pictures that have none"
DEFAULT_CAPTION_INFO = "Only used where you wrote nothing."
CAPTION, CAPTION_EMPTY, CAPTION_SAVED = "Caption of picture", "What is in this picture?", "saved"
REMOVE_PICTURE = "Remove this picture"
NO_PICTURES = "No pictures yet."
COUNT = "{count} pictures. The bright square is the part that is learned."
COUNT_ONE = "1 picture. The bright square is the part that is learned."
FEW = "{count} pictures is few: with ten or more the style is caught better."
SKIPPED = "{count} left out:"
CLEAR_SKIPPED = "Got it"

# act 2
TRAIN = "2 · Train"
TRAIN_LEAD = "The trainer studies your pictures in rounds and draws samples on the way, so that you see the style arrive."
NAME, NAME_INFO = "Name of the style", "Also the name of the file you download."
TRIGGER, TRIGGER_INFO = (
    "The word that calls your style",
    "A made-up word. Put it into a prompt and the style comes. (Trigger word)",
)
BASE, BASE_INFO = "Base model", "The model that learns. A style works with the kind of base it was made on."
PRESET = "How long to study"
MINUTES_UNDER, MINUTES_ONE, MINUTES, HOURS = "under a minute", "about 1 minute", "about {minutes} minutes", "about {hours} hours"
START, PAUSE, STOP, RESUME = "Train", "Pause", "Stop and keep", "Go on"
NEED_PICTURES = "There are no pictures to learn from. Drop some above, or start with a ready set."
TRY_POINT, DOWNLOAD_POINT = "Try the point after {step}", "Download the point after {step}"
TRY_LAST, DOWNLOAD_LAST = "Try the style", "Download the style file"
LOSS = "Loss (for the curious: the samples decide, not the numbers)"
EXPERT = "Expert"
EXPERT_LEAD = "Empty means: what the preset says. The names are the keys of `--set` on the command line."
STATES = {
    "queued": "Waiting for its turn",
    "running": "Training",
    "stopped": "Paused",
    "done": "Done",
    "failed": "Could not go on",
}
STAGES = {
    "base": "Loading the base model",
    "pictures": "Reading the pictures",
    "latents": "Looking at the pictures",
    "captions": "Reading the captions",
}

# act 3
TRY = "3 · Try"
TRY_LEAD = "The same prompt and the same variation number, once with the untouched base and once with your style. Pull the line."
STYLE = "Style"
PROMPT, PROMPT_INFO = "Prompt", "What to draw. Leave the style word in."
STRENGTH, STRENGTH_INFO = "Style strength", "0 is the base alone, 1 what was learned."
SEED, SEED_INFO = "Variation number", "The same number gives the same picture. (Seed)"
DRAW, CANCEL = "Draw", "Stop drawing"
KEEP_OUT, KEEP_OUT_INFO = "Keep out", "What should not be in the picture. (Negative prompt)"
STEPS, GUIDANCE, GUIDANCE_INFO = "Drawing steps", "How closely the prompt is followed", "Around 5 is usual. (Guidance)"
COUNT_PICTURES = "How many"
COMPARED = "Base model on the left, with your style on the right"
HISTORY = "Drawn pictures"
NO_HISTORY = "What you draw is kept here with its settings."
AGAIN, SAVE, REMOVE = "Use these settings", "Save", "Delete"
SURE_PICTURE = "Delete this picture?"

# past runs
NO_RUNS = "No trainings yet."
TRAIN_AGAIN, OPEN_RUN, DELETE_RUN = "Train again with these settings", "Show in the studio", "Delete this run"
SURE_RUN = "Delete this run with its samples and saved points? A finished style file stays on the shelf."

# the computer
MEND = "Mend it, then start the studio again:"
DEVICES = {
    "cuda": "Trains on the graphics card.",
    "mps": "Trains on the Apple graphics processor.",
    "cpu": "Trains on the processor: fine for Mini, slow for large models.",
}

# bases
GET_BASE = "Get another base model"
GET_BASE_LEAD = (
    "Nothing is downloaded unless you press Download. Base models that are already on this computer: put them into "
    "`{folder}`, or use `sdlora bases add`."
)
HUB, HUB_INFO = "Model on huggingface.co", "One of the list, or any owner/name that holds safetensors."
HUB_FACTS = "{title} · about {size:.1f} GB · licence {licence}"
HUB_UNKNOWN = "Size and licence of this model are on its page at huggingface.co; it is fetched only if it holds safetensors."
DOWNLOAD_BASE, CANCEL_DOWNLOAD = "Download", "Cancel"

# expert
AS_PRESET = "as the preset says"
SEPARATED = "Separate them with |"
NONE, FROM_CAPTIONS = "none", "made from the captions"
UNNAMED = "My style"
PLAN = "{steps} study rounds, samples at {samples} points, about {memory:.1f} GB of memory."
HELD_OUT = " One picture is kept out of the study to check what was learned."

# the live view
COUNTED = " ({done} of {total})"
FIRST_SAMPLES = "Drawing the first samples, with the untouched base"
PAUSING, STOPPING = "Saving, then resting", "Writing the style file"
NO_WORKER = "The worker of the studio could not be started, so nothing new begins. {why}"
FINISHED = "The file was read back and checked: it changes the picture."
PAUSED_NOTE = "Everything is saved. Go on whenever you like."
STOPPED_NOTE = "It was interrupted; nothing before the last saved point is lost. Go on continues it."
ROUNDS = "round {step} of {steps}"
LEFT, SECONDS, MINUTES_SHORT = " left", "about {seconds} s", "about {minutes} min"
HELD = "{name} is kept out of the study to check what was learned."
POINT = "The saved point"
STRIP = "Samples: one column per saved point, one row per prompt"
CORNER = "rounds"
BEFORE, AFTER = "before", "{step}"
CHOOSE_POINT = "Choose the point after {step} rounds"
CURVE, CURVE_HELD = "training, smoothed", "held-out picture"

# styles and drawing
NO_BASE = "There is no base model for {name} on this computer."
NO_BASE_HINT = 'Add the base it was made for: open "Get another base model" in the studio.'
STYLE_POINT = "{name}, after {step} rounds"
DRAWING, WAITING, DRAW_FAILED = "Drawing", "Getting ready", "Not drawn"
PICTURE_OF = "picture {number} of {total}"
BAD_CELLS, BAD_CELL = "{count} of the pictures could not be drawn", "Row {row}, column {column}: {why}"
PREVIEW = "Preview of the picture being drawn"
NO_PROMPT = "(no prompt)"
BASE_ALONE, VARIATION, STEPS_SHORT, WITHOUT = (
    "base model alone",
    "variation {seed}",
    "{steps} steps, guidance {guidance}",
    "without: {negative}",
)
MORE, ANOTHER, OLDER = "More settings", "Another variation", "Show older pictures"
NO_STYLE_YET = "There is no style to try yet. Train one above, or add a style file in the gallery."

# gallery, past runs, downloads
BASE_AUTO = "The one the styles were made on"
DOWNLOAD_ALL = "Download all these pictures"
DELETED = "Deleted."
FACT_TITLE = "{name}: settings"
FACT_STATE, FACT_BEGUN, FACT_PICTURES, FACT_PROBLEM, FACT_SKIPPED = "State", "Begun", "Pictures", "What happened", "Left out"
FACT_HELD = " ({name} kept out)"
FACT_SETTINGS = ("steps", "rank", "learning_rate", "batch_size", "schedule", "seed", "resolution", "device")
ASK_BASE = "Ask for size and licence"
NOT_A_HUB_ID = "That is not the name of a model. Write it as owner/name, as on huggingface.co."
FETCHING, FETCHED, NOT_FETCHED = "Downloading {name}", "{name} is here: choose it in the base menu", "Not downloaded"
ASKING, OF_GB = "asking huggingface.co", "{done:.2f} of {total:.2f} GB"
