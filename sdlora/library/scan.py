"""Filling the index: what is inside the files that `look` found, from headers and sidecars alone. Never reads a tensor.

Knows nothing about searching. A scan may be stopped at any moment and goes on where it was: what was read is in the index.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sdlora.errors import UserError
from sdlora.library import background, covers, facts
from sdlora.library.changes import look
from sdlora.library.folders import folders
from sdlora.library.rows import put, read_row
from sdlora.library.table import Busy, connected, writing
from sdlora.storage import home

BATCH = 64
SMALL = 500  # files; on a shelf up to this size every listing asks for the date of every file
FULL_EVERY_SECONDS = 5.0  # on larger ones this is done beside the listing, at most this often
AT_ONCE_SECONDS = 1.0    # of reading before a listing is shown; the rest is read by a process of its own
NONE, PENDING, TAKEN = 0, 1, 2  # of the picture inside a header
looked: dict[Path, float] = {}
looking = threading.Lock()


@dataclass(frozen=True)
class Step:
    """How far a scan is. `stage`: "headers" or "covers"; `done` of `total` files, of which `name` was the last."""
    stage: str
    done: int
    total: int
    name: str = ""


def scan(seconds: float | None = None) -> Iterator[Step]:
    """See every file of every folder, then read the headers and sidecars of the new ones, then take out embedded covers.

    A generator: it works as far as it is asked for, and ends after `seconds`. Raises Busy and UserError.
    """
    until = time.monotonic() + seconds if seconds is not None else None
    look_at_all(full=True)
    miss_covers()
    yield from read_new(until)
    yield from take_covers(until)


def refresh() -> None:
    """What every listing does first: see what changed, and read it if that is soon done; else start a process that does.

    An index that another process is writing is shown as it is.
    """
    with suppress(Busy):
        with connected() as db:
            small = db.execute("SELECT count(*) FROM files").fetchone()[0] <= SMALL
        due = time.monotonic() - looked.get(home(), float("-inf")) > FULL_EVERY_SECONDS
        look_at_all(full=small)
        if not small and due and looking.acquire(blocking=False):
            looked[home()] = time.monotonic()
            threading.Thread(target=look_beside, daemon=True).start()
        until = time.monotonic() + AT_ONCE_SECONDS
        left = waiting(BATCH + 1)
        if left and (left <= BATCH or not background.is_running()):
            for _ in read_new(until):
                pass
            for _ in take_covers(until):
                pass
            if waiting(1):
                background.start()


def look_beside() -> None:
    """The full look at a large shelf, in a thread."""
    try:
        look_at_all(full=True)
    except UserError as error:
        logging.getLogger("sdlora").warning("The shelf was not looked through: %s", error)
    finally:
        looking.release()


def look_at_all(*, full: bool) -> None:
    """Look at every folder, and forget the rows of folders that are no longer on the shelf."""
    shown = folders()
    with connected() as db:
        known = {folder for folder, in db.execute("SELECT DISTINCT folder FROM places")}
    for gone in known - {folder.id for folder in shown}:
        forget(gone)
    for folder in shown:
        look(folder, full=full)


def forget(folder_id: str) -> None:
    """Drop all rows of a folder."""
    with writing() as db:
        for name in ("files", "places"):
            db.execute(f"DELETE FROM {name} WHERE folder = ?", (folder_id,))


def waiting(most: int) -> int:
    """How many files were seen but not read, or have an embedded cover that was not taken out; counted up to `most`."""
    with connected() as db:
        return db.execute("SELECT count(*) FROM (SELECT 1 FROM files WHERE facts = '' AND NOT gone UNION ALL "
                          "SELECT 1 FROM files WHERE embedded = 1 AND NOT gone LIMIT ?)", (most,)).fetchone()[0]


def read_new(until: float | None) -> Iterator[Step]:
    """Read the files that have no facts yet, a batch at a time, in the order they were seen."""
    with connected() as db:
        total = db.execute("SELECT count(*) FROM files WHERE facts = '' AND NOT gone").fetchone()[0]
        known = {key: facts.Structure.from_json(told) for key, told in db.execute("SELECT key, told FROM structures")} \
            if total else {}
    homes = {folder.id: folder for folder in folders()}
    kept, after, done = set(known), 0, 0
    while done < total and (until is None or time.monotonic() < until):
        with connected() as db:
            rows = db.execute("SELECT n, folder, place, beside, file_bytes, mtime_ns FROM files "
                              f"WHERE facts = '' AND NOT gone AND n > ? ORDER BY n LIMIT {BATCH}", (after,)).fetchall()
        if not rows:
            return
        told = [(read_row(homes[folder], where, beside, known), n, file_bytes, mtime_ns)
                for n, folder, where, beside, file_bytes, mtime_ns in rows if folder in homes]
        with writing() as db:
            new = [(key, known[key].to_json()) for key in known.keys() - kept]
            db.executemany("INSERT OR IGNORE INTO structures VALUES (?, ?)", new)
            for columns, *row in told:
                put(db, columns, "n = ? AND file_bytes = ? AND mtime_ns = ?", row)
        kept, after, done = set(known), rows[-1][0], done + len(rows)
        yield Step("headers", done, max(total, done), os.fsdecode(rows[-1][2]))


def miss_covers() -> None:
    """Ask again for covers that somebody removed from the cache."""
    with connected() as db:
        taken = db.execute("SELECT n, id FROM files WHERE embedded = ?", (TAKEN,)).fetchall()
    missing = [(PENDING, n) for n, file_id in taken if not covers.kept(file_id).is_file()]
    if missing:
        with writing() as db:
            db.executemany("UPDATE files SET embedded = ? WHERE n = ?", missing)


def take_covers(until: float | None) -> Iterator[Step]:
    """Take the pictures out of the headers of those files that have none beside them."""
    with connected() as db:
        rows = db.execute("SELECT n, id, folder, place, cover FROM files WHERE embedded = 1 AND NOT gone").fetchall()
    homes = {folder.id: folder for folder in folders()}
    for done, (n, file_id, folder, where, cover) in enumerate(rows, 1):
        if until is not None and time.monotonic() > until:
            return
        if folder in homes:
            path = homes[folder].path / os.fsdecode(where)
            state = NONE if cover or not covers.take_out(path, covers.kept(file_id)) else TAKEN
            with writing() as db:
                db.execute("UPDATE files SET embedded = ? WHERE n = ? AND embedded = 1", (state, n))
        yield Step("covers", done, len(rows), os.fsdecode(where))
