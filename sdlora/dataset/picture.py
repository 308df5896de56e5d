"""The one door for untrusted picture bytes: any supported file in, an upright 8-bit sRGB picture out.

Knows nothing about folders, captions or sets. What the file says about camera and place never gets past here. The decoding
is done by decode.py in child processes, because a decoder may hang, crash or eat memory.
"""

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sdlora.dataset.decode import AGAIN, DAMAGED, EXPORT, MAX_PIXELS, MAX_SIDE, check_size
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, child_process, clean_text, open_regular

__all__ = ["DAMAGED", "EXPORT", "MAX_BYTES", "MAX_PIXELS", "MAX_SIDE", "SUFFIXES", "Picture", "check_size", "open_picture",
           "read_bytes", "read_picture", "thumbnail"]
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif")
MAX_BYTES = 50 * 1024 * 1024
LIMIT_S = 30  # wall clock, for one picture; 40 megapixels of the slowest format take 3 s of one core
IDLE_S = 20  # so long a child waits for the next picture; its start takes 0.2 s
TURNS = threading.BoundedSemaphore(max(4, os.cpu_count() or 1))  # pictures read at the same time
IDLE: dict[subprocess.Popen, threading.Timer] = {}  # children that wait, with what ends each


@dataclass(frozen=True)
class Picture:
    """A picture that got through the door: image is RGB without any metadata, digest is of its size and pixels.

    remarks: sentences that begin after the name of the file, as in " is flat: one colour only.".
    """
    image: Image.Image
    digest: str
    lossless: bool
    remarks: tuple[str, ...]
    name: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What the artist should read about it."""
        return tuple(self.name + remark for remark in self.remarks)


def open_picture(path: Path) -> Image.Image:
    """The picture at `path`: 8-bit sRGB "RGB", upright, alpha on white, first frame, no metadata. Raises UserError."""
    return read_picture(path).image


def thumbnail(path: Path, side: int) -> Image.Image:
    """The picture at `path`, at most `side` px on its longer side. Raises UserError."""
    image = open_picture(path)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def read_picture(path: Path, name: str = "") -> Picture:
    """As `open_picture`, with digest and notes; `name` is what the artist calls the file.

    Raises UserError with one sentence per reason: empty, too large, damaged, too slow, too thin, too small, not a picture...
    """
    name = shown_name(path, name)
    return decode_apart(read_bytes(Path(path), name), name)


def shown_name(path: Path, name: str = "") -> str:
    """What sentences call the file at `path`."""
    return clean_text(name or Path(path).name, MAX_NAME) or "This picture"


def header(path: Path, name: str) -> Image.Image:
    """The file as Pillow opens it, no pixel decoded yet: for what it says about itself. Raises UserError as `read_picture`."""
    from io import BytesIO

    from sdlora.dataset.decode import FORMATS, refusal
    data = read_bytes(Path(path), name)
    try:
        return Image.open(BytesIO(data), formats=FORMATS)  # noqa: TID251 (this is the door)
    except DAMAGED as error:
        raise refusal(name, data, error) from error


def read_bytes(path: Path, name: str) -> bytes:
    """The whole file, at most MAX_BYTES of it; only of ordinary files. Raises UserError."""
    try:
        with open_regular(path) as handle:
            size = os.fstat(handle.fileno()).st_size
            data = handle.read(MAX_BYTES + 1) if size <= MAX_BYTES else b""
    except OSError as error:
        raise UserError(f"{name} could not be opened ({error.strerror or error}).",
                        "Check that it is a picture file and that you may read it.") from error
    if len(data) > MAX_BYTES or size > MAX_BYTES:
        raise UserError(f"{name} is too large ({max(size, len(data)) / 2**20:.0f} MB; at most 50 MB).",
                        "Save it as a JPEG or make it smaller.")
    if not data:
        raise UserError(f"{name} is an empty file.", "Copy or download it again.")
    return data


def decode_apart(data: bytes, name: str) -> Picture:
    """Let a child process decode the bytes of a file. Raises UserError, also when it takes more than LIMIT_S or crashes."""
    with TURNS:
        child, began = waiting_child() or start_child(), time.monotonic()
        try:
            child.stdin.write(json.dumps([name, len(data), LIMIT_S]).encode() + b"\n")
            child.stdin.write(data)
            child.stdin.flush()
            answer = json.loads(child.stdout.readline() or "null")
            width, height = answer.get("size", (0, 0)) if answer else (0, 0)
            pixels = child.stdout.read(width * height * 3)
        except BrokenPipeError:
            answer = None
        except BaseException:  # also Ctrl+C: half of an answer may still be in the pipe
            end(child)
            raise
        if answer is None or len(pixels) < width * height * 3:
            end(child)
            raise gave_up(name, time.monotonic() - began)
        keep_waiting(child)
    if "refused" in answer:
        raise UserError(*answer["refused"])
    image = Image.frombytes("RGB", (width, height), pixels)
    return Picture(image, answer["digest"], answer["lossless"], tuple(answer["remarks"]), name)


def gave_up(name: str, seconds: float) -> UserError:
    """The sentence for a picture over which a child ended."""
    if seconds >= LIMIT_S:
        return UserError(f"{name} takes too long to read (more than {LIMIT_S} s): it is damaged, or made to do harm.", AGAIN)
    return UserError(f"{name} could not be read: its decoder crashed.", AGAIN)


def start_child() -> subprocess.Popen:
    """A new process that decodes picture after picture."""
    command, options = child_process(["-m", "sdlora.dataset.decode"])
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options)


def waiting_child() -> subprocess.Popen | None:
    """A child that waits for a picture, if there is a living one."""
    while IDLE:
        try:
            child, ending = IDLE.popitem()
        except KeyError:  # another thread took the last one
            return None
        ending.cancel()
        if child.poll() is None:
            return child
        end(child)
    return None


def keep_waiting(child: subprocess.Popen) -> None:
    """Keep a child for the next picture, for IDLE_S."""
    def retire() -> None:
        if IDLE.pop(child, None):
            end(child)

    ending = threading.Timer(IDLE_S, retire)
    ending.daemon = True
    IDLE[child] = ending
    ending.start()


def end(child: subprocess.Popen) -> None:
    """End a child and take back its pipes."""
    child.kill()
    child.stdout.close()
    try:
        child.stdin.close()
    except BrokenPipeError:
        pass  # what it had not read of its last picture
    child.wait()
