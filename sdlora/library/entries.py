"""Finding LoRA files on the shelf by what artists know about them. Knows nothing about changing the shelf.

A file that cannot be used is found too, with the sentence that says why. Ids are ours, names are data.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

from sdlora.errors import UserError
from sdlora.library import background, covers
from sdlora.library.folders import OWN, Folder, folders
from sdlora.library.hashes import NOTHING, UNHASHED, hash_files
from sdlora.library.scan import TAKEN, refresh
from sdlora.library.table import condition, connected
from sdlora.storage import clean_text

SOON_SECONDS = 2.0  # of hashing before a hash is said to be unknown
NONE_SUCH = "It may have been deleted in another window: reload the page."
SORTS = {"new": "created DESC, id DESC", "old": "created, id", "name": "name COLLATE NOCASE, id", "size": "file_bytes DESC, id",
         "favourite": "favourite DESC, created DESC, id DESC", "family": "family, name COLLATE NOCASE, id",
         "kind": "kind, name COLLATE NOCASE, id", "rank": "rank DESC, created DESC, id DESC"}
PLAIN = ("id", "name", "trigger", "family", "file_bytes", "created", "run", "kind", "rank", "dialect", "notes", "folder",
         "file_hash", "description", "weight", "alias", "modules")  # columns that are fields of LoraEntry as they are
COLUMNS = ", ".join((*PLAIN, "problem", "tensor_hash", "place", "cover", "embedded", "gone", "tags", "families", "favourite"))


@dataclass(frozen=True)
class LoraEntry:
    """One file of the shelf. family: "mini" "sd1" "sd2" "sdxl", or "" where unknown; run: id of the run that made it, or "".

    created: ISO time of the file; problem: why it cannot be used, "" when it can; kind: "LoRA", "LoHa"...; rank: the largest;
    folder: id of its folder; hash: SHA-256 of its tensors, file_hash: of the whole file, both "" until they are made;
    weight: the strength its author prefers, 0 when not told; alias: its name in prompts of other programs;
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


class Only(TypedDict, total=False):
    """What a listing may be narrowed to."""
    family: str
    kind: str
    tag: str
    folder: str
    favourite: bool


def list_loras(query: str = "", *, sort: str = "new", limit: int | None = None, offset: int = 0,
               **only: Unpack[Only]) -> list[LoraEntry]:
    """The files in which every word of `query` occurs, sorted by one of SORTS; files changed by hand are seen at once.

    `only`: family, kind, tag, folder (id), favourite. `limit` entries from `offset` on. Raises UserError.
    """
    if sort not in SORTS:
        raise UserError(f"The shelf cannot be sorted by {sort!r}.", f"Choose one of: {', '.join(SORTS)}.")
    refresh()
    with connected() as db:
        which, values = condition(db, query)
        narrowed, more = narrow(only)
        rows = db.execute(f"SELECT {COLUMNS} FROM files WHERE NOT hidden AND {which}{narrowed} ORDER BY {SORTS[sort]} "
                          "LIMIT ? OFFSET ?", (*values, *more, -1 if limit is None else limit, offset)).fetchall()
    return entries(rows)


def count_loras(query: str = "", **only: Unpack[Only]) -> int:
    """How many files `list_loras` would give without a limit, as of the last look."""
    with connected() as db:
        which, values = condition(db, query)
        narrowed, more = narrow(only)
        return db.execute(f"SELECT count(*) FROM files WHERE NOT hidden AND {which}{narrowed}", (*values, *more)).fetchone()[0]


def narrow(only: Only) -> tuple[str, list[object]]:
    """(SQL to append, its values) for the filters that are set."""
    parts = {"family": "family = ?", "kind": "kind = ?", "tag": "instr(tags, ?)", "folder": "folder = ?",
             "favourite": "favourite = ?"}
    chosen = {key: value for key, value in only.items() if value}
    return ("".join(f" AND {parts[key]}" for key in chosen),
            [f"\n{value}\n" if key == "tag" else value for key, value in chosen.items()])


