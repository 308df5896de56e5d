"""Find LoRA files on the shelf: by words, id, path, hash, name or equal tensors. Knows nothing about changing the shelf.

A file that cannot be used is found too, with the sentence that says why. Ids are ours, names are data.
"""

import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict, Unpack

from sdlora.errors import UserError
from sdlora.library.database import connected, words_condition
from sdlora.library.folders import OWN, Folder, list_folders
from sdlora.library.scan import TAKEN, UNHASHED, UNREAD, background_is_running, cover_path, hash_files, refresh
from sdlora.storage import clean_text

HASH_SECONDS = 2.0  # of hashing before a hash is reported as unknown
EMPTY_HASH = sha256(b"").hexdigest()  # some trainers wrote the hash of nothing into every file they made
SORTS = {"new": "created DESC, id DESC", "old": "created, id", "name": "name COLLATE NOCASE, id", "size": "file_bytes DESC, id",
         "favourite": "favourite DESC, created DESC, id DESC", "family": "family, name COLLATE NOCASE, id",
         "kind": "kind, name COLLATE NOCASE, id", "rank": "rank DESC, created DESC, id DESC"}
DIRECT = ("id", "name", "trigger", "family", "file_bytes", "created", "run", "kind", "rank", "dialect", "notes", "folder",
         "file_hash", "description", "weight", "alias", "modules")  # columns that are fields of LoraEntry as they are
COLUMNS = ", ".join((*DIRECT, "problem", "tensor_hash", "place", "cover", "embedded", "gone", "tags", "families", "favourite"))


@dataclass(frozen=True)
class LoraEntry:
    """One file of the shelf. family: "mini" "sd1" "sd2" "sdxl", or "" where unknown; run: id of the run that made it, or "".

    created: ISO time of the file; problem: why it cannot be used, "" when it can; kind: "LoRA", "LoHa"...; rank: the largest;
    folder: id of its folder; hash: SHA-256 of its tensors, file_hash: of the whole file, both "" until they are made;
    weight: the strength its author prefers, 0 when unknown; alias: its name in prompts of other programs;
    families: those its tensors fit, where that is not one.
    """
    id: str
    name: str
    trigger: str
    family: str
    path: Path
    thumbnail: Path | None
    file_bytes: int
    created: str
    run: str
    problem: str = ""
    kind: str = ""
    rank: int = 0
    dialect: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    favourite: bool = False
    folder: str = OWN
    hash: str = ""
    file_hash: str = ""
    description: str = ""
    weight: float = 0.0
    alias: str = ""
    modules: int = 0
    families: tuple[str, ...] = ()


class Filters(TypedDict, total=False):
    """What a listing may be narrowed to."""
    family: str
    kind: str
    tag: str
    folder: str
    favourite: bool


def list_loras(query: str = "", *, sort: str = "new", limit: int | None = None, offset: int = 0,
               **filters: Unpack[Filters]) -> list[LoraEntry]:
    """Return the files in which every word of `query` occurs, sorted by one of SORTS; files changed by hand are seen at once.

    `limit` entries from `offset` on. Raises UserError.
    """
    if sort not in SORTS:
        raise UserError(f"The shelf cannot be sorted by {sort!r}.", f"Choose one of: {', '.join(SORTS)}.")
    refresh()
    with connected() as db:
        condition, values = search_condition(db, query, filters)
        rows = db.execute(f"SELECT {COLUMNS} FROM files WHERE {condition} ORDER BY {SORTS[sort]} LIMIT ? OFFSET ?",
                          (*values, -1 if limit is None else limit, offset)).fetchall()
    return entries_of(rows)


def count_loras(query: str = "", **filters: Unpack[Filters]) -> int:
    """Return how many files `list_loras` would give without a limit, as of the last update of the index."""
    with connected() as db:
        condition, values = search_condition(db, query, filters)
        return db.execute(f"SELECT count(*) FROM files WHERE {condition}", values).fetchone()[0]


def search_condition(db: sqlite3.Connection, query: str, filters: Filters) -> tuple[str, list[object]]:
    """Return (SQL condition, its values) for the words of a query and the filters that are set; hidden files are left out."""
    columns = {"tag": "instr(tags, ?)"}
    condition, values = words_condition(db, query)
    chosen = {key: value for key, value in filters.items() if value}
    return (" AND ".join(("NOT hidden", condition, *(columns.get(key, f"{key} = ?") for key in chosen))),
            [*values, *(f"\n{value}\n" if key == "tag" else value for key, value in chosen.items())])


