"""The interference meter: how the LoRAs of a blend get on, and at which strengths the blend would not burn.

Knows nothing about files, models or drawing. Measure the LoRAs once (lora.geometry) and ask again for every move of a slider:
that costs sums of small matrices only.

What decides whether a picture burns is the stretch: the length of sum of strength x dW / |dW|, each change in units of its own
length as it was trained (over all modules, at strength 1). One LoRA at 1 has 1, two that have nothing in common sqrt(2).
Measured by drawing with mini and looking (three styles of 60, 200 and 600 steps, alone, in twos and threes, five prompts,
strengths 0.2 to 4): up to a stretch of 1.15 nearly all that was asked for is there, at 1.25 one to three of five pictures have
lost it, from 1.45 most, from 1.8 nearly all are texture. The push relative to the weights does not tell: a style of 600 steps
holds at 0.34, one of 60 steps is lost at 0.14. Nor does the sum of the strengths: three at 0.6 hold, one at 1.5 does not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sdlora.lora.math.blend import STRONGEST, Ingredient, strength_at
from sdlora.lora.math.blocks import block_of, layout
from sdlora.lora.tools.geometry import Measured, measure

FINE = 1.0    # the stretch that suggested and balanced strengths keep to: as far as a LoRA was trained to go
BURNS = 1.25  # the stretch from which the artist is warned: the first at which some pictures were lost
NOTHING = 1e-3  # the length of a sum of changes of length 1 each that is only their rounding
ALIKE = 0.3   # the cosine worth a sentence: two styles had 0.05 to 0.15, shorter and longer trainings of one style 0.55 to 0.64


@dataclass(frozen=True)
class Row:
    """One LoRA. push: |strength x dW| / |W| over the modules it changes; strengths at which the blend is fine, or balanced."""
    name: str
    push: float
    suggested: float
    suggested_text: float | None
    balanced: float
    balanced_text: float | None


@dataclass(frozen=True)
class Pair:
    """Two LoRAs, by their numbers, at their strengths: cosine of the changes, -1..1, and the share of directions in common, 0..1.

    blocks: {slot of lora.blocks, or "all" without a family: {"cosine", "shared"}}, of those that both change.
    """
    one: int
    other: int
    cosine: float
    shared: float
    blocks: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Interference:
    """push: of all together, at the moment when it is largest; stretch: see above; blocks: {slot: push}.

    warning: a sentence where the blend is likely to burn, else ""; lines: what else is worth knowing.
    """
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    push: float
    stretch: float
    blocks: dict[str, float]
    warning: str
    lines: tuple[str, ...]

    def plain(self) -> dict[str, object]:
        """As plain JSON types."""
        return asdict(self)


def interference(ingredients: Sequence[Ingredient], weights: Mapping[str, Tensor] | None = None, *,
                 measured: Measured | None = None) -> Interference:
    """Measure how a blend gets on. weights: pristine, {path: (out, in[, k, k])}; or what geometry.measure made of them.

    LoRAs that never act at the same time (start, end) do not add up. Modules that the weights lack are left out.
    Raises UserError for a strength that is no number in -4..4, ValueError for shapes that do not fit.
    """
    measured = measured or measure([each.adapters for each in ingredients], weights)
    paths = list(measured.products)
    strengths = torch.tensor([[strength_at(each, path) for each in ingredients] for path in paths],
                             dtype=torch.float64).reshape(len(paths), len(ingredients))
    family = next((each.family for each in ingredients if each.family), "")
    groups: dict[str, list[int]] = {}
    for number, path in enumerate(paths):
        groups.setdefault(block_of(path, family) if family else "all", []).append(number)
    slots = {slot: groups[slot] for slot in (layout(family) if family else ("all",)) if slot in groups}

    plain = torch.stack([*measured.products.values()]) if paths else torch.zeros(0, len(ingredients), len(ingredients))
    acting = plain * strengths[:, :, None] * strengths[:, None]      # (paths, n, n): <s_i dW_i, s_j dW_j>
    total = acting.sum(0)
    sizes = torch.tensor([measured.sizes[path] for path in paths], dtype=torch.float64)
    moments = active(ingredients)
    own = plain.sum(0).diagonal().clamp(min=1e-30).rsqrt()
    stretch, chosen = longest(total * own[:, None] * own, moments)
    blocks = {slot: share(length(acting[numbers].sum(0), chosen), sizes[numbers]) for slot, numbers in slots.items()}
    pairs = pairs_of(ingredients, acting, measured, slots)
    warning = warn(ingredients, stretch)
    calm = min(1.0, FINE / stretch) if stretch >= BURNS else 1.0
    even = balance(total, own, moments)
    rows = tuple(row(each, share(float(total[number, number].clamp(min=0).sqrt()), sizes[plain[:, number, number] > 0]),
                     calm, even[number]) for number, each in enumerate(ingredients))
    return Interference(rows, pairs, share(length(total, chosen), sizes), stretch, blocks, warning, lines_of(ingredients, pairs))


def active(ingredients: Sequence[Ingredient]) -> list[Tensor]:
    """Which LoRAs act together, (n,) of 0 and 1, at every moment when one begins."""
    starts = sorted({each.start for each in ingredients})
    return [torch.tensor([float(each.start <= now < each.end) for each in ingredients], dtype=torch.float64) for now in starts]


def length(products: Tensor, chosen: Tensor) -> float:
    """|sum of c_i v_i| from the products (n, n) of the vectors."""
    return math.sqrt(max(0.0, float(chosen @ products @ chosen)))


def longest(products: Tensor, moments: Sequence[Tensor]) -> tuple[float, Tensor]:
    """(the largest length of any moment, the LoRAs that act then)."""
    return max(((length(products, chosen), chosen) for chosen in moments), key=lambda each: each[0],
               default=(0.0, torch.zeros(len(products), dtype=torch.float64)))


def balance(total: Tensor, own: Tensor, moments: Sequence[Tensor]) -> list[float]:
    """What to multiply each strength by so that all push equally far, and together as far as now, but no further than FINE.

    1 where they would come to nothing together: changes that cancel out, or act at no moment, have no such strengths.
    """
    lengths = total.diagonal().clamp(min=0).sqrt()
    acting = lengths > 0
    factors = torch.where(acting, 1 / lengths.clamp(min=1e-30), 1.0)
    even = total * factors[:, None] * factors
    now, then, stretch = (longest(each, moments)[0] for each in (total, even, even * own[:, None] * own))
    if then < NOTHING:
        return [1.0] * len(own)
    scale = min(now / then, FINE / stretch)
    return torch.where(acting, factors * scale, 1.0).tolist()


def share(moved: float, sizes: Tensor) -> float:
    """How long a change is beside the weights it is on."""
    whole = float(sizes.norm())
    return moved / whole if whole else 0.0


def row(each: Ingredient, push: float, calm: float, even: float) -> Row:
    """Strengths are rounded to a hundredth, those that calm a blend downwards."""
    def times(strength: float | None, factor: float) -> float | None:
        if strength is None or factor == 1:
            return strength
        lower = math.floor(abs(strength * factor) * 100 + 1e-6) / 100
        return math.copysign(min(lower, STRONGEST), strength)
    return Row(each.name, push, times(each.strength, calm), times(each.text_strength, calm), times(each.strength, even),
               times(each.text_strength, even))


def pairs_of(ingredients: Sequence[Ingredient], acting: Tensor, measured: Measured,
             slots: Mapping[str, list[int]]) -> tuple[Pair, ...]:
    """Every two LoRAs that both act, in some module, at the same time."""
    shared = [measured.shared.get(path) for path in measured.products]

    def overlap(one: int, other: int, numbers: Sequence[int]) -> dict[str, float] | None:
        sums = acting[numbers].sum(0)
        lengths = float(sums[one, one] * sums[other, other])
        common = [float(shared[number][one, other]) for number in numbers
                  if shared[number] is not None and acting[number, one, one] > 0 and acting[number, other, other] > 0]
        common = [each for each in common if not math.isnan(each)]
        return {"cosine": max(-1.0, min(1.0, float(sums[one, other]) / math.sqrt(lengths))),
                "shared": sum(common) / len(common) if common else 0.0} if lengths > 0 else None

    found = []
    for other in range(len(ingredients)):
        for one in range(other):
            together = max(ingredients[one].start, ingredients[other].start) < min(ingredients[one].end, ingredients[other].end)
            whole = overlap(one, other, range(len(shared))) if together else None
            if whole:
                blocks = {slot: overlap(one, other, numbers) for slot, numbers in slots.items()}
                found.append(Pair(one, other, **whole, blocks={slot: told for slot, told in blocks.items() if told}))
    return tuple(found)


def warn(ingredients: Sequence[Ingredient], stretch: float) -> str:
    """The sentence for a blend that is likely to burn."""
    if stretch < BURNS:
        return ""
    calm = [f"{each.name} {row(each, 0.0, FINE / stretch, 1.0).suggested:g}" for each in ingredients if each.strength]
    told = ", ".join(calm) or "half of it"
    who = "These LoRAs together change" if sum(bool(each.strength) for each in ingredients) > 1 else "This LoRA changes"
    beside = "one of them" if who.startswith("These") else "it"
    return f"{who} the model {stretch:.1f} times as much as {beside} was trained to: pictures are likely to burn. Try {told}."


def lines_of(ingredients: Sequence[Ingredient], pairs: Sequence[Pair]) -> tuple[str, ...]:
    """A sentence for every two LoRAs that help or hinder each other more than strangers do."""
    names = [each.name for each in ingredients]
    return tuple(f"{names[pair.one]} and {names[pair.other]} " +
                 (f"pull the same way ({pair.cosine:.0%}): they add up to one stronger style." if pair.cosine > 0 else
                  f"pull against each other ({-pair.cosine:.0%}): each takes back part of the other.")
                 for pair in pairs if abs(pair.cosine) >= ALIKE)
