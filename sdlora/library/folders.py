"""The folders of the shelf, and what the artist wrote about the files in them. Knows nothing about the index.

HOME/loras is ours: notes go into the sidecars there, so that they travel with the files. Any other folder is read in place and
never modified: its path and the notes on its files are kept in HOME/library/<folder id>.json. The page knows folders by id.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from sdlora.errors import UserError
from sdlora.library import sidecars
from sdlora.storage import clean_text, data_folder, home, read_json, slug, write_json

OWN = "loras"
WAIT_SECONDS = 10
INSIDE = (("models", "Lora"), ("models", "loras"), ("models", "lora"))  # of A1111 and Forge, ComfyUI, InvokeAI


@dataclass(frozen=True)
class Folder:
    """A folder of the shelf. own: HOME/loras; here: whether it can be opened now (its disk may be unplugged)."""
    id: str
    title: str
    path: Path
    own: bool
    here: bool


def list_folders() -> list[Folder]:
    """Return our own folder and the added ones, in the order they were added."""
    added = []
    for file in sorted((home() / "library").glob("*.json")):
        record = record_of(file)
        if record and not record.get("removed") and file.stem != OWN:
            path = Path(record["path"])
            added.append((record.get("added", ""), Folder(file.stem, clean_text(path.name, 80), path, False, path.is_dir())))
    own = data_folder(OWN)
    return [Folder(OWN, "My styles", own, True, True)] + [folder for _, folder in sorted(added, key=lambda entry: entry[0])]


def find_folder(folder_id: str) -> Folder:
    """Return the folder with this id. Raises UserError when there is none."""
    for folder in list_folders():
        if folder.id == folder_id:
            return folder
    raise UserError("This folder is not on the shelf.", "Reload the page, or list them: sdlora library folders")


def add_folder(path: Path | str) -> Folder:
    """Put the LoRA files below `path` on the shelf. The folder is never modified; earlier notes on its files are used again.

    Of the folder of an A1111, Forge or ComfyUI installation its LoRA folder is taken. Raises UserError.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise UserError(f"{clean_text(str(path), 300)} is not a folder.", "Name the folder that holds the LoRA files.")
    path = next((inner for parts in INSIDE if (inner := path.joinpath(*parts)).is_dir()), path).resolve()
    check_folder(path)
    folder_id = f"{slug(clean_text(path.name, 60))[:40].strip('-')}-{sha256(os.fsencode(path)).hexdigest()[:8]}"
    with changing(folder_id) as record:
        record |= {"path": str(path), "removed": False, "added": record.get("added") or datetime.now(UTC).isoformat()}
    return find_folder(folder_id)


def check_folder(path: Path) -> None:
    """Raise UserError for a folder that cannot be shown, or whose files are shown already."""
    try:
        str(path).encode()
        next(path.iterdir(), None)
    except UnicodeEncodeError as error:
        raise UserError("The name of this folder is not text.", "Rename the folder.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).", "Check the permissions of the folder.") from error
    data = home()
    if path.is_relative_to(data) or data.is_relative_to(path):
        raise UserError(f"{path} holds the data folder of sdlora or lies in it.", "Name a folder of other LoRA files.")
    for other in list_folders()[1:]:
        if path != other.path and (path.is_relative_to(other.path) or other.path.is_relative_to(path)):
            raise UserError(f"{path} and {other.path}, which is on the shelf, lie in each other.",
                            "Remove the one from the shelf first: sdlora library remove")


def forget_folder(folder_id: str) -> None:
    """Take an added folder off the shelf. Its files stay, and so do our notes on them. Raises UserError."""
    if find_folder(folder_id).own:
        raise UserError("The folder of your own styles cannot be removed.", "Delete single styles instead.")
    with changing(folder_id) as record:
        record["removed"] = True


def notes_of(folder: Folder) -> dict[str, sidecars.Notes]:
    """Return {place in the folder: what the artist wrote}, without what is in sidecars."""
    record = record_of(home() / "library" / f"{folder.id}.json")
    files = record.get("files") if record else None
    return files if isinstance(files, dict) else {}


def write_note(folder: Folder, where: bytes, changes: sidecars.Notes) -> None:
    """Save what the artist wrote about the file at `where`: in its sidecar if it is ours, else in our own record.

    Raises UserError when the disk refuses or the record is damaged.
    """
    file = folder.path / os.fsdecode(where)
    if folder.own:
        with locked("sidecars"):
            if sidecars.write(file.with_suffix(".json"), changes):
                return
    with changing(folder.id) as record:
        files = record.setdefault("files", {})
        files[key_of(where)] = files.get(key_of(where), {}) | changes


def move_notes(folder: Folder, moves: dict[bytes, bytes]) -> None:
    """Move the notes of files that were moved inside a folder: {old place: new place}."""
    notes = notes_of(folder)
    keys = {key_of(old): key_of(new) for old, new in moves.items() if key_of(old) in notes}
    if keys:
        with changing(folder.id) as record:
            for old, new in keys.items():
                if old in record["files"]:  # else another window that saw the same move was first
                    record["files"][new] = record["files"].pop(old)


def key_of(where: bytes) -> str:
    """Return a place as a key of JSON; bytes that are no UTF-8 are escaped."""
    return where.decode("utf-8", "backslashreplace")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock that one process can have. Raises UserError when another one holds it for long."""
    try:
        with FileLock(data_folder("library") / f"{name}.lock", timeout=WAIT_SECONDS):
            yield
    except Timeout as error:
        raise UserError("Another window is writing notes on the shelf.", "Try again in a moment.") from error


@contextmanager
def changing(folder_id: str) -> Iterator[dict]:
    """Yield the record HOME/library/<folder_id>.json to change: locked, and written back unless something is raised."""
    file = data_folder("library") / f"{folder_id}.json"
    with locked(folder_id):
        record = read_json(file) if file.exists() else {"version": 1}
        if not isinstance(record, dict):
            raise UserError(f"{file} is damaged.", "Restore it from a copy, or remove it.")
        yield record
        write_json(file, record)


def record_of(file: Path) -> dict:
    """Return the record in `file`, {} when there is none; a damaged one is logged and left as it is."""
    try:
        status = file.stat()
        return cached_record(file, status.st_mtime_ns, status.st_size)
    except FileNotFoundError:
        return {}
    except (UserError, OSError) as error:
        logging.getLogger("sdlora").warning("A folder of the shelf is left out: %s", error)
        return {}


@lru_cache(maxsize=64)
def cached_record(file: Path, mtime_ns: int, size: int) -> dict:
    record = read_json(file)
    if not isinstance(record, dict) or (file.stem != OWN and not isinstance(record.get("path"), str)):
        raise UserError(f"{file} is damaged.", "Restore it from a copy, or remove it.")
    return record
