"""Read and write the small files that programs keep beside a LoRA. Knows nothing about LoRA files or the index.

Read: `name.json` (A1111, Forge, ours), `name.metadata.json` (ComfyUI LoRA-Manager), `name.civitai.info` (Civitai Helper).
They are optional: a damaged, huge or foreign one counts as empty, and none of it decides whether a LoRA can be used.
Written: only `name.json`, only in our own folder, every key of others kept.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

from sdlora.storage import clean_text, open_regular, write_json

MAX_BYTES = 1_000_000
SUFFIXES = (".json", ".metadata.json", ".civitai.info")
COVERS = (".png", ".preview.png", ".jpg", ".jpeg", ".webp", ".preview.jpg", ".preview.jpeg", ".preview.webp")
MOST_TAGS = 50
LENGTHS = {"name": 80, "trigger": 200, "description": 2000, "notes": 2000}  # characters
BASES = (("sd1", "sd1"), ("sd2", "sd2"), ("sdxl", "sdxl"), ("pony", "sdxl"), ("illustrious", "sdxl"), ("noobai", "sdxl"))
A1111_KEYS = {"trigger": "activation text", "description": "description", "notes": "notes", "weight": "preferred weight"}
A1111_BLANK = {"description": "", "sd version": "Unknown", "activation text": "", "preferred weight": 0, "negative text": "",
               "notes": ""}
Notes = dict[str, Any]  # name trigger description notes family: str; tags: list[str]; favourite hidden: bool; weight: float


def read(files: dict[str, Path]) -> Notes:
    """Return what the sidecars of one LoRA say, by {suffix: file}. For each key the first that has a value wins."""
    found: Notes = {}
    for suffix, reader in zip(SUFFIXES, (a1111, lora_manager, civitai), strict=True):
        content = load(files[suffix]) if suffix in files else {}
        found = (clean(reader(content)) if content else {}) | found
    return found


def load(path: Path) -> dict[str, Any]:
    """Return the JSON object in an untrusted file; {} for everything else."""
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_BYTES + 1)
        content = json.loads(raw.decode("utf-8-sig")) if len(raw) <= MAX_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def typed(content: dict[str, Any], key: str, kind: type) -> Any:
    """Return the value of a key, or an empty one where it is missing or of another type."""
    value = content.get(key)
    return value if isinstance(value, kind) else kind()


def a1111(content: dict[str, Any]) -> Notes:
    """Return the user metadata of A1111 and Forge; what sdlora adds to it stands under "sdlora".

    "emptied" are fields that the artist emptied in sdlora: the other sidecars do not fill them.
    """
    ours = typed(content, "sdlora", dict)
    found = {key: content.get(theirs) for key, theirs in A1111_KEYS.items()} | {"family": content.get("sd version")}
    found |= {key: ours.get(key) for key in ("name", "tags", "favourite")}
    edited = typed(ours, "edited", list)
    emptied = [key for key in ("trigger", "notes", "tags") if key in edited and found[key] in ("", [])]
    return found | {"emptied": {key: found[key] for key in emptied}}


def lora_manager(content: dict[str, Any]) -> Notes:
    """Return the metadata of ComfyUI LoRA-Manager (py/utils/models.py there); the Civitai record lies inside."""
    tips = content.get("usage_tips")
    try:
        tips = json.loads(tips) if isinstance(tips, str) else {}
    except (ValueError, RecursionError):
        tips = {}
    own = {"name": content.get("model_name"), "description": content.get("modelDescription"), "notes": content.get("notes"),
           "tags": content.get("tags"), "family": content.get("base_model"), "favourite": content.get("favorite"),
           "weight": tips.get("strength") if isinstance(tips, dict) else None}
    return civitai(typed(content, "civitai", dict)) | {key: value for key, value in own.items() if value}


def civitai(content: dict[str, Any]) -> Notes:
    """Return a model version of Civitai's API, as Civitai Helper saves it."""
    model = typed(content, "model", dict)
    trained = [word.strip(" ,") for word in typed(content, "trainedWords", list) if isinstance(word, str)]
    return {"name": model.get("name"), "trigger": ", ".join(filter(None, trained)), "tags": model.get("tags"),
            "description": model.get("description") or content.get("description"), "family": content.get("baseModel")}


def clean(notes: Notes) -> Notes:
    """Return the values of the right type, as plain text without markup; no empty ones but those under "emptied"."""
    found: Notes = {}
    for key, length in LENGTHS.items():
        value = notes.get(key)
        if isinstance(value, str) and (text := plain(value, length)):
            found[key] = text
    weight = notes.get("weight")
    if isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < abs(weight) <= 4:
        found["weight"] = float(weight)
    if notes.get("favourite") is True:
        found["favourite"] = True
    if tags := clean_tags(notes.get("tags")):
        found["tags"] = tags
    hint = str(notes.get("family", "")).lower().replace(" ", "").removeprefix("sdlora_")
    family = "mini" if hint == "mini" else next((family for start, family in BASES if hint.startswith(start)), "")
    return (notes.get("emptied") or {}) | found | ({"family": family} if family else {})


def clean_tags(tags: object) -> list[str]:
    """Return tags as short lines of text, each once."""
    texts = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list | tuple) else []
    return list(dict.fromkeys(filter(None, (clean_text(tag.replace(",", " "), 60) for tag in texts))))[:MOST_TAGS]


def plain(text: str, length: int) -> str:
    """Return text without HTML: descriptions of Civitai are web pages."""
    if "<" in text and re.search(r"</?(p|br|a|ul|li|strong|em|h\d|span|img|div|code|pre|u|s|hr|ol|blockquote)\b", text[:20_000]):
        text = html.unescape(re.sub(r"<[^<>]{0,2000}>", " ", text[:20_000]))
    return clean_text(text, length)


def write(path: Path, changes: Notes) -> bool:
    """Write what the artist changed into the `name.json` at `path`, keeping its other keys.

    False when the file there is no JSON object: it is left as it is. Raises UserError when the disk refuses.
    """
    content = load(path)
    if not content and path.exists() and path.stat().st_size > 2:
        return False
    ours = typed(content, "sdlora", dict)
    edited = {key for key in typed(ours, "edited", list) if isinstance(key, str)}
    ours |= {key: value for key, value in changes.items() if key not in A1111_KEYS} | {"edited": sorted(edited | changes.keys())}
    theirs = {A1111_KEYS[key]: value for key, value in changes.items() if key in A1111_KEYS}
    write_json(path, A1111_BLANK | content | theirs | {"sdlora": ours})
    return True
