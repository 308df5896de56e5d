"""Open untrusted picture files: any supported file in, an upright 8-bit sRGB picture without metadata out.

Knows nothing about folders, captions or sets. All pictures from outside are opened here. No pixel is decoded in this process:
child.py lets decode.py do it in another one.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sdlora.dataset import child
from sdlora.errors import UserError, distinct_decimals
from sdlora.storage import MAX_NAME, clean_text, open_regular

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif")
MAX_BYTES = 50 * 1024 * 1024
EXPORT = "Save it as PNG or JPEG and add that."


@dataclass(frozen=True)
class Picture:
    """A decoded picture: image is RGB without any metadata, digest is of its size and pixels.

    remarks: sentences that begin after the name of the file, as in " is flat: one colour only.".
    """
    image: Image.Image
    digest: str
    lossless: bool
    remarks: tuple[str, ...]
    name: str

    @property
    def notes(self) -> tuple[str, ...]:
        """The remarks as whole sentences."""
        return tuple(self.name + remark for remark in self.remarks)


def open_picture(path: Path) -> Image.Image:
    """Return the picture at `path`: 8-bit sRGB "RGB", upright, alpha on white, first frame, no metadata. Raises UserError."""
    return read_picture(path).image


def thumbnail(path: Path, side: int) -> Image.Image:
    """Return the picture at `path`, at most `side` px on its longer side. Raises UserError."""
    image = open_picture(path)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def read_picture(path: Path, name: str = "") -> Picture:
    """Open a picture as `open_picture` does, with digest and notes; `name` is what the artist calls the file.

    Raises UserError with one sentence per reason: empty, too large, damaged, too slow, too thin, too small, not a picture...
    """
    name = sentence_name(path, name)
    found, pixels = child.call("sdlora.dataset.decode", read_bytes(path, name), name)
    image = Image.frombytes("RGB", tuple(found["size"]), pixels)
    return Picture(image, found["digest"], found["lossless"], tuple(found["remarks"]), name)


def sentence_name(path: Path, name: str = "") -> str:
    """Return what sentences call the file at `path`; `name` is what the artist calls it."""
    return clean_text(name or Path(path).name, MAX_NAME) or "This picture"


def decode_square(data: bytes, name: str, side: int) -> tuple[dict[str, Any], Image.Image | None]:
    """Return ({"size", "digest", "lossless", "remarks"}, square_crop at `side` px, None for 0) of a file. Raises UserError.

    The square is cut in the child process, so that the picture itself does not have to come through the pipe.
    """
    found, pixels = child.call("sdlora.dataset.decode", data, name, side)
    return found, Image.frombytes("RGB", (side, side), pixels) if side else None


def read_bytes(path: Path, name: str) -> bytes:
    """Return the whole file, at most MAX_BYTES of it; only of ordinary files. Raises UserError."""
    try:
        with open_regular(path) as handle:
            size = os.fstat(handle.fileno()).st_size
            data = handle.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
    except OSError as error:
        raise UserError(f"{name} could not be opened ({error.strerror or error}).",
                        "Check that it is a picture file and that you may read it.") from error
    if len(data) > MAX_BYTES or size > MAX_BYTES:
        actual, most = distinct_decimals(max(size, len(data)) / 2**20, MAX_BYTES / 2**20, 0)
        raise UserError(f"{name} is too large ({actual} MB; at most {most} MB).",
                        "Save it as a JPEG or make it smaller.")
    if not data:
        raise UserError(f"{name} is an empty file.", "Copy or download it again.")
    return data
