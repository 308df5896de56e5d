"""LoRAs of few ranks: resized, blended into one, or extracted from two checkpoints. Knows nothing about files or drawing.

dW = U S V'. A product of two thin factors is decomposed through the QR of both and the SVD of the small core between them, so
dW itself is never formed. Singular values are not clamped at a quantile as kohya's tools do. Energy is the share of the sum of
squared singular values; the Frobenius error relative to dW is sqrt(1 - energy).

A blend, the sum of c U D with c = strength x block weight x alpha / rank, is one product of the factors side by side: exact, with
the ranks added. A file cannot hold start and end: a blended LoRA acts all the time.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient, bias_change, change, parts_of
from sdlora.lora.math.blocks import Part, part_of
from sdlora.lora.math.delta import Adapter, Adapters, delta, factors, is_linear, shape_of

EXACT_SIDE = 640  # a dense matrix whose smaller side is larger gets a randomized SVD, when few ranks are wanted
OVERSAMPLE = 16
POWER_STEPS = 4
WeightOf = Callable[[str], Tensor | None]  # module path -> pristine weight
Shapes = Mapping[str, tuple[int, ...]]


def no_weights(path: str) -> None:
    """The WeightOf where there is no base: no weight is known."""


@dataclass(frozen=True)
class Limit:
    """How many ranks to keep: at most `rank`, and no more than the energy `keep` or the Frobenius error `fro` ask for."""
    rank: int | None = None
    keep: float | None = None
    fro: float | None = None

    def __post_init__(self) -> None:
        """Raise UserError for numbers that make no sense."""
        if self.rank is not None and self.rank < 1:
            raise UserError(f"The rank must be 1 or more, got {self.rank}.")
        for name, value in (("retained energy", self.keep), ("Frobenius error", self.fro)):
            if value is not None and not 0 < value <= 1:
                raise UserError(f"The {name} must be above 0 and at most 1, got {value}.", "0.98 keeps 98 percent, say.")

    @property
    def only_rank(self) -> int | None:
        """The rank, where it is the only limit."""
        return self.rank if self.keep is None and self.fro is None else None

    def ranks(self, values: Tensor, total: float) -> int:
        """Return how many singular values (descending) to keep. total: the sum of the squares of all there are."""
        kept = values.double().square().cumsum(0) / total if total else torch.ones(1)
        wanted = max(self.keep or 0.0, 1 - self.fro**2 if self.fro is not None else 0.0) or 1.0
        enough = int((kept < wanted - 1e-12).sum()) + 1
        nonzero = int((values > values[0] * 1e-12).sum()) if total else 1
        return max(1, min(enough, nonzero, self.rank or enough))


@torch.no_grad()
def resize(adapters: Adapters, limit: Limit, *, shapes: Shapes | None = None,
           weight_of: WeightOf = no_weights) -> tuple[Adapters, dict[str, float]]:
    """Return every adapter with as few ranks as `limit` allows, and {path: retained energy}.

    An adapter that has no more ranks than that is kept bit for bit, as are norms and biases. DoRA keeps its magnitudes: the
    energy is that of the direction. shapes: of the weights, where they are known; weight_of: pristine weights for kinds whose
    change depends on them (OFT, GLoRA, IA3, replacements). Raises UserError where they are missing.
    """
    made, energy = {}, {}
    for path, adapter in adapters.items():
        small = adapter.kind == "lora" and limit.only_rank is not None and adapter.rank <= limit.only_rank
        if small or adapter.kind == "full" and narrow(adapter):
            made[path], energy[path] = adapter, 1.0
        else:
            made[path], energy[path] = compress(path, adapter, limit, (shapes or {}).get(path), weight_of(path))
    return made, energy


def narrow(adapter: Adapter) -> bool:
    """Return whether an adapter changes a norm or a bias only, which have no rank."""
    return len(shape_of(adapter) or ()) < 2


def without(adapter: Adapter, *roles: str) -> Adapter:
    """Return an adapter less some of its tensors. Without "dora_scale" it is the change that a DoRA normalizes."""
    return replace(adapter, tensors={role: value for role, value in adapter.tensors.items() if role not in roles})


def compress(path: str, adapter: Adapter, limit: Limit, shape: tuple[int, ...] | None,
             weight: Tensor | None) -> tuple[Adapter, float]:
    """Return one adapter of any kind as a "lora" within `limit`, and the retained energy.

    shape: of the weight; None: as the tensors give it. Raises UserError where the change depends on a weight that is None.
    """
    bare = without(adapter, "dora_scale", "diff_b")
    if not is_linear(bare) and weight is None:
        raise UserError(f"{path} is of the kind {adapter.kind}, whose change depends on the base it is put on.",
                        "Name the base with --base.")
    shape = known_shape(bare, shape, weight)
    pair = factors(bare)
    if pair is not None:
        u, s, v = svd_of_product(*pair)
        s = s * bare.scale
        total = float(s.square().sum())
    else:
        full = delta(bare, torch.zeros(shape) if weight is None else weight.float()).flatten(1)
        u, s, v = svd_of_matrix(full, limit.only_rank)
        total = float(full.double().square().sum())
    rank = limit.ranks(s, total)
    energy = float(s[:rank].double().square().sum()) / total if total else 1.0
    root = s[:rank].sqrt()
    kept = {role: adapter.tensors[role] for role in ("dora_scale", "diff_b") if role in adapter.tensors}
    made = low_rank(u[:, :rank] * root, root[:, None] * v[:rank], shape, adapter.part)
    return replace(made, tensors=made.tensors | kept), min(energy, 1.0)


def known_shape(adapter: Adapter, shape: tuple[int, ...] | None, weight: Tensor | None) -> tuple[int, ...]:
    """Return the shape of the weight that an adapter changes: of the weight, else `shape`, else as its tensors give it."""
    found = tuple(weight.shape) if weight is not None else shape or shape_of(adapter)
    assert found is not None  # other kinds depend on the weight, and callers have refused those without it
    return found


def low_rank(up: Tensor, down: Tensor, shape: tuple[int, ...], part: Part) -> Adapter:
    """Return dW = up (out, r) @ down (r, in x k x k) as an adapter for a weight of `shape`, with alpha = rank, fp32."""
    rank = up.shape[1]
    if len(shape) == 4:
        up, down = up[:, :, None, None], down.reshape(rank, *shape[1:])
    return Adapter("lora", {"down": down.float().contiguous(), "up": up.float().contiguous()}, float(rank), rank, part)


def svd_of_product(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the SVD of up (m, R) @ down (R, n): U (m, k), S (k,), V' (k, n) with k <= R, fp64. Exact."""
    left, upper = torch.linalg.qr(up.double())
    right, lower = torch.linalg.qr(down.double().T)
    u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    return left @ u, s, v @ right.T