def entries_of(rows: Iterable[tuple]) -> list[LoraEntry]:
    """Return rows as entries; the problem of those whose folder is not there now says so."""
    folders = {folder.id: folder for folder in list_folders()}
    found = []
    for row in rows:
        fields: dict[str, Any] = dict(zip(DIRECT, row, strict=False))
        problem, tensor_hash, where, cover, embedded, gone, tags, families, favourite = row[len(DIRECT):]
        folder = folders.get(fields["folder"])
        if folder is None:
            continue                                            # removed from the shelf a moment ago
        path = folder.path / os.fsdecode(where)
        thumbnail = path.with_name(os.fsdecode(cover)) if cover else cover_path(fields["id"]) if embedded == TAKEN else None
        if gone or not folder.here:
            problem = f"{path.name} is not there now. Is the disk with the folder {folder.title} connected?"
        found.append(LoraEntry(**fields, path=path, thumbnail=thumbnail, problem=problem, hash=tensor_hash,
                               tags=tuple(filter(None, tags.split("\n"))), families=tuple(families.split()),
                               favourite=bool(favourite)))
    return found


def select(condition: str, *values: object) -> list[LoraEntry]:
    """Return the entries for which an SQL condition holds, hidden ones too."""
    with connected() as db:
        return entries_of(db.execute(f"SELECT {COLUMNS} FROM files WHERE {condition}", values).fetchall())


def find(lora_id: str) -> LoraEntry:
    """Return the entry with this id. Raises UserError when there is none."""
    refresh()
    for entry in select("id = ? AND NOT hidden", lora_id):
        return entry
    raise UserError("This style is no longer on the shelf.", "It may have been deleted in another window: reload the page.")


def by_file(path: Path | str) -> LoraEntry | None:
    """Return the entry of the file at `path`; None when no folder of the shelf lists it."""
    refresh()
    for folder in list_folders():
        if Path(path).is_relative_to(folder.path):
            where = os.fsencode(Path(path).relative_to(folder.path).as_posix())
            return next(iter(select("folder = ? AND place = ? AND NOT hidden", folder.id, where)), None)
    return None


def by_hash(prefix: str, seconds: float = HASH_SECONDS) -> LoraEntry | None:
    """Return the file whose tensors (AutoV3, "Lora hashes") or whose bytes (AutoV2) have a SHA-256 that begins with `prefix`.

    `prefix`: 8 to 64 hexadecimal digits; None when no file has it. A hash that a file only claims counts until its own is made.
    seconds: how long files may be hashed for it.
    """
    prefix = prefix.strip().lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{8,64}", prefix) or EMPTY_HASH.startswith(prefix):
        return None
    refresh()
    for allowed in (0.0, seconds) if seconds > 0 else (0.0,):
        if allowed:
            for _ in hash_files(allowed):
                pass
        for condition in ("tensor_hash BETWEEN ?1 AND ?2", "tensor_hash = '' AND told_hash BETWEEN ?1 AND ?2",
                      "file_hash BETWEEN ?1 AND ?2"):
            order = f"gone, problem != '', folder != '{OWN}', id"
            found = select(f"{condition} AND NOT hidden ORDER BY {order}", prefix, prefix + "g")
            if found:
                return found[0]
    return None


def by_name(name: str, *, any_folder: bool = False) -> list[LoraEntry]:
    """Return the files that `<lora:name:...>` can mean: by file name, name on the shelf, or the name that its trainer gave it.

    `folder/name` means the file in that folder; any_folder: where there is none, the files of that name elsewhere. Case matters
    only between files that differ by it alone. More than one when several files match the name equally well; the same tensors
    count once, those of our own folder first.
    """
    refresh()
    found = files_called(name)
    if not found and any_folder:
        found = files_called(name.replace("\\", "/").rpartition("/")[2])
    return found


