"""Text inside picture files: PNG chunks, EXIF, XMP and what is hidden in the pixels. Written and read here.

Knows nothing about what the text means. Pillow reads it; pixels are decoded only in formats that can hide text in them.
"""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo, iTXt

from sdlora.dataset import child
from sdlora.dataset.decode import DAMAGED, MAX_PIXELS, header
from sdlora.dataset.picture import read_bytes, sentence_name
from sdlora.errors import UserError
from sdlora.storage import write_atomic

MAX_TEXT_BYTES = 1 << 20
EXIF_KEYS = {0x010E: "description", 0x0131: "software", 0x9286: "comment", 0x927C: "fooocus_scheme"}  # the last: its MakerNote
NAMED_JSON = re.compile(r"\s*([A-Za-z][\w -]{1,30}):\s*(?=\{)")
SIGNERS = {b"OpenAI": "ChatGPT or DALL-E", b"Google": "Gemini or Imagen", b"Adobe": "Adobe Firefly",
           b"Microsoft": "Microsoft Designer", b"Midjourney": "Midjourney"}
LOSSLESS = ("PNG", "WEBP")
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286  # CIPA DC-008, 4.6.3 and 4.6.5
UNICODE, ASCII = b"UNICODE\0", (b"ASCII\0\0\0", b"UTF8\0\0\0\0", b"\0" * 8)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"quality": 95, "method": 4}, "PNG": {}}


def write(path: Path, image: Image.Image, key: str, text: str) -> Path:
    """Write `image` in the format its suffix names (.png .jpg .jpeg .webp) with `text` inside, atomically.

    PNG: the text chunk `key` (tEXt, or iTXt for characters outside of Latin-1); JPEG and WebP: EXIF UserComment in UTF-16 BE,
    as A1111 writes it. Raises UserError: another suffix, a text too long for a JPEG (64 KB), a full disk.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise UserError(f"{path.name} cannot be written: {path.suffix or 'a file without ending'} is no picture format of ours.",
                        f"Use one of {', '.join(FORMATS)}.")
    options: dict[str, Any] = dict(QUALITY[form])
    if form == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_text(key, text)
    else:
        options["exif"] = exif_block(UNICODE + text.encode("utf-16-be"))
        if form == "JPEG" and len(options["exif"]) > 65_000:  # one APP1 segment, with its own head
            raise UserError(f"The settings of {path.name} are too long for a JPEG.", "Write a PNG, or shorten the prompt.")
    return write_atomic(path, lambda temporary: image.save(temporary, form, **options))


def exif_block(comment: bytes) -> bytes:
    """Return EXIF with only a UserComment of more than 4 bytes: two directories of one entry (tag, type, count, place) each.

    Made by hand because Pillow would give it the type BYTE, which piexif, and so A1111, does not read; it has to be UNDEFINED.
    """
    long, undefined = 4, 7
    places = struct.pack(">IHHHIIIHHHIII", 8, 1, EXIF_IFD, long, 1, 26, 0, 1, USER_COMMENT, undefined, len(comment), 44, 0)
    return b"Exif\0\0MM\0*" + places + comment


def read(path: Path) -> dict[str, str]:
    """Return {key: text} of all texts in a picture; {} where there are none.

    PNG text chunks have their own keys (PNG specification 11.3.3); an EXIF comment has the key "comment", other EXIF texts those
    of EXIF_KEYS or what they begin with ("Workflow: {...}"); "xmp" is the whole packet, "c2pa" the service that signed it,
    "stealth" the text hidden in the pixels.
    Raises UserError: no picture, too large, damaged.
    """
    name = sentence_name(path)
    values, _ = child.call("sdlora.draw.infotext.image_text", read_bytes(path, name), name)
    return {key: str(text) for key, text in values.items()}


def texts(data: bytes, name: str) -> child.Result:
    """Return what `read` does, from the bytes of the file: in a child process, because texts may unpack to gigabytes."""
    with header(data, name) as image:
        found: dict[str, Any] = {str(key): plain(value) for key, value in image.info.items() if isinstance(value, str)}
        try:
            if image.format == "PNG" and image.width * image.height <= MAX_PIXELS:
                image.load()  # texts may follow the pixels
                found |= {key: plain(value) for key, value in getattr(image, "text", {}).items()}
            found |= {key: text for key, text in exif_texts(image).items() if key not in found}
            hidden = stealth(image) if image.format in LOSSLESS else ""
        except DAMAGED:
            hidden = ""  # what came before the damage is whole
        if isinstance(packet := image.info.get("xmp"), bytes):
            found["xmp"] = packet.decode("utf-8", "replace")
        found["c2pa"] = credentials(image)
    found |= {"stealth": hidden}
    return {key: text.strip("\0") for key, text in found.items() if text.strip("\0 \n") and len(text) <= MAX_TEXT_BYTES}, b""


def credentials(image: Image.Image) -> str:
    """Return the service that signed a PNG or JPEG (C2PA): it drew the picture, and how is not in there."""
    boxes = [part for kind, part, *_ in getattr(image, "private_chunks", []) if kind == b"caBX"]
    boxes += [part for kind, part in getattr(image, "applist", []) if kind == "APP11"]
    block = b"".join(boxes)
    return next((name for mark, name in SIGNERS.items() if mark in block), "C2PA" if b"c2pa" in block else "")


def plain(text: str) -> str:
    """Return a PNG text as it was meant: tEXt is Latin-1, but many programs write UTF-8 into it. iTXt is UTF-8."""
    if isinstance(text, iTXt) or text.isascii():
        return str(text)
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def exif_texts(image: Image.Image) -> dict[str, str]:
    """Return the texts in the EXIF block of a picture. ComfyUI's nodes put JSON behind its name into any tag: `prompt:{...}`."""
    if image.format == "PNG" and "exif" not in image.info:
        return {}
    exif = image.getexif()
    tags, texts = {**exif, **exif.get_ifd(EXIF_IFD)}, {}
    for tag, value in tags.items():
        text = comment_text(value) if isinstance(value, bytes) else value
        if not isinstance(text, str) or not text.strip("\0 "):
            continue
        if named := NAMED_JSON.match(text):
            texts[named[1].lower()] = text[named.end(1) + 1:].strip()
        elif tag in EXIF_KEYS:
            texts[EXIF_KEYS[tag]] = plain(text)
    return texts


