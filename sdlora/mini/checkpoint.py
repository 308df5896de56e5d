"""What a phase of the recipe remembers: weights, optimizer and progress, as safetensors and JSON.

Random numbers need no state here: every step seeds its own generator from its number.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlora.storage import write_atomic

EVERY_SECONDS = 600.0


@dataclass
class Progress:
    """How far a phase has come; `seconds` counts work only, over all sittings."""

    step: int = 0
    pictures: int = 0
    seconds: float = 0.0
    loss: float = float("nan")


@dataclass(frozen=True)
class Budget:
    """When a phase is over: after so much work or so many steps, whichever is given."""

    seconds: float | None = None
    steps: int | None = None

    def share(self, progress: Progress) -> float:
        """How much is spent, 0 to 1."""
        if self.steps is not None:
            return min(1.0, progress.step / max(1, self.steps))
        return min(1.0, progress.seconds / max(1e-9, self.seconds or 0.0))


def rate(share: float, step: int, peak: float) -> float:
    """Warm-up over 50 steps, full until 30% of the budget, then down to 2%: every end is an annealed one."""
    decay = 1.0 if share < 0.3 else 1.0 - 0.98 * (share - 0.3) / 0.7
    return peak * decay * min(1.0, (step + 1) / 50)


def generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Store:
    """One checkpoint file of one phase: `folder/phase.safetensors`, the newest state only."""

    def __init__(self, folder: Path, phase: str):
        self.path = folder / f"{phase}.safetensors"
        self.saved_at = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def due(self) -> bool:
        """Ten minutes since the last one."""
        return time.monotonic() - self.saved_at >= EVERY_SECONDS

    def save(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write the state; a crash leaves the old one whole."""
        tensors = {f"{name}/{key}": t for name, m in modules.items() for key, t in m.state_dict().items()}
        state = optimizer.state_dict()
        for number, values in state["state"].items():
            tensors |= {f"optimizer/{number}/{key}": t for key, t in values.items()}
        steps = [group["step"] for group in state["param_groups"]]
        about = {"progress": json.dumps(asdict(progress)), "optimizer_steps": json.dumps(steps)}
        tensors = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
        write_atomic(self.path, lambda path: save_file(tensors, path, metadata=about))
        self.saved_at = time.monotonic()

    def load(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> Progress:
        """Put a saved state back; a fresh Progress where there is none."""
        if not self.path.exists():
            return Progress()
        tensors = load_file(self.path)
        for name, module in modules.items():
            module.load_state_dict(_below(tensors, f"{name}/"))
        with safe_open(self.path, "pt") as file:
            about = file.metadata()
        state = optimizer.state_dict()
        state["state"] = {}
        for key, tensor in _below(tensors, "optimizer/").items():
            number, name = key.split("/")
            state["state"].setdefault(int(number), {})[name] = tensor
        for group, step in zip(state["param_groups"], json.loads(about["optimizer_steps"]), strict=True):
            group["step"] = step
        optimizer.load_state_dict(state)
        return Progress(**json.loads(about["progress"]))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
