"""What a picture is called in training: its own text, the set's default, or the words of its file name, with the trigger.

Knows nothing about pictures. Text from files comes in through read_caption; nothing is ever guessed about its encoding.
"""

import codecs
import re
from pathlib import Path

from sdlora.dataset.names import looks_like_camera_name as looks_like_camera_name
from sdlora.dataset.names import words_in_name
from sdlora.errors import UserError
from sdlora.storage import clean_text, open_regular

MAX_CAPTION = 2000  # letters
TRIGGER = re.compile(r"\[trigger\]", re.IGNORECASE)
BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

COMMON = frozenset("""
    style art artist painting paint drawing sketch picture photo image illustration cartoon anime watercolor oil ink pencil man
    woman girl boy person people cat dog house tree car red green blue yellow black white the a an""".split())


def read_caption(path: Path, name: str = "") -> str:
    """The text of a caption file as one clean line; UTF-8, or UTF-16/32 with a BOM. Raises UserError."""
    try:
        with open_regular(path) as handle:
            data = handle.read(4 * MAX_CAPTION + 5)
    except OSError as error:
        raise UserError(f"{name or path.name} could not be opened ({error.strerror}).", "Check the file.") from error
    return decode_caption(data, name or path.name)


def decode_caption(data: bytes, name: str) -> str:
    """Bytes of a caption file -> one clean line. Raises UserError for text that is too long or in no known encoding."""
    bom, encoding = next(((bom, encoding) for bom, encoding in BOMS if data.startswith(bom)), (b"", "utf-8"))
    too_long = len(data) > 4 * MAX_CAPTION + 4
    try:
        text = "" if too_long else data[len(bom):].decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not readable text.", "Save it as UTF-8.") from error
    return checked_caption("x" * (MAX_CAPTION + 1) if too_long else text, name)


def checked_caption(text: str, name: str) -> str:
    """One clean line of at most MAX_CAPTION letters, "" where nothing visible is in it. Raises UserError."""
    clean = clean_text(text, MAX_CAPTION + 1)
    if len(clean) > MAX_CAPTION:
        raise UserError(f"The caption {name} is longer than {MAX_CAPTION} letters.", "Say it in a line or two.")
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
