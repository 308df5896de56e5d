"""The shelf: every LoRA file below HOME/loras, read afresh from the files whenever it is asked for.

Knows nothing about torch or drawing. Headers are remembered per file and time of change, so that a thousand files list in
no time; a file that cannot be used is listed with the sentence that says why. Ids are ours, names are data.
"""

import json
import re
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from sdlora.errors import UserError
from sdlora.lora.header import header
from sdlora.lora.layout import layout
from sdlora.lora.report import inspect, trigger
from sdlora.storage import MAX_NAME, clean_text, place, slug, write_atomic, write_json

MAX_BYTES = 2 * 2**30
MAX_SIDECAR_BYTES = 1_000_000
COVERS = (".png", ".preview.png", ".jpg", ".jpeg", ".webp", ".preview.jpg", ".preview.jpeg", ".preview.webp")
TITLES = {"mini": "sdlora_mini", "sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}  # "sd version" as A1111 and Forge write it
NONE_SUCH = "It may have been deleted in another window: reload the page."


@dataclass(frozen=True)
class LoraEntry:
    """One file of the shelf. family: "mini" "sd1" "sd2" "sdxl", or "" where unknown; run: id of the run that made it, or "".

    created: ISO time of the file; problem: why it cannot be used, "" when it can.
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


def list_loras() -> list[LoraEntry]:
    """Everything on the shelf, the newest first. Files added or removed by hand are seen at once."""
    files = {file.name: file for file in place("loras").iterdir() if not file.name.startswith(".")}
    entries = []
    for file in files.values():
        if file.suffix.lower() == ".safetensors":
            cover = next((files[file.stem + suffix] for suffix in COVERS if file.stem + suffix in files), None)
            entries.append(entry_of(file, cover, files.get(f"{file.stem}.json")))
    return sorted((entry for entry in entries if entry), key=lambda entry: (entry.created, entry.id), reverse=True)


def entry_of(file: Path, cover: Path | None, sidecar: Path | None) -> LoraEntry | None:
    """What the shelf knows of one file; None when it went away while we looked."""
    try:
        if not file.resolve().is_relative_to(file.parent.resolve()):
            return LoraEntry(id_of(file), clean_text(file.stem, MAX_NAME), "", "", file, None, 0, "", "",
                             f"{file.name} is a link that leads out of the shelf. Put the file itself there.")
        status = file.stat()
        told = sidecar_of(sidecar, sidecar.stat().st_mtime_ns) if sidecar else {}
    except OSError:
        return None
    known = read_entry(file, status.st_mtime_ns, status.st_size)
    return replace(known, name=told.get("name") or known.name, trigger=told.get("trigger") or known.trigger, thumbnail=cover)


@lru_cache(maxsize=4096)
def read_entry(file: Path, mtime_ns: int, size: int) -> LoraEntry:
    """The entry from the file's header alone; the time and size tell when it must be read again."""
    created = datetime.fromtimestamp(mtime_ns / 1e9, UTC).isoformat(timespec="seconds")
    entry = LoraEntry(id_of(file), clean_text(file.stem, MAX_NAME), "", "", file, None, size, created, "")
    try:
        found = header(file)
        shapes = {name: kind for name, kind in found.tensors.items() if not name.endswith("alpha")}  # alphas are values
        families = layout(file.name, replace(found, tensors=shapes), b"").families if shapes else ()
    except UserError as refused:
        return replace(entry, problem=str(refused))
    said = found.metadata
    name = next((clean_text(said[key], MAX_NAME) for key in ("modelspec.title", "ss_output_name") if said.get(key)), entry.name)
    problem = "" if families else f"{file.name} was made for another kind of base model. Choose one for Stable Diffusion."
    return replace(entry, name=name or entry.name, trigger=trigger(said), family=families[0] if len(families) == 1 else "",
                   run=clean_text(said.get("sdlora_run", ""), MAX_NAME), problem=problem)


@lru_cache(maxsize=4096)
def sidecar_of(file: Path, mtime_ns: int) -> dict[str, str]:
    """{"name", "trigger"} from an A1111-style name.json; {} where it is none or cannot be read: it is only decoration."""
    try:
        told = json.loads(file.read_text(encoding="utf-8-sig")) if file.stat().st_size < MAX_SIDECAR_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    ours = told.get("sdlora")
    said = {"name": ours.get("name") if isinstance(ours, dict) else None, "trigger": told.get("activation text")}
    return {key: clean_text(value, 200) for key, value in said.items() if isinstance(value, str)}


def id_of(file: Path) -> str:
    """The id of a file: its stem where that is one already, else made from its name and never the same for two files."""
    if re.fullmatch(r"[a-z0-9-]{1,64}", file.stem) and file.suffix == ".safetensors":
        return file.stem
    return f"{slug(file.stem)[:50]}-x{sha256(file.name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def find(lora_id: str) -> LoraEntry:
    """The entry with this id. Raises UserError when there is none."""
    for entry in list_loras():
        if entry.id == lora_id:
            return entry
    raise UserError("This style is no longer on the shelf.", NONE_SUCH)


def add(path: Path, name: str = "") -> LoraEntry:
    """Check a LoRA file from outside, copy it to the shelf under a name of ours and return its entry.

    The same bytes are kept once. Raises UserError for everything that `lora.report.inspect` refuses, for files without effect
    on any Stable Diffusion, with values that are no numbers, or above 2 GB.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path.name} could not be opened ({error.strerror}).", "Choose the file again.") from error
    if size > MAX_BYTES:
        raise UserError(f"{path.name} is larger than 2 GB.", "A LoRA file has a few MB: this is something else.")
    report = inspect(path)
    wrong = next((problem for problem in report["problems"] if "burnt style" in problem or "another" in problem), None)
    if wrong and (not report["matched"] or "burnt" in wrong):
        raise UserError(f"{path.name}: {wrong}", "Choose another file.")
    shelf = place("loras")
    with FileLock(shelf / ".lock"):
        same = next((entry for entry in list_loras() if entry.file_bytes == size and digest(entry.path) == digest(path)), None)
        if same:
            return same
        target = free_place(shelf, slug(clean_text(name or path.stem, MAX_NAME)))
        write_atomic(target, lambda temporary: shutil.copyfile(path, temporary))
        if digest(target) != digest(path):
            target.unlink(missing_ok=True)
            raise UserError(f"{path.name} was not copied whole.", "Check the disk and add it again.")
        family = report["family"] if isinstance(report["family"], str) else ""
        write_json(target.with_suffix(".json"), {
            "description": "", "sd version": TITLES.get(family, "Unknown"), "activation text": report["trigger"],
            "preferred weight": 0, "negative text": "", "notes": "",
            "sdlora": {"name": clean_text(name or path.stem, MAX_NAME)}})
    return find(id_of(target))


def free_place(shelf: Path, name: str) -> Path:
    """A file name on the shelf that neither a LoRA nor anybody's sidecar has."""
    taken = {file.name.lower().split(".")[0] for file in shelf.iterdir()}
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name[:58]}-{number}"
    return shelf / f"{free}.safetensors"


def digest(path: Path) -> str:
    """SHA-256 of a whole file."""
    with path.open("rb") as handle:
        whole = sha256()
        while block := handle.read(2**20):
            whole.update(block)
    return whole.hexdigest()


def delete(lora_id: str) -> None:
    """Take a LoRA off the shelf, with its sidecars. Raises UserError when it is gone or the disk refuses."""
    file = find(lora_id).path
    try:
        file.unlink(missing_ok=True)
        for suffix in (".json", *COVERS):
            (file.parent / (file.stem + suffix)).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{file.name} could not be deleted ({error.strerror}).", "Close what uses it and try again.") from error
