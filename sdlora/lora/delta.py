"""What one adapter does to one weight: dW of each kind. Knows nothing about files, key names or models.

A LoRA in memory is `Adapters`: {module path in diffusers names: Adapter}. UNet paths are bare
("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"), those of the text encoders begin with "te1:" or "te2:".
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


Kind = Literal["lora"]


@dataclass(frozen=True)
class Adapter:
    """The change of one module (lora-files.md 2.1, 2.3). The tensors keep the dtype of the file they came from.

    kind "lora": dW = alpha / rank x up @ down, with "down" (r, in) or (r, in, k, k) and "up" (out, r) or (out, r, 1, 1);
    a Tucker convolution has "down" (r, in, 1, 1), "mid" (r, r, k, k) and "up" (out, r, 1, 1).
    rank: 0 where the kind has none; alpha then counts for nothing.
    """
    kind: Kind
    tensors: dict[str, Tensor]
    alpha: float
    rank: int
    part: Literal["unet", "te1", "te2"]

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


Adapters = dict[str, Adapter]
Dtype = torch.dtype


def factors(adapter: Adapter) -> tuple[Tensor, Tensor]:
    """(out, r) and (r, in x k x k) fp32 with dW.flatten(1) = scale x first @ second. A Tucker core goes into the second."""
    up, down = adapter.tensors["up"].float().flatten(1), adapter.tensors["down"].float()
    if "mid" in adapter.tensors:
        down = torch.einsum("ijkl,jm->imkl", adapter.tensors["mid"].float(), down.flatten(1))
    return up, down.flatten(1)


def delta(adapter: Adapter, weight: Tensor) -> Tensor:
    """dW of `adapter` in fp32 and in the shape of `weight`, on its device. ValueError when the shapes do not fit."""
    up, down = factors(adapter)
    if up.shape[0] != weight.shape[0] or up.shape[0] * down.shape[1] != weight.numel():
        raise ValueError(f"the change is {up.shape[0]} x {down.shape[1]}, the weight {tuple(weight.shape)}")
    return (adapter.scale * (up.to(weight.device) @ down.to(weight.device))).reshape(weight.shape)


def norm(adapter: Adapter) -> float:
    """Frobenius norm of dW without forming it: ||BA||^2 = sum((B'B) * (AA'))."""
    up, down = (factor.double() for factor in factors(adapter))
    return abs(adapter.scale) * float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt())
