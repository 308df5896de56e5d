"""The best approximation of a change of weights by few ranks. Knows nothing about files, bases on disk or drawing.

dW = U S V'. A product of two thin factors is decomposed through the QR of both and the SVD of the small core between them, so
dW itself is never formed (lora-files.md 4.3). Singular values are not clamped at a quantile as kohya's tools do.

Energy is the share of the sum of squared singular values; the Frobenius error relative to dW is sqrt(1 - energy).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.math.delta import Adapter, Adapters, delta, factors, is_linear, shape_of

EXACT_SIDE = 640     # a dense matrix whose smaller side is larger gets a randomized SVD, when few ranks are wanted
OVERSAMPLE = 16
POWER_STEPS = 4
WeightOf = Callable[[str], Tensor | None]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Limit:
    """How many ranks to keep: at most `rank`, and no more than the energy `keep` or the Frobenius error `fro` ask for."""
    rank: int | None = None
    keep: float | None = None
    fro: float | None = None

    def __post_init__(self) -> None:
        """Raises UserError for numbers that make no sense."""
        if self.rank is not None and self.rank < 1:
            raise UserError(f"The rank must be 1 or more, got {self.rank}.")
        for name, value in (("retained energy", self.keep), ("Frobenius error", self.fro)):
            if value is not None and not 0 < value <= 1:
                raise UserError(f"The {name} must be above 0 and at most 1, got {value}.", "0.98 keeps 98 percent, say.")

    def ranks(self, values: Tensor, total: float) -> int:
        """How many of the singular values (descending) to keep; total: the sum of the squares of all there are."""
        kept = values.double().square().cumsum(0) / total if total else torch.ones(1)
        wanted = max(self.keep or 0.0, 1 - self.fro**2 if self.fro is not None else 0.0) or 1.0
        enough = int((kept < wanted - 1e-12).sum()) + 1
        nonzero = int((values > values[0] * 1e-12).sum()) if total else 1
        return max(1, min(enough, nonzero, self.rank or enough))


@torch.no_grad()
def resize(adapters: Adapters, limit: Limit, *, shapes: Shapes | None = None,
           weight_of: WeightOf = lambda path: None) -> tuple[Adapters, dict[str, float]]:
    """Every adapter with as few ranks as `limit` allows -> (adapters, {path: retained energy}).

    What has no more ranks than that already is kept bit for bit, as are norms and biases. DoRA keeps its magnitudes: the energy
    is that of the direction. shapes: of the weights, where they are known; weight_of: pristine weights for kinds whose change
    depends on them (OFT, GLoRA, IA3, replacements). Raises UserError where they are missing.
    """
    made, energy = {}, {}
    for path, adapter in adapters.items():
        if adapter.kind == "lora" and limit.rank and limit.keep is None and limit.fro is None and adapter.rank <= limit.rank \
                or adapter.kind == "full" and narrow(adapter):
            made[path], energy[path] = adapter, 1.0
        else:
            shape = (shapes or {}).get(path)
            made[path], energy[path] = compress(path, adapter, limit, shape, weight_of(path))
    return made, energy


def narrow(adapter: Adapter) -> bool:
    """Whether an adapter changes a norm or a bias only, which have no rank."""
    return len(shape_of(adapter) or ()) < 2


def without(adapter: Adapter, *roles: str) -> Adapter:
    """An adapter less some of its tensors: without "dora_scale" the change that a DoRA norms."""
    return replace(adapter, tensors={role: value for role, value in adapter.tensors.items() if role not in roles})


def compress(path: str, adapter: Adapter, limit: Limit, shape: tuple[int, ...] | None,
             weight: Tensor | None) -> tuple[Adapter, float]:
    """One adapter of any kind as a "lora" within `limit`, and the energy kept. shape: of the weight, None: by the tensors."""
    bare = without(adapter, "dora_scale", "diff_b")
    if not is_linear(bare) and weight is None:
        raise UserError(f"{path} is of the kind {adapter.kind}, whose change depends on the base it is put on.",
                        "Name the base with --base.")
    shape = tuple(weight.shape) if weight is not None else shape or shape_of(bare)
    pair = factors(bare)
    if pair is not None:
        u, s, v = of_product(*pair)
        s = s * bare.scale
        total = float(s.square().sum())
    else:
        change = delta(bare, torch.zeros(shape) if weight is None else weight.float()).flatten(1)
        u, s, v = of_matrix(change, limit.rank if limit.keep is None and limit.fro is None else None)
        total = float(change.double().square().sum())
    rank = limit.ranks(s, total)
    energy = float(s[:rank].double().square().sum()) / total if total else 1.0
    root = s[:rank].sqrt()
    kept = {role: adapter.tensors[role] for role in ("dora_scale", "diff_b") if role in adapter.tensors}
    made = low_rank(u[:, :rank] * root, root[:, None] * v[:rank], shape, adapter.part)
    return replace(made, tensors=made.tensors | kept), min(energy, 1.0)


def low_rank(up: Tensor, down: Tensor, shape: tuple[int, ...], part: str) -> Adapter:
    """dW = up (out, r) @ down (r, in x k x k) as an adapter for a weight of `shape`, with alpha = rank, fp32."""
    rank = up.shape[1]
    if len(shape) == 4:
        up, down = up[:, :, None, None], down.reshape(rank, *shape[1:])
    return Adapter("lora", {"down": down.float().contiguous(), "up": up.float().contiguous()}, float(rank), rank, part)


def of_product(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of up (m, R) @ down (R, n): U (m, k), S (k,), V' (k, n) with k <= R, fp64. Exact."""
    left, upper = torch.linalg.qr(up.double())
    right, lower = torch.linalg.qr(down.double().T)
    u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ u, s, v @ right.T


def of_matrix(matrix: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of a dense (m, n) fp32 matrix: exact, or where only `rank` of many values are wanted, randomized with a fixed seed.

    Randomized: Halko, Martinsson & Tropp 2011, algorithm 4.4 (subspace iteration) and 5.1.
    """
    side = min(matrix.shape)
    if rank is None or side <= EXACT_SIDE or rank + OVERSAMPLE > side // 4:
        return torch.linalg.svd(matrix, full_matrices=False)
    generator = torch.Generator(matrix.device).manual_seed(0)
    sample = torch.randn(matrix.shape[1], rank + OVERSAMPLE, generator=generator, device=matrix.device)
    basis = torch.linalg.qr(matrix @ sample).Q
    for _ in range(POWER_STEPS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    u, s, v = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ u, s, v
