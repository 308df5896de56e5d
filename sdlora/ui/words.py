"""Every word the artist reads on the page: the field's terms as labels, a plain explanation as the help line under them."""

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
PASSWORD_SHORT = "The password must have 4 to 1024 characters."
PASSWORD_HINT = "Add --password-file FILE or set SDLORA_PASSWORD, or leave --host out to stay on this computer."
PASSWORD_FILE_UNREAD = "The password file {file} could not be read ({reason})."
PASSWORD_FILE_EMPTY = "The first line of the password file {file} is empty."
PASSWORD_FILE_HINT = "Write the password into its first line."
NOT_UTF8 = "it is not text in UTF-8"
BAD_PROXY = "{proxy} is no address of a proxy."
BAD_PROXY_HINT = "Write an IP address, for example: --proxy 127.0.0.1"
BAD_PORT = "{port} is no port: ports go from 1 to 65535."
PORT_TAKEN = "Port {port} is already in use, perhaps by a studio that is open already."
PORT_HINT = "Start this one with --port {port}."

# who may open the page
FOREIGN_HOST = "sdlora does not answer under this name."
FOREIGN_ORIGIN = "Another web site tried to use sdlora."
TOO_LARGE = "That is more than sdlora takes at once."
TOO_SLOW = "Nothing arrived for a while, so sdlora stopped waiting. Send it again."
NOTHING_ELSEWHERE = "sdlora fetches nothing from other machines."
UPLOAD_INSTEAD = "Save the file on your computer and upload it."
ASKS_PASSWORD = "sdlora asks for its password first: open the page."
TOO_MANY_TRIES = "Too many wrong passwords from this address. Try again in {seconds} seconds."
NOT_THE_PASSWORD = "This is not the password."
NO_ANSWER = "The studio does not answer. Is it still running?"
OPEN_STUDIO, PASSWORD = "Open the studio", "Password"

# errors
BUG = "Something went wrong in sdlora (code {code}). Your pictures and runs are safe; try again."
CHOOSE_FIRST = "That {what} is not there any more. Choose one from the list."
NOT_TEXT = "Only text can be written there. Type it again."
TOO_LONG = "That text is too long. Keep it under {limit} characters."
OUT_OF_RANGE = "{name} must be a number from {low} to {high}. Change it and try again."
NOT_UNDERSTOOD = "The page sent something that sdlora does not understand. Reload it and try again."
NO_REPLY = "the studio does not answer"
NOT_SAVED = f"not saved: {NO_REPLY}"

# the page
PAGE_TITLE, TITLE = "sdlora studio", "sdlora"
TAGLINE = "Teach Stable Diffusion your style: pictures in, a small LoRA file out. Everything stays on this computer."
TAB_STUDIO, TAB_GALLERY, TAB_RUNS = "Studio", "Gallery", "Past runs"

# act 1: pictures
PICTURES = "1 · Pictures"
PICTURES_LEAD = "Ten to forty pictures in one style, showing different things. Caption *what* is in each, not how it is drawn."
SET, SET_NAME, NEW_SET, DELETE_SET = "Picture set", "Name of the set", "New set", "Delete set"
SET_SURE = "Delete this picture set with its captions? Files on your disk stay."
FIRST_SET = "My pictures"
DROP = "Drop pictures here, or a zip of them (captions in .txt files are read too)"
EXAMPLES = "No pictures at hand? Start with a ready set:"
DEFAULT_CAPTION, DEFAULT_CAPTION_INFO = "Default caption", "For pictures that have no caption of their own."
CAPTION, CAPTION_EMPTY, CAPTION_SAVED = "Caption of picture", "What is in this picture?", "saved"
REMOVE_PICTURE = "Remove this picture"
NO_PICTURES = "No pictures yet."
COUNT = "{count} pictures. The bright square is the part that is trained on."
COUNT_ONE = "1 picture. The bright square is the part that is trained on."
FEW = "{count} pictures is few: a style is learned better from ten or more."
SKIPPED, CLEAR_SKIPPED = "{count} left out:", "Got it"

