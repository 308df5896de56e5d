"""What is known of pictures that were opened before, in HOME/cache/looks: no picture is decoded twice on its way to training.

Knows nothing about captions or models. An entry is named by the bytes of the file and the version of the decoder. The squares
that training needs a moment later stay in memory. A missing or damaged entry, or a full disk, only costs another decoding.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import PIL
import pillow_heif
from PIL import Image

from sdlora.dataset.crop import square_crop
from sdlora.dataset.picture import decode_square, read_bytes, read_picture, sentence_name
from sdlora.errors import UserError
from sdlora.storage import home, write_cached

DECODER = f"1 {PIL.__version__} {pillow_heif.__version__}"
MAX_SQUARES_BYTES = 2**30  # 340 squares at 1024 px
SQUARES: dict[tuple[str, int], Image.Image] = {}  # {(digest, side in px): RGB square}, until they are taken


@dataclass(frozen=True)
class PictureInfo:
    """What is kept of a picture that was opened: digest as in Picture, width and height in px, sentences about it."""
    digest: str
    width: int
    height: int
    notes: tuple[str, ...]


def picture_info(path: Path, name: str = "", side: int | None = None) -> PictureInfo:
    """Return what is known of the picture at `path`, decoding it unless that is in the cache. Raises UserError as `read_picture`.

    side: px of the square that will be needed; when the picture is decoded here, the square is kept for `take_square`.
    """
    name = sentence_name(path, name)
    data = read_bytes(path, name)
    entry = cache_folder() / f"{sha256(data + DECODER.encode()).hexdigest()[:40]}.json"
    known = read_entry(entry)
    if known is None:
        wanted = side if side and len(SQUARES) * side * side * 3 < MAX_SQUARES_BYTES else 0
        found, square = decode_square(data, name, wanted)
        known = (found["digest"], *found["size"], found["remarks"])
        with suppress(OSError):  # a full disk only costs the next decoding
            write_cached(entry, json.dumps(known).encode())
        if square is not None:
            SQUARES[found["digest"], wanted] = square
    digest, width, height, remarks = known
    return PictureInfo(digest, width, height, tuple(name + remark for remark in remarks))


def take_square(path: Path, name: str, digest: str, side: int) -> Image.Image:
    """Return the square_crop of the picture with this digest: the one that `picture_info` kept (once), else decoded again.

    Raises UserError when the file is no longer that picture.
    """
    square = SQUARES.pop((digest, side), None)
    if square is not None:
        return square
    picture = read_picture(path, name)
    if picture.digest != digest:
        raise UserError(f"{picture.name} was exchanged or changed while it was used.", "Start the run again.")
    return square_crop(picture.image, side)


def peek_square(path: Path, name: str, digest: str, side: int) -> Image.Image:
    """Return what `take_square` returns, and keep it for the next call."""
    square = SQUARES[digest, side] = take_square(path, name, digest, side)
    return square


def forget_squares() -> None:
    """Free the memory of the squares that were not taken."""
    SQUARES.clear()


def cache_folder() -> Path:
    return home() / "cache" / "looks"


def read_entry(entry: Path) -> tuple[str, int, int, list[str]] | None:
    """Return (digest, width, height, remarks) of a sound entry, else None."""
    try:
        digest, width, height, remarks = json.loads(entry.read_bytes())
    except (OSError, ValueError, TypeError):
        return None
    sound = isinstance(digest, str) and isinstance(width, int) and isinstance(height, int) and isinstance(remarks, list)
    return (digest, width, height, [str(remark) for remark in remarks]) if sound else None
