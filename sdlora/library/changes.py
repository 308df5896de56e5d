"""Find new, changed, moved and missing files in the folders of the shelf. Reads no file, only sizes and dates.

Knows nothing about what is inside the files: new and changed ones get an empty row, which scan.py fills. A directory in which
nothing was added or removed keeps its own date, so a quick check of a large shelf is one `stat` per directory; a file that was
written in place is found only by a full check, which is one `stat` per file.
"""

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from sdlora.library.database import connected, folded, writing
from sdlora.library.folders import Folder, move_notes
from sdlora.library.sidecars import COVERS, SUFFIXES
from sdlora.storage import MAX_NAME, clean_text, slug

SETTLED_NS = 2 * 10**9  # a directory changed less than this ago may change again within the same tick of its clock
MAX_DEPTH, MAX_DIRECTORIES = 20, 100_000
CHUNK = 1000  # rows in one transaction


@dataclass(frozen=True)
class ListedFile:
    """One LoRA file as its directory lists it. place: below the shelf's folder; beside: dates and sizes of its sidecars."""
    place: bytes
    file_bytes: int
    mtime_ns: int
    beside: str
    cover: bytes


@dataclass
class Changes:
    """What differs from the index. directories: {place: new date}; lost and lost_directories are no longer there."""
    new: list[ListedFile]
    changed: list[tuple[int, ListedFile]]
    lost: dict[bytes, tuple[int, int, int]]  # {place: (row, file_bytes, mtime_ns)}
    directories: dict[bytes, int]
    lost_directories: list[bytes]


def update_folder(folder: Folder, *, full: bool) -> bool:
    """Bring the rows of a folder in line with its files; True when anything changed. Raises Busy and UserError.

    A folder that cannot be opened, or an added one that is suddenly empty (an unplugged disk leaves its empty place), keeps its
    rows: they are marked as gone until it is back.
    """
    with connected() as db:
        known = dict(db.execute("SELECT place, mtime_ns FROM places WHERE folder = ?", (folder.id,)))
        was_gone = db.execute("SELECT 1 FROM files WHERE folder = ? AND gone = 1", (folder.id,)).fetchone() is not None
        changes = find_changes(db, folder, known, full=full or was_gone) if is_readable(folder) else None
        if changes and changes.lost and not changes.new and not folder.own:
            kept = db.execute("SELECT count(*) FROM files WHERE folder = ?", (folder.id,)).fetchone()[0] - len(changes.lost)
            changes = changes if kept else None
        left = db.execute("SELECT 1 FROM files WHERE folder = ? AND gone = 0", (folder.id,)).fetchone() is not None
    if changes is None:
        if left:
            with writing() as db:
                db.execute("UPDATE files SET gone = 1 WHERE folder = ?", (folder.id,))
                db.execute("UPDATE places SET mtime_ns = 0 WHERE folder = ?", (folder.id,))
        return left
    if was_gone or changes.new or changes.changed or changes.lost or changes.directories or changes.lost_directories:
        save_changes(folder, changes)
        return True
    return False


def is_readable(folder: Folder) -> bool:
    """Return whether the folder can be listed now."""
    try:
        with os.scandir(folder.path):
            return True
    except OSError:
        return False


