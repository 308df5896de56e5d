"""The shelf: every LoRA file of HOME/loras and of the folders that the artist added, and all that may be done with them.

Knows nothing about torch or drawing. All it says comes from an index that is made from the files again whenever it must be:
what the artist writes goes into sidecars and small records of ours, never into the index alone.
"""

import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from sdlora.errors import UserError
from sdlora.library import background, facts, sidecars, trash
from sdlora.library.changes import id_of
from sdlora.library.entries import (
    LoraEntry,
    State,
    by_file,
    by_hash,
    by_name,
    count_loras,
    duplicates,
    find,
    list_loras,
    select,
    state,
    tags,
    titles,
)
from sdlora.library.folders import OWN, Folder, add_folder, find_folder, folders, forget_folder, note
from sdlora.library.hashes import file_hashes, hash_files
from sdlora.library.rows import put, shown
from sdlora.library.scan import forget, refresh, scan
from sdlora.library.table import connected, index_path, writing
from sdlora.lora.formats import layout
from sdlora.lora.formats.header import header, refuse_size
from sdlora.lora.formats.writing import rewrite
from sdlora.lora.tools.report import summary
from sdlora.storage import MAX_NAME, clean_text, data_folder, slug, write_atomic, write_json

__all__ = ["Folder", "LoraEntry", "State", "UserError", "add", "add_folder", "annotate", "background", "by_file", "by_hash",
           "by_name", "count_loras", "delete", "duplicates", "find", "folders", "hash_files", "index_path", "list_loras",
           "remove_folder", "rename", "scan", "state", "tags", "titles", "undo_delete"]

TITLES = {"mini": "sdlora_mini", "sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}  # "sd version" as A1111 and Forge write it
WRITTEN = {"name": 80, "trigger": 200, "notes": 2000, "description": 2000}  # what an artist may write, in letters


def add(path: Path, name: str = "") -> LoraEntry:
    """Check a LoRA file from outside, copy it to the shelf under a name of ours and return its entry.

    The same bytes are kept once. Raises UserError for everything that `lora.report.summary` refuses, for files without effect
    on any Stable Diffusion, with values that are no numbers, or above 2 GB.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path.name} could not be opened ({error.strerror}).", "Choose the file again.") from error
    refuse_size(path.name, size)
    report = summary(path)
    if report["burnt"]:
        raise UserError(f"{path.name} is a burnt style: {report['burnt'][0]} holds values that are no numbers.",
                        "Use an earlier saved point of it, or ask its author.")
    if not report["matched"]:
        raise UserError(f"{path.name} was made for another kind of base model.", "Choose one for Stable Diffusion.")
    shelf = data_folder("loras")
    with tempfile.TemporaryDirectory() as folder, FileLock(shelf / ".lock"):
        told = layout.told(path)
        if told != header(path).metadata:                       # what PEFT keeps beside the file comes along
            path = rewrite(path, Path(folder) / path.name, told)
            size = path.stat().st_size
        whole = digest(path)
        refresh()
        same = select("folder = ? AND file_bytes = ? AND NOT hidden", OWN, size)
        if twin := next((entry for entry in same if digest(entry.path) == whole), None):
            return twin
        target = free_place(shelf, slug(clean_text(name or path.stem, MAX_NAME)))
        write_atomic(target, lambda temporary: shutil.copyfile(path, temporary))
        if digest(target) != whole:
            target.unlink(missing_ok=True)
            raise UserError(f"{path.name} was not copied whole.", "Check the disk and add it again.")
        family = report["family"] if isinstance(report["family"], str) else ""
        write_json(target.with_suffix(".json"), {
            "description": "", "sd version": TITLES.get(family, "Unknown"), "activation text": report["trigger"],
            "preferred weight": 0, "negative text": "", "notes": "",
            "sdlora": {"name": clean_text(name or path.stem, MAX_NAME)}})
    return find(id_of(find_folder(OWN), os.fsencode(target.name)))


def digest(path: Path) -> str:
    """SHA-256 of a whole file; "" when it cannot be read."""
    return (file_hashes(path, 0) or ("", ""))[1]


def free_place(shelf: Path, name: str) -> Path:
    """A file name on the shelf that neither a LoRA nor anybody's sidecar has."""
    taken = {file.name.lower().split(".")[0] for file in shelf.iterdir()}
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[:58]}-{number}"
    return shelf / f"{free}.safetensors"


def annotate(lora_id: str, **changes: object) -> LoraEntry:
    """Write down what the artist says of a file and return its entry.

    changes: name, trigger, notes, description (texts), tags (texts), favourite (bool), weight (-4 to 4). In our own folder it
    goes into the file's `name.json`, for a foreign one into a record of ours. Raises UserError.
    """
    written: sidecars.Told = {}
    for key, value in changes.items():
        if key in WRITTEN and isinstance(value, str):
            written[key] = clean_text(value, WRITTEN[key])
        elif key == "tags" and isinstance(value, list | tuple):
            written[key] = sidecars.clean_tags(value)
        elif key == "favourite" and isinstance(value, bool):
            written[key] = value
        elif key == "weight" and isinstance(value, int | float) and -4 <= value <= 4:
            written[key] = float(value)
        else:
            raise UserError(f"{key} of a style cannot be {str(value)[:60]!r}.", "Write another value.")
    if written.get("name") == "":
        raise UserError("A style needs a name.", "Write at least one letter.")
    find(lora_id)
    return write_notes(lora_id, written)


def rename(lora_id: str, name: str) -> LoraEntry:
    """Give a file another name on the shelf. The file keeps its own, so that prompts and pictures that name it go on working."""
    return annotate(lora_id, name=name)


def write_notes(lora_id: str, changes: sidecars.Told) -> LoraEntry:
    """Keep notes where they belong, then bring the row up to date."""
    with connected() as db:
        n, folder_id, where, told = db.execute("SELECT n, folder, place, facts FROM files WHERE id = ?", (lora_id,)).fetchone()
    folder = find_folder(folder_id)
    note(folder, where, changes)
    if told:
        beside = "\n".join(suffix for suffix in sidecars.SUFFIXES
                           if (folder.path / os.fsdecode(where)).with_suffix(suffix).is_file())
        with writing() as db:
            put(db, shown(folder, where, beside, facts.Facts.from_json(told)), "n = ?", [n])
    return select("id = ?", lora_id)[0]


def delete(lora_id: str) -> None:
    """Take a file off the shelf: one of ours goes to the trash for 30 days, one of a foreign folder is only no longer listed.

    Raises UserError when it is gone or the disk refuses.
    """
    entry = find(lora_id)
    if entry.folder != OWN:
        write_notes(lora_id, {"hidden": True})
        return
    trash.throw(lora_id, entry.path)
    with writing() as db:
        db.execute("DELETE FROM files WHERE id = ? AND folder = ?", (lora_id, OWN))


def undo_delete(lora_id: str) -> LoraEntry:
    """Bring back what was deleted under this id. Its id is another one if its place was taken meanwhile. Raises UserError."""
    if select("id = ? AND hidden", lora_id):
        return write_notes(lora_id, {"hidden": False})
    own = find_folder(OWN)
    file = trash.take_back(lora_id)
    return find(id_of(own, os.fsencode(file.relative_to(own.path).as_posix())))


def remove_folder(folder_id: str) -> None:
    """Take an added folder off the shelf. Its files stay, and so do the notes on them. Raises UserError."""
    forget_folder(folder_id)
    forget(folder_id)