# act 2: the form
TRAIN = "2 · Train"
TRAIN_LEAD = "Training runs in steps and draws samples on the way, so that you see the style arrive."
NAME, NAME_INFO = "LoRA name", "Also the name of the file you download."
TRIGGER, TRIGGER_INFO = "Trigger word", "A made-up word. Put it into a prompt and the style comes."
BASE, BASE_INFO = "Base model", "The model to train on. A LoRA works with the kind of base model it was trained on."
PRESET, PRESET_INFO = "Preset", "How long and how strongly to train."
MINUTES_UNDER, MINUTES_ONE, MINUTES, HOURS = "under a minute", "about 1 minute", "about {minutes} minutes", "about {hours} hours"
START, PAUSE, STOP, RESUME = "Train", "Pause", "Stop and keep", "Resume"
NEED_PICTURES = "There are no pictures to train on. Drop some above, or start with a ready set."
UNNAMED = "My style"
PLAN = "{steps} steps, samples at {samples} of them, about {memory:.1f} GB of memory."
HELD_OUT = " One picture is held out to check what was learned."
FIX = "Fix it, then start the studio again:"
DEVICES = {
    "cuda": "Trains on the graphics card.",
    "mps": "Trains on the Apple graphics processor.",
    "cpu": "Trains on the processor: fine for Mini, slow for large models.",
}
EXPERT = "Expert"
EXPERT_LEAD = "Leave a field empty for what the preset says. The word in brackets is its key for `--set` on the command line."
SETTING_LABELS = {
    "rank": "Network rank", "alpha": "Network alpha", "warmup_steps": "Warm-up steps", "schedule": "Learning rate schedule",
    "clip_norm": "Max gradient norm", "min_snr_gamma": "Min SNR gamma", "sample_guidance": "Sample CFG scale",
    "file_dtype": "Save precision",
}
AS_PRESET = "as the preset says"
SEPARATED = "Separate them with |"
NONE, FROM_CAPTIONS = "none", "made from the captions"

# act 2: the base model menu
GET_BASE = "Get another base model"
GET_BASE_LEAD = (
    "Nothing is downloaded unless you press Download. Base models that are already on this computer: put them into "
    "`{folder}`, or use `sdlora bases add`."
)
HUB, HUB_INFO = "Model on huggingface.co", "One of the list, or any owner/name that holds safetensors."
HUB_FACTS = "{title} · about {size:.1f} GB · licence {licence}"
HUB_UNKNOWN = "Size and licence of this model are on its page at huggingface.co; it is fetched only if it holds safetensors."
ASK_BASE, DOWNLOAD_BASE, CANCEL_DOWNLOAD = "Ask for size and licence", "Download", "Cancel"
NOT_A_HUB_ID = "That is not the name of a model. Write it as owner/name, as on huggingface.co."
FETCHING, FETCHED, NOT_FETCHED = "Downloading {name}", "{name} is here: choose it in the base model menu", "Not downloaded"
ASKING, OF_GB = "asking huggingface.co", "{done:.2f} of {total:.2f} GB"

# act 2: the live run
STATES = {"queued": "In the queue", "running": "Training", "stopped": "Paused", "done": "Done", "failed": "Failed"}
STAGES = {
    "base": "Loading the base model",
    "pictures": "Reading the pictures",
    "latents": "Encoding the pictures",
    "captions": "Encoding the captions",
}
COUNTED = " ({done} of {total})"
FIRST_SAMPLES = "Drawing the first samples, with the base model alone"
PAUSING, STOPPING = "Saving, then pausing", "Writing the LoRA file"
NO_WORKER = "The worker of the studio could not be started, so nothing new begins. {why}"
FINISHED = "The file was read back and checked: it changes the picture."
PAUSED_NOTE = "Everything is saved. Resume whenever you like."
STOPPED_NOTE = "It was interrupted; nothing before the last checkpoint is lost. Resume continues it."
STEP_OF = "step {step} of {steps}"
LEFT, SECONDS, MINUTES_SHORT = " left", "about {seconds} s", "about {minutes} min"
HELD = "{name} is held out to check what was learned."
CHECKPOINT = "The checkpoint"
CHOOSE_CHECKPOINT = "Choose the checkpoint at step {step}"
TRY_CHECKPOINT, DOWNLOAD_CHECKPOINT = "Try the checkpoint at step {step}", "Download the checkpoint at step {step}"
TRY_LAST, DOWNLOAD_LAST = "Try the LoRA", "Download the LoRA"
SUGGESTED = "suggested"
STRIP, STRIP_CORNER, STRIP_BASE = "Samples: one column per checkpoint, one row per prompt", "step", "base"
LOSS, CURVE, CURVE_HELD = "Loss (the samples decide, not the numbers)", "training, smoothed", "held-out picture"

