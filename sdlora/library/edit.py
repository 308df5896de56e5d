"""Change the shelf: add files, write notes on them, delete and restore them, remove folders.

Knows nothing about torch or drawing. What the artist writes goes into sidecars and small records of ours, never into the index
alone. Deleted files of ours stay in HOME/trash/<time>-<id>/ for 30 days, with their sidecars and `trash.json`, which says where
they were.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from filelock import FileLock

from sdlora.errors import UserError
from sdlora.library import sidecars
from sdlora.library.changes import id_of
from sdlora.library.database import connected, writing
from sdlora.library.facts import Facts, update_rows, visible_columns
from sdlora.library.folders import OWN, find_folder, forget_folder, write_note
from sdlora.library.scan import file_hashes, forget_rows, refresh
from sdlora.library.search import LoraEntry, find, select
from sdlora.lora.formats import layout
from sdlora.lora.formats.header import NAN, header, refuse_size
from sdlora.lora.formats.metadata import A1111_VERSIONS, BASE_VERSIONS
from sdlora.lora.formats.writing import rewrite
from sdlora.lora.tools.report import summary
from sdlora.storage import MAX_NAME, clean_text, confine, data_folder, home, read_json, slug, write_atomic, write_json

TRASH_DAYS = 30
TRASH_RECORD = "trash.json"


def add(path: Path, name: str = "") -> LoraEntry:
    """Check a LoRA file from outside, copy it to the shelf under a safe file name and return its entry.

    The same bytes are stored once. Raises UserError for everything that `report.summary` refuses, for files without effect
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
        raise UserError(f"{path.name} is broken: {NAN.format(module=report['burnt'][0])}",
                        "Use an earlier checkpoint of it, or ask its author.")
    if not report["matched"]:
        raise UserError(f"{path.name} was made for another kind of base model.", "Choose one for Stable Diffusion.")
    shelf = data_folder("loras")
    with tempfile.TemporaryDirectory() as folder, FileLock(shelf / ".lock"):
        metadata = layout.standalone_metadata(path)
        if metadata != header(path).metadata:                   # what PEFT keeps beside the file comes along
            path = rewrite(path, Path(folder) / path.name, metadata)
            size = path.stat().st_size
        digest = file_digest(path)
        refresh()
        same_size = select("folder = ? AND file_bytes = ? AND NOT hidden", OWN, size)
        if duplicate := next((entry for entry in same_size if file_digest(entry.path) == digest), None):
            return duplicate
        target = free_place(shelf, slug(clean_text(name or path.stem, MAX_NAME)))
        write_atomic(target, lambda temporary: shutil.copyfile(path, temporary))
        if file_digest(target) != digest:
            target.unlink(missing_ok=True)
            raise UserError(f"{path.name} was not copied whole.", "Check the disk and add it again.")
        version = BASE_VERSIONS.get(report["family"], "") if isinstance(report["family"], str) else ""
        write_json(target.with_suffix(".json"), sidecars.A1111_BLANK | {
            "sd version": A1111_VERSIONS.get(version, version or "Unknown"), "activation text": report["trigger"],
            "sdlora": {"name": clean_text(name or path.stem, MAX_NAME)}})
    return find(id_of(find_folder(OWN), os.fsencode(target.name)))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a whole file; "" when it cannot be read."""
    return (file_hashes(path, 0) or ("", ""))[1]


def free_place(shelf: Path, name: str) -> Path:
    """Return a file name on the shelf that neither a LoRA nor anybody's sidecar has."""
    taken = {file.name.lower().split(".")[0] for file in shelf.iterdir()}
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[:58]}-{number}"
    return shelf / f"{free}.safetensors"


def annotate(lora_id: str, **changes: object) -> LoraEntry:
    """Write down what the artist says of a file and return its entry.

    changes: name, trigger, notes, description (texts), tags (texts), favourite (bool), weight (-4 to 4). In our own folder it
    goes into the file's `name.json`, for a foreign one into a record of ours. The file keeps its own name, so that prompts and
    pictures that name it still find it. Raises UserError.
    """
    notes: sidecars.Notes = {}
    for key, value in changes.items():
        if key in sidecars.LENGTHS and isinstance(value, str):
            notes[key] = clean_text(value, sidecars.LENGTHS[key])
        elif key == "tags" and isinstance(value, list | tuple):
            notes[key] = sidecars.clean_tags(value)
        elif key == "favourite" and isinstance(value, bool):
            notes[key] = value
        elif key == "weight" and isinstance(value, int | float) and -4 <= value <= 4:
            notes[key] = float(value)
        else:
            raise UserError(f"{key} of a style cannot be {str(value)[:60]!r}.", "Write another value.")
    if notes.get("name") == "":
        raise UserError("A style needs a name.", "Write at least one letter.")
    find(lora_id)
    return write_notes(lora_id, notes)


