"""The small files that other programs keep beside a LoRA, and what they say. Knows nothing about LoRA files or the index.

Read: `name.json` (A1111, Forge, ours), `name.metadata.json` (ComfyUI LoRA-Manager), `name.civitai.info` (Civitai Helper).
They are decoration: one that is damaged, huge or strange says nothing, and none of it decides whether a file can be used.
Written: only `name.json`, only in our own folder, every key of others kept (lora-files.md 2.9, studio.md 3).
"""

import html
import json
import re
from pathlib import Path

from sdlora.storage import clean_text, open_regular, write_json

MAX_BYTES = 1_000_000
SUFFIXES = (".json", ".metadata.json", ".civitai.info")
COVERS = (".png", ".preview.png", ".jpg", ".jpeg", ".webp", ".preview.jpg", ".preview.jpeg", ".preview.webp")
MOST_TAGS = 50
LENGTHS = {"name": 80, "trigger": 200, "description": 2000, "notes": 2000}
BASES = (("sd1", "sd1"), ("sd2", "sd2"), ("sdxl", "sdxl"), ("pony", "sdxl"), ("illustrious", "sdxl"), ("noobai", "sdxl"))
Told = dict[str, object]  # any of: name trigger description notes (str), tags (list), favourite (bool), weight (float), family


def read(told: dict[str, Path]) -> Told:
    """What the sidecars of one file say, by {suffix: file}. The first that says something about a thing wins."""
    found: Told = {}
    for suffix, reader in zip(SUFFIXES, (a1111, lora_manager, civitai), strict=True):
        content = loaded(told[suffix]) if suffix in told else {}
        for key, value in clean(reader(content)).items() if content else ():
            found.setdefault(key, value)
    return found


def loaded(path: Path) -> dict:
    """A JSON object from a file nobody vouches for; {} for everything else."""
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_BYTES + 1)
        content = json.loads(raw.decode("utf-8-sig")) if len(raw) <= MAX_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def a1111(content: dict) -> Told:
    """The user metadata of A1111 and Forge; what sdlora adds to it stands under "sdlora".

    A field that the artist emptied in sdlora is meant empty: nothing else is asked for it.
    """
    ours = content.get("sdlora")
    ours = ours if isinstance(ours, dict) else {}
    found = {"name": ours.get("name"), "trigger": content.get("activation text"), "description": content.get("description"),
             "notes": content.get("notes"), "weight": content.get("preferred weight"), "family": content.get("sd version"),
             "tags": ours.get("tags"), "favourite": ours.get("favourite")}
    edited = ours.get("edited") if isinstance(ours.get("edited"), list) else []
    emptied = [key for key in ("trigger", "notes", "tags") if key in edited and found[key] in ("", [])]
    return found | {"meant": {key: found[key] for key in emptied}}


def lora_manager(content: dict) -> Told:
    """What ComfyUI LoRA-Manager keeps (py/utils/models.py there); the Civitai record lies inside."""
    record = content.get("civitai")
    told = civitai(record) if isinstance(record, dict) else {}
    tips = content.get("usage_tips")
    try:
        tips = json.loads(tips) if isinstance(tips, str) else {}
    except (ValueError, RecursionError):
        tips = {}
    mine = {"name": content.get("model_name"), "description": content.get("modelDescription"), "notes": content.get("notes"),
            "tags": content.get("tags"), "family": content.get("base_model"), "favourite": content.get("favorite"),
            "weight": tips.get("strength") if isinstance(tips, dict) else None}
    return told | {key: value for key, value in mine.items() if value}


def civitai(content: dict) -> Told:
    """A model version of Civitai's API, as Civitai Helper saves it."""
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    trained = content.get("trainedWords")
    trained = [word.strip(" ,") for word in trained if isinstance(word, str)] if isinstance(trained, list) else []
    return {"name": model.get("name"), "trigger": ", ".join(filter(None, trained)), "tags": model.get("tags"),
            "description": model.get("description") or content.get("description"), "family": content.get("baseModel")}


def clean(told: Told) -> Told:
    """What of it is of the right kind, as plain text without markup; nothing empty unless it is meant so."""
    found: Told = {}
    for key, length in LENGTHS.items():
        value = told.get(key)
        if isinstance(value, str) and (text := plain(value, length)):
            found[key] = text
    weight = told.get("weight")
    if isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < abs(weight) <= 4:
        found["weight"] = float(weight)
    if told.get("favourite") is True:
        found["favourite"] = True
    if tags := clean_tags(told.get("tags")):
        found["tags"] = tags
    hint = str(told.get("family", "")).lower().replace(" ", "").removeprefix("sdlora_")
    family = "mini" if hint == "mini" else next((family for start, family in BASES if hint.startswith(start)), "")
    return (told.get("meant") or {}) | found | ({"family": family} if family else {})


def clean_tags(tags: object) -> list[str]:
    """Tags as short lines of text, each once."""
    texts = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list | tuple) else []
    return list(dict.fromkeys(filter(None, (clean_text(tag.replace(",", " "), 60) for tag in texts))))[:MOST_TAGS]


def plain(text: str, length: int) -> str:
    """Text without HTML: descriptions of Civitai are web pages."""
    if "<" in text and re.search(r"</?(p|br|a|ul|li|strong|em|h\d|span|img|div|code|pre|u|s|hr|ol|blockquote)\b", text[:20_000]):
        text = html.unescape(re.sub(r"<[^<>]{0,2000}>", " ", text[:20_000]))
    return clean_text(text, length)


def write(path: Path, changes: Told) -> bool:
    """Put what the artist changed into the `name.json` at `path`, keeping all else that it says.

    False when what lies there is no JSON object of ours to add to: it is left as it is. Raises UserError when the disk refuses.
    """
    content = loaded(path)
    if not content and path.exists() and path.stat().st_size > 2:
        return False
    ours = content.get("sdlora")
    ours = dict(ours) if isinstance(ours, dict) else {}
    theirs = {"trigger": "activation text", "description": "description", "notes": "notes", "weight": "preferred weight"}
    blank = {"description": "", "sd version": "Unknown", "activation text": "", "preferred weight": 0, "negative text": "",
             "notes": ""}
    content = blank | content | {theirs[key]: value for key, value in changes.items() if key in theirs}
    edited = ours.get("edited") if isinstance(ours.get("edited"), list) else []
    ours |= {key: value for key, value in changes.items() if key not in theirs}
    ours["edited"] = sorted({key for key in edited if isinstance(key, str)} | changes.keys())
    write_json(path, content | {"sdlora": ours})
    return True
