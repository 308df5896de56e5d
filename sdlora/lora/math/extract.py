"""The difference of two checkpoints as a LoRA. Knows nothing about how checkpoints are kept: it is given their weights.

One weight is in memory at a time. What a plain LoRA cannot hold (norms, biases) is measured and, when asked for, kept whole.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.math.delta import Adapter, Adapters
from sdlora.lora.math.low_rank import Limit, compress


@dataclass(frozen=True)
class Extracted:
    """adapters; {path: retained energy}; the share of the whole difference (squared norm) that lies in norms and biases."""
    adapters: Adapters
    energy: dict[str, float]
    elsewhere: float


@torch.no_grad()
def extract(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], modules: Collection[str], limit: Limit, *,
            whole: bool = False, progress: Callable[[int, int], object] = lambda done, of: None) -> Extracted:
    """tuned - base, both {"<module path>.weight" or ".bias": tensor} -> a LoRA of the `modules` within `limit`.

    whole: norms and biases come along as plain differences (kohya files only). Raises UserError when the two do not have the
    same shapes or do not differ.
    """
    names = [name for name in base if name in tuned]
    adapters, energy, inside, outside = {}, {}, 0.0, 0.0
    for done, name in enumerate(names):
        progress(done, len(names))
        path, _, leaf = name.rpartition(".")
        before = base[name]  # read from the disk here, once
        change = difference(name, before, tuned[name]) if before.is_floating_point() else None
        if change is None:
            continue
        square = float(change.double().square().sum())
        part = path.split(":")[0] if ":" in path else "unet"
        if leaf == "weight" and path in modules:
            adapter = Adapter("full", {"diff": change}, 0.0, 0, part)
            made, energy[path] = compress(path, adapter, limit, tuple(change.shape), None)
            adapters[path] = merged(made, adapters.get(path))
            inside += square
            continue
        outside += square
        if whole and leaf in ("weight", "bias") and change.ndim == 1:
            role = {"weight": "diff", "bias": "diff_b"}[leaf]
            adapters[path] = merged(Adapter("full", {role: change}, 0.0, 0, part), adapters.get(path))
    if not inside and not outside:
        raise UserError("The two checkpoints do not differ in any weight.", "Choose the base and a model trained from it.")
    if not adapters:
        raise UserError("The two checkpoints differ in no weight that a LoRA can hold.", "Their VAE may differ: that is no LoRA.")
    return Extracted(adapters, energy, outside / (inside + outside))


def difference(name: str, before: Tensor, after: Tensor) -> Tensor | None:
    """after - before in fp32, or None where they are equal. A 1x1 convolution and a linear layer are the same."""
    if before.numel() != after.numel() or before.shape[0] != after.shape[0]:
        raise UserError(f"The two checkpoints are of different kinds: {name} is {tuple(before.shape)} in one and "
                        f"{tuple(after.shape)} in the other.", "Choose two models of the same family.")
    change = after.float().reshape(before.shape) - before.float()
    return change if change.any() else None


def merged(new: Adapter, old: Adapter | None) -> Adapter:
    """The weight's and the bias's change of one module as one adapter."""
    if old is None:
        return new
    kind = "lora" if "lora" in (new.kind, old.kind) else "full"
    low = new if new.kind == "lora" else old
    return Adapter(kind, old.tensors | new.tensors, low.alpha, low.rank, new.part)
