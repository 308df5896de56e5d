"""What a picture is called in training: its own text, the set's default, or the words of its file name, with the trigger.

Knows nothing about pictures. Text from files comes in through read_caption; nothing is ever guessed about its encoding.
"""

import codecs
import re
import unicodedata
from pathlib import Path

from sdlora.errors import UserError
from sdlora.storage import clean_text

MAX_CAPTION = 2000  # letters
TRIGGER = re.compile(r"\[trigger\]", re.IGNORECASE)
BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

# Names that cameras, phones, screens, messengers, sites and other programs give; what follows them is a number or a date.
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
COMMON = frozenset("""
    style art artist painting paint drawing sketch picture photo image illustration cartoon anime watercolor oil ink pencil man
    woman girl boy person people cat dog house tree car red green blue yellow black white the a an""".split())


def read_caption(path: Path, name: str = "") -> str:
    """The text of a caption file as one clean line; UTF-8, or UTF-16/32 with a BOM. Raises UserError."""
    try:
        with Path(path).open("rb") as handle:
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


def looks_like_camera_name(file_name: str) -> bool:
    """Whether a file name (IMG_2041.jpg, a hash, "Screenshot 2024-05-01") says nothing about what is in the picture."""
    return not words_in_name(file_name)


def words_in_name(file_name: str) -> str:
    """The words of a file name ("red-house_01.png" -> "red house"), "" where it holds none worth a caption."""
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
    telling = [token for token in kept if token.casefold() not in EMPTY_WORDS and not token.isdigit() and len(token) > 1]
    random_letters = len(tokens) > 2 and sum(map(len, tokens)) < 3 * len(tokens) and not re.search(r"[\s_\-]", stem)
    return "" if not telling or random_letters else " ".join(kept)


def is_word(token: str) -> bool:
    """Whether a part of a file name is a word of some language: no digits, no hash, and a vowel where it is Latin."""
    bare = token.replace("'", "").replace("\u2019", "")
    plain = unicodedata.normalize("NFKD", bare).encode("ascii", "ignore").decode().lower()
    if not all(unicodedata.category(c)[0] in "LM" for c in bare) or not bare or re.fullmatch(r"[0-9a-f]{8,}", bare.lower()):
        return False
    return len(plain) < len(bare) * 0.6 or (bool(re.search(r"[aeiouy]", plain)) and not re.search(r"[^aeiouy]{9}", plain))
