"""What both phases of the recipe share: number format, optimizer, learning rate, budget, and the checkpoint of a phase.

A checkpoint is safetensors and JSON. Random numbers need no state: every step seeds its own generator from its number.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlora.storage import write_atomic

CHECKPOINT_SECONDS = 600.0
CLIP_NORM = 1.0


def has_bf16(device: str) -> bool:
    """Return whether bf16 is faster than fp32 there. A CPU without it imitates it: a VAE step then took 60 s instead of 1."""
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device) -> torch.autocast:
    """Return a context that computes in bf16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device.type))


def orthogonal(update: Tensor, iterations: int = 5) -> Tensor:
    """Nearest half-orthogonal matrix (rows, columns) by the quintic Newton-Schulz iteration, in bf16 where that is faster."""
    x = update.bfloat16() if has_bf16(update.device.type) else update
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for `matrices` and flattened convolutions, AdamW for `others`; weight decay 0.01 on matrices only.

    Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/ ; the scale 0.2 sqrt(max dim), which lets both share
    one rate, is from Liu et al. 2025, https://arxiv.org/abs/2502.16982 . torch.optim.Muon takes no convolutions and no others.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float):
        groups = [{"params": list(matrices), "muon": True}, {"params": list(others), "muon": False}]
        super().__init__([g for g in groups if g["params"]], {"lr": lr, "step": 0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # reportIncompatibleMethodOverride: no closure
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            group["step"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                if group["muon"]:
                    self._muon(p, p.grad.flatten(1), group["lr"])
                else:
                    self._adam(p, p.grad, group["lr"], group["step"])

    def minimize(self, loss: Tensor, module: nn.Module, lr: float) -> None:
        """Make one step down the gradient of the loss, which is clipped to norm 1."""
        self.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
        for group in self.param_groups:
            group["lr"] = lr
        self.step()

    def _muon(self, p: nn.Parameter, grad: Tensor, lr: float) -> None:
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        momentum = state["momentum"].lerp_(grad, 0.05)
        update = orthogonal(grad.lerp(momentum, 0.95))
        p.mul_(1 - 0.01 * lr).add_(update.view_as(p), alpha=-lr * 0.2 * max(update.shape) ** 0.5)

    def _adam(self, p: nn.Parameter, grad: Tensor, lr: float, step: int) -> None:
        state = self.state[p]
        if not state:
            state["first"], state["second"] = torch.zeros_like(p), torch.zeros_like(p)
        first = state["first"].lerp_(grad, 0.1)
        second = state["second"].lerp_(grad.square(), 0.01)
        unbiased = (second / (1 - 0.99**step)).sqrt_().add_(1e-8)
        p.addcdiv_(first, unbiased, value=-lr / (1 - 0.9**step))


def optimizer_for(module: nn.Module, lr: float) -> Muon:
    """Muon over what multiplies hidden activations; embeddings, first and last layers go to AdamW."""
    matrices, others = [], []
    for name, p in module.named_parameters():
        edge = any(part in name for part in ("embedding", "conv_in", "conv_out", "class_embed"))
        (others if p.ndim < 2 or edge else matrices).append(p)
    return Muon(matrices, others, lr)


@dataclass
class Progress:
    """How far a phase is; `seconds` counts work only, over all sessions."""

    step: int = 0
    pictures: int = 0
    seconds: float = 0.0
    loss: float = float("nan")

    def advance(self, pictures: int, loss: Tensor, started: float) -> None:
        """Count a step of so many pictures that began at `started` (time.monotonic)."""
        self.step += 1
        self.pictures += pictures
        self.loss = loss.item()
        self.seconds += time.monotonic() - started


@dataclass(frozen=True)
class Budget:
    """When a phase is over: after so much work or so many steps, whichever is given."""

    seconds: float | None = None
    steps: int | None = None

    def share(self, progress: Progress) -> float:
        """Return how much is spent, 0 to 1."""
        if self.steps is not None:
            return min(1.0, progress.step / max(1, self.steps))
        return min(1.0, progress.seconds / max(1e-9, self.seconds or 0.0))


def learning_rate(share: float, step: int, peak: float) -> float:
    """Warm-up over 50 steps, full until 30% of the budget, then linear decay to 2%: every run ends annealed."""
    decay = 1.0 if share < 0.3 else 1.0 - 0.98 * (share - 0.3) / 0.7
    return peak * decay * min(1.0, (step + 1) / 50)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the random numbers of one step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Checkpoint:
    """The checkpoint file of one phase, `folder/phase.safetensors`: its newest state."""

    def __init__(self, folder: Path, phase: str):
        self.path = folder / f"{phase}.safetensors"
        self.saved_at = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def is_due(self) -> bool:
        """Return whether the last one is ten minutes old."""
        return time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS

    def save(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write the state; a crash leaves the old one whole."""
        tensors = {f"{name}/{key}": t for name, m in modules.items() for key, t in m.state_dict().items()}
        state = optimizer.state_dict()
        for number, values in state["state"].items():
            tensors |= {f"optimizer/{number}/{key}": t for key, t in values.items()}
        steps = [group["step"] for group in state["param_groups"]]
        metadata = {"progress": json.dumps(asdict(progress)), "optimizer_steps": json.dumps(steps)}
        tensors = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
        write_atomic(self.path, lambda path: save_file(tensors, path, metadata=metadata))
        self.saved_at = time.monotonic()

    def load(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> Progress:
        """Restore a saved state; a fresh Progress where there is none."""
        if not self.path.exists():
            return Progress()
        tensors = load_file(self.path)
        for name, module in modules.items():
            module.load_state_dict(_below(tensors, f"{name}/"))
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
        state = optimizer.state_dict()
        state["state"] = {}
        for key, tensor in _below(tensors, "optimizer/").items():
            number, name = key.split("/")
            state["state"].setdefault(int(number), {})[name] = tensor
        for group, step in zip(state["param_groups"], json.loads(metadata["optimizer_steps"]), strict=True):
            group["step"] = step
        optimizer.load_state_dict(state)
        return Progress(**json.loads(metadata["progress"]))


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