def files_called(name: str) -> list[LoraEntry]:
    """Return the best matches for a name, perhaps behind a folder's, as of the last update of the index."""
    wanted = clean_text(name, 200)
    path = wanted.removesuffix(".safetensors").replace("\\", "/").strip("/")
    stem = path.rpartition("/")[2]
    if not stem:
        return []
    found = select("NOT hidden AND (name = ?1 COLLATE NOCASE OR alias = ?1 COLLATE NOCASE OR stem = ?2 COLLATE NOCASE)",
                   wanted, stem)
    exact = [lambda entry: entry.path.stem == stem, lambda entry: entry.name == wanted, lambda entry: entry.alias == wanted,
             lambda entry: entry.path.stem.lower() == stem.lower()]
    folders = {folder.id: folder for folder in list_folders()}
    if "/" in path:
        found = [entry for entry in found if f"/{full_name(entry, folders)}".casefold().endswith(f"/{path}".casefold())]

    def rank(entry: LoraEntry) -> tuple[bool, ...]:
        return bool(entry.problem), *(not test(entry) for test in exact)
    best = min(map(rank, found), default=())
    ranked = sorted((entry for entry in found if rank(entry) == best), key=lambda entry: (entry.folder != OWN, entry.id))
    hashes = [entry.hash for entry in ranked]
    return [entry for at, entry in enumerate(ranked) if not entry.hash or entry.hash not in hashes[:at]]


def full_name(entry: LoraEntry, folders: Mapping[str, Folder]) -> str:
    """Return "title of the shelf's folder/subfolders/file name" without the suffix: distinct for files of one name."""
    folder = folders[entry.folder]
    return f"{folder.title}/{entry.path.relative_to(folder.path).with_suffix('').as_posix()}"


def short_names(namesakes: Sequence[LoraEntry]) -> list[str]:
    """Return the shortest distinct endings of the full names of files of one name: "one/same", "two/same"."""
    folders = {folder.id: folder for folder in list_folders()}
    parts = [full_name(entry, folders).split("/") for entry in namesakes]
    for depth in range(1, max(map(len, parts), default=1)):
        short = ["/".join(each[-depth:]) for each in parts]
        if len(set(map(str.casefold, short))) == len(short):
            return short
    return ["/".join(each) for each in parts]


def titles(entries: Sequence[LoraEntry]) -> list[str]:
    """Return distinct titles for files listed together: their names, with the file in brackets where two have the same name."""
    groups: dict[str, list[LoraEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.name.casefold(), []).append(entry)
    files = {entry.id: file for group in groups.values() if len(group) > 1
             for entry, file in zip(group, short_names(group), strict=True)}
    return [f"{entry.name} ({files[entry.id]})" if entry.id in files else entry.name for entry in entries]


def names() -> list[str]:
    """Return the names of all entries and of their files, as of the last update of the index."""
    with connected() as db:
        return [name for row in db.execute("SELECT name, stem FROM files WHERE NOT hidden") for name in dict.fromkeys(row)]


def duplicates() -> list[list[LoraEntry]]:
    """Return groups of files that hold the very same tensors, whatever their names and metadata; as far as they are hashed."""
    refresh()
    found = select("tensor_hash IN (SELECT tensor_hash FROM files WHERE tensor_hash != '' AND NOT hidden GROUP BY tensor_hash "
                   "HAVING count(*) > 1) AND NOT hidden ORDER BY tensor_hash, folder != ?, created", OWN)
    groups: dict[str, list[LoraEntry]] = {}
    for entry in found:
        groups.setdefault(entry.hash, []).append(entry)
    return list(groups.values())


def tags() -> list[tuple[str, int]]:
    """Return (tag, how many files have it), the most used first."""
    with connected() as db:
        rows = db.execute("SELECT tags FROM files WHERE tags != '' AND NOT hidden").fetchall()
    counts = Counter(tag for text, in rows for tag in filter(None, text.split("\n")))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0].lower()))


@dataclass(frozen=True)
class State:
    """How much of the shelf is known. `unread` files have only a name yet; `busy`: whether the background process runs."""
    files: int
    unread: int
    unhashed: int
    busy: bool


def state() -> State:
    """Count what is left to read and to hash."""
    with connected() as db:
        files, unread, unhashed = (db.execute(f"SELECT count(*) FROM files WHERE {condition}").fetchone()[0]
                                   for condition in ("NOT hidden", UNREAD, UNHASHED))
    return State(files, unread, unhashed, background_is_running())
