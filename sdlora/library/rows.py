"""One row of the index: what a header, the sidecars and the artist say about one file, put together.

Knows nothing about searching, and nothing about when a file is read.
"""

import os
import sqlite3
from pathlib import Path

from sdlora.library import facts, sidecars
from sdlora.library.folders import Folder, key_of, notes_of
from sdlora.library.table import folded
from sdlora.storage import MAX_NAME, clean_text

SEARCHED = 1500  # letters of one file that are searched


def read_row(folder: Folder, where: bytes, beside: str, known: facts.Structures) -> dict[str, object]:
    """All columns that follow from the file at `where`, its sidecars (as look.py lists them) and the artist's notes."""
    path = folder.path / os.fsdecode(where)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder.path)):
        found = facts.Facts(problem=f"{path.name} is a link that leads out of the shelf. Put the file itself there, or add the "
                                    "folder in which it lies.")
    else:
        found = facts.read(path, known)
    return {"facts": found.to_json(), "data_bytes": found.data_bytes, "embedded": int(found.embedded),
            "told_hash": found.told_hash, **shown(folder, where, beside, found)}


def shown(folder: Folder, where: bytes, beside: str, found: facts.Facts) -> dict[str, object]:
    """The columns that artists see. What the artist wrote wins over sidecars, they win over the header.

    The family comes from the tensors; what others say about it decides only between families that the tensors leave open.
    """
    path = folder.path / os.fsdecode(where)
    suffixes = [line.split(" ")[0] for line in filter(None, beside.split("\n"))]
    said = sidecars.read({suffix: path.with_name(path.stem + suffix) for suffix in suffixes})
    said |= notes_of(folder).get(key_of(where), {})
    stem = clean_text(path.stem, MAX_NAME) or path.suffix
    hint = found.family_hint or said.get("family", "")
    family = found.families[0] if len(found.families) == 1 else hint if hint in found.families else ""
    tags = [str(tag) for tag in said.get("tags", [])]
    columns = {
        "name": said.get("name") or found.title or stem, "alias": found.alias, "trigger": said.get("trigger", found.trigger),
        "family": family, "families": " ".join(found.families), "kind": found.kind, "dialect": found.dialect,
        "rank": found.rank, "modules": found.modules, "run": found.run,
        "problem": clean_text(found.problem),
        "description": said.get("description", found.description), "notes": said.get("notes", ""),
        "tags": "".join(f"\n{tag}\n" for tag in tags), "weight": float(said.get("weight", 0.0)),
        "favourite": int(said.get("favourite") is True), "hidden": int(said.get("hidden") is True)}
    searched = (columns["name"], stem, found.alias, columns["trigger"], " ".join(tags), columns["notes"], found.kind,
                columns["families"], columns["description"])
    return columns | {"words": folded(" ".join(searched))[:SEARCHED]}


def put(db: sqlite3.Connection, columns: dict[str, object], which: str, values: list[object]) -> None:
    """Write columns into the rows for which the condition `which` holds."""
    db.execute(f"UPDATE files SET {', '.join(f'{name} = ?' for name in columns)} WHERE {which}", (*columns.values(), *values))
