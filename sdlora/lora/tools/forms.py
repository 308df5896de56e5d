"""Adapters of any kind -> what a file of the wanted form can hold. Knows nothing about files, models or drawing.

kohya files hold nearly every kind. diffusers files, and a plain LoRA, hold up x down (diffusers with DoRA's magnitudes); the
rest is expanded exactly where it has few ranks, else approximated by SVD.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.formats.writing import diffusers_holds, kohya_holds
from sdlora.lora.math.delta import Adapter, Adapters, delta, factors, shape_of
from sdlora.lora.math.low_rank import Limit, Shapes, WeightOf, compress, low_rank, narrow, without

Form = Literal["kohya", "diffusers", "plain"]
HOLDS = {"kohya": kohya_holds, "diffusers": diffusers_holds,
         "plain": lambda adapter: diffusers_holds(adapter) and "dora_scale" not in adapter.tensors}
USUAL = Limit(rank=128, keep=0.99)


@dataclass(frozen=True)
class Converted:
    """adapters; {path: retained energy} of those that were approximated; what became another kind, and what was left out."""
    adapters: Adapters
    energy: dict[str, float]
    expanded: tuple[str, ...]
    left_out: tuple[str, ...]


@torch.no_grad()
def to_form(adapters: Adapters, form: Form, *, limit: Limit = USUAL, shapes: Shapes | None = None,
            weight_of: WeightOf = lambda path: None) -> Converted:
    """What a file of this form can hold, as it is; everything else as up x down, beside which DoRA's magnitudes stay.

    form: "kohya", "diffusers" (where some modules of a part are DoRA, all of it gets magnitudes) or "plain" (no DoRA at all).
    Norms and differences of biases have no place in the last two and are left out: named. Raises UserError when a change depends
    on the base and weight_of does not know it.
    """
    made, energy, expanded, left_out = {}, {}, [], []
    for path, adapter in adapters.items():
        if "diff_b" in adapter.tensors and form != "kohya":
            left_out.append(f"{path} (bias)")
            adapter = without(adapter, "diff_b")
        if HOLDS[form](adapter):
            made[path] = adapter
        elif adapter.kind == "full" and narrow(adapter):
            left_out += [f"{path} (norm)"] if adapter.tensors else []
        else:
            expanded.append(path)
            made[path], kept = expand(path, adapter, form != "plain", limit, (shapes or {}).get(path), weight_of(path))
            energy |= {path: kept} if kept is not None else {}
    if not made:
        raise UserError("Nothing of this LoRA fits into such a file: it changes norms and biases only.", "Write a kohya file.")
    return Converted(evened(made, weight_of) if form == "diffusers" else made, energy, tuple(expanded), tuple(left_out))


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

