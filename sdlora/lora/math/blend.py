"""The exact weighted sum of LoRAs on a given weight. Knows nothing about models, files or drawing.

W' = round(W + sum of strength x dW): changes are summed in fp32 in one canonical order, added to the weight in fp32 and
rounded once to the weight's own dtype. Every dW is that on the pristine weight (DoRA and the other kinds that depend on
the weight included), so the order in which the LoRAs were chosen changes no bit.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.math.blocks import block_weight
from sdlora.lora.math.delta import Adapter, Adapters, bias_delta, delta, factors

STRONGEST = 4.0  # the largest strength


@dataclass(frozen=True, eq=False)
class Ingredient:
    """One LoRA of a blend. text_strength: None for `strength`; blocks: {slot: weight} as blocks.parse returns them for `family`.

    A slot that `blocks` does not name has the weight 1. start, end: the shares of the denoising between which the LoRA acts,
    which the sum ignores. name: for messages.
    """
    adapters: Adapters
    strength: float = 1.0
    text_strength: float | None = None
    blocks: Mapping[str, float] = field(default_factory=dict)
    start: float = 0.0
    end: float = 1.0
    name: str = "The LoRA"
    family: str = ""


def parts_of(ingredients: Sequence[Ingredient], paths: Iterable[str]) -> dict[str, list[tuple[Adapter, float]]]:
    """Return {path: [(adapter, strength)]} of `paths` in canonical order, without strengths of 0."""
    order = [(each, digest(each.adapters) if len(ingredients) > 1 else b"") for each in ingredients]
    found = {}
    for path in paths:
        parts = [(each, strength_at(each, path), key) for each, key in order if path in each.adapters]
        parts = sorted((part for part in parts if part[1]), key=lambda part: (part[2], part[1]))
        if parts:
            found[path] = [(each.adapters[path], strength) for each, strength, _ in parts]
    return found


def strength_at(ingredient: Ingredient, path: str) -> float:
    """Return strength x block weight of one module. Raises UserError for a strength that is no number in -4..4."""
    of_text = ":" in path and ingredient.text_strength is not None
    strength = check_strength(ingredient.text_strength if of_text else ingredient.strength)
    return strength * block_weight(ingredient.blocks, path, ingredient.family)


@torch.no_grad()
def change(parts: Sequence[tuple[Adapter, float]], weight: Tensor) -> Tensor:
    """Return the sum of strength x dW over the adapters of one module, fp32, in the shape and on the device of `weight`.

    Low-rank kinds are summed first, as one product over their joined ranks; then the others in the order given.
    Raises ValueError for a change that does not fit the weight.
    """
    pairs = [factors(adapter) for adapter, _ in parts]
    low_rank = [(pair[0][None].to(weight.device), pair[1][None].to(weight.device), adapter.scale * strength)
                for pair, (adapter, strength) in zip(pairs, parts, strict=True) if pair is not None]
    if any(up.shape[1] != weight.shape[0] or up.shape[1] * down.shape[2] != weight.numel() for up, down, _ in low_rank):
        raise ValueError(f"a change does not fit the weight {tuple(weight.shape)}")
    total = product(low_rank)[0].reshape(weight.shape) if low_rank else None
    for pair, (adapter, strength) in zip(pairs, parts, strict=True):
        if pair is None:
            part = delta(adapter, weight)
            part = part if strength == 1 else part * strength
            total = part if total is None else total + part  # never in place: `part` may be a tensor of the LoRA itself
    assert total is not None  # there is at least one adapter
    return total


def product(parts: Sequence[tuple[Tensor, Tensor, float]], out: Tensor | None = None) -> Tensor:
    """Return the sum of strength x up @ down over parts (up (n, o, r), down (n, r, i), strength), fp32: (n, o, i), into `out`.

    One batched product over the joined ranks. On the CPU a matrix comes out the same to the bit in a batch of any size
    (tested); on a GPU the batch may move the last bit of fp32, before the one rounding.
    """
    downs = [down if strength == 1 else down * strength for _, down, strength in parts]
    if len(parts) == 1:
        return torch.bmm(parts[0][0], downs[0], out=out)
    return torch.bmm(torch.cat([up for up, _, _ in parts], dim=2), torch.cat(downs, dim=1), out=out)


def bias_change(parts: Sequence[tuple[Adapter, float]]) -> Tensor | None:
    """Return the sum of strength x change of the bias, (out,) fp32; None where none of the adapters has one."""
    changes = [(bias_delta(adapter), strength) for adapter, strength in parts]
    changes = [bias * strength for bias, strength in changes if bias is not None]
    return sum(changes[1:], start=changes[0]) if changes else None


def rounded(weight: Tensor, change_of: Tensor, out: Tensor | None = None) -> Tensor:
    """Return weight + change_of (fp32) in the weight's dtype, into `out`: one addition in fp32, one rounding. For biases too."""
    out = torch.empty_like(weight) if out is None else out
    change_of = change_of.view(weight.shape)
    if weight.device.type == "cpu" and weight.dtype != torch.float32:  # mixed there, add() takes three times as long
        return out.copy_(weight.float().add_(change_of))
    return torch.add(weight, change_of, out=out)


def digest(adapters: Adapters) -> bytes:
    """Return a hash of the content of a LoRA, 32 bytes. It reads every tensor: callers that blend often keep it."""
    content = hashlib.sha256()
    for path in sorted(adapters):
        adapter = adapters[path]
        content.update(f"{path} {adapter.kind} {adapter.alpha!r} {adapter.rank}".encode())
        for role in sorted(adapter.tensors):
            tensor = adapter.tensors[role].detach().cpu().contiguous()
            content.update(f"{role} {tensor.dtype} {tuple(tensor.shape)}".encode())
            content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.digest()


def check_strength(strength: object) -> float:
    """Return a strength as a float. Raises UserError unless it is a number in -4..4 (bool and str are none)."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength) \
            or abs(strength) > STRONGEST:
        raise UserError(f"A strength must be a number from -4 to 4, got {str(strength)[:40]!r}.", "1 is as it was trained.")
    return float(strength)
