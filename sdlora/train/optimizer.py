"""AdamW that skips steps that are not finite, and the learning rate as a function of the step.

Knows nothing about models, pictures or files: parameters with gradients in, updated parameters out.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sdlora.train.plan import WARMUP_SHARE

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
FIRST_SCALE, GROWTH_STEPS = 2.0**16, 2000


def rate_at(step: int, steps: int, peak: float, warmup_steps: int, schedule: str) -> float:
    """Return the learning rate of the step after `step` finished ones: linear warm-up, then constant or half a cosine.

    The warm-up takes at most a tenth of the run, so that a short run reaches its full rate.
    """
    warmup = min(warmup_steps, steps // WARMUP_SHARE)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class AdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101) in fp32 with gradient clipping and, for fp16, loss scaling.

    `tensors` holds its whole state. A step whose loss or gradient norm is not finite changes no weight and no moment: the
    change is multiplied by zero on the device, so that a GPU need not wait for the CPU.
    """

    def __init__(self, parameters: Sequence[Tensor], *, weight_decay: float, clip_norm: float, scaled: bool = False) -> None:
        self.parameters = list(parameters)
        self.weight_decay, self.clip_norm, self.scaled = weight_decay, clip_norm, scaled
        first = self.parameters[0]
        self.tensors: dict[str, Tensor] = {"updates": first.new_zeros(()), "scale": first.new_tensor(
            FIRST_SCALE if scaled else 1.0), "since_overflow": first.new_zeros(())}
        for index, parameter in enumerate(self.parameters):
            self.tensors[f"mean.{index}"] = torch.zeros_like(parameter, requires_grad=False)
            self.tensors[f"square.{index}"] = torch.zeros_like(parameter, requires_grad=False)

    @torch.no_grad()
    def step(self, loss: Tensor, rate: float) -> Tensor:
        """Backpropagate `loss` (scalar), clip, update at learning rate `rate`; return whether it diverged, a bool on the device.

        An fp16 overflow at a loss scale above 1 is a skipped step that lowers the scale, not a divergence.
        """
        for parameter in self.parameters:
            parameter.grad = None
        with torch.enable_grad():
            (loss * self.tensors["scale"]).backward()
        gradients = [parameter.grad / self.tensors["scale"] for parameter in self.parameters if parameter.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        good = torch.isfinite(norm) & torch.isfinite(loss)
        overflow = torch.isfinite(loss) & ~good & (self.tensors["scale"] > 1)
        clip = self.clip_norm / norm.clamp(min=self.clip_norm)
        self.tensors["updates"] += good
        for index, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            self._update(index, parameter, torch.where(good, gradient * clip, 0), good.to(norm.dtype), rate)
        if self.scaled:
            self._rescale(good, overflow)
        return ~good & ~overflow

    def _update(self, index: int, parameter: Tensor, gradient: Tensor, good: Tensor, rate: float) -> None:
        """Update one parameter and its moments; `good` is 1, or 0 to leave them bit for bit as they are."""
        mean, square, updates = self.tensors[f"mean.{index}"], self.tensors[f"square.{index}"], self.tensors["updates"]
        mean.add_((gradient - mean) * ((1 - BETA1) * good))
        square.add_((gradient.square() - square) * ((1 - BETA2) * good))
        count = updates.clamp(min=1)
        unbiased_mean = mean / (1 - BETA1**count)
        unbiased_square = square / (1 - BETA2**count)
        change = unbiased_mean / (unbiased_square.sqrt() + EPSILON) + self.weight_decay * parameter
        parameter.sub_(change * (rate * good))

    def _rescale(self, good: Tensor, overflow: Tensor) -> None:
        """Halve the loss scale after an overflow, double it after 2000 good steps, as torch.amp.GradScaler does."""
        scale, since = self.tensors["scale"], self.tensors["since_overflow"]
        since.copy_(torch.where(good, since + 1, 0))
        grown = since >= GROWTH_STEPS
        scale.mul_(torch.where(overflow, 0.5, torch.where(grown, 2.0, 1.0)))
        since.copy_(torch.where(grown, 0, since))
