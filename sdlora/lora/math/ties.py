"""Experimental blends that thin out the changes before they are joined: TIES and DARE. Knows nothing about files or drawing.

They work on whole changes of weights, never on factors (PEFT's ties and dare work on factors, where entries mean nothing;
its *_svd variants do as we do). The result has full rank and goes through SVD, which loses a part of its energy.
The same LoRAs, strengths and seed give the same result, in any order and on any device.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient, bias_change
from sdlora.lora.math.delta import Adapter, Adapters, delta
from sdlora.lora.math.low_rank import (
    Limit,
    Shapes,
    WeightOf,
    blended_parts,
    known_shape,
    no_weights,
    refuse_without_base,
    resize,
)


@dataclass(frozen=True)
class Thinning:
    """density: the share of entries of each LoRA to keep; seed: of DARE's random choice of them."""
    density: float = 0.5
    seed: int = 0


Join = Callable[[str, Tensor, Tensor], Tensor]  # path, changes (n, ...) with the signs of the strengths in, strengths (n,) >= 0


def ties(ingredients: Sequence[Ingredient], limit: Limit | int, *, density: float = 0.5, shapes: Shapes | None = None,
         weight_of: WeightOf = no_weights) -> tuple[Adapters, dict[str, float]]:
    """Blend by TIES (Yadav et al. 2023, arXiv 2306.01708); return the adapters and {path: retained energy}.

    Of each change the largest `density` of the entries is kept, per entry the sign is elected that has the larger sum, and the
    entries of that sign are averaged with the strengths as weights: a mean, so weaker than the sum of a plain blend.
    limit, shapes, weight_of and errors: as low_rank.svd().
    """
    share = check_density(density)

    def join(path: str, changes: Tensor, strengths: Tensor) -> Tensor:
        return elected(torch.stack([largest(change, share) for change in changes]), strengths)
    return joined(ingredients, join, limit, shapes, weight_of)


def dare(ingredients: Sequence[Ingredient], limit: Limit | int, *, density: float = 0.5, seed: int = 0, elect: bool = False,
         shapes: Shapes | None = None, weight_of: WeightOf = no_weights) -> tuple[Adapters, dict[str, float]]:
    """Blend by DARE (Yu et al. 2024, arXiv 2311.03099); return the adapters and {path: retained energy}.

    A random `density` of the entries of each change is kept and divided by it, so that the mean stays; then they are summed,
    or with `elect` joined by signs as in TIES. limit, shapes, weight_of and errors: as low_rank.svd().
    """
    share = check_density(density)

    def join(path: str, changes: Tensor, strengths: Tensor) -> Tensor:
        thinned = torch.stack([dropped(change, share, f"{seed} {number} {path}") for number, change in enumerate(changes)])
        return elected(thinned, strengths) if elect else weighted(thinned, strengths).sum(0)
    return joined(ingredients, join, limit, shapes, weight_of)


@torch.no_grad()
def joined(ingredients: Sequence[Ingredient], join: Join, limit: Limit | int, shapes: Shapes | None,
           weight_of: WeightOf) -> tuple[Adapters, dict[str, float]]:
    """Join every module, then compress it. A module that only one LoRA changes goes through it too; biases are summed."""
    made, energy = {}, {}
    limit = Limit(rank=limit) if isinstance(limit, int) else limit
    for path, parts in blended_parts(ingredients).items():  # one at a time: whole changes are large
        tensors = joined_module(path, parts, join, (shapes or {}).get(path), weight_of(path))
        small, kept = resize({path: Adapter("full", tensors, 0.0, 0, parts[0][0].part)}, limit)
        made |= small
        energy |= kept
    return made, energy


def joined_module(path: str, parts: Sequence[tuple[Adapter, float]], join: Join, shape: tuple[int, ...] | None,
                  weight: Tensor | None) -> dict[str, Tensor]:
    """Return the joined change of one module as tensors of a "full" adapter."""
    bias = bias_change(parts)
    tensors = {} if bias is None else {"diff_b": bias}
    parts = [(one, strength) for one, strength in parts if one.tensors.keys() - {"diff_b"}]
    if not parts:
        return tensors
    refuse_without_base(path, parts, weight)
    if weight is None:
        weight = torch.zeros(known_shape(parts[0][0], shape, None))
    changes = torch.stack([delta(one, weight) * (1 if strength > 0 else -1) for one, strength in parts])
    return tensors | {"diff": join(path, changes, torch.tensor([abs(strength) for _, strength in parts]).to(changes))}


def largest(change: Tensor, density: float) -> Tensor:
    """Keep the entries of largest magnitude, a share `density` of them; set the others to 0."""
    kept = int(density * change.numel())
    if kept == change.numel():
        return change
    if not kept:
        return torch.zeros_like(change)
    limit = change.abs().flatten().kthvalue(change.numel() - kept + 1).values
    return torch.where(change.abs() >= limit, change, 0.0)


def dropped(change: Tensor, density: float, key: str) -> Tensor:
    """Keep each entry with the probability `density`, divided by it; set the others to 0. key: seeds the choice."""
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
    mask = torch.rand(change.shape, generator=generator) < density
    return torch.where(mask.to(change.device), change / density, 0.0)


def elected(changes: Tensor, strengths: Tensor) -> Tensor:
    """Return, per entry, the mean of strength x change over those changes that have the sign of their sum."""
    sign = torch.where(changes.sum(0) >= 0, 1.0, -1.0)
    agreeing = changes.sign() == sign
    return (weighted(changes, strengths) * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)


def weighted(changes: Tensor, strengths: Tensor) -> Tensor:
    """Return each change times its strength."""
    return changes * strengths.reshape(-1, *[1] * (changes.dim() - 1))


def check_density(density: float) -> float:
    """Return the share of entries to keep. Raises UserError unless it is above 0 and at most 1."""
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise UserError(f"The density must be above 0 and at most 1, got {str(density)[:40]}.", "0.5 keeps half of each LoRA.")
    return float(density)
