"""What is known of pictures that were opened before, below HOME/cache/looks: none is decoded twice on its way to training.

Knows nothing about captions or models. An entry is named by the bytes of the file and by what decoded them. The squares that
training asks for a moment later stay in memory. Nothing depends on either being there: what is missing, damaged or cannot be
written costs another decoding.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import PIL
import pillow_heif
from PIL import Image

from sdlora.dataset.crop import square_crop
from sdlora.dataset.picture import glimpse, read_bytes, read_picture, shown_name
from sdlora.errors import UserError
from sdlora.storage import home, write_cached

DECODER = f"1 {PIL.__version__} {pillow_heif.__version__}"
ROOM_BYTES = 2**30  # for squares: 340 at 1024 px
SQUARES: dict[tuple[str, int], Image.Image] = {}  # by digest and side, until they are taken


@dataclass(frozen=True)
class Look:
    """What is kept of a picture that was opened: digest as in Picture, width and height in px, sentences about it."""
    digest: str
    width: int
    height: int
    notes: tuple[str, ...]


def look(path: Path, name: str = "", side: int | None = None) -> Look:
    """Look at the picture at `path`, or remember it. Raises UserError as `read_picture`.

    side: px of the square that will be asked for; when the picture is decoded here, the square is kept for `take_square`.
    """
    name = shown_name(path, name)
    data = read_bytes(path, name)
    entry = folder() / f"{sha256(data + DECODER.encode()).hexdigest()[:40]}.json"
    known = remembered(entry)
    if known is None:
        wanted = side if side and len(SQUARES) * side * side * 3 < ROOM_BYTES else 0
        facts, square = glimpse(data, name, wanted)
        known = (facts["digest"], *facts["size"], facts["remarks"])
        keep(entry, json.dumps(known).encode())
        if square is not None:
            SQUARES[facts["digest"], wanted] = square
    digest, width, height, remarks = known
    return Look(digest, width, height, tuple(name + remark for remark in remarks))


def look_or_refusal(path: Path, name: str = "", side: int | None = None) -> Look | UserError:
    """As `look`, with what it raises as the answer: for many pictures at a time."""
    try:
        return look(path, name, side)
    except UserError as refused:
        return refused


def take_square(path: Path, name: str, digest: str, side: int) -> Image.Image:
    """The square_crop of the picture with this digest at side x side px: the one that `look` kept (once), else decoded again.

    Raises UserError when the file is no longer that picture.
    """
    square = SQUARES.pop((digest, side), None)
    if square is not None:
        return square
    picture = read_picture(path, name)
    if picture.digest != digest:
        raise UserError(f"{picture.name} was exchanged or changed while it was used.", "Start the run again.")
    return square_crop(picture.image, side)[0]


def folder() -> Path:
    return home() / "cache" / "looks"


def forget_squares() -> None:
    """Give back the memory of the squares that nobody took."""
    SQUARES.clear()


def keep(path: Path, content: bytes) -> None:
    """Write an entry if the disk allows it."""
    try:
        write_cached(path, content)
    except OSError:
        pass  # it would only have saved time; what needs the disk says so itself


def remembered(entry: Path) -> tuple[str, int, int, list[str]] | None:
    """A whole entry, else None."""
    try:
        digest, width, height, remarks = json.loads(entry.read_bytes())
    except (OSError, ValueError, TypeError):
        return None
    sound = isinstance(digest, str) and isinstance(width, int) and isinstance(height, int) and isinstance(remarks, list)
    return (digest, width, height, [str(remark) for remark in remarks]) if sound else None
