"""Every word of the gallery tab. Knows nothing about what happens; the words of the other tabs are in words.py."""

# gallery: the shelf
GALLERY_LEAD = "Your style files. Choose one or several: they go onto the mixing desk below."
SEARCH, ALL_FAMILIES, STARRED = "Search names, trigger words, tags and notes", "All bases", "Starred"
ALL_PLACES, PLACE_TAG, PLACE_FOLDER = "All tags and folders", "Tag: {tag}", "Folder: {folder}"
SORTS = {
    "new": "Newest first", "name": "By name", "favourite": "Starred first", "kind": "By kind", "rank": "By rank",
    "size": "Largest first",
}  # fmt: skip
KIND_RANK, MEGABYTES = "{kind} rank {rank}", "{size:.1f} MB"
NO_STYLES = "Nothing on the shelf yet. A finished training puts its style here; you can also add a file."
READING_SHELF = "Reading the shelf: {unread} of {files} files are still to be opened."
NO_MATCH, MORE_STYLES = "Nothing on the shelf fits that.", "Show more"
UPLOAD_STYLE = "Add a style file (.safetensors)"
ADD_FOLDER = (
    "The whole folder of A1111, Forge or ComfyUI is shown too, read in place and never changed, after "
    "`sdlora library add FOLDER` in a terminal."
)
DOWNLOAD = "Download"
DELETED_STYLE = "“{name}” is off the shelf."
HIDDEN_STYLE = "“{name}” is off the shelf; its file stays in its folder."
SHELF = {
    "choose": "Choose", "details": "Details", "download": DOWNLOAD, "remove": "Delete", "undo": "Bring it back", "star": "Star",
    "close": "Close", "reading": "Reading the file …", "writing": "Writing the file …", "save": "Save", "saved": "saved",
    "unsaved": "the studio does not answer",
}  # fmt: skip

# gallery: the report of a file
REPORT_BARS = "How strongly it changes each block"
REPORT_IGNORED = "{count} entries are not used"
REPORT_MATCHED, REPORT_OF, REPORT_PART = "Layers that act", "{matched} of {modules} ({parts})", "{part} {matched} of {modules}"
REPORT_FAMILY, REPORT_KIND, REPORT_RANK, REPORT_ALPHA = "Made for", "Kind and spelling", "Detail it can hold (rank)", "Alpha"
REPORT_SCALE, REPORT_PUSH, REPORT_SIZE = "Built-in strength (alpha / rank)", "Push against the weights", "Size"
FACTS = {"name": "Name", "trigger": "Trigger word", "tags": "Tags, with commas between", "notes": "Notes"}
TWIN = "The shelf has the very same style a second time, as “{name}”."
ABOUT_TITLE = "Before you give it away"
ABOUT_FILE = {"author": "Author", "licence": "Licence", "consent": "Whose pictures, and with whose leave", "note": "A note"}
PRIVATE = "{count} private entries (captions, paths, dates) stay out of the zip."
NAME_EMPTY = "A style needs a name. Write one."
DOWNLOADS = {"kohya": "For ComfyUI, A1111, Forge", "diffusers": "For diffusers", "zip": "All in one zip"}