def entries(rows: Iterable[tuple]) -> list[LoraEntry]:
    """Rows as entries; those of a folder that is not there now say so."""
    shelves = {folder.id: folder for folder in folders()}
    found = []
    for row in rows:
        told = dict(zip(PLAIN, row, strict=False))
        problem, tensor_hash, where, cover, embedded, gone, tags, families, favourite = row[len(PLAIN):]
        folder = shelves.get(told["folder"])
        if folder is None:
            continue                                            # removed from the shelf a moment ago
        path = folder.path / os.fsdecode(where)
        thumbnail = path.with_name(os.fsdecode(cover)) if cover else covers.kept(told["id"]) if embedded == TAKEN else None
        if gone or not folder.here:
            problem = f"{path.name} is not there now. Is the disk with the folder {folder.title} connected?"
        found.append(LoraEntry(**told, path=path, thumbnail=thumbnail, problem=problem, hash=tensor_hash,
                               tags=tuple(filter(None, tags.split("\n"))), families=tuple(families.split()),
                               favourite=bool(favourite)))
    return found


def select(which: str, *values: object) -> list[LoraEntry]:
    """The entries for which an SQL condition holds, hidden ones too."""
    with connected() as db:
        return entries(db.execute(f"SELECT {COLUMNS} FROM files WHERE {which}", values).fetchall())


def find(lora_id: str) -> LoraEntry:
    """The entry with this id. Raises UserError when there is none."""
    refresh()
    for entry in select("id = ? AND NOT hidden", lora_id):
        return entry
    raise UserError("This style is no longer on the shelf.", NONE_SUCH)


def by_file(path: Path | str) -> LoraEntry | None:
    """The entry of the file at `path`; None when no folder of the shelf lists it."""
    refresh()
    for folder in folders():
        if Path(path).is_relative_to(folder.path):
            where = os.fsencode(Path(path).relative_to(folder.path).as_posix())
            return next(iter(select("folder = ? AND place = ? AND NOT hidden", folder.id, where)), None)
    return None


def by_hash(prefix: str, seconds: float = SOON_SECONDS) -> LoraEntry | None:
    """The file whose tensors (AutoV3, "Lora hashes") or whose bytes (AutoV2) have a SHA-256 that begins with `prefix`.

    `prefix`: 8 to 64 hexadecimal letters; None when no file has it. A hash that a file only claims counts until its own is made.
    seconds: how long files may be hashed for it.
    """
    prefix = prefix.strip().lower().removeprefix("0x")
    if not re.fullmatch(r"[0-9a-f]{8,64}", prefix) or NOTHING.startswith(prefix):
        return None
    refresh()
    for allowed in (0.0, seconds) if seconds > 0 else (0.0,):
        if allowed:
            for _ in hash_files(allowed):
                pass
        for which in ("tensor_hash BETWEEN ?1 AND ?2", "tensor_hash = '' AND told_hash BETWEEN ?1 AND ?2",
                      "file_hash BETWEEN ?1 AND ?2"):
            found = select(f"{which} AND NOT hidden ORDER BY gone, problem != '', folder != '{OWN}', id", prefix, prefix + "g")
            if found:
                return found[0]
    return None


def by_name(name: str) -> LoraEntry | None:
    """The first of `by_names`, whatever folder the name tells where that one is not here; None when there is none."""
    return next(iter(by_names(name) or by_names(name.replace("\\", "/").rpartition("/")[2])), None)