def find_changes(db: sqlite3.Connection, folder: Folder, known: dict[bytes, int], *, full: bool) -> Changes:
    """Walk a folder: its directories, and in those that changed (all when `full`) the files."""
    changes = Changes([], [], {}, {}, [])
    inside: dict[bytes, list[bytes]] = {}
    for where in known:
        if where:
            inside.setdefault(where.rpartition(b"/")[0], []).append(where)
    waiting, linked, visited, root = [b""], [], set(), folder.path.resolve()
    folders: set[tuple[int, int]] = set()                      # a folder that links lead to again is listed once
    while (waiting or linked) and len(visited) < MAX_DIRECTORIES:
        if not waiting:                                        # links come last: a folder is listed where it really is
            linked.sort(reverse=True)
        where = waiting.pop() if waiting else linked.pop()
        path = root / os.fsdecode(where)
        if where and where not in visited and path.is_symlink() and waiting:
            linked.append(where)
            continue
        visited.add(where)
        try:
            status = path.stat()
            if (same := (status.st_dev, status.st_ino)) in folders:
                visited.discard(where)
                continue
            folders.add(same)
            date = status.st_mtime_ns
            if not full and known.get(where) == date:
                waiting += inside.get(where, [])
                continue
            files, deeper = list_directory(root, where)
        except FileNotFoundError:
            visited.discard(where)
            continue
        except OSError:
            waiting += inside.get(where, [])                    # not allowed to look: what is known of it stays
            continue
        waiting += deeper if where.count(b"/") < MAX_DEPTH else []
        settled = date if time.time_ns() - date > SETTLED_NS else 0
        if known.get(where) != settled:
            changes.directories[where] = settled
        rows = db.execute("SELECT place, n, file_bytes, mtime_ns, beside, cover FROM files WHERE folder = ? AND parent = ?",
                          (folder.id, where))
        add_differences(changes, files, {place: columns for place, *columns in rows})
    changes.lost_directories = [where for where in known if where not in visited] if not waiting and not linked else []
    for where in changes.lost_directories:
        rows = db.execute("SELECT place, n, file_bytes, mtime_ns FROM files WHERE folder = ? AND parent = ?", (folder.id, where))
        changes.lost |= {place: (n, file_bytes, mtime_ns) for place, n, file_bytes, mtime_ns in rows}
    return changes


def add_differences(changes: Changes, files: list[ListedFile], rows: dict[bytes, list]) -> None:
    """Add to `changes` what differs between the files of one directory and their rows."""
    for file in files:
        row = rows.pop(file.place, None)
        if row is None:
            changes.new.append(file)
        elif tuple(row[1:]) != (file.file_bytes, file.mtime_ns, file.beside, file.cover):
            changes.changed.append((row[0], file))
    changes.lost |= {place: (n, file_bytes, mtime_ns) for place, (n, file_bytes, mtime_ns, *_) in rows.items()}


def list_directory(root: Path, where: bytes) -> tuple[list[ListedFile], list[bytes]]:
    """Return (LoRA files, directories) directly in `where`; a link to a directory is one. Raises OSError."""
    files, deeper = {}, []
    with os.scandir(os.fsencode(root / os.fsdecode(where))) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if is_folder(entry):
                deeper.append(joined(where, entry.name))
            else:
                files[entry.name] = entry
    return list(lora_files(where, files)), deeper


def is_file(entry: os.DirEntry) -> bool:
    """Return whether an entry is an ordinary file, or leads to one: no pipe, device or link to itself."""
    try:
        return entry.is_file()
    except OSError:
        return False


def is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:                                             # a link that leads to itself
        return False


def lora_files(where: bytes, files: dict[bytes, os.DirEntry]) -> Iterator[ListedFile]:
    """Yield the LoRA files among `files`, each with its sidecars and cover."""
    for name, entry in files.items():
        stem, dot, suffix = name.rpartition(b".")
        if not dot or suffix.lower() != b"safetensors":
            continue
        try:
            status = entry.stat()
        except OSError:
            if not entry.is_symlink():
                continue                                        # it went away while we looked
            status = entry.stat(follow_symlinks=False)          # a link to nowhere is listed, and says so
        beside = []
        for kind in SUFFIXES:
            if (file := files.get(stem + kind.encode())) is not None:
                dates = dates_of(file)
                beside.append(f"{kind} {dates[0]} {dates[1]}")
        pictures = (files.get(stem + kind.encode()) for kind in COVERS)
        cover = next((each.name for each in pictures if each is not None and is_file(each)), b"")
        yield ListedFile(joined(where, name), status.st_size, status.st_mtime_ns, "\n".join(beside), cover)


def dates_of(entry: os.DirEntry) -> tuple[int, int]:
    try:
        status = entry.stat()
        return status.st_mtime_ns, status.st_size
    except OSError:
        return 0, 0