def svd_of_matrix(matrix: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the SVD of a dense (m, n) fp32 matrix: exact, or, for few ranks of a large one, randomized with a fixed seed.

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


@torch.no_grad()
def concat(ingredients: Sequence[Ingredient], *, shapes: Shapes | None = None, weight_of: WeightOf = no_weights) -> Adapters:
    """Return the exact sum of LoRAs, fp32, with strengths, text strengths and block weights in it; alpha is the rank everywhere.

    Low-rank changes stay low-rank (no more than the full rank), others become whole differences ("full"). shapes, weight_of: as
    in resize(); DoRA, OFT, GLoRA, IA3 and replacements are exact for the base of weight_of only.
    Raises UserError when such a kind comes without a base, or when nothing is left of the blend.
    """
    return {path: summed(path, parts, (shapes or {}).get(path), weight_of(path))
            for path, parts in blended_parts(ingredients).items()}


def svd(ingredients: Sequence[Ingredient], limit: Limit | int, *, shapes: Shapes | None = None,
        weight_of: WeightOf = no_weights) -> tuple[Adapters, dict[str, float]]:
    """Return the sum in a chosen rank, and {path: retained energy}; arguments and errors as concat()."""
    limit = Limit(rank=limit) if isinstance(limit, int) else limit
    return resize(concat(ingredients, shapes=shapes, weight_of=weight_of), limit, shapes=shapes)


def blended_parts(ingredients: Sequence[Ingredient]) -> dict[str, list[tuple[Adapter, float]]]:
    """Return {path: [(adapter, strength)]} of all modules that a blend changes. Raises UserError when there are none."""
    parts = parts_of(ingredients, sorted({path for each in ingredients for path in each.adapters}))
    if not parts:
        raise UserError("Nothing is left of this blend: every strength is 0.", "Give at least one LoRA a strength.")
    return parts


def refuse_without_base(path: str, parts: Sequence[tuple[Adapter, float]], weight: Tensor | None) -> None:
    """Raise UserError when the weight is unknown and a change depends on it."""
    if weight is None and not all(is_linear(adapter) for adapter, _ in parts):
        raise UserError(f"{path} changes in a way that depends on the base it is put on (DoRA, OFT or the like).",
                        "Name the base with --base.")


def summed(path: str, parts: Sequence[tuple[Adapter, float]], shape: tuple[int, ...] | None, weight: Tensor | None) -> Adapter:
    """Return the sum over one module: "lora" where every part has factors, else "full"."""
    part = parts[0][0].part
    if shape is None:
        shape = next(filter(None, (shape_of(adapter) for adapter, _ in parts)), None)
    shape = shape if weight is None else tuple(weight.shape)
    bias = bias_change(parts)
    extra = {} if bias is None else {"diff_b": bias}
    parts = [(adapter, strength) for adapter, strength in parts if adapter.tensors.keys() - {"diff_b"}]
    if not parts:
        return Adapter("full", extra, 0.0, 0, part)
    pairs = [(pair, strength * adapter.scale) for adapter, strength in parts if (pair := factors(adapter)) is not None]
    if shape is not None and len(shape) > 1 and len(pairs) == len(parts):
        made = side_by_side(pairs, shape, part)
        return replace(made, tensors=made.tensors | extra)
    refuse_without_base(path, parts, weight)
    pristine = torch.zeros(known_shape(parts[0][0], shape, None)) if weight is None else weight
    return Adapter("full", {"diff": change(parts, pristine)} | extra, 0.0, 0, part)


def side_by_side(pairs: Sequence[tuple[tuple[Tensor, Tensor], float]], shape: tuple[int, ...], part: Part) -> Adapter:
    """Return the sum of c U D as [sign(c) sqrt|c| U ...] @ [sqrt|c| D ...], cut to the ranks that the weight can have."""
    up = torch.cat([first * abs(c) ** 0.5 * (1 if c > 0 else -1) for (first, _), c in pairs], 1)
    down = torch.cat([second * abs(c) ** 0.5 for (_, second), c in pairs])
    if up.shape[1] > min(up.shape[0], down.shape[1]):
        u, s, v = svd_of_product(up, down)
        up, down = u * s.sqrt(), s.sqrt()[:, None] * v
    return low_rank(up, down, shape, part)


@dataclass(frozen=True)
class Extracted:
    """energy: {path: retained}; elsewhere: the share of the whole difference (squared norm) that lies in norms and biases."""
    adapters: Adapters
    energy: dict[str, float]
    elsewhere: float


@torch.no_grad()
def extract(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], modules: Collection[str], limit: Limit, *,
            whole: bool = False, progress: Callable[[int, int], object] = lambda done, of: None) -> Extracted:
    """Return tuned - base, both {"<module path>.weight" or ".bias": tensor}, as a LoRA of the `modules` within `limit`.

    One weight is in memory at a time. whole: norms and biases come along as plain differences (kohya files only).
    Raises UserError when the two do not have the same shapes or do not differ.
    """
    names = [name for name in base if name in tuned]
    adapters, energy, inside, outside = {}, {}, 0.0, 0.0
    for done, name in enumerate(names):
        progress(done, len(names))
        path, _, leaf = name.rpartition(".")
        before = base[name]  # read from the disk here, once
        moved = difference(name, before, tuned[name]) if before.is_floating_point() else None
        if moved is None:
            continue
        square = float(moved.double().square().sum())
        if leaf == "weight" and path in modules:
            adapter = Adapter("full", {"diff": moved}, 0.0, 0, part_of(path))
            made, energy[path] = compress(path, adapter, limit, tuple(moved.shape), None)
            adapters[path] = joined(made, adapters.get(path))
            inside += square
            continue
        outside += square
        if whole and leaf in ("weight", "bias") and moved.ndim == 1:
            role = {"weight": "diff", "bias": "diff_b"}[leaf]
            adapters[path] = joined(Adapter("full", {role: moved}, 0.0, 0, part_of(path)), adapters.get(path))
    if not inside and not outside:
        raise UserError("The two checkpoints do not differ in any weight.", "Choose the base and a model trained from it.")
    if not adapters:
        raise UserError("The two checkpoints differ in no weight that a LoRA can hold.", "Their VAE may differ: that is no LoRA.")
    return Extracted(adapters, energy, outside / (inside + outside))


def difference(name: str, before: Tensor, after: Tensor) -> Tensor | None:
    """Return after - before in fp32, None where they are equal. A 1x1 convolution and a linear layer are the same."""
    if before.numel() != after.numel() or before.shape[0] != after.shape[0]:
        raise UserError(f"The two checkpoints are of different kinds: {name} is {tuple(before.shape)} in one and "
                        f"{tuple(after.shape)} in the other.", "Choose two models of the same family.")
    moved = after.float().reshape(before.shape) - before.float()
    return moved if moved.any() else None


def joined(new: Adapter, old: Adapter | None) -> Adapter:
    """Return the changes of one module's weight and bias as one adapter."""
    if old is None:
        return new
    low = new if new.kind == "lora" else old
    return replace(low, tensors=old.tensors | new.tensors)