# drawing: settings of acts 3 and gallery
LORA = "LoRA"
PROMPT, PROMPT_INFO = "Prompt", "What to draw. Leave the trigger word in."
STRENGTH, STRENGTH_INFO = "LoRA strength", "0 is the base model alone, 1 what was trained."
SEED, SEED_INFO, RANDOM_SEED = "Seed", "The same seed gives the same picture.", "Random seed"
NEGATIVE, NEGATIVE_INFO = "Negative prompt", "What should not be in the picture."
STEPS, STEPS_INFO = "Steps", "More are slower and finer. 20 to 30 are usual."
CFG, CFG_INFO = "CFG scale", "How closely the picture follows the prompt. Around 5 is usual."
SAMPLER, SAMPLER_AUTO = "Sampler", "The base model's own"
COUNT_PICTURES, COUNT_PICTURES_INFO = "Batch count", "How many pictures to draw."
WIDTH, HEIGHT, SIZE_INFO = "Width", "Height", "px; 0: the base model's own"
MORE, DRAW, CANCEL = "More settings", "Draw", "Stop drawing"
DRAWING, WAITING, DRAW_FAILED = "Drawing", "Getting ready", "Not drawn"
PICTURE_OF = "picture {number} of {total}"
PREVIEW = "Preview of the picture being drawn"
BAD_CELLS, BAD_CELL = "{count} of the pictures could not be drawn", "Row {row}, column {column}: {why}"
NO_BASE = "There is no base model for {name} on this computer."
NO_BASE_HINT = 'Add the base model it was made for: open "Get another base model" in the studio.'

# act 3: compare
TRY = "3 · Try"
TRY_LEAD = "The same prompt and seed, once with the base model alone and once with your LoRA. Drag the divider."
COMPARED = "Base model on the left, with your LoRA on the right"
LORA_AT_STEP = "{name}, step {step}"
NO_LORA_YET = "There is no LoRA to try yet. Train one above, or add a file in the gallery."

# drawn pictures
HISTORY = "Drawn pictures"
NO_HISTORY = "What you draw is kept here with its settings."
AGAIN, SAVE, REMOVE, OLDER = "Use these settings", "Save", "Delete", "Show older pictures"
SURE_PICTURE, DELETED = "Delete this picture?", "Deleted."
NO_PROMPT, BASE_ALONE = "(no prompt)", "base model alone"
SEED_SHORT, STEPS_SHORT, NEGATIVE_SHORT = "seed {seed}", "{steps} steps, CFG {guidance}", "negative: {negative}"

# past runs
NO_RUNS = "No trainings yet."
TRAIN_AGAIN, OPEN_RUN, DELETE_RUN = "Train again with these settings", "Show in the studio", "Delete this run"
SURE_RUN = "Delete this run with its samples and checkpoints? A finished LoRA stays in the gallery."
FACT_TITLE = "{name}: settings"
FACT_STATE, FACT_BEGUN, FACT_PICTURES, FACT_PROBLEM, FACT_SKIPPED = "State", "Started", "Pictures", "What happened", "Left out"
FACT_HELD = " ({name} held out)"
FACT_SETTINGS = ("steps", "rank", "learning_rate", "batch_size", "schedule", "seed", "resolution", "device")

