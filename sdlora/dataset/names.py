"""What the name of a picture file says about the picture: its words, or nothing where a camera or program named it.

Knows nothing about captions or folders.
"""

import re
import unicodedata

from sdlora.storage import clean_text

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
