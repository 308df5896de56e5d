"""The loss of rounding a LoRA to a number format, and factors balanced by powers of two that keep it small.

A product U D stays the same to the bit when U is doubled and D halved. fp16 holds nothing below 6e-8 and little below 6e-5, so
a small factor beside a large one is rounded to zeros, and a balanced pair is not.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from sdlora.lora.math.delta import Adapter, Adapters, Dtype, factors, norm, product_norm

PAIRS = {"loha": (("w1_a", "w1_b"), ("w2_a", "w2_b")), "lokr": (("w1_a", "w1_b"), ("w2_a", "w2_b")),
         "glora": (("a1", "a2"), ("b1", "b2"))}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, None: None}  # of files
ENOUGH = 1e-3  # of a tensor's length: the error of rounding where no value is too small or too large for the format


def balanced(adapter: Adapter, dtype: Dtype | None) -> Adapter:
    """Return the same change in factors that `dtype` holds better, where it holds them badly; else the adapter as it is."""
    tensors = dict(adapter.tensors)
    if adapter.kind == "lora" and dtype is not None and "mid" not in tensors:
        tensors |= by_rank(tensors["up"], tensors["down"], dtype)
    for first, second in PAIRS.get(adapter.kind, ()):
        if dtype is None or first not in tensors or second not in tensors:
            continue
        pair = tensors[first], tensors[second]
        shift = shift_between(*pair)
        if not shift or max(error(each, dtype) for each in pair) <= ENOUGH:
            continue
        moved = torch.ldexp(pair[0].float(), torch.tensor(shift)), torch.ldexp(pair[1].float(), torch.tensor(-shift))
        if sum(error(each, dtype) ** 2 for each in moved) < sum(error(each, dtype) ** 2 for each in pair):
            tensors[first], tensors[second] = moved
    changed = any(tensors[role] is not adapter.tensors[role] for role in tensors)
    return replace(adapter, tensors=tensors) if changed else adapter


def by_rank(up: Tensor, down: Tensor, dtype: Dtype) -> dict[str, Tensor]:
    """Return "up" (out, r, ...) and "down" (r, in, ...) with those ranks balanced that `dtype` holds badly; {} if none.

    Each rank by its own power of two: in a blend of two LoRAs one may have a tiny "up" and the other a tiny "down".
    """
    columns = up.transpose(0, 1)
    shift = torch.round((exponents(columns) - exponents(down)) / 2)
    bad = ~(held(columns, dtype) & held(down, dtype)) & torch.isfinite(shift)
    if not bad.any():
        return {}
    factor = torch.where(bad, shift, 0.0).exp2()               # (r,)
    along = factor.reshape(-1, *[1] * (down.ndim - 1))
    across = factor.reshape(-1, *[1] * (up.ndim - 1))
    return {"up": (columns.double() / across).transpose(0, 1).float(), "down": (down.double() * along).float()}


def held(rows: Tensor, dtype: Dtype) -> Tensor:
    """Return (r,): whether each row (r, ...) loses no more than the rounding of numbers in the range of `dtype`."""
    exact = rows.detach().double().flatten(1)
    return (exact.to(dtype).double() - exact).norm(dim=1) <= torch.finfo(dtype).eps / 2 * exact.norm(dim=1)


def exponents(rows: Tensor) -> Tensor:
    """Return log2 of the largest number of each row, -inf for a row of zeros."""
    return rows.detach().double().flatten(1).abs().amax(1).log2()


def shift_between(first: Tensor, second: Tensor) -> int:
    """Return by how many powers of two `first` must grow, and `second` shrink, until both are equally large."""
    sizes = [float(each.abs().max()) if each.numel() else 0.0 for each in (first, second)]
    if not all(0 < size < math.inf for size in sizes):
        return 0
    return round((math.log2(sizes[1]) - math.log2(sizes[0])) / 2)


def error(value: Tensor, dtype: Dtype) -> float:
    """Return the error of rounding to `dtype` as a share of the length of `value`; infinity where a value does not fit."""
    exact = value.detach().cpu().double()
    size = float(exact.norm())
    off = float((exact.float().to(dtype).double() - exact).norm())
    return off / size if size else 0.0


@torch.no_grad()
def lost(adapters: Adapters, dtype: Dtype | None) -> float:
    """Return |dW - rounded dW| / |dW| over all modules, the share of the change that a file of `dtype` loses.

    Of low-rank changes the products are compared, of other kinds the tensors.
    """
    if dtype is None or dtype == torch.float32:
        return 0.0
    gone = there = 0.0
    for adapter in adapters.values():
        made = balanced(adapter, dtype)
        rounded = replace(made, tensors={role: value.float().to(dtype).float() for role, value in made.tensors.items()})
        pair, kept = (factors(made), factors(rounded)) if made.kind == "lora" else (None, None)
        if pair is not None and kept is not None:
            up, down = torch.cat([pair[0].double(), -kept[0].double()], 1), torch.cat([pair[1], kept[1]])
            size, off = abs(made.scale) * product_norm(*pair), abs(made.scale) * product_norm(up, down)
        else:
            errors = [error(value, dtype) for value in made.tensors.values() if value.is_floating_point()]
            size = size_of(made)
            off = size * min(1.0, math.sqrt(sum(each**2 for each in errors)))
        gone, there = gone + off**2, there + size**2
    return math.sqrt(gone / there) if there else 0.0


def size_of(adapter: Adapter) -> float:
    """Return |dW|, or the length of its tensors for kinds whose change depends on the weight."""
    try:
        return norm(adapter)
    except ValueError:
        return math.sqrt(sum(float(value.double().norm()) ** 2 for value in adapter.tensors.values()))