# gallery: the shelf
GALLERY_LEAD = "Your LoRA files. Choose one or several: they go into the mixer below."
SEARCH, ALL_FAMILIES, STARRED = "Search names, trigger words, tags and notes", "All bases", "Starred"
ALL_PLACES, PLACE_TAG, PLACE_FOLDER = "All tags and folders", "Tag: {tag}", "Folder: {folder}"
SORTS = {
    "new": "Newest first", "name": "By name", "favourite": "Starred first", "kind": "By kind", "rank": "By rank",
    "size": "Largest first",
}
KIND_RANK, MEGABYTES = "{kind} rank {rank}", "{size:.1f} MB"
NO_LORAS = "No LoRA here yet. A finished training puts its file here; you can also add one."
READING_SHELF = "Reading the LoRA files: {unread} of {files} are still to be opened."
NO_MATCH, MORE_LORAS = "No LoRA matches that.", "Show more"
UPLOAD_LORA = "Add a LoRA (.safetensors)"
ADD_FOLDER = (
    "The whole folder of A1111, Forge or ComfyUI is shown too, read in place and never changed, after "
    "`sdlora library add FOLDER` in a terminal."
)
DOWNLOAD = "Download"
DELETED_LORA = "“{name}” was removed from the gallery."
HIDDEN_LORA = "“{name}” was removed from the gallery; its file stays in its folder."
SHELF = {
    "choose": "Choose", "details": "Details", "download": DOWNLOAD, "remove": "Delete", "undo": "Bring it back", "star": "Star",
    "close": "Close", "reading": "Reading the file …", "writing": "Writing the file …", "save": "Save", "saved": "saved",
    "unsaved": NO_REPLY,
}

# gallery: the report of a file
REPORT_BARS = "How much it changes each block"
REPORT_IGNORED = "{count} entries are not used"
REPORT_MATCHED, REPORT_OF, REPORT_PART = "Layers that act", "{matched} of {modules} ({parts})", "{part} {matched} of {modules}"
REPORT_FAMILY, REPORT_KIND, REPORT_RANK, REPORT_ALPHA = "Base model", "Kind and format", "Network rank", "Network alpha"
REPORT_SCALE, REPORT_CHANGE, REPORT_SIZE = "Scale (alpha / rank)", "Change relative to the weights", "Size"
FACTS = {"name": "Name", "trigger": "Trigger word", "tags": "Tags, with commas between", "notes": "Notes"}
TWIN = "The gallery has the very same LoRA a second time, as “{name}”."
ABOUT_TITLE = "Before you give it away"
ABOUT_FILE = {"author": "Author", "licence": "Licence", "consent": "Whose pictures, and with whose leave", "note": "A note"}
PRIVATE = "{count} private entries (captions, paths, dates) stay out of the zip."
NAME_EMPTY = "A LoRA needs a name. Write one."
DOWNLOADS = {"kohya": "For ComfyUI, A1111, Forge", "diffusers": "For diffusers", "zip": "All in one zip"}

# gallery: the mixer
MIXER_TITLE = "Mixer"
MIXER_LEAD = "One row per chosen LoRA. 0 is off, 1 as it was trained, below 0 the opposite of it."
MIXER_EMPTY = "Choose a LoRA above: it gets a row here."
MIXER = {
    "on": "On", "strength": "LoRA strength", "text": "Text encoder strength", "as_strength": "same",
    "start": "Start, % of the steps", "end": "End, % of the steps", "blocks": "Block weights",
    "all_blocks": "all blocks", "more": "More", "remove": "Remove from the mixer",
    "add_word": "Add the trigger word to the prompt", "change_info": "How much it changes the base model's weights",
    "balance": "Balance", "balance_info": "Strengths at which all change the base model equally",
    "suggested": "Use the suggested strengths",
    "unsaved": NO_REPLY, "writing": "Writing the file …", "save_name": "Name of the blend",
    "save_size": "Size of the file", "save_blend": "Save this blend as a LoRA",
}
SAVE_WAYS = {
    "concat": "exact, full size", "svd 64": "small (rank 64)", "svd 32": "small (rank 32)", "svd 16": "small (rank 16)",
    "svd 8": "tiny (rank 8)", "ties 32": "experiment: TIES", "dare 32": "experiment: DARE",
}
SAVED_BLEND = "“{name}” is in the gallery, with {energy} of the blend in it."
SAVED_AS_SUM = "A file is the sum of its LoRAs: it cannot switch or average as the mixer does now, so its pictures will differ."
CHANGE, TOGETHER = "change {change}", "Together they change the base model by {change}."
PAIRS = {
    True: "{one} and {other} are alike ({share}): together they act as one stronger LoRA.",
    False: "{one} and {other} work against each other ({share}): each undoes part of the other.",
}
TOO_STRONG = "Together these are {times} times as strong as the strongest of them was trained: pictures are likely to break up."
TOO_STRONG_IN_TURN = "One of these is {times} times as strong as it was trained: pictures are likely to break up."
TOO_STRONG_ALONE = "This is {times} times as strong as it was trained: pictures are likely to break up."
ENDS_BEFORE = "{name} ends before it starts. Change its start or end."
METHOD, METHOD_INFO = "How several LoRAs are combined", "The sum is exact; the others are for LoRAs that fight each other."
METHODS = {
    "sum": "Together (sum)",
    "switch": "In turn (LoRA Switch)",
    "composite": "Each on its own, averaged (LoRA Composite, slower)",
    "style-subject": "Style in the first row, subject in the second: the stronger one wins in each layer",
}
SWITCH_EVERY, SWITCH_EVERY_INFO = "Steps until the next LoRA", "Only for LoRA Switch."

