"""What the changes of several LoRAs have in common, module by module. Knows nothing about strengths, files, models or drawing.

Measured once, at strength 1; lora.overlap turns it into what an artist is told, for any strengths. A low-rank change is never
formed: with dW = U D all that is asked lies in the small products U1' U2 and D1 D2' of the factors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.lora.math.delta import Adapter, Adapters, delta, factors
from sdlora.lora.math.low_rank import of_matrix

DIRECTIONS = 0.9       # those directions of a change are compared that carry this share of its energy; the rest is noise
MOST_DIRECTIONS = 32   # of a change that has no factors


@dataclass(frozen=True)
class Measured:
    """By path, for n LoRAs: sizes |W| · products (n, n) of <dW_i, dW_j>, 0 where one does not act · shared (n, n), the share of
    directions that two have in common, NaN where one does not act, and without an entry for weights that are no matrices."""
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
    """LoRAs of any kinds and the pristine weights {path: (out, in[, k, k])}; modules that `weights` lacks are left out.

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
    """One adapter on its weight. A kind without factors is approximated by its leading directions, with the whole beside it."""
    pair = factors(adapter)
    if pair is None:
        whole = delta(adapter, weight)
        whole = whole.flatten(1) if whole.dim() > 1 else whole[:, None]
        u, s, v = of_matrix(whole, MOST_DIRECTIONS)
        return Change(u[:, :MOST_DIRECTIONS] * s[:MOST_DIRECTIONS], v[:MOST_DIRECTIONS], whole)
    if pair[0].shape[0] != weight.shape[0] or pair[0].shape[0] * pair[1].shape[1] != weight.numel():
        raise ValueError(f"a change does not fit the weight {tuple(weight.shape)}")
    return Change((pair[0] * adapter.scale).to(weight.device), pair[1].to(weight.device))


def grams(rows: Sequence[Tensor]) -> list[list[Tensor]]:
    """Matrices (r_i, m) -> [i][j] (r_i, r_j), the inner products of their rows, fp64."""
    joined = torch.cat(list(rows))
    ranks = [len(each) for each in rows]
    return [list(part.split(ranks, dim=1)) for part in (joined @ joined.T).double().cpu().split(ranks)]


def products(changes: Sequence[Change], left: list[list[Tensor]], right: list[list[Tensor]]) -> Tensor:
    """<dW_i, dW_j> = sum((U_i' U_j) * (D_i D_j')), (n, n) fp64; from the whole matrices where there are any."""
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
    """The share of directions that two changes have in common, (n, n): 0 as little as random ones, 1 one lies in the other.

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
    """U' U and D D', (r, r) -> A and B, (r, k), such that U A and D' B are the leading singular vectors of U D.

    With U' U = L L' and D D' = M M' the singular values of U D are those of L' M = P S Q', and A = M Q / S, B = L P / S.
    """
    (values, vectors), (values_2, vectors_2) = torch.linalg.eigh(left), torch.linalg.eigh(right)
    lower, lower_2 = vectors * values.clamp(min=0).sqrt(), vectors_2 * values_2.clamp(min=0).sqrt()
    p, s, q = torch.linalg.svd(lower.T @ lower_2)
    energy = s.square().cumsum(0)
    kept = int((energy < DIRECTIONS * energy[-1]).sum()) + 1 if s[0] else 0
    return lower_2 @ q.T[:, :kept] / s[:kept], lower @ p[:, :kept] / s[:kept]


def beyond_chance(cosines: Tensor, dimensions: int) -> float:
    """Q1' Q2 of two orthonormal bases in a space -> the share of the smaller in the larger, less that of random ones, 0..1."""
    smaller, larger = sorted(cosines.shape)
    chance = larger / dimensions
    angle = float(cosines.square().sum()) / smaller
    return min(max(0.0, (angle - chance) / (1 - chance)), 1.0) if chance < 1 else 1.0


def widened(found: Tensor, numbers: Sequence[int], count: int, absent: float) -> Tensor:
    """The matrix of those that act as one of all LoRAs."""
    whole = torch.full((count, count), absent, dtype=torch.float64)
    whole[torch.tensor(numbers)[:, None], torch.tensor(numbers)] = found
    return whole
