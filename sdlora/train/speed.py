"""How fast training and drawing are on this machine: what earlier runs measured (HOME/speed.json), else published numbers.

Imports no torch.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from sdlora.families import FAMILIES
from sdlora.storage import home, write_json

SPEED_FIELDS = {"family": str, "device": str, "batch": int, "resolution": int, "step": float, "draw_step": float, "around": float}


@dataclass(frozen=True)
class Speed:
    """Seconds of one training step, of one denoising step of a sample picture, of start and end together (`around`)."""
    step: float
    draw_step: float
    around: float


# Per picture of a batch at the family's own resolution. mini on a CPU was measured on two cores; the others are
# published or computed from FLOPs and only serve until the first run on this machine.
DEFAULT_SPEEDS = {
    ("mini", "cpu"): Speed(0.033, 0.045, 9), ("mini", "cuda"): Speed(0.02, 0.02, 12), ("mini", "mps"): Speed(0.03, 0.03, 12),
    ("sd1", "cpu"): Speed(14, 6.5, 60), ("sd1", "cuda"): Speed(0.25, 0.07, 30), ("sd1", "mps"): Speed(2, 0.7, 40),
    ("sd2", "cpu"): Speed(14, 6.5, 60), ("sd2", "cuda"): Speed(0.25, 0.07, 30), ("sd2", "mps"): Speed(2, 0.7, 40),
    ("sdxl", "cpu"): Speed(120, 55, 180), ("sdxl", "cuda"): Speed(1.2, 0.25, 60), ("sdxl", "mps"): Speed(12, 4, 90),
}


def expected_speed(family: str, device: str, batch_size: int, resolution: int) -> tuple[Speed, bool]:
    """Return the expected speed, and whether it was measured on this machine (scaled from the most similar run)."""
    def size(batch: int, side: int) -> float:
        return batch * side**2

    measured = [(entry["batch"], entry["resolution"], Speed(entry["step"], entry["draw_step"], entry["around"]))
                for entry in recorded_speeds() if (entry["family"], entry["device"]) == (family, device)]
    here = DEFAULT_SPEEDS.get((family, device), DEFAULT_SPEEDS[family, "cpu"])
    batch, side, speed = min(measured, key=lambda run: abs(size(batch_size, resolution) / size(run[0], run[1]) - 1),
                             default=(1, FAMILIES[family].resolution, here))
    larger = size(batch_size, resolution) / size(batch, side)
    return replace(speed, step=speed.step * larger, draw_step=speed.draw_step * (resolution / side) ** 2), bool(measured)


def recorded_speeds() -> list[dict[str, Any]]:
    """Return the speeds of runs on this machine; none when the file is missing or damaged: it only serves estimates."""
    try:
        entries = json.loads((home() / "speed.json").read_text(encoding="utf-8"))["runs"]
        return [entry for entry in entries if all(isinstance(entry[key], kind) for key, kind in SPEED_FIELDS.items())
                and min(entry["step"], entry["draw_step"], entry["batch"], entry["resolution"]) > 0]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def record_speed(family: str, device: str, batch_size: int, resolution: int, speed: Speed) -> None:
    """Save how fast a run was, as the mean of this and the last run of this kind."""
    place = {"family": family, "device": device, "batch": batch_size, "resolution": resolution}
    others, same = [], []
    for entry in recorded_speeds():
        (same if {key: entry[key] for key in place} == place else others).append(entry)
    fresh = {"step": float(speed.step), "draw_step": float(speed.draw_step), "around": float(speed.around)}
    if same:
        fresh = {key: (value + same[-1][key]) / 2 for key, value in fresh.items()}
    write_json(home() / "speed.json", {"version": 1, "runs": [*others, {**place, **fresh}]})