# gallery: drawing
GALLERY_DRAW = "Draw with the mixer"
PROMPT_TAGS = "What to draw. Names in the gallery work too: <lora:name:0.8>"
NOTHING_DRAWN = "The pictures appear here: the base model and your blend with the same seed."
BASE_AUTO = "The one the LoRAs were made on"
COMPARE, COMPARED_BLEND = "Draw the base model alone too, to compare", "Base model on the left, with your blend on the right"
DOWNLOAD_ALL = "Download all these pictures"
INIT, INIT_DROP = "Start from a picture (img2img)", "Drop a picture here"
INIT_LEAD = "The drawing starts from this picture instead of from noise."
INIT_STRENGTH, INIT_STRENGTH_INFO = "Denoising strength", "0.2 keeps nearly everything, 1 keeps nothing."
INPAINT = {
    "alt": "The picture to start from",
    "paint": "Paint over what is to be redrawn (inpaint); leave it clean to redraw all of it.",
    "brush": "Brush", "clear": "Clear the paint", "remove": "Start from noise",
}
LOAD, LOAD_DROP = "Use the settings of a picture", "Drop a picture that was drawn here, in A1111, ComfyUI, InvokeAI, …"
LOADED = "Settings loaded, {count} LoRAs in the mixer."

# gallery: grids
GRID = "Compare in a grid (X/Y plot)"
GRID_LEAD = "The prompt and settings from above, with one thing changed from column to column and another from row to row."
GRID_X, GRID_Y, GRID_NONE = "Columns (X)", "Rows (Y)", "one row only"
GRID_VALUES, GRID_VALUES_INFO = "Values", "1, 2, 3 or 0-1 (+0.25) or 1-4; put | between texts."
GRID_DRAW, GRID_STRIP, GRID_PAIRS, GRID_SHEET = "Draw the grid", "Strength strip", "Base beside blend", "Download the sheet"
GRID_TITLE, GRID_NO_X = "The grid", "Choose what the columns change."
AXES = {
    "strength": "LoRA strength", "seed": "Seed", "prompt": "Prompt", "replace": "Prompt S/R (a word of it)", "lora": "LoRA",
    "point": "Checkpoint of a training", "blocks": "Block weights", "sampler": "Sampler", "steps": "Steps",
    "guidance": "CFG scale", "method": "How LoRAs are combined", "text": "Text encoder strength",
}
AXIS_BEGIN = {
    "strength": "0, 0.4, 0.7, 1, 1.3", "seed": "1-4", "blocks": "all | style only | content only", "steps": "10, 20, 30",
    "sampler": "DPM++ 2M Karras | Euler | Euler a", "guidance": "2, 5, 8", "method": "sum | switch | composite",
    "text": "0, 0.5, 1",
}
NO_LORA = {"none", "base", "–", "-"}
NO_SUCH_RUN, AT_STEP = "There is no training called “{name}” with checkpoints.", "step {step}"