# gallery: the mixing desk
DESK_TITLE = "Mixing desk"
DESK_LEAD = "One row per chosen style. 0 is off, 1 as it was trained, below 0 pushes away from it."
DESK_EMPTY = "Choose a style above: it gets a row here."
DESK = {
    "on": "On", "strength": "Strength", "text": "Strength on the words (text encoder)", "as_strength": "same",
    "start": "Begins after, % of the drawing", "end": "Ends after, % of the drawing", "blocks": "Where in the network",
    "all_blocks": "everywhere", "more": "More", "remove": "Take off the desk", "add_word": "Put this word into the prompt",
    "push_info": "How far it pushes the base",
    "balance": "Balance", "balance_info": "Strengths at which all push equally hard", "suggested": "Use the suggested strengths",
    "unsaved": "the studio does not answer", "writing": "Writing the file …", "save_name": "Name of the blend",
    "save_size": "Size of the file", "save_blend": "Save this blend as a style file",
}  # fmt: skip
SAVE_WAYS = {
    "concat": "exact, full size", "svd 64": "small (rank 64)", "svd 32": "small (rank 32)", "svd 16": "small (rank 16)",
    "svd 8": "tiny (rank 8)", "ties 32": "experiment: TIES", "dare 32": "experiment: DARE",
}  # fmt: skip
SAVED_BLEND = "“{name}” is on the shelf, with {energy} of the blend in it."
SAVED_AS_SUM = "A file adds its styles up: it cannot take turns or average as the desk does now, so its pictures will differ."
PUSH, TOGETHER = "pushes {push}", "Together they push the base by {push}."
PULLS = {
    True: "{one} and {other} pull the same way ({share}): they add up to one stronger style.",
    False: "{one} and {other} pull against each other ({share}): each takes back part of the other.",
}
BURNS = "Together these push {times} times as hard as the strongest of them was trained to: the picture is likely to burn."
BURNS_IN_TURN = "One of these pushes {times} times as hard as it was trained to: the picture is likely to burn."
BURNS_ALONE = "This pushes {times} times as hard as it was trained to: the picture is likely to burn."
ENDS_BEFORE = "{name} ends before it begins. Change when it begins or ends."
METHOD, METHOD_INFO = "How several styles act", "The sum is exact; the others are for styles that fight each other."
METHODS = {
    "sum": "Together (sum)",
    "switch": "Taking turns (LoRA Switch)",
    "composite": "Each on its own, averaged (LoRA Composite, slower)",
    "style-subject": "Style in the first row, subject in the second: the stronger one wins in each layer",
}
SWITCH_EVERY, SWITCH_EVERY_INFO = "Steps until the next takes its turn", "Only for taking turns."

# gallery: drawing
GALLERY_DRAW = "Draw with the desk"
PROMPT_TAGS = "What to draw. Names on the shelf work too: <lora:name:0.8>"
NOTHING_DRAWN = "The pictures appear here: the base and your blend with the same variation number."
COMPARE, COMPARED_BLEND = "Draw the base alone too, to compare", "Base model on the left, with your blend on the right"
SAMPLER, SAMPLER_AUTO = "Sampler", "The base's own"
WIDTH, HEIGHT, SIZE_INFO = "Width", "Height", "px; 0: the base's own"
INIT, INIT_DROP = "Begin from a picture", "Drop a picture here"
INIT_LEAD = "The drawing starts from this picture instead of from nothing."
INIT_STRENGTH, INIT_STRENGTH_INFO = "How much it may change", "0.2 keeps nearly everything, 1 keeps nothing."
CANVAS = {
    "alt": "The picture to begin from", "paint": "Paint over what shall be drawn anew; leave it clean to redraw all of it.",
    "brush": "Brush", "clear": "Clear the paint", "remove": "Begin from nothing",
}  # fmt: skip

# gallery: grids, settings of a picture
GRID = "Compare in a grid"
GRID_LEAD = "The prompt and settings from above, with one thing changed from column to column and another from row to row."
GRID_X, GRID_Y, GRID_NONE = "Columns", "Rows", "one row only"
GRID_VALUES, GRID_VALUES_INFO = "Values", "1, 2, 3 or 0-1 (+0.25) or 1-4; put | between texts."
GRID_DRAW, GRID_STRIP, GRID_PAIRS, GRID_SHEET = "Draw the grid", "Strength strip", "Base beside blend", "Download the sheet"
GRID_TITLE, GRID_NO_X = "The grid", "Choose what the columns change."
AXES = {
    "strength": "Strength", "seed": "Variation number", "prompt": "Prompt", "replace": "A word of the prompt", "lora": "Style",
    "point": "Saved point of a training", "blocks": "Where in the network", "sampler": "Sampler", "steps": "Drawing steps",
    "guidance": "Closeness to the prompt", "method": "How they act together", "text": "Strength on the words",
}  # fmt: skip
AXIS_BEGIN = {
    "strength": "0, 0.4, 0.7, 1, 1.3", "seed": "1-4", "blocks": "all | style only | content only", "steps": "10, 20, 30",
    "sampler": "DPM++ 2M Karras | Euler | Euler a", "guidance": "2, 5, 8", "method": "sum | switch | composite",
    "text": "0, 0.5, 1",
}  # fmt: skip
NO_STYLE = {"none", "base", "–", "-"}
NO_SUCH_RUN, ROUND = "There is no training called “{name}” with saved points.", "after {step}"
RECALL, RECALL_DROP = "Use the settings of a picture", "Drop a picture that was drawn here, in A1111, ComfyUI, InvokeAI, …"
RECALLED = "Settings taken over, {count} styles on the desk."