def by_names(name: str) -> list[LoraEntry]:
    """The files that a prompt's `<lora:name:...>` can mean: by the file's name, its name here, or the name its trainer gave it.

    `folder/name` means the file in that folder. Case matters only between files that differ by it alone.
    More than one when several files suit the name equally well; the same tensors count once, those of our own folder first.
    """
    refresh()
    wanted = clean_text(name, 200)
    path = wanted.removesuffix(".safetensors").replace("\\", "/").strip("/")
    stem = path.rpartition("/")[2]
    if not stem:
        return []
    found = select("NOT hidden AND (name = ?1 COLLATE NOCASE OR alias = ?1 COLLATE NOCASE OR stem = ?2 COLLATE NOCASE)",
                   wanted, stem)
    exact = [lambda entry: entry.path.stem == stem, lambda entry: entry.name == wanted, lambda entry: entry.alias == wanted,
             lambda entry: entry.path.stem.lower() == stem.lower()]
    shelves = {folder.id: folder for folder in folders()}
    if "/" in path:
        found = [entry for entry in found if f"/{whole_name(entry, shelves)}".casefold().endswith(f"/{path}".casefold())]

    def rank(entry: LoraEntry) -> tuple[bool, ...]:
        return bool(entry.problem), *(not test(entry) for test in exact)
    best = min(map(rank, found), default=())
    ranked = sorted((entry for entry in found if rank(entry) == best), key=lambda entry: (entry.folder != OWN, entry.id))
    hashes = [entry.hash for entry in ranked]
    return [entry for at, entry in enumerate(ranked) if not entry.hash or entry.hash not in hashes[:at]]


def whole_name(entry: LoraEntry, shelves: Mapping[str, Folder]) -> str:
    """What tells a file from its namesakes: "title of its shelf folder/folders below/name", without the suffix."""
    folder = shelves[entry.folder]
    return f"{folder.title}/{entry.path.relative_to(folder.path).with_suffix('').as_posix()}"


def short_names(namesakes: Sequence[LoraEntry]) -> list[str]:
    """The shortest ends of their whole names that tell these files apart: "one/same", "two/same"."""
    shelves = {folder.id: folder for folder in folders()}
    parts = [whole_name(entry, shelves).split("/") for entry in namesakes]
    for depth in range(1, max(map(len, parts), default=1)):
        short = ["/".join(each[-depth:]) for each in parts]
        if len(set(map(str.casefold, short))) == len(short):
            return short
    return ["/".join(each) for each in parts]


def titles(entries: Sequence[LoraEntry]) -> list[str]:
    """What to call these files beside each other: their names, with the file behind it where two have the same name."""
    shared: dict[str, list[LoraEntry]] = {}
    for entry in entries:
        shared.setdefault(entry.name.casefold(), []).append(entry)
    files = {entry.id: file for alike in shared.values() if len(alike) > 1
             for entry, file in zip(alike, short_names(alike), strict=True)}
    return [f"{entry.name} ({files[entry.id]})" if entry.id in files else entry.name for entry in entries]


def names() -> list[str]:
    """What files are called here, and the names of the files themselves, as of the last look."""
    with connected() as db:
        return [name for row in db.execute("SELECT name, stem FROM files WHERE NOT hidden") for name in dict.fromkeys(row)]


def duplicates() -> list[list[LoraEntry]]:
    """Groups of files that hold the very same tensors, whatever their names and metadata; as far as they are hashed yet."""
    refresh()
    found = select("tensor_hash IN (SELECT tensor_hash FROM files WHERE tensor_hash != '' AND NOT hidden GROUP BY tensor_hash "
                   "HAVING count(*) > 1) AND NOT hidden ORDER BY tensor_hash, folder != ?, created", OWN)
    groups: dict[str, list[LoraEntry]] = {}
    for entry in found:
        groups.setdefault(entry.hash, []).append(entry)
    return list(groups.values())


def tags() -> list[tuple[str, int]]:
    """(tag, how many files have it), the most used first."""
    counts: dict[str, int] = {}
    with connected() as db:
        for text, in db.execute("SELECT tags FROM files WHERE tags != '' AND NOT hidden"):
            for tag in filter(None, text.split("\n")):
                counts[tag] = counts.get(tag, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0].lower()))


@dataclass(frozen=True)
class State:
    """How much of the shelf is known. `unread` files have only a name yet; `busy`: whether a process is working on it."""
    files: int
    unread: int
    unhashed: int
    busy: bool


def state() -> State:
    """What is left to do for the shelf."""
    with connected() as db:
        counts = db.execute("SELECT (SELECT count(*) FROM files WHERE NOT hidden), (SELECT count(*) FROM files WHERE facts = '' "
                            f"AND NOT gone), (SELECT count(*) FROM files WHERE {UNHASHED})").fetchone()
    return State(*counts, background.is_running())
