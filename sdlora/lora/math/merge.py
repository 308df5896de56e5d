"""A blend of LoRAs -> one LoRA that does the same. Knows nothing about files, models or drawing.

The sum of c U D over the ingredients, c = strength x block weight x alpha / rank, is one product of the factors side by side
(lora-files.md 4.3): exact, with the ranks added. What has no factors is summed as a whole change of the weight.
Start and end are not in a file: the merged LoRA acts all the time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient, bias_change, change, parts_of
from sdlora.lora.math.delta import Adapter, Adapters, factors, is_linear, shape_of
from sdlora.lora.math.low_rank import Limit, Shapes, WeightOf, low_rank, of_product, resize

Part = tuple[Adapter, float]


@torch.no_grad()
def concat(ingredients: Sequence[Ingredient], *, shapes: Shapes | None = None,
           weight_of: WeightOf = lambda path: None) -> Adapters:
    """The exact sum, fp32: strengths, text strengths and block weights are in it; alpha is the rank everywhere.

    Low-rank changes stay low-rank (no more than the full rank), others become whole differences ("full"). shapes, weight_of:
    as resize.resize() takes them; DoRA, OFT, GLoRA, IA3 and replacements are exact for the base of weight_of only.
    Raises UserError when such a kind comes without a base, or when nothing is left of the blend.
    """
    paths = sorted({path for each in ingredients for path in each.adapters})
    merged = {path: summed(path, parts, (shapes or {}).get(path), weight_of(path))
              for path, parts in parts_of(ingredients, dict.fromkeys(paths)).items()}
    if not merged:
        raise UserError("Nothing is left of this blend: every strength is 0.", "Give at least one LoRA a strength.")
    return merged


def svd(ingredients: Sequence[Ingredient], limit: Limit | int, *, shapes: Shapes | None = None,
        weight_of: WeightOf = lambda path: None) -> tuple[Adapters, dict[str, float]]:
    """The sum in a chosen rank -> (adapters, {path: retained energy}); arguments and errors as concat()."""
    limit = Limit(rank=limit) if isinstance(limit, int) else limit
    return resize(concat(ingredients, shapes=shapes, weight_of=weight_of), limit, shapes=shapes)


def summed(path: str, parts: Sequence[Part], shape: tuple[int, ...] | None, weight: Tensor | None) -> Adapter:
    """The sum over one module: "lora" where every part has factors, else "full"."""
    part = parts[0][0].part
    shape = tuple(weight.shape) if weight is not None else shape or next(filter(None, (shape_of(one) for one, _ in parts)), None)
    bias = bias_change(parts)
    extra = {} if bias is None else {"diff_b": bias}
    parts = [(one, strength) for one, strength in parts if one.tensors.keys() - {"diff_b"}]
    if not parts:
        return Adapter("full", extra, 0.0, 0, part)
    pairs = [(factors(one), strength * one.scale) for one, strength in parts]
    if len(shape or ()) > 1 and all(pair is not None for pair, _ in pairs):
        made = side_by_side(pairs, shape, part)
        return Adapter("lora", made.tensors | extra, made.alpha, made.rank, part)
    if weight is None and not all(is_linear(one) for one, _ in parts):
        raise UserError(f"{path} changes in a way that depends on the base it is put on (DoRA, OFT or the like).",
                        "Name the base with --base.")
    return Adapter("full", {"diff": change(parts, torch.zeros(shape) if weight is None else weight)} | extra, 0.0, 0, part)


def side_by_side(pairs: Sequence[tuple[tuple[Tensor, Tensor], float]], shape: tuple[int, ...], part: str) -> Adapter:
    """sum of c U D as [sign(c) sqrt|c| U ...] @ [sqrt|c| D ...]; a sum of more ranks than the weight has is cut to those."""
    up = torch.cat([first * abs(c) ** 0.5 * (1 if c > 0 else -1) for (first, _), c in pairs], 1)
    down = torch.cat([second * abs(c) ** 0.5 for (_, second), c in pairs])
    if up.shape[1] > min(up.shape[0], down.shape[1]):
        u, s, v = of_product(up, down)
        up, down = u * s.sqrt(), s.sqrt()[:, None] * v
    return low_rank(up, down, shape, part)
