"""Adapters of any kind -> what a file of the wanted form can hold. Knows nothing about files, models or drawing.

kohya files hold every kind. diffusers files, and a plain LoRA, hold up x down (diffusers with DoRA's magnitudes); the rest is
expanded exactly where it has few ranks, else approximated by SVD.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.delta import Adapter, Adapters, delta, factors, shape_of
from sdlora.lora.resize import Limit, Shapes, WeightOf, compress, low_rank, narrow, without
from sdlora.lora.write import diffusers_holds

USUAL = Limit(rank=128, keep=0.99)


@dataclass(frozen=True)
class Converted:
    """adapters; {path: retained energy} of those that were approximated; what became another kind, and what was left out."""
    adapters: Adapters
    energy: dict[str, float]
    expanded: tuple[str, ...]
    left_out: tuple[str, ...]


@torch.no_grad()
def to_factors(adapters: Adapters, *, dora: bool, limit: Limit = USUAL, shapes: Shapes | None = None,
               weight_of: WeightOf = lambda path: None) -> Converted:
    """Everything as up x down. dora: magnitudes may stay beside them (all modules of a part then get one).

    Adapters that are of that form already stay as they are. Norms and differences of biases have no place and are left out:
    named. Raises UserError when a change depends on the base and weight_of does not know it.
    """
    made, energy, expanded, left_out = {}, {}, [], []
    for path, adapter in adapters.items():
        if "diff_b" in adapter.tensors:
            left_out.append(f"{path} (bias)")
            adapter = without(adapter, "diff_b")
        if adapter.kind == "full" and narrow(adapter):
            left_out += [f"{path} (norm)"] if adapter.tensors else []
        elif diffusers_holds(adapter) and (dora or "dora_scale" not in adapter.tensors):
            made[path] = adapter
        else:
            expanded.append(path)
            made[path], kept = expand(path, adapter, dora, limit, (shapes or {}).get(path), weight_of(path))
            energy |= {path: kept} if kept is not None else {}
    if not made:
        raise UserError("Nothing of this LoRA fits into such a file: it changes norms and biases only.", "Write a kohya file.")
    return Converted(evened(made, weight_of) if dora else made, energy, tuple(expanded), tuple(left_out))


def expand(path: str, adapter: Adapter, dora: bool, limit: Limit, shape: tuple[int, ...] | None,
           weight: Tensor | None) -> tuple[Adapter, float | None]:
    """One adapter as up x down, and the energy kept when it was approximated."""
    bare, magnitude = without(adapter, "dora_scale"), adapter.tensors.get("dora_scale")
    stays = magnitude is not None and dora and magnitude.shape[0] == magnitude.numel() and magnitude.numel() > 1
    if magnitude is not None and not stays:
        if weight is None:
            raise UserError(f"{path} is DoRA, whose change depends on the base it is put on.", "Name the base with --base.")
        bare = Adapter("full", {"diff": delta(adapter, weight)}, 0.0, 0, adapter.part)
    pair = factors(bare)
    if pair is None:
        made, energy = compress(path, bare, limit, shape, weight)
    else:
        shape, energy = tuple(weight.shape) if weight is not None else shape or shape_of(bare), None
        made = low_rank(*pair, shape, adapter.part)
        made = replace(made, alpha=made.rank * bare.scale)
    return (replace(made, tensors=made.tensors | {"dora_scale": magnitude}) if stays else made), energy


def evened(adapters: Adapters, weight_of: WeightOf) -> Adapters:
    """A part of which some modules are DoRA with a magnitude for the others too: |W + dW|, which changes nothing."""
    some = {adapter.part for adapter in adapters.values() if "dora_scale" in adapter.tensors}
    made = {}
    for path, adapter in adapters.items():
        if adapter.part in some and "dora_scale" not in adapter.tensors:
            weight = weight_of(path)
            if weight is None:
                raise UserError(f"Some modules are DoRA and some, such as {path}, are not, which a diffusers file cannot say.",
                                "Name the base with --base, or write a kohya file.")
            norms = (weight.float() + delta(adapter, weight)).flatten(1).norm(dim=1)
            adapter = replace(adapter, tensors=adapter.tensors | {"dora_scale": norms.reshape(-1, *[1] * (weight.ndim - 1))})
        made[path] = adapter
    return made


@torch.no_grad()
def largest_difference(before: Adapters, after: Adapters, paths: Sequence[str], shapes: Shapes, weight_of: WeightOf) -> float:
    """The largest |dW_before - dW_after| relative to the largest |dW_before| of its module, over `paths`."""
    worst = 0.0
    for path in paths:
        weight = weight_of(path)
        weight = torch.zeros(shapes[path]) if weight is None else weight
        change = delta(before[path], weight)
        worst = max(worst, float((change - delta(after[path], weight)).abs().max() / change.abs().max().clamp(min=1e-30)))
    return worst
