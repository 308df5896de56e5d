"""The saved points of a run as plain files: which there are, and handing one out as a LoRA file.

Knows nothing about torch, so that the page can use it. `checkpoints/step-000400/` holds `lora.safetensors` (a normal
LoRA file, kept for every saved point), `state.json` (hashes and numbers) and, for the newest points only,
`state.safetensors` (all a resume needs) and `OK`, which is written last and makes the folder count.
"""

import re
from hashlib import sha256
from pathlib import Path

from sdlora.errors import UserError
from sdlora.storage import read_json, slug, write_atomic

LORA, STATE, NUMBERS, OK = "lora.safetensors", "state.safetensors", "state.json", "OK"


def point_folder(run_folder: Path, step: int) -> Path:
    """Where the point of `step` finished steps lies; it may not exist."""
    return Path(run_folder) / "checkpoints" / f"step-{step:06d}"


def point_steps(run_folder: Path, holding: str = NUMBERS) -> list[int]:
    """Steps of the points that have the file `holding` (state.json: can be exported, OK: can be resumed), ascending."""
    found = (Path(run_folder) / "checkpoints").glob(f"step-*/{holding}")
    names = (re.fullmatch(r"step-(\d{6,})", path.parent.name) for path in found)
    return sorted(int(name[1]) for name in names if name)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hex."""
    return sha256(Path(path).read_bytes()).hexdigest()


def export_point(run_folder: Path, step: int) -> Path:
    """Copy the LoRA of a saved point to `result/<name>-step-000400.safetensors`, once, checked against its recorded hash.

    Raises UserError when there is no such point or its file is damaged.
    """
    folder = point_folder(run_folder, step)
    if not (folder / LORA).is_file() or not (folder / NUMBERS).is_file():
        raise UserError(f"There is no saved point at step {step}.", "Choose another point of the strip.")
    content = (folder / LORA).read_bytes()
    if sha256(content).hexdigest() != read_json(folder / NUMBERS)["files"][LORA]:
        raise UserError(f"The saved point at step {step} is damaged.", "Choose another point of the strip.")
    name = slug(read_json(Path(run_folder) / "spec.json")["config"]["name"])
    target = Path(run_folder) / "result" / f"{name}-step-{step:06d}.safetensors"
    if target.is_file() and target.stat().st_size == len(content) and target.read_bytes() == content:
        return target
    return write_atomic(target, content)


def point_bytes(run_folder: Path, step: int) -> int:
    """How large the LoRA file of a saved point is; 0 when it is gone."""
    try:
        return (point_folder(run_folder, step) / LORA).stat().st_size
    except OSError:
        return 0
