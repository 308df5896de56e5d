"""Fill the index: find changed files, read headers and sidecars, save embedded covers, hash files. Never reads a tensor's values.

Knows nothing about searching. Every step may be stopped at any moment: what was done is in the index, the next scan continues.
Long work runs in a process of its own at low priority, `sdlora library scan --background`, at most one per data folder.
"""

import base64
import binascii
import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sdlora.dataset.picture import thumbnail
from sdlora.errors import UserError
from sdlora.library.changes import update_folder
from sdlora.library.database import Busy, connected, writing
from sdlora.library.facts import COVER_KEYS, Structure, read_row, update_rows
from sdlora.library.folders import list_folders
from sdlora.lora.formats.header import digests, header
from sdlora.processes import spawn
from sdlora.storage import TEMPORARY, data_folder, disk_error, home, write_atomic

BATCH = 64  # files whose headers are read between two transactions
SMALL = 500  # files; on a shelf up to this size every listing checks the date of every file
FULL_EVERY_SECONDS = 5.0  # larger shelves are checked in a thread, at most this often
AT_ONCE_SECONDS = 1.0  # of reading before a listing is shown; the rest is left to the background process
NONE, PENDING, TAKEN = 0, 1, 2  # column `embedded`: no picture in the header, one not yet saved, one saved
COVER_SIDE = 320  # px
MAX_COVER_TEXT = 8_000_000  # characters of base64
MAX_COVERS = 3  # tried of one file
UNREAD = "facts = '' AND NOT gone"
UNHASHED = "tensor_hash = '' AND facts != '' AND data_bytes > 0 AND NOT hash_problem AND NOT gone"
full_checks: dict[Path, float] = {}  # {data folder: monotonic time of the last full check in a thread}
checking = threading.Lock()
background: dict[Path, subprocess.Popen] = {}  # {data folder: the process that was started for it}


@dataclass(frozen=True)
class Step:
    """Progress. `stage`: "headers", "covers" or "hashes"; `done` of `total` files, of which `name` was the last."""
    stage: str
    done: int
    total: int
    name: str = ""


def scan_library(seconds: float | None = None) -> Iterator[Step]:
    """Check every file of every folder, read new headers and sidecars, then save embedded covers.

    A generator that works as far as it is advanced, and ends after `seconds`. Raises Busy and UserError.
    """
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    update_folders(full=True)
    renew_covers()
    yield from read_new(until)
    yield from save_covers(until)


def refresh() -> None:
    """Bring the index up to date before a listing: read a few changed files at once, leave many to the background process.

    An index that another process is writing is used as it is.
    """
    with suppress(Busy):
        with connected() as db:
            small = db.execute("SELECT count(*) FROM files").fetchone()[0] <= SMALL
        due = time.monotonic() - full_checks.get(home(), float("-inf")) > FULL_EVERY_SECONDS
        update_folders(full=small)
        if not small and due and checking.acquire(blocking=False):
            full_checks[home()] = time.monotonic()
            threading.Thread(target=check_all_files, daemon=True).start()
        until = time.monotonic() + AT_ONCE_SECONDS
        left = count_pending(BATCH + 1)
        if left and (left <= BATCH or not background_is_running()):
            for _ in read_new(until):
                pass
            for _ in save_covers(until):
                pass
            if count_pending(1):
                start_background()


def check_all_files() -> None:
    """Check every file of a large shelf: runs in a thread, which holds `checking`."""
    try:
        update_folders(full=True)
    except UserError as error:
        logging.getLogger("sdlora").warning("The files of the shelf were not checked: %s", error)
    finally:
        checking.release()


def update_folders(*, full: bool) -> None:
    """Bring the rows of every folder in line with its files, and drop the rows of folders that left the shelf."""
    folders = list_folders()
    with connected() as db:
        known = {folder for folder, in db.execute("SELECT DISTINCT folder FROM places")}
    for folder_id in known - {folder.id for folder in folders}:
        forget_rows(folder_id)
    for folder in folders:
        update_folder(folder, full=full)


