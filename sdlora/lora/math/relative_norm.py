"""The size of a LoRA's change relative to the weights, block by block. Knows nothing about files or key names."""

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from sdlora.lora.formats.module_tables import Table
from sdlora.lora.math.blocks import all_slots, block_of
from sdlora.lora.math.delta import Adapter, Adapters, is_linear, norm

DAMAGED = 100.0  # |dW| / |W|: from about 1 on, pictures are lost; this much is a damaged file, not a strong style
NOTHING = 1e-7  # the rounding error of weights in fp32
LARGEST = 1e100  # reported for a change whose size fp64 cannot hold
Sizes = dict[str, tuple[float, float]]  # {path: (norm of dW, norm of W)}


def sizes(adapters: Adapters, table: Table, weights: Mapping[str, Tensor]) -> Sizes:
    """Return |dW| and |W| of each module. weights: those of the base, by path; where one is missing a typical one is taken.

    A typical weight is as large as PyTorch makes a new one, rms 1 / sqrt(3 in), and random; under a DoRA its rows (or
    columns) have the norms that the DoRA gives them. Adapters that are not finite, or that do not fit, have |dW| = 0.
    """
    found = {}
    for path, adapter in adapters.items():
        weight = weights.get(path)
        shape = table[path] if weight is None else tuple(weight.shape)
        large = math.sqrt(shape[0] / 3) if weight is None else float(weight.double().norm())
        if weight is None and not is_linear(adapter):
            weight = typical(shape, adapter)
            large = float(weight.double().norm())
        whole = all(bool(torch.isfinite(value.float()).all()) for value in adapter.tensors.values())
        try:
            moved = min(norm(adapter, weight), LARGEST) if whole else 0.0
        except ValueError:
            moved = 0.0
        found[path] = moved, large
    noise.cache_clear()  # for a DoRA of SDXL they take hundreds of megabytes
    return found


def typical(shape: tuple[int, ...], adapter: Adapter) -> Tensor:
    """Return a random weight of a typical size, with the norms of a DoRA's magnitudes."""
    weight = noise(shape)
    magnitude = adapter.tensors.get("dora_scale")
    if magnitude is None:
        return weight
    on_input = magnitude.dim() > 1 and tuple(magnitude.shape[:2]) == (1, shape[1])
    along = [axis for axis in range(len(shape)) if axis != int(on_input)]
    sides = [1] * len(shape)
    sides[int(on_input)] = -1
    return weight / torch.linalg.vector_norm(weight, dim=along, keepdim=True) * magnitude.float().reshape(sides)


@lru_cache(maxsize=16)
def noise(shape: tuple[int, ...]) -> Tensor:
    """Return Gaussian numbers of rms 1 / sqrt(3 in), always the same; 1 for the weight of a norm."""
    if len(shape) == 1:
        return torch.ones(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) / math.sqrt(3 * math.prod(shape[1:]))


def relative_size(found: Sizes) -> float:
    """Return |dW| / |W| over all modules together."""
    moved, large = (math.sqrt(sum(size[side] ** 2 for size in found.values())) for side in (0, 1))
    return moved / large if large else 0.0


def damage_warning(times: float) -> str:
    """Return the sentence about a change that is so many times as large as the weights."""
    return f"Its change is {times:.3g} times as large as the weights it changes: the file is damaged or was scaled by mistake."


def by_block(found: Sizes, family: str) -> dict[str, dict[str, float]]:
    """Return {block: {"modules": how many, "push": |dW| / |W|}} of the blocks that change, in the order of the network."""
    grouped: dict[str, Sizes] = {}
    for path, size in found.items():
        grouped.setdefault(block_of(path, family), {})[path] = size
    return {block: {"modules": len(grouped[block]), "push": relative_size(grouped[block])}
            for block in all_slots(family) if block in grouped}