def write_notes(lora_id: str, notes: sidecars.Notes) -> LoraEntry:
    """Save notes in the sidecar or record, then bring the row up to date."""
    with connected() as db:
        n, folder_id, where, facts = db.execute("SELECT n, folder, place, facts FROM files WHERE id = ?", (lora_id,)).fetchone()
    folder = find_folder(folder_id)
    write_note(folder, where, notes)
    if facts:
        beside = "\n".join(suffix for suffix in sidecars.SUFFIXES
                           if (folder.path / os.fsdecode(where)).with_suffix(suffix).is_file())
        with writing() as db:
            update_rows(db, visible_columns(folder, where, beside, Facts.from_json(facts)), "n = ?", [n])
    return select("id = ?", lora_id)[0]


def delete(lora_id: str) -> None:
    """Take a file off the shelf: one of ours goes to the trash for 30 days, one of a foreign folder is only no longer listed.

    Raises UserError when it is gone or the disk refuses.
    """
    entry = find(lora_id)
    if entry.folder != OWN:
        write_notes(lora_id, {"hidden": True})
        return
    move_to_trash(lora_id, entry.path)
    with writing() as db:
        db.execute("DELETE FROM files WHERE id = ? AND folder = ?", (lora_id, OWN))


def undo_delete(lora_id: str) -> LoraEntry:
    """Bring back what was deleted under this id. Its id is another one if its place was taken meanwhile. Raises UserError."""
    if select("id = ? AND hidden", lora_id):
        return write_notes(lora_id, {"hidden": False})
    own = find_folder(OWN)
    file = restore_from_trash(lora_id)
    return find(id_of(own, os.fsencode(file.relative_to(own.path).as_posix())))


def remove_folder(folder_id: str) -> None:
    """Take an added folder off the shelf. Its files stay, and so do the notes on them. Raises UserError."""
    forget_folder(folder_id)
    forget_rows(folder_id)


def move_to_trash(file_id: str, file: Path) -> None:
    """Move a LoRA file of ours and what lies beside it to the trash; what is too old there is removed.

    Raises UserError when the disk refuses. The LoRA goes first: interrupted in between, its sidecars still lie where it was.
    """
    empty_trash()
    seconds, rest = divmod(time.time_ns(), 10**9)
    folder = data_folder("trash", f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(seconds))}-{rest:09}-{file_id}")
    beside = [path for suffix in (*sidecars.SUFFIXES, *sidecars.COVERS) if (path := file.with_name(file.stem + suffix)).exists()]
    write_json(folder / TRASH_RECORD,
               {"id": file_id, "place": file.relative_to(data_folder("loras")).as_posix(), "deleted": time.time()})
    try:
        for path in (file, *beside):
            path.rename(folder / path.name)
    except OSError as error:
        if not any(path.suffix.lower() == file.suffix.lower() for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{file.name} could not be deleted ({error.strerror}).", "Close what uses it and try again.") from error


def restore_from_trash(file_id: str) -> Path:
    """Put the LoRA that was deleted last under this id back where it was, or beside it under a free name; return its path.

    Raises UserError when it is not in the trash any more or cannot be put back.
    """
    found = next(((folder, record) for folder in reversed(trash_folders()) if folder.name.endswith(f"-{file_id}")
                  and (record := trash_record(folder))["id"] == file_id), None)
    if found is None:
        raise UserError("This style is not in the trash any more.", f"Deleted styles are kept for {TRASH_DAYS} days.")
    folder, record = found
    target = confine(data_folder("loras"), record["place"])
    files = [path for path in folder.iterdir() if path.name != TRASH_RECORD]
    files.sort(key=lambda path: path.suffix == target.suffix)
    free = free_stem(target, [path.name.removeprefix(target.stem) for path in files])
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in files:                                      # the LoRA comes last, with everything in place
            path.rename(target.parent / (free + path.name.removeprefix(target.stem)))
    except OSError as error:
        raise UserError(f"{target.name} could not be put back ({error.strerror}).", f"It is in {folder}.") from error
    shutil.rmtree(folder, ignore_errors=True)
    return target.with_name(free + target.suffix)


def free_stem(target: Path, suffixes: list[str]) -> str:
    """Return the stem of `target`, numbered when a file with it and one of `suffixes` is there."""
    free, number = target.stem, 1
    while any(target.with_name(free + suffix).exists() for suffix in suffixes):
        number += 1
        free = f"{target.stem[:58]}-{number}"
    return free


def trash_record(folder: Path) -> dict[str, str]:
    """Return what `trash.json` says. Raises UserError when it is damaged."""
    record = read_json(folder / TRASH_RECORD)
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("id", "place")):
        raise UserError(f"{folder / TRASH_RECORD} is damaged.", f"Take the files out of {folder} yourself.")
    return record


def trash_folders() -> list[Path]:
    """Return the folders in the trash, oldest first."""
    return sorted(path.parent for path in (home() / "trash").glob(f"*/{TRASH_RECORD}"))


def empty_trash() -> None:
    """Remove what was deleted more than TRASH_DAYS ago."""
    for folder in trash_folders():
        if time.time() - (folder / TRASH_RECORD).stat().st_mtime > TRASH_DAYS * 86400:
            shutil.rmtree(folder, ignore_errors=True)
