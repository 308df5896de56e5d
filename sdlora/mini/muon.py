"""Muon for matrices and flattened convolutions, AdamW for everything else, in one optimizer.

Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/ ; the scale 0.2 sqrt(max dim), which lets
both share one rate, is from Liu et al. 2025, https://arxiv.org/abs/2502.16982 .
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sdlora.mini.precision import has_bf16


def orthogonal(update: Tensor, rounds: int = 5) -> Tensor:
    """Nearest half-orthogonal matrix (rows, columns) by the quintic Newton-Schulz iteration, in bf16 where that is faster."""
    x = update.bfloat16() if has_bf16(update.device.type) else update
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """`matrices` move by Muon, `others` by AdamW; weight decay 0.01 on matrices only."""

    def __init__(self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float):
        groups = [{"params": list(matrices), "muon": True}, {"params": list(others), "muon": False}]
        super().__init__([g for g in groups if g["params"]], {"lr": lr, "step": 0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            group["step"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                if group["muon"]:
                    self._muon(p, group["lr"])
                else:
                    self._adam(p, group["lr"], group["step"])

    def _muon(self, p: nn.Parameter, lr: float) -> None:
        state, grad = self.state[p], p.grad.flatten(1)
        if not state:
            state["momentum"] = torch.zeros_like(grad)
        momentum = state["momentum"].lerp_(grad, 0.05)
        update = orthogonal(grad.lerp(momentum, 0.95))
        p.mul_(1 - 0.01 * lr).add_(update.view_as(p), alpha=-lr * 0.2 * max(update.shape) ** 0.5)

    def _adam(self, p: nn.Parameter, lr: float, step: int) -> None:
        state = self.state[p]
        if not state:
            state["first"], state["second"] = torch.zeros_like(p), torch.zeros_like(p)
        first = state["first"].lerp_(p.grad, 0.1)
        second = state["second"].lerp_(p.grad.square(), 0.01)
        unbiased = (second / (1 - 0.99**step)).sqrt_().add_(1e-8)
        p.addcdiv_(first, unbiased, value=-lr / (1 - 0.9**step))


def optimizer_for(modules: Iterable[nn.Module], lr: float) -> Muon:
    """Muon over what multiplies hidden activations; embeddings, first and last layers go to AdamW."""
    matrices, others = [], []
    for module in modules:
        for name, p in module.named_parameters():
            edge = any(part in name for part in ("embedding", "conv_in", "conv_out", "class_embed"))
            (others if p.ndim < 2 or edge else matrices).append(p)
    return Muon(matrices, others, lr)
