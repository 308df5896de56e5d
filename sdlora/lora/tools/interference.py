"""The interference of LoRAs in a blend: how much they change together, and at which strengths pictures survive it.

Knows nothing about files, models or drawing. Measure the LoRAs once; interference() then answers for any strengths with sums of
small matrices. A low-rank change is never formed: with dW = U D all that is needed lies in the small products U1' U2 and D1 D2'.

Pictures are lost by stretch: the length of sum of strength x dW / |dW|, each change in units of its own length at strength 1 over
all modules. One LoRA at 1 has 1, two that have nothing in common sqrt(2). Measured with mini by looking (three styles of 60, 200
and 600 steps, alone, in twos and threes, five prompts, strengths 0.2 to 4): up to a stretch of 1.15 nearly all of the prompt is
there, at 1.25 one to three of five pictures have lost it, from 1.45 most, from 1.8 nearly all are texture. The change relative to
the weights does not predict it: a style of 600 steps holds at 0.34, one of 60 steps is lost at 0.14. Nor does the sum of the
strengths: three at 0.6 hold, one at 1.5 does not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sdlora.lora.math.blend import STRONGEST, Ingredient, strength_at
from sdlora.lora.math.blocks import all_slots, block_of
from sdlora.lora.math.delta import Adapter, Adapters, delta, factors
from sdlora.lora.math.low_rank import svd_of_matrix

FINE = 1.0  # the stretch that suggested and balanced strengths keep to: that of one LoRA as it was trained
TOO_STRONG = 1.25  # the stretch from which the artist is warned: the first at which some pictures were lost
NOTHING = 1e-3  # the length of a sum of changes of length 1 each that is only their rounding
DIRECTIONS = 0.9  # of a change, the directions are compared that carry this share of its energy; the rest is noise
MOST_DIRECTIONS = 32  # of a change that has no factors


@dataclass(frozen=True)
class Measured:
    """By path, for n LoRAs: sizes |W|; products (n, n) of <dW_i, dW_j>, 0 where one does not act; shared (n, n), the share of
    directions that two have in common, NaN where one does not act, without an entry for weights that are no matrices."""
    sizes: dict[str, float]
    products: dict[str, Tensor]
    shared: dict[str, Tensor]


@dataclass(frozen=True)
class Change:
    """dW at strength 1 as up (out, r) @ down (r, in x k x k), fp32; exactly so unless `whole`, (out, in x k x k), is given."""
    up: Tensor
    down: Tensor
    whole: Tensor | None = None


@torch.no_grad()
def measure(loras: Sequence[Adapters], weights: Mapping[str, Tensor]) -> Measured:
    """Measure LoRAs of any kinds on the pristine weights {path: (out, in[, k, k])}. Modules that `weights` lacks are left out.

    Raises ValueError for shapes that do not fit.
    """
    measured = Measured({}, {}, {})
    for path in sorted({path for adapters in loras for path in adapters} & weights.keys()):
        weight = weights[path]
        measured.sizes[path] = float(weight.float().norm())
        acting = {number: change_of(adapters[path], weight) for number, adapters in enumerate(loras) if path in adapters}
        left, right = grams([change.up.T for change in acting.values()]), grams([change.down for change in acting.values()])
        measured.products[path] = widened(products(list(acting.values()), left, right), list(acting), len(loras), 0.0)
        if weight.dim() > 1:
            common = shared(left, right, weight.shape[0], weight[0].numel())
            measured.shared[path] = widened(common, list(acting), len(loras), math.nan)
    return measured


def change_of(adapter: Adapter, weight: Tensor) -> Change:
    """Return the change of one adapter. A kind without factors is approximated by its leading directions."""
    pair = factors(adapter)
    if pair is None:
        whole = delta(adapter, weight)
        whole = whole.flatten(1) if whole.dim() > 1 else whole[:, None]
        u, s, v = svd_of_matrix(whole, MOST_DIRECTIONS)
        return Change(u[:, :MOST_DIRECTIONS] * s[:MOST_DIRECTIONS], v[:MOST_DIRECTIONS], whole)
    if pair[0].shape[0] != weight.shape[0] or pair[0].shape[0] * pair[1].shape[1] != weight.numel():
        raise ValueError(f"a change does not fit the weight {tuple(weight.shape)}")
    return Change((pair[0] * adapter.scale).to(weight.device), pair[1].to(weight.device))


def grams(rows: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return [i][j] (r_i, r_j), fp64: the inner products of the rows of matrices (r_i, m)."""
    joined = torch.cat(list(rows))
    ranks = [len(each) for each in rows]
    return [list(part.split(ranks, dim=1)) for part in (joined @ joined.T).double().cpu().split(ranks)]