def stealth(image: Image.Image) -> str:
    """Return the text in the lowest bits of a picture's alpha or colours, column by column, "" where there is none.

    Format: 15 characters that name it, 32 bits for the length in bits, then UTF-8, packed with gzip where the name ends in "comp"
    (the extension sd-webui-stealth-pnginfo; NovelAI, SwarmUI, Forge and reForge write the same).
    """
    if image.width * image.height > MAX_PIXELS:
        return ""
    for kind, channels in (("png", "A"), ("rgb", "RGB")):
        if not set(channels) <= set(image.getbands()):
            continue
        signature = lowest_bits(image, channels, 0, 15)
        if signature not in (f"stealth_{kind}info".encode(), f"stealth_{kind}comp".encode()):
            continue
        length = int.from_bytes(lowest_bits(image, channels, 15, 4)) // 8
        content = lowest_bits(image, channels, 19, min(length, MAX_TEXT_BYTES))
        if signature.endswith(b"comp"):
            unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
            content = unpacking.decompress(content, MAX_TEXT_BYTES)
            content = content if unpacking.eof else b""  # cut, or larger than any text
        return content.decode("utf-8", "replace")
    return ""


def lowest_bits(image: Image.Image, channels: str, start: int, count: int) -> bytes:
    """Return `count` bytes from byte `start` of the lowest bits of these channels, highest bit first; fewer where they end."""
    columns = min(image.width, -(-(start + count) * 8 // (image.height * len(channels))))
    strip = image.crop((0, 0, columns, image.height))
    values = np.stack([np.asarray(strip.getchannel(channel)) for channel in channels], -1)  # (height, columns, channels)
    return np.packbits(values.swapaxes(0, 1).reshape(-1) & 1)[start:start + count].tobytes()


def comment_text(raw: bytes) -> str:
    """Return the text of a UserComment: 8 bytes name its encoding, zeros in ASCII the order of UTF-16."""
    code, body = raw[:8], raw[8:]
    if code in ASCII:
        return body.decode("utf-8", "replace").strip("\0")
    if code != UNICODE:
        return raw.decode("utf-8", "replace").strip("\0")
    if body[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return body.decode("utf-16", "replace").strip("\0")
    low_first = body[1::2].count(0) > body[::2].count(0)
    return body.decode("utf-16-le" if low_first else "utf-16-be", "replace").strip("\0")


if __name__ == "__main__":
    child.serve(texts)
