"""The exact weighted sum of LoRAs on given weights. Knows nothing about models, files or drawing.

W' = round(W + sum of strength x dW): changes are summed in fp32 in one canonical order, added to the weight in fp32 and
rounded once to the weight's own dtype. The order in which the LoRAs were chosen changes no bit.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.blocks import weight_of
from sdlora.lora.delta import Adapter, Adapters, delta

STRONGEST = 4.0


@dataclass(frozen=True, eq=False)
class Ingredient:
    """One LoRA of a blend. text_strength: None as strength; blocks: {slot: weight} as lora.blocks.parse gives them for `family`.

    A slot that `blocks` does not name acts at 1. start, end: the shares of the denoising between which it acts; whoever draws
    asks for them, the sum does not. name: what messages call it.
    """
    adapters: Adapters
    strength: float = 1.0
    text_strength: float | None = None
    blocks: Mapping[str, float] = field(default_factory=dict)
    start: float = 0.0
    end: float = 1.0
    name: str = "The LoRA"
    family: str = ""


def blend(ingredients: Sequence[Ingredient], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{path: pristine weight (out, in[, k, k])} -> {path: blended weight in the same dtype}, for the paths that change.

    Modules of a LoRA that `weights` lacks are left out: whoever chose the weights counts them. Strength 0 leaves a weight out.
    Raises UserError for a strength that is no number in -4..4, ValueError for shapes that do not fit.
    """
    blended = {}
    for path, weight in weights.items():
        parts = [(each.adapters[path], strength_at(each, path)) for each in ingredients if path in each.adapters]
        parts = [(adapter, strength) for adapter, strength in parts if strength]
        if parts:
            blended[path] = (weight.float() + change(parts, weight)).to(weight.dtype)
    return blended


def strength_at(ingredient: Ingredient, path: str) -> float:
    """Strength x block weight of one module. Raises UserError for a strength that is no number in -4..4."""
    of_text = ":" in path and ingredient.text_strength is not None
    strength = checked(ingredient.text_strength if of_text else ingredient.strength)
    return strength * weight_of(ingredient.blocks, path, ingredient.family)


@torch.no_grad()
def change(parts: Sequence[tuple[Adapter, float]], weight: Tensor) -> Tensor:
    """Sum of strength x dW over the adapters of one module, fp32 in the shape and on the device of `weight`."""
    if len(parts) > 1:
        parts = sorted(parts, key=lambda part: (digest(part[0]), part[1]))
    total = delta(parts[0][0], weight) * parts[0][1]
    for adapter, strength in parts[1:]:
        total += delta(adapter, weight) * strength
    return total


def digest(adapter: Adapter) -> bytes:
    """The content of an adapter as 32 bytes: what decides its place in a sum, wherever it came from."""
    content = hashlib.sha256(f"{adapter.kind} {adapter.alpha!r} {adapter.rank}".encode())
    for role in sorted(adapter.tensors):
        content.update(f"{role} {tuple(adapter.tensors[role].shape)}".encode())
        content.update(adapter.tensors[role].detach().float().contiguous().cpu().numpy().data)
    return content.digest()


def checked(strength: object) -> float:
    """A strength as a number. Raises UserError unless it is one in -4..4 (a bool or a text is none)."""
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not math.isfinite(strength) \
            or abs(strength) > STRONGEST:
        raise UserError(f"A strength must be a number from -4 to 4, got {str(strength)[:40]!r}.", "1 is as it was trained.")
    return float(strength)
