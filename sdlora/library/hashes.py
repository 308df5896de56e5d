"""The hashes of LoRA files, made little by little: of the tensors alone (what a file is) and of the whole file (AutoV2).

Knows nothing about what the files mean. Files whose tensors take the same room are hashed first: only they can be duplicates.
The tensors' SHA-256 is kohya's `sshs_model_hash`, whose first 12 letters are AutoV3 (lora-files.md 2.9).
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sdlora.library.folders import folders
from sdlora.library.table import connected, writing
from sdlora.lora.formats.header import digests

UNHASHED = "tensor_hash = '' AND facts != '' AND data_bytes > 0 AND NOT hash_problem AND NOT gone"
NOTHING = sha256(b"").hexdigest()  # some trainers wrote the hash of nothing into every file they made


@dataclass(frozen=True)
class Hashed:
    """How far the hashing is. `done` of `total` files; `name` is the last one."""
    done: int
    total: int
    name: str


def hash_files(seconds: float | None = None, *, only_equal: bool = False) -> Iterator[Hashed]:
    """Hash the files that have no hash yet, those that may be duplicates first; `only_equal`: no others.

    A generator that may be left at any moment and ends after `seconds`. A file that cannot be read is left out until it changes.
    """
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    equal = "(SELECT count(*) FROM files AS other WHERE other.data_bytes = files.data_bytes) > 1"
    with connected() as db:
        rows = db.execute(f"SELECT n, folder, place, file_bytes, mtime_ns, data_bytes FROM files WHERE {UNHASHED} "
                          f"{f'AND {equal}' if only_equal else ''} ORDER BY {equal} DESC, data_bytes, n").fetchall()
    homes = {folder.id: folder.path for folder in folders()}
    for done, (n, folder, where, file_bytes, mtime_ns, data_bytes) in enumerate(rows, 1):
        if time.monotonic() > until or folder not in homes:
            return
        path = homes[folder] / os.fsdecode(where)
        found = file_hashes(path, file_bytes - data_bytes, lambda: time.monotonic() > until)
        if found is None:
            return
        with writing() as db:
            db.execute("UPDATE files SET tensor_hash = ?, file_hash = ?, hash_problem = ? "
                       "WHERE n = ? AND file_bytes = ? AND mtime_ns = ?", (*found, found == ("", ""), n, file_bytes, mtime_ns))
        yield Hashed(done, len(rows), path.name)


def file_hashes(path: Path, data_start: int, stop: Callable[[], bool] = lambda: False) -> tuple[str, str] | None:
    """(SHA-256 of the bytes from `data_start` on, SHA-256 of the whole file) in one reading.

    ("", "") when the file cannot be read; None when `stop` said so.
    """
    try:
        return digests(path, data_start, stop)
    except OSError:
        return "", ""