def products(changes: Sequence[Change], left: list[list[Tensor]], right: list[list[Tensor]]) -> Tensor:
    """Return <dW_i, dW_j> = sum((U_i' U_j) * (D_i D_j')), (n, n) fp64; from the whole matrices where there are any."""
    found = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    for i, one in enumerate(changes):
        for j, other in enumerate(changes):
            if one.whole is not None:
                second = other.whole if other.whole is not None else other.up @ other.down
                found[i, j] = found[j, i] = (one.whole * second).sum(dtype=torch.float64)
            elif other.whole is None:
                found[i, j] = (left[i][j] * right[i][j]).sum()
    return found


def shared(left: list[list[Tensor]], right: list[list[Tensor]], outputs: int, inputs: int) -> Tensor:
    """Return the share of directions that two changes have in common, (n, n): 0 for random ones, 1 where one contains the other.

    The mean square cosine of the principal angles of their column and of their row spaces (Hu et al. 2021, LoRA, section
    7.2), each less what two random spaces of these sizes share. The spaces are those of the leading singular vectors.
    """
    count = len(left)
    outer, inner = zip(*(leading(left[i][i], right[i][i]) for i in range(count)), strict=True)
    found = torch.full((count, count), math.nan, dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            if min(outer[i].shape[1], outer[j].shape[1]):
                found[i, j] = (beyond_chance(outer[i].T @ left[i][j] @ outer[j], outputs)
                               + beyond_chance(inner[i].T @ right[i][j] @ inner[j], inputs)) / 2
    return found


def leading(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and B, (r, k), from U' U and D D', (r, r): U A and D' B are the leading singular vectors of U D.

    With U' U = L L' and D D' = M M' the singular values of U D are those of L' M = P S Q', and A = M Q / S, B = L P / S.
    """
    (values, vectors), (values_2, vectors_2) = torch.linalg.eigh(left), torch.linalg.eigh(right)
    lower, lower_2 = vectors * values.clamp(min=0).sqrt(), vectors_2 * values_2.clamp(min=0).sqrt()
    p, s, q = torch.linalg.svd(lower.T @ lower_2)
    energy = s.square().cumsum(0)
    kept = int((energy < DIRECTIONS * energy[-1]).sum()) + 1 if s[0] else 0
    return lower_2 @ q.T[:, :kept] / s[:kept], lower @ p[:, :kept] / s[:kept]


def beyond_chance(cosines: Tensor, dimensions: int) -> float:
    """Return the share of the smaller of two spaces in the larger, less that of random ones, 0..1. cosines: Q1' Q2."""
    smaller, larger = sorted(cosines.shape)
    chance = larger / dimensions
    angle = float(cosines.square().sum()) / smaller
    return min(max(0.0, (angle - chance) / (1 - chance)), 1.0) if chance < 1 else 1.0


def widened(found: Tensor, numbers: Sequence[int], count: int, absent: float) -> Tensor:
    """Return the matrix over all `count` LoRAs from that of the LoRAs `numbers`."""
    whole = torch.full((count, count), absent, dtype=torch.float64)
    whole[torch.tensor(numbers)[:, None], torch.tensor(numbers)] = found
    return whole


@dataclass(frozen=True)
class Row:
    """One LoRA. push: |strength x dW| / |W| over the modules it changes; suggested, balanced: strengths, see interference()."""
    name: str
    push: float
    suggested: float
    suggested_text: float | None
    balanced: float
    balanced_text: float | None


@dataclass(frozen=True)
class Pair:
    """Two LoRAs, by their numbers, at their strengths: cosine of the changes, -1..1, and the share of directions in common, 0..1.

    blocks: {slot of lora.math.blocks, or "all" without a family: {"cosine", "shared"}}, of those that both change.
    """
    one: int
    other: int
    cosine: float
    shared: float
    blocks: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Interference:
    """push: of all together, at the moment when it is largest; stretch: see above; blocks: {slot: push}.

    warning: whether the blend is likely to ruin pictures.
    """
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    push: float
    stretch: float
    blocks: dict[str, float]
    warning: bool

    def plain(self) -> dict[str, Any]:
        """Return it in JSON types."""
        return asdict(self)


def interference(ingredients: Sequence[Ingredient], measured: Measured) -> Interference:
    """Return how the LoRAs of a blend act together. measured: what measure() found of the same LoRAs, in the same order.

    LoRAs that never act at the same time (start, end) do not add up. suggested: strengths that bring a blend that is too strong
    down to a stretch of FINE. balanced: those at which all LoRAs change equally much, see balance().
    Raises UserError for a strength that is no number in -4..4.
    """
    paths = list(measured.products)
    strengths = torch.tensor([[strength_at(each, path) for each in ingredients] for path in paths],
                             dtype=torch.float64).reshape(len(paths), len(ingredients))
    family = next((each.family for each in ingredients if each.family), "")
    groups: dict[str, list[int]] = {}
    for number, path in enumerate(paths):
        groups.setdefault(block_of(path, family) if family else "all", []).append(number)
    slots = {slot: groups[slot] for slot in (all_slots(family) if family else ("all",)) if slot in groups}

    plain = torch.stack([*measured.products.values()]) if paths else torch.zeros(0, len(ingredients), len(ingredients))
    acting = plain * strengths[:, :, None] * strengths[:, None]      # (paths, n, n): <s_i dW_i, s_j dW_j>
    total = acting.sum(0)
    sizes = torch.tensor([measured.sizes[path] for path in paths], dtype=torch.float64)
    moments = moments_of(ingredients)
    own = plain.sum(0).diagonal().clamp(min=1e-30).rsqrt()
    stretch, chosen = longest(total * own[:, None] * own, moments)
    blocks = {slot: share(length(acting[numbers].sum(0), chosen), sizes[numbers]) for slot, numbers in slots.items()}
    pairs = pairs_of(ingredients, acting, measured, slots)
    factor = FINE / stretch if stretch >= TOO_STRONG else 1.0
    even = balance(total, own, moments)
    rows = tuple(row(each, share(float(total[number, number].clamp(min=0).sqrt()), sizes[plain[:, number, number] > 0]),
                     factor, even[number]) for number, each in enumerate(ingredients))
    return Interference(rows, pairs, share(length(total, chosen), sizes), stretch, blocks,
                        stretch >= TOO_STRONG)


def moments_of(ingredients: Sequence[Ingredient]) -> list[Tensor]:
    """Return which LoRAs act together, (n,) of 0 and 1, at every moment when one begins."""
    starts = sorted({each.start for each in ingredients})
    return [torch.tensor([float(each.start <= now < each.end) for each in ingredients], dtype=torch.float64) for now in starts]


def length(products: Tensor, chosen: Tensor) -> float:
    """Return |sum of c_i v_i| from the products (n, n) of the vectors."""
    return math.sqrt(max(0.0, float(chosen @ products @ chosen)))


def longest(products: Tensor, moments: Sequence[Tensor]) -> tuple[float, Tensor]:
    """Return (the largest length of any moment, the LoRAs that act then)."""
    return max(((length(products, chosen), chosen) for chosen in moments), key=lambda each: each[0],
               default=(0.0, torch.zeros(len(products), dtype=torch.float64)))


def balance(total: Tensor, own: Tensor, moments: Sequence[Tensor]) -> list[float]:
    """Return factors on the strengths that make all LoRAs change equally much, together as much as now but at most FINE.

    1 where no strengths do that: changes that cancel out, or act at no moment.
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
    """Return the length of a change relative to that of the weights."""
    whole = float(sizes.norm())
    return moved / whole if whole else 0.0


def row(each: Ingredient, push: float, suggested: float, balanced: float) -> Row:
    """Return the row of one LoRA. suggested, balanced: factors on its strengths."""
    text = each.text_strength
    return Row(each.name, push, scaled(each.strength, suggested), None if text is None else scaled(text, suggested),
               scaled(each.strength, balanced), None if text is None else scaled(text, balanced))


def scaled(strength: float, factor: float) -> float:
    """Return strength x factor, towards 0 to a hundredth and at most STRONGEST; unchanged for a factor of 1."""
    if factor == 1:
        return strength
    return math.copysign(min(math.floor(abs(strength * factor) * 100 + 1e-6) / 100, STRONGEST), strength)


def pairs_of(ingredients: Sequence[Ingredient], acting: Tensor, measured: Measured,
             slots: Mapping[str, list[int]]) -> tuple[Pair, ...]:
    """Return every two LoRAs that both act, in some module, at the same time."""
    shared = [measured.shared.get(path) for path in measured.products]

    def overlap(one: int, other: int, numbers: Sequence[int]) -> dict[str, float] | None:
        sums = acting[numbers].sum(0)
        lengths = float(sums[one, one] * sums[other, other])
        common = [float(found[one, other]) for number in numbers if (found := shared[number]) is not None
                  and acting[number, one, one] > 0 and acting[number, other, other] > 0]
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
                found.append(Pair(one, other, **whole, blocks={slot: each for slot, each in blocks.items() if each}))
    return tuple(found)
