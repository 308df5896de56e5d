"""Pictures inside LoRA headers as thumbnails in a cache of ours. Knows nothing about the index.

`modelspec.thumbnail` is a data URL, `ssmd_cover_images` a JSON list of base64 pictures (lora-files.md 1 and 2.9). What comes
out goes through the door for untrusted pictures before it is kept.
"""

import base64
import binascii
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from sdlora.dataset.picture import thumbnail
from sdlora.errors import UserError
from sdlora.library.facts import COVER_KEYS
from sdlora.lora.formats.header import header
from sdlora.storage import TEMPORARY, data_folder, home, write_atomic

SIDE_PX = 320
MAX_TEXT = 8_000_000  # letters of base64
TRIED = 3             # of several covers in one file


def kept(file_id: str) -> Path:
    """Where the cover of a file is kept; the cache may be thrown away."""
    return home() / "library" / "covers" / f"{file_id}.webp"


def take_out(path: Path, target: Path) -> bool:
    """Write the picture inside the header of `path` to `target`; False when none in it can be used. Raises UserError."""
    try:
        metadata = header(path).metadata
    except (UserError, OSError):
        return False
    for data in pictures(metadata):
        scratch = data_folder("library", "covers") / f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}"
        try:
            scratch.write_bytes(data)
            image = thumbnail(scratch, SIDE_PX)
        except UserError:
            continue
        finally:
            scratch.unlink(missing_ok=True)
        write_atomic(target, lambda temporary, image=image: save(image, temporary))
        return True
    return False


def save(image: Image.Image, path: Path) -> None:
    image.save(path, "WEBP", quality=85)


def pictures(metadata: dict[str, str]) -> Iterator[bytes]:
    """The bytes of the pictures that a header carries, as far as they are base64."""
    texts = [metadata.get(COVER_KEYS[0], "").partition("base64,")[2]]
    try:
        listed = json.loads(metadata.get(COVER_KEYS[1], "[]"))
        texts += [text for text in listed if isinstance(text, str)][:TRIED] if isinstance(listed, list) else []
    except (ValueError, RecursionError):
        pass  # the other key may still hold one
    for text in texts:
        try:
            if text and len(text) <= MAX_TEXT:
                yield base64.b64decode(text, validate=False)
        except (ValueError, binascii.Error):
            continue
