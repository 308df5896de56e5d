"""What a picture is called in training: its own text, the set's default, or the words of its file name, with the trigger.

Knows nothing about pictures. Text from files comes in through read_caption; encoding.py knows the encodings.
"""

import re
import unicodedata
from pathlib import Path

from sdlora.dataset.encoding import read_text
from sdlora.errors import UserError
from sdlora.storage import clean_text

CAPTION_SUFFIXES = (".txt", ".caption")
MAX_CAPTION, MAX_TRIGGER = 2000, 60  # characters
MAX_CAPTION_BYTES = 4 * MAX_CAPTION + 4  # UTF-32 with its mark
TRIGGER = re.compile(r"\[trigger\]", re.IGNORECASE)
TOO_LONG = f"The caption {{name}} is longer than {MAX_CAPTION} characters."

EVERYDAY_WORDS = frozenset("""
    style art artist painting paint drawing sketch picture photo image illustration cartoon anime watercolor oil ink pencil man
    woman girl boy person people cat dog house tree car red green blue yellow black white the a an""".split())
# File names given by cameras, phones, messengers, sites and other programs; what follows is a number or a date.
CAMERA = re.compile(
    r"""^[\s_\-.(]*(
      (img|dsc[nf]?|_?mg|p?imag|pxl|mvimg|cimg|himg|hpim|kimg|sam|dji|gopr|g[hx]\d\d|pano|burst|vid|mov|dcim|scan|snap|lrm|wp|
       photo|picture|pic|image|images|frame|comfyui|grid|fb_img|received|inshot|resized|cropped|temp|tmp)[\s_\-.(]*\d |
      (img|dsc[nf]?|pxl|mvimg|dji|fb_img|mg)_ | [a-z]\d{6,} |
      screen[\s_-]?shots?\b | screenshot | bildschirmfoto | capture\sd | captura\s(de\s)?(pantalla|ecr) | schermata\b | skärm |
      whatsapp | signal-\d | telegram | photo_\d | snapchat- | clipboard | unbenannt | sans[\s_-]titre | sin[\s_-]t[ií]tulo |
      senza[\s_-]titolo | new[\s_-]project | neues[\s_-]projekt | dall[·.\-\s]?e\b | chatgpt\simage | midjourney | comfyui )""",
    re.IGNORECASE | re.VERBOSE)
# Words that say nothing about a picture, alone or together.
EMPTY_WORDS = frozenset("""
    a an the of and or in on at to by my is it img image images photo photos photograph picture pictures pic pics scan scans
    untitled unnamed download downloads downloaded file files frame copy kopie copie edit edited edits final finished new old
    original orig page screenshot sample samples output input out tmp temp crop cropped resized small large big medium thumb
    thumbnail thumbnails preview export exported jpg jpeg png webp avif heic am pm version ver rev draft test dsc""".split())


def resolve_caption(text: str | None, file_name: str, default: str = "", trigger: str = "") -> str:
    """Return what a picture is trained with: its own text, else `default`, else the words of its file name; and the trigger.

    `[trigger]` is replaced; a caption that does not contain the trigger gets it in front. It is never added twice.
    """
    trigger = clean_text(trigger, MAX_TRIGGER)
    caption = clean_text(text or "") or clean_text(default) or words_in_name(file_name)
    if TRIGGER.search(caption):
        caption = without_repeats(TRIGGER.sub(lambda _: trigger, caption), trigger)
    if trigger and not re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        caption = f"{trigger}, {caption}" if caption else trigger
    return caption


def without_repeats(caption: str, trigger: str) -> str:
    """Drop empty parts between commas, and parts that are only the trigger after the first of them."""
    parts, seen = [], False
    for part in (part.strip() for part in caption.split(",")):
        alone = part.casefold() == trigger.casefold()
        if part and not (alone and seen):
            parts.append(part)
        seen = seen or alone
    return ", ".join(" ".join(part.split()) for part in parts)


def trigger_notes(trigger: str) -> list[str]:
    """Return what an artist should know about the chosen trigger word."""
    trigger = clean_text(trigger, MAX_TRIGGER)
    if "," in trigger:
        return [f"The trigger {trigger!r} has a comma in it: one made-up word works best."]
    if trigger.casefold() in EVERYDAY_WORDS:
        return [f"The trigger {trigger!r} is an everyday word: a made-up one keeps the style apart from what the base knows."]
    return []


def read_caption(path: Path, name: str = "", usual: str = "") -> tuple[str, str]:
    """Return (the text of a caption file as one clean line, its encoding where that was guessed, else ""). Raises UserError.

    usual: as for `encoding.decode`.
    """
    name = name or path.name
    text, guessed = read_text(path, name, MAX_CAPTION_BYTES, TOO_LONG.format(name=name), usual)
    if text.startswith("{\\rtf"):
        raise UserError(f"{name} is a document with fonts and styles (RTF), not plain text.", "Save it as plain text.")
    return clean_caption(text, name), guessed


def clean_caption(text: str, name: str) -> str:
    """Return one clean line of at most MAX_CAPTION characters, "" for text without a visible one. Raises UserError."""
    clean = clean_text(text, MAX_CAPTION + 1)
    if len(clean) > MAX_CAPTION:
        raise UserError(TOO_LONG.format(name=name), "Say it in a line or two.")
    return clean


def words_in_name(file_name: str) -> str:
    """Return the words of a file name ("red-house_01.png" -> "red house"), "" for names given by a camera or program."""
    name = clean_text(file_name.replace("\\", "/").rsplit("/", 1)[-1], 200)
    stem = re.sub(r"\.[A-Za-z0-9]{2,5}$", "", name)
    if CAMERA.match(stem):
        return ""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    tokens = [token for token in re.split(r"[\s_\-.+,;:()\[\]{}~#@&=!]+", spaced) if token]
    kept = [token for token in tokens if is_word(token) or re.fullmatch(r"\d{1,2}", token)]
    while kept and kept[0].isdigit():
        kept.pop(0)
    while kept and (kept[-1].isdigit() or kept[-1].casefold() in ("copy", "kopie", "copie", "edit", "edited", "final")):
        kept.pop()
    meaningful = [token for token in kept if token.casefold() not in EMPTY_WORDS and not token.isdigit() and len(token) > 1]
    random = len(tokens) > 2 and sum(map(len, tokens)) < 3 * len(tokens) and not re.search(r"[\s_\-]", stem)
    return "" if not meaningful or random else " ".join(kept)


def is_word(token: str) -> bool:
    """Return whether a part of a file name is a word: no digits, no hash, and with a vowel where it is Latin."""
    bare = token.replace("'", "").replace("\u2019", "")
    plain = unicodedata.normalize("NFKD", bare).encode("ascii", "ignore").decode().lower()
    if not all(unicodedata.category(c)[0] in "LM" for c in bare) or not bare or re.fullmatch(r"[0-9a-f]{8,}", bare.lower()):
        return False
    return len(plain) < len(bare) * 0.6 or (bool(re.search(r"[aeiouy]", plain)) and not re.search(r"[^aeiouy]{9}", plain))