def joined(where: bytes, name: bytes) -> bytes:
    return where + b"/" + name if where else name


def save_changes(folder: Folder, changes: Changes) -> None:
    """Write the changes. A file that was moved (same size and date elsewhere) keeps its row, its hashes and its notes."""
    moves, new = {}, []
    vanished: dict[tuple[int, int], list[tuple[bytes, int]]] = {}
    for where, (n, file_bytes, mtime_ns) in changes.lost.items():
        vanished.setdefault((file_bytes, mtime_ns), []).append((where, n))
    for file in changes.new:
        before = vanished.get((file.file_bytes, file.mtime_ns))
        if before:
            where, n = before.pop()
            moves[where] = file.place
            changes.lost.pop(where)
            changes.changed.append((n, file))
        else:
            new.append(file)
    move_notes(folder, moves)
    for at in range(0, len(new), CHUNK):                        # many short transactions: others write in between
        with writing() as db:
            db.executemany(INSERT, [tuple(row_of(folder, file).values()) for file in new[at:at + CHUNK]])
    with writing() as db:
        db.execute("UPDATE files SET gone = 0 WHERE folder = ? AND gone", (folder.id,))
        db.executemany("DELETE FROM files WHERE n = ?", [(n,) for n, *_ in changes.lost.values()])
        for n, file in changes.changed:
            db.execute(UPDATE, (*list(row_of(folder, file).values())[:FROM_LISTING], n))
        db.executemany("DELETE FROM places WHERE folder = ? AND place = ?",
                       [(folder.id, where) for where in changes.lost_directories])
        db.executemany("INSERT OR REPLACE INTO places VALUES (?, ?, ?)",
                       [(folder.id, where, date) for where, date in changes.directories.items()])


NEW_COLUMNS = ("folder", "parent", "place", "id", "file_bytes", "mtime_ns", "created", "beside", "cover", "stem", "name",
               "words")
FROM_LISTING = 10  # the first columns follow from the listing; the others are overwritten once the file is read
INSERT = f"INSERT OR IGNORE INTO files ({', '.join(NEW_COLUMNS)}) VALUES ({', '.join('?' * len(NEW_COLUMNS))})"
UNLESS_CHANGED = "iif(file_bytes = ?5 AND mtime_ns = ?6, {0}, '')"  # a hash stays while the file does
UPDATE = (f"UPDATE OR REPLACE files SET {', '.join(f'{name} = ?{at}' for at, name in enumerate(NEW_COLUMNS[:FROM_LISTING], 1))}, "
          f"facts = '', tensor_hash = {UNLESS_CHANGED.format('tensor_hash')}, "
          f"file_hash = {UNLESS_CHANGED.format('file_hash')}, hash_problem = 0 "
          f"WHERE n = ?{FROM_LISTING + 1}")


def row_of(folder: Folder, file: ListedFile) -> dict[str, object]:
    """Return the columns of a file that is not read yet."""
    path = Path(os.fsdecode(file.place))
    name = clean_text(path.stem, MAX_NAME) or path.suffix
    created = datetime.fromtimestamp(max(file.mtime_ns, 0) / 1e9, UTC).isoformat(timespec="seconds")
    return dict(zip(NEW_COLUMNS, (folder.id, file.place.rpartition(b"/")[0], file.place, id_of(folder, file.place),
                                  file.file_bytes, file.mtime_ns, created, file.beside, file.cover, clean_text(path.stem, 300),
                                  name, folded(name)), strict=True))


def id_of(folder: Folder, where: bytes) -> str:
    """Return the id of a file: the stem of one of ours where that is a valid id, else one made from its place, unique."""
    path = Path(os.fsdecode(where))
    if folder.own and re.fullmatch(r"[a-z0-9-]{1,64}", path.stem) and path.suffix == ".safetensors" and b"/" not in where:
        return path.stem
    unique = where if folder.own else folder.id.encode() + b"/" + where
    return f"{slug(path.stem)[:45]}-x{sha256(unique).hexdigest()[:12]}"
