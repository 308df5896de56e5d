"""One row of the index: what the header, the sidecars and the artist say about one LoRA file. Knows nothing about torch.

Analysing the names of thousands of tensors takes tens of milliseconds, and most files have the very same names, shapes and
formats as a thousand others. So the result is stored per structure: per digest of the header without its metadata. Only a file
that passed every check gets such an entry; all others are read in full.
"""

import json
import os
import sqlite3
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from sdlora.errors import UserError
from sdlora.library import sidecars
from sdlora.library.database import folded
from sdlora.library.folders import Folder, key_of, notes_of
from sdlora.lora.formats import cloneofsimo
from sdlora.lora.formats.header import MAX_HEADER_BYTES, header, open_file
from sdlora.lora.formats.layout import layout
from sdlora.lora.tools.report import trigger
from sdlora.storage import MAX_NAME, clean_text

START = '{"__metadata__":'
COVER_KEYS = ("modelspec.thumbnail", "ssmd_cover_images")
HINTS = (("sd_v1", "sd1"), ("sd_v2", "sd2"), ("sdxl", "sdxl"), ("sdlora_mini", "mini"), ("sd_1", "sd1"), ("sd_2", "sd2"))
MAX_WORDS = 1500  # characters of one file that are searched


@dataclass(frozen=True)
class Structure:
    """What follows from names, shapes and formats: the same for every file of this structure."""
    families: tuple[str, ...] = ()
    kind: str = ""
    dialect: str = ""
    rank: int = 0
    modules: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))  # ASCII: `problem` holds the file's name, which may be no text that SQLite can store

    @classmethod
    def from_json(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**fields | {"families": tuple(fields["families"])})


@dataclass(frozen=True)
class Facts(Structure):
    """What a header says. problem: the sentence why the file cannot be used, "" when it can; data_bytes: of its tensors.

    alias: the name that `<lora:...>` prompts of other programs use; told_hash: what it claims to be the hash of its tensors.
    """
    title: str = ""
    alias: str = ""
    trigger: str = ""
    description: str = ""
    family_hint: str = ""
    run: str = ""
    told_hash: str = ""
    data_bytes: int = 0
    embedded: bool = False
    problem: str = ""


def read_facts(path: Path, known: dict[bytes, Structure]) -> Facts:
    """Return the facts of one file; a new structure is added to `known`. Nothing is raised: `problem` says what is wrong."""
    try:
        metadata, key, data_bytes = read_quickly(path)
        structure = known.get(key) if key else None
        if structure is None:
            checked = header(path)
            found = layout(path.name, checked)
            structure = Structure(found.families, found.kind, found.dialect, found.rank, len(found.modules))
            by_metadata = structure.dialect == cloneofsimo.DIALECT  # where the metadata decides what the names mean
            if key and metadata == checked.metadata and structure.families and not by_metadata:
                known[key] = structure
            metadata, data_bytes = checked.metadata, checked.file_bytes - checked.data_start
    except UserError as refused:
        return Facts(problem=str(refused))
    except OSError as error:
        return Facts(problem=f"{path.name} could not be read ({error.strerror}). Check the disk.")
    problem = "" if structure.families else \
        f"{path.name} was made for another kind of base model. Choose one for Stable Diffusion."
    return replace(metadata_facts(metadata), **vars(structure), data_bytes=data_bytes, problem=problem)