def forget_rows(folder_id: str) -> None:
    """Drop all rows of a folder."""
    with writing() as db:
        for table in ("files", "places"):
            db.execute(f"DELETE FROM {table} WHERE folder = ?", (folder_id,))


def count_pending(most: int) -> int:
    """Return how many files are unread or have an embedded cover to save, counted up to `most`."""
    with connected() as db:
        return db.execute(f"SELECT count(*) FROM (SELECT 1 FROM files WHERE {UNREAD} UNION ALL "
                          "SELECT 1 FROM files WHERE embedded = 1 AND NOT gone LIMIT ?)", (most,)).fetchone()[0]


def read_new(until: float) -> Iterator[Step]:
    """Read the headers and sidecars of unread files, BATCH at a time, until the monotonic time `until`."""
    with connected() as db:
        total = db.execute(f"SELECT count(*) FROM files WHERE {UNREAD}").fetchone()[0]
        known = {key: Structure.from_json(text) for key, text in db.execute("SELECT key, told FROM structures")} if total else {}
    folders = {folder.id: folder for folder in list_folders()}
    saved, after, done = set(known), 0, 0
    while done < total and time.monotonic() < until:
        with connected() as db:
            rows = db.execute("SELECT n, folder, place, beside, file_bytes, mtime_ns FROM files "
                              f"WHERE {UNREAD} AND n > ? ORDER BY n LIMIT {BATCH}", (after,)).fetchall()
        if not rows:
            return
        updates = [(read_row(folders[folder], where, beside, known), n, file_bytes, mtime_ns)
                   for n, folder, where, beside, file_bytes, mtime_ns in rows if folder in folders]
        with writing() as db:
            new = [(key, known[key].to_json()) for key in known.keys() - saved]
            db.executemany("INSERT OR IGNORE INTO structures VALUES (?, ?)", new)
            for columns, *row in updates:
                update_rows(db, columns, "n = ? AND file_bytes = ? AND mtime_ns = ?", row)
        saved, after, done = set(known), rows[-1][0], done + len(rows)
        yield Step("headers", done, max(total, done), os.fsdecode(rows[-1][2]))


def cover_path(file_id: str) -> Path:
    """Return where the cover from inside a file is saved; the folder may be removed at any time."""
    return home() / "library" / "covers" / f"{file_id}.webp"


def renew_covers() -> None:
    """Mark covers that are no longer in their folder as still to be saved."""
    with connected() as db:
        taken = db.execute("SELECT n, id FROM files WHERE embedded = ?", (TAKEN,)).fetchall()
    missing = [(PENDING, n) for n, file_id in taken if not cover_path(file_id).is_file()]
    if missing:
        with writing() as db:
            db.executemany("UPDATE files SET embedded = ? WHERE n = ?", missing)


def save_covers(until: float) -> Iterator[Step]:
    """Save the embedded covers of files that have no picture beside them, until the monotonic time `until`."""
    with connected() as db:
        rows = db.execute("SELECT n, id, folder, place, cover FROM files WHERE embedded = 1 AND NOT gone").fetchall()
    roots = {folder.id: folder.path for folder in list_folders()}
    for done, (n, file_id, folder, where, cover) in enumerate(rows, 1):
        if time.monotonic() > until:
            return
        if folder in roots:
            saved = not cover and save_cover(roots[folder] / os.fsdecode(where), cover_path(file_id))
            with writing() as db:
                db.execute("UPDATE files SET embedded = ? WHERE n = ? AND embedded = 1", (TAKEN if saved else NONE, n))
        yield Step("covers", done, len(rows), os.fsdecode(where))


