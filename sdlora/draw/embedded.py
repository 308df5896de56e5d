"""Text inside picture files: the text chunks of a PNG, the EXIF comment of a JPEG or WebP. Written and read here.

Knows nothing about what the text means. Files from outside are scanned as bytes: no pixel is ever decoded for their text.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlora.dataset.picture import DAMAGED, read_bytes
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text, write_atomic

MAX_TEXT_BYTES = 1 << 20
MAX_CHUNKS = 100_000  # a PNG of 50 MB in the usual pieces of 8 KB has 6,400
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286  # CIPA DC-008, 4.6.3 and 4.6.5
UNICODE, ASCII = b"UNICODE\0", (b"ASCII\0\0\0", b"UTF8\0\0\0\0", b"\0" * 8)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95, "method": 4}, "PNG": {}}


def write(path: Path, image: Image.Image, key: str, text: str) -> Path:
    """Write `image` in the format its suffix names (.png .jpg .jpeg .webp) with `text` inside, atomically.

    PNG: the text chunk `key` (tEXt, or iTXt for letters outside of Latin-1); JPEG and WebP: EXIF UserComment in UTF-16 with the
    high byte first, as A1111 writes it. Raises UserError: another suffix, a text too long for a JPEG (64 KB), a full disk.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{path.name} cannot be written: {path.suffix or 'a file without ending'} is no picture format of ours.",
                        f"Use one of {', '.join(FORMATS)}.")
    options: dict[str, object] = dict(QUALITY[form])
    if form == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text(key, text)
    else:
        options["exif"] = exif_block(UNICODE + text.encode("utf-16-be"))
        if form == "JPEG" and len(options["exif"]) > 65_000:  # one APP1 segment, with its own head
            raise UserError(f"The settings of {path.name} are too long for a JPEG.", "Write a PNG, or shorten the prompt.")
    return write_atomic(path, lambda temporary: image.save(temporary, form, **options))


def exif_block(comment: bytes) -> bytes:
    """EXIF with nothing but a UserComment of more than 4 bytes: two directories of one entry (tag, type, count, place) each.

    Made by hand because Pillow would give it the type BYTE, which piexif, and so A1111, does not read; it has to be UNDEFINED.
    """
    long, undefined = 4, 7
    places = struct.pack(">IHHHIIIHHHIII", 8, 1, EXIF_IFD, long, 1, 26, 0, 1, USER_COMMENT, undefined, len(comment), 44, 0)
    return b"Exif\0\0MM\0*" + places + comment


def read(path: Path) -> dict[str, str]:
    """{key: text} of all texts in a PNG, JPEG or WebP; an EXIF comment has the key "comment". {} where there are none.

    Raises UserError: no such file, larger than 50 MB, none of the three formats, damaged.
    """
    path = Path(path)
    name = clean_text(path.name, MAX_NAME) or "This picture"
    data = read_bytes(path, name)
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return dict(png_texts(data))
        if data.startswith(b"\xff\xd8"):
            return exif_texts(jpeg_exif(data))
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return exif_texts(webp_exif(data))
    except (*DAMAGED, zlib.error) as error:
        raise UserError(f"{name} is damaged: what it says about itself could not be read.", "Choose another picture.") from error
    raise UserError(f"{name} is not a PNG, JPEG or WebP picture.", "Choose a picture straight from the program that drew it.")


def png_texts(data: bytes) -> Iterator[tuple[str, str]]:
    """(keyword, text) of each tEXt, zTXt and iTXt chunk (PNG specification 11.3.3); the first of a keyword wins."""
    at, seen = 8, set()
    for _ in range(MAX_CHUNKS):
        length, kind = int.from_bytes(data[at:at + 4]), data[at + 4:at + 8]
        if len(kind) < 4 or kind == b"IEND":
            break
        if kind in (b"tEXt", b"zTXt", b"iTXt") and length <= MAX_TEXT_BYTES:
            if at + 8 + length > len(data):
                raise ValueError("a text chunk ends early")
            keyword, text = text_chunk(kind, data[at + 8:at + 8 + length])
            if keyword not in seen:
                seen.add(keyword)
                yield keyword, text
        at += 12 + length


def text_chunk(kind: bytes, content: bytes) -> tuple[str, str]:
    """One text chunk -> (keyword, text); a compressed one is unpacked up to MAX_TEXT_BYTES."""
    keyword, _, rest = content.partition(b"\0")
    packed = kind == b"zTXt"
    if packed:
        rest = rest[1:]
    elif kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
    if packed:
        rest = zlib.decompressobj().decompress(rest, MAX_TEXT_BYTES)
    return keyword.decode("latin-1"), rest.decode("utf-8", "replace") if kind == b"iTXt" else rest.decode("latin-1")


def jpeg_exif(data: bytes) -> bytes:
    """The EXIF block of a JPEG, b"" where there is none: segments before the first scan (ITU T.81, B.1)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2:at + 4])
        content = data[at + 4:at + 2 + length]
        if data[at + 1] == 0xE1 and content.startswith(b"Exif\0\0"):
            return content
        at += 2 + max(length, 2)
    return b""


def webp_exif(data: bytes) -> bytes:
    """The EXIF chunk of a WebP (RIFF: kind, length with the low byte first, content padded to even), b"" where there is none."""
    at = 12
    for _ in range(MAX_CHUNKS):
        length = int.from_bytes(data[at + 4:at + 8], "little")
        if data[at:at + 4] in (b"EXIF", b""):
            return data[at + 8:at + 8 + length]
        at += 8 + length + length % 2
    return b""


def exif_texts(block: bytes) -> dict[str, str]:
    """{"comment": the UserComment} of an EXIF block, {} without one."""
    if not block or len(block) > MAX_TEXT_BYTES:
        return {}
    exif = Image.Exif()
    exif.load(block)
    comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
    text = comment if isinstance(comment, str) else comment_text(comment) if isinstance(comment, bytes) else ""
    return {"comment": text} if text.strip() else {}


def comment_text(raw: bytes) -> str:
    """A UserComment: 8 bytes name the encoding. UTF-16 comes in both byte orders: the zeros of plain letters tell which."""
    code, body = raw[:8], raw[8:]
    if code in ASCII:
        return body.decode("utf-8", "replace").strip("\0")
    if code != UNICODE:
        return raw.decode("utf-8", "replace").strip("\0")
    if body[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return body.decode("utf-16", "replace").strip("\0")
    low_first = body[1::2].count(0) > body[::2].count(0)
    return body.decode("utf-16-le" if low_first else "utf-16-be", "replace").strip("\0")
