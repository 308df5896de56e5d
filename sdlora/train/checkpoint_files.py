"""The checkpoints of a run as plain files: which there are, and handing one out as a LoRA file.

Imports no torch, so that the page can use it. `checkpoints/step-000400/` holds `lora.safetensors` (a normal LoRA file, kept
for every checkpoint), `state.json` (hashes and numbers) and, in the newest STATES_KEPT only, `state.safetensors` (all a resume
needs) and `OK`, which is written last: without it a folder cannot be resumed.
"""

import re
from hashlib import sha256
from pathlib import Path

from sdlora.errors import UserError
from sdlora.storage import read_json, slug, write_atomic

LORA, STATE, NUMBERS, OK = "lora.safetensors", "state.safetensors", "state.json", "OK"
STATES_KEPT = 2  # checkpoints that can be resumed; the older ones keep their LoRA file


def checkpoint_folder(run_folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps; it may not exist."""
    return Path(run_folder) / "checkpoints" / f"step-{step:06d}"


def checkpoint_steps(run_folder: Path, holding: str = NUMBERS) -> list[int]:
    """Return the steps of the checkpoints that have the file `holding`, ascending.

    With state.json a checkpoint can be exported, with OK it can be resumed.
    """
    found = (Path(run_folder) / "checkpoints").glob(f"step-*/{holding}")
    names = (re.fullmatch(r"step-(\d{6,})", path.parent.name) for path in found)
    return sorted(int(name[1]) for name in names if name)


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    return sha256(Path(path).read_bytes()).hexdigest()


def export_checkpoint(run_folder: Path, step: int) -> Path:
    """Copy the LoRA of a checkpoint to `result/<name>-step-000400.safetensors`, checked against its recorded hash.

    Raises UserError when there is no such checkpoint or its file is damaged.
    """
    folder = checkpoint_folder(run_folder, step)
    if not (folder / LORA).is_file() or not (folder / NUMBERS).is_file():
        raise UserError(f"There is no checkpoint at step {step}.", "Choose another checkpoint of the strip.")
    content = (folder / LORA).read_bytes()
    if sha256(content).hexdigest() != read_json(folder / NUMBERS)["files"][LORA]:
        raise UserError(f"The checkpoint at step {step} is damaged.", "Choose another checkpoint of the strip.")
    name = slug(read_json(Path(run_folder) / "spec.json")["config"]["name"])
    target = Path(run_folder) / "result" / f"{name}-step-{step:06d}.safetensors"
    if target.is_file() and target.stat().st_size == len(content) and target.read_bytes() == content:
        return target
    return write_atomic(target, content)


def checkpoint_bytes(run_folder: Path, step: int) -> int:
    """Return the size of a checkpoint's LoRA file; 0 when it is gone."""
    try:
        return (checkpoint_folder(run_folder, step) / LORA).stat().st_size
    except OSError:
        return 0