def save_cover(path: Path, target: Path) -> bool:
    """Write the picture inside the header of `path` to `target`; False when none in it can be used. Raises UserError."""
    try:
        metadata = header(path).metadata
    except (UserError, OSError):
        return False
    for data in embedded_pictures(metadata):
        scratch = data_folder("library", "covers") / f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}"
        try:
            scratch.write_bytes(data)
            image = thumbnail(scratch, COVER_SIDE)
        except UserError:
            continue
        finally:
            scratch.unlink(missing_ok=True)
        write_atomic(target, lambda temporary, image=image: image.save(temporary, "WEBP", quality=85))
        return True
    return False


def embedded_pictures(metadata: dict[str, str]) -> Iterator[bytes]:
    """Yield the pictures of a header that are valid base64.

    `modelspec.thumbnail` is a data URL, `ssmd_cover_images` a JSON list of base64 texts.
    """
    texts = [metadata.get(COVER_KEYS[0], "").partition("base64,")[2]]
    try:
        listed = json.loads(metadata.get(COVER_KEYS[1], "[]"))
        texts += [text for text in listed if isinstance(text, str)][:MAX_COVERS] if isinstance(listed, list) else []
    except (ValueError, RecursionError):
        pass  # the other key may still hold one
    for text in texts:
        try:
            if text and len(text) <= MAX_COVER_TEXT:
                yield base64.b64decode(text, validate=False)
        except (ValueError, binascii.Error):
            continue


def hash_files(seconds: float | None = None, *, only_equal: bool = False) -> Iterator[Step]:
    """Hash the files that have no hash yet: of the tensors alone, and of the whole file (AutoV2).

    The tensors' SHA-256 is kohya's `sshs_model_hash`; AutoV3 is its first 12 characters. Files whose tensors
    have the same size come first, because only they can be duplicates; `only_equal`: no others. A generator that ends after
    `seconds`. A file that cannot be read is left out until it changes.
    """
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    equal = "(SELECT count(*) FROM files AS other WHERE other.data_bytes = files.data_bytes) > 1"
    with connected() as db:
        rows = db.execute(f"SELECT n, folder, place, file_bytes, mtime_ns, data_bytes FROM files WHERE {UNHASHED} "
                          f"{f'AND {equal}' if only_equal else ''} ORDER BY {equal} DESC, data_bytes, n").fetchall()
    roots = {folder.id: folder.path for folder in list_folders()}
    for done, (n, folder, where, file_bytes, mtime_ns, data_bytes) in enumerate(rows, 1):
        if time.monotonic() > until or folder not in roots:
            return
        path = roots[folder] / os.fsdecode(where)
        hashes = file_hashes(path, file_bytes - data_bytes, lambda: time.monotonic() > until)
        if hashes is None:
            return
        with writing() as db:
            db.execute("UPDATE files SET tensor_hash = ?, file_hash = ?, hash_problem = ? "
                       "WHERE n = ? AND file_bytes = ? AND mtime_ns = ?", (*hashes, hashes == ("", ""), n, file_bytes, mtime_ns))
        yield Step("hashes", done, len(rows), path.name)


def file_hashes(path: Path, data_start: int, stop: Callable[[], bool] = lambda: False) -> tuple[str, str] | None:
    """Return (SHA-256 of the bytes from `data_start` on, SHA-256 of the whole file), read once.

    ("", "") when the file cannot be read; None when `stop` returned True.
    """
    try:
        return digests(path, data_start, stop)
    except OSError:
        return "", ""


def start_background() -> bool:
    """Start the background process unless one is running; True when it was started."""
    if background_is_running():
        return False
    background[home()] = spawn(["-m", "sdlora", "library", "scan", "--background"], home() / "logs" / "library.log")
    return True


def background_is_running() -> bool:
    """Return whether the process is there: started by this one and alive, or holding the lock."""
    if home() in background and background[home()].poll() is None:
        return True
    with background_lock() as acquired:
        return not acquired


@contextmanager
def background_lock() -> Iterator[bool]:
    """Hold the lock of the one background process; yields False when another process holds it."""
    lock = FileLock(home() / "library-scan.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise disk_error(error, home() / "library-scan.lock") from error
    try:
        yield True
    finally:
        lock.release()
