"""Files of ours that were deleted, kept for 30 days so that it can be undone. Knows nothing about the index.

HOME/trash/<time>-<id>/ holds the LoRA, its sidecars and `trash.json`, which says where they were.
"""

import shutil
import time
from pathlib import Path

from sdlora.errors import UserError
from sdlora.library.sidecars import COVERS, SUFFIXES
from sdlora.storage import confine, data_folder, home, read_json, write_json

KEPT_DAYS = 30
RECORD = "trash.json"


def throw(file_id: str, file: Path) -> None:
    """Move a LoRA file of ours and what lies beside it to the trash; what is too old there is removed.

    Raises UserError when the disk refuses. The LoRA goes first: torn in between, its sidecars still wait where it was.
    """
    sweep()
    seconds, rest = divmod(time.time_ns(), 10**9)
    folder = data_folder("trash", f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(seconds))}-{rest:09}-{file_id}")
    beside = [path for suffix in (*SUFFIXES, *COVERS) if (path := file.with_name(file.stem + suffix)).exists()]
    place = file.relative_to(data_folder("loras")).as_posix()
    write_json(folder / RECORD, {"id": file_id, "place": place, "deleted": time.time()})
    try:
        for path in (file, *beside):
            path.rename(folder / path.name)
    except OSError as error:
        if not any(path.suffix.lower() == file.suffix.lower() for path in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{file.name} could not be deleted ({error.strerror}).", "Close what uses it and try again.") from error


def take_back(file_id: str) -> Path:
    """Put the LoRA that was deleted last under this id back where it was, or beside it under a free name; returns its path.

    Raises UserError when it is not in the trash any more or cannot be put back.
    """
    folder, where = next(((folder, record["place"]) for folder in reversed(thrown()) if folder.name.endswith(f"-{file_id}")
                          and (record := record_of(folder))["id"] == file_id), (None, ""))
    if folder is None:
        raise UserError("This style is not in the trash any more.", f"Deleted styles are kept for {KEPT_DAYS} days.")
    target = confine(data_folder("loras"), where)
    files = sorted((path for path in folder.iterdir() if path.name != RECORD), key=lambda path: path.suffix == target.suffix)
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
    """The stem of `target`, numbered when a file with it and one of `suffixes` is there."""
    free, number = target.stem, 1
    while any(target.with_name(free + suffix).exists() for suffix in suffixes):
        number += 1
        free = f"{target.stem[:58]}-{number}"
    return free


def record_of(folder: Path) -> dict[str, str]:
    """What `trash.json` says. Raises UserError when it is damaged."""
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("id", "place")):
        raise UserError(f"{folder / RECORD} is damaged.", f"Take the files out of {folder} yourself.")
    return record


def thrown() -> list[Path]:
    """The folders in the trash, oldest first."""
    return sorted(path.parent for path in (home() / "trash").glob(f"*/{RECORD}"))


def sweep(days: float = KEPT_DAYS) -> int:
    """Remove what was deleted more than `days` ago; returns how many."""
    old = [folder for folder in thrown() if time.time() - (folder / RECORD).stat().st_mtime > days * 86400]
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)
    return len(old)