def read_quickly(path: Path) -> tuple[dict[str, str], bytes, int]:
    """Return (metadata, digest of the structure, bytes of tensors) of a file whose header begins with its metadata or has none.

    The digest is b"" for every other file. Raises UserError where `header` would not even read the JSON.
    """
    with open_file(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
            return {}, b"", 0
        raw = file.read(length)
    try:
        text = raw.decode("utf-8")
        metadata, end = {}, 0
        if text.startswith(START):
            metadata, end = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode(text, len(START))
        elif "__metadata__" in text:
            return {}, b"", 0
    except (ValueError, RecursionError):
        return {}, b"", 0
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        return {}, b"", 0
    data_bytes = size - 8 - length
    structure = text[end:].rstrip(" ")  # the padding to a multiple of 8 depends on the metadata
    return metadata, sha256(f"{data_bytes}{structure}".encode()).digest(), data_bytes


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object in which no key occurs twice; ValueError for others, which `header` then refuses in words."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def metadata_facts(metadata: dict[str, str]) -> Facts:
    """Return what the metadata of a header says, cut and cleaned."""
    def first(*keys: str, length: int = MAX_NAME) -> str:
        return next((text for key in keys if (text := clean_text(metadata.get(key, ""), length))), "")

    version = first("ss_base_model_version").lower()
    claimed = (metadata.get("sshs_model_hash") or metadata.get("modelspec.hash_sha256", "").removeprefix("0x")).lower()
    return Facts(
        title=first("modelspec.title", "ssmd_display_name", "ss_output_name"), alias=first("ss_output_name"),
        trigger=trigger(metadata) or first("ssmd_keywords", length=200),
        description=first("modelspec.description", "ssmd_description", length=2000), run=first("sdlora_run"),
        family_hint=next((family for start, family in HINTS if version.startswith(start)), ""),
        told_hash=claimed if len(claimed) == 64 and set(claimed) <= set("0123456789abcdef") else "",
        embedded=any(len(metadata.get(key, "")) > 100 for key in COVER_KEYS))


def read_row(folder: Folder, where: bytes, beside: str, known: dict[bytes, Structure]) -> dict[str, Any]:
    """Return all columns that follow from the file at `where`, its sidecars (as changes.py lists them) and the artist's notes."""
    path = folder.path / os.fsdecode(where)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder.path)):
        facts = Facts(problem=f"{path.name} is a link that leads out of the shelf. Put the file itself there, or add the "
                              "folder in which it lies.")
    else:
        facts = read_facts(path, known)
    return {"facts": facts.to_json(), "data_bytes": facts.data_bytes, "embedded": int(facts.embedded),
            "told_hash": facts.told_hash, **visible_columns(folder, where, beside, facts)}


def visible_columns(folder: Folder, where: bytes, beside: str, facts: Facts) -> dict[str, Any]:
    """Return the columns that artists see. What the artist wrote wins over sidecars, they win over the header.

    The family comes from the tensors; what others say about it decides only between families that the tensors leave open.
    """
    path = folder.path / os.fsdecode(where)
    suffixes = [line.split(" ")[0] for line in filter(None, beside.split("\n"))]
    notes = sidecars.read({suffix: path.with_name(path.stem + suffix) for suffix in suffixes})
    notes |= notes_of(folder).get(key_of(where), {})
    stem = clean_text(path.stem, MAX_NAME) or path.suffix
    hint = facts.family_hint or notes.get("family", "")
    family = facts.families[0] if len(facts.families) == 1 else hint if hint in facts.families else ""
    tags = [str(tag) for tag in notes.get("tags", [])]
    columns = {
        "name": notes.get("name") or facts.title or stem, "alias": facts.alias, "trigger": notes.get("trigger", facts.trigger),
        "family": family, "families": " ".join(facts.families), "kind": facts.kind, "dialect": facts.dialect,
        "rank": facts.rank, "modules": facts.modules, "run": facts.run, "problem": clean_text(facts.problem),
        "description": notes.get("description", facts.description), "notes": notes.get("notes", ""),
        "tags": "".join(f"\n{tag}\n" for tag in tags), "weight": float(notes.get("weight", 0.0)),
        "favourite": int(notes.get("favourite") is True), "hidden": int(notes.get("hidden") is True)}
    searched = (columns["name"], stem, facts.alias, columns["trigger"], " ".join(tags), columns["notes"], facts.kind,
                columns["families"], columns["description"])
    return columns | {"words": folded(" ".join(searched))[:MAX_WORDS]}


def update_rows(db: sqlite3.Connection, columns: dict[str, Any], condition: str, values: list[object]) -> None:
    """Write columns into the rows for which the SQL condition holds."""
    db.execute(f"UPDATE files SET {', '.join(f'{name} = ?' for name in columns)} WHERE {condition}", (*columns.values(), *values))
