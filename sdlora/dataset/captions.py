"""What a picture is called in training: its own text, the set's default, or the words of its file name, with the trigger.

Knows nothing about pictures. Text from files comes in through read_caption; encoding.py knows the encodings.
"""

import re
from pathlib import Path

from sdlora.dataset.encoding import read_text
from sdlora.dataset.names import looks_like_camera_name as looks_like_camera_name
from sdlora.dataset.names import words_in_name
from sdlora.errors import UserError
from sdlora.storage import clean_text

MAX_CAPTION = 2000  # letters
TRIGGER = re.compile(r"\[trigger\]", re.IGNORECASE)
MAX_CAPTION_BYTES = 4 * MAX_CAPTION + 4  # UTF-32 with its mark
MAX_METADATA_BYTES = 8 * 2**20  # of a metadata.jsonl or metadata.csv
TOO_LONG = f"The caption {{name}} is longer than {MAX_CAPTION} letters."

COMMON = frozenset("""
    style art artist painting paint drawing sketch picture photo image illustration cartoon anime watercolor oil ink pencil man
    woman girl boy person people cat dog house tree car red green blue yellow black white the a an""".split())


def read_caption(path: Path, name: str = "", usual: str = "") -> tuple[str, str]:
    """(the text of a caption file as one clean line, its encoding where that was guessed, else ""). Raises UserError.

    usual: as for `encoding.decode`.
    """
    name = name or path.name
    text, guessed = read_text(path, name, MAX_CAPTION_BYTES, TOO_LONG.format(name=name), usual)
    if text.startswith("{\\rtf"):
        raise UserError(f"{name} is a document with fonts and styles (RTF), not plain text.", "Save it as plain text.")
    return checked_caption(text, name), guessed


def checked_caption(text: str, name: str) -> str:
    """One clean line of at most MAX_CAPTION letters, "" where nothing visible is in it. Raises UserError."""
    clean = clean_text(text, MAX_CAPTION + 1)
    if len(clean) > MAX_CAPTION:
        raise UserError(TOO_LONG.format(name=name), "Say it in a line or two.")
    return clean


def resolve_caption(text: str | None, file_name: str, default: str = "", trigger: str = "") -> str:
    """What the picture is trained with: its own text, else `default`, else the words of its file name; then the trigger.

    `[trigger]` is replaced; where the caption does not hold the trigger at all it is put in front. Never added twice.
    """
    trigger = clean_text(trigger, 60)
    said = clean_text(text or "") or clean_text(default) or words_in_name(file_name)
    if TRIGGER.search(said):
        said = tidy(TRIGGER.sub(lambda _: trigger, said), trigger)
    if trigger and not holds(said, trigger):
        said = f"{trigger}, {said}" if said else trigger
    return said


def holds(caption: str, trigger: str) -> bool:
    """Whether the trigger stands in the caption as a word of its own, in any case."""
    return re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE) is not None


def tidy(caption: str, trigger: str) -> str:
    """Drop empty parts between commas and repeated parts that are only the trigger."""
    parts, seen = [], False
    for part in (part.strip() for part in caption.split(",")):
        alone = part.casefold() == trigger.casefold()
        if part and not (alone and seen):
            parts.append(part)
        seen = seen or alone
    return ", ".join(" ".join(part.split()) for part in parts)


def trigger_notes(trigger: str) -> list[str]:
    """What an artist should know about the trigger word that was chosen."""
    trigger = clean_text(trigger, 60)
    if "," in trigger:
        return [f"The trigger {trigger!r} has a comma in it: one made-up word works best."]
    if trigger.casefold() in COMMON:
        return [f"The trigger {trigger!r} is an everyday word: a made-up one keeps the style apart from what the base knows."]
    return []
