"""The formula of each kind of weight change, on bare fp32 tensors. Knows nothing about adapters, strengths, files or models.

Each is that of the trainer whose files carry it (LyCORIS's modules, kohya's networks/oft.py). All of them
run on the "meta" device too, so that shapes can be checked before anything is computed or allocated.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def tucker_factors(outer: Tensor, core: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
    """(r, out), (r, s, k, k), (s, in) -> (out, r) and (r, in x k x k) whose product is the Tucker convolution."""
    return outer.T.contiguous(), torch.einsum("ij...,jm->im...", core, inner).flatten(1)


def lora_factors(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """(out, r) and (r, in x k x k) with dW = first @ second, before alpha / rank."""
    up, down = tensors["up"].flatten(1), tensors["down"]
    return tucker_factors(up.T, tensors["mid"], down.flatten(1)) if "mid" in tensors else (up, down.flatten(1))


def lora(tensors: Tensors) -> Tensor:
    """up @ down -> (out, in x k x k)."""
    up, down = lora_factors(tensors)
    return up @ down


def loha(tensors: Tensors) -> Tensor:
    """(w1_a @ w1_b) * (w2_a @ w2_b) -> (out, in x k x k). With t1 and t2 each half is a Tucker convolution."""
    first, second = (outer @ inner for outer, inner in (loha_half(tensors, 1), loha_half(tensors, 2)))
    if first.shape != second.shape:  # they would broadcast
        raise ValueError(f"the halves of a LoHa are {tuple(first.shape)} and {tuple(second.shape)}")
    return first * second


def loha_half(tensors: Tensors, half: int) -> tuple[Tensor, Tensor]:
    """(out, r) and (r, in x k x k) of the first or second half."""
    outer, inner = tensors[f"w{half}_a"], tensors[f"w{half}_b"]
    return tucker_factors(outer, tensors[f"t{half}"], inner) if f"t{half}" in tensors else (outer, inner.flatten(1))


def loha_factors(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """(out, r r) and (r r, in x k x k) with dW = first @ second: each column of one half times each of the other."""
    (outer, inner), (outer_2, inner_2) = loha_half(tensors, 1), loha_half(tensors, 2)
    return (outer[:, :, None] * outer_2[:, None]).flatten(1), (inner[:, None] * inner_2).flatten(0, 1)


def lokr(tensors: Tensors) -> Tensor:
    """kron(w1, w2) -> (out, in[, k, k]), w1 (a, b) and w2 (c, d[, k, k]) whole or from factors: out = a c, in = b d."""
    left, right = lokr_left(tensors), lokr_right(tensors)
    return torch.kron(left.reshape(*left.shape[:2], *[1] * (right.dim() - 2)), right)


def lokr_left(tensors: Tensors) -> Tensor:
    """w1, (a, b)."""
    return tensors["w1"] if "w1" in tensors else tensors["w1_a"] @ tensors["w1_b"]


def lokr_right(tensors: Tensors) -> Tensor:
    """w2, (c, d[, k, k])."""
    if "w2" in tensors:
        return tensors["w2"]
    outer, inner = lokr_right_factors(tensors)
    kernel = (tensors["t2"] if "t2" in tensors else tensors["w2_b"]).shape[2:]
    return (outer @ inner).reshape(outer.shape[0], tensors["w2_b"].shape[1], *kernel)


def lokr_right_factors(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """(c, r) and (r, d x k x k) with w2 = first @ second."""
    if "t2" in tensors:
        return tucker_factors(tensors["w2_a"], tensors["t2"], tensors["w2_b"])
    return tensors["w2_a"], tensors["w2_b"].flatten(1)


def lokr_factors(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """(out, R) and (R, in x k x k) with dW = first @ second: kron(w1, w2_a) @ kron(1, w2_b).

    R = b r, or q r when w1 has factors of rank q.
    """
    outer, inner = lokr_right_factors(tensors)
    if "w1" in tensors:
        left = tensors["w1"].flatten(1)
        return torch.kron(left, outer), torch.kron(torch.eye(left.shape[1], device=inner.device), inner)
    return torch.kron(tensors["w1_a"], outer), torch.kron(tensors["w1_b"], inner)


def full(tensors: Tensors, weight: Tensor) -> Tensor:
    """Return the difference itself, or what leads to the weight to "set"; nothing where only the bias changes."""
    if "diff" in tensors:
        return tensors["diff"]
    if "set" not in tensors:
        return torch.zeros_like(weight)
    if tensors["set"].shape[0] != weight.shape[0]:  # it would be reshaped
        raise ValueError(f"a weight of {tuple(tensors['set'].shape)} for one of {tuple(weight.shape)}")
    return tensors["set"].reshape(weight.shape) - weight


def oft(tensors: Tensors, weight: Tensor, constraint: float) -> Tensor:
    """R W - W with R an orthogonal matrix in blocks: diagonal (3-D) or a butterfly of several stages (4-D, BOFT).

    "blocks" hold the Cayley parameters of R, the older "diag" R itself. constraint: the largest norm of the parameters,
    in units of the outputs (kohya's and LyCORIS's alpha x out_dim); 0 is none. "rescale" (out, 1, ...) scales the rows of R W.
    PEFT turns the inputs, W R^T: "inputs" holds its blocks (n, s, s), or one (1, s, s) for all.
    """
    if "inputs" in tensors:
        turn, parts = tensors["inputs"], weight.flatten(1).unflatten(1, (-1, tensors["inputs"].shape[-1]))
        turn = turn.expand(parts.shape[1], -1, -1)
        return torch.einsum("onj,nij->oni", parts, turn).reshape(weight.shape) - weight
    turn = tensors["diag"] if "diag" in tensors else cayley(tensors["blocks"], constraint * weight.shape[0])
    turned = butterfly(turn, weight) if turn.dim() == 4 else \
        torch.einsum("knm,kn...->km...", turn, weight.unflatten(0, turn.shape[:2])).flatten(0, 1)
    if "rescale" in tensors:
        turned = turned * rows(tensors["rescale"], weight)
    return turned - weight


def cayley(blocks: Tensor, limit: float) -> Tensor:
    """(..., b, b) any matrices -> orthogonal ones, (1 + Q)(1 - Q)^-1 with Q = blocks - blocks^T of a norm up to `limit`."""
    skew = blocks - blocks.transpose(-1, -2)
    if limit > 0:
        skew = skew * (limit / (skew.norm() + 1e-8)).clamp(max=1)
    one = torch.eye(blocks.shape[-1], device=blocks.device)
    return (one + skew) @ torch.linalg.inv(one - skew)


def butterfly(turn: Tensor, weight: Tensor) -> Tensor:
    """Apply the stages (m, blocks, b, b) one after the other to the rows of `weight`; stage i mixes rows 2^i x b/2 apart."""
    size = turn.shape[-1]
    for stage, blocks in enumerate(turn):
        stride = 2**stage * (size // 2)
        mixed = weight.unflatten(0, (-1, 2, stride)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, size))
        mixed = torch.einsum("bij,bj...->bi...", blocks, mixed).flatten(0, 1)
        weight = mixed.unflatten(0, (-1, stride, 2)).transpose(1, 2).flatten(0, 2)
    return weight


def glora(tensors: Tensors, weight: Tensor) -> Tensor:
    """W a1 a2 + b1 b2, W (out, in[, k, k]) taken along its inputs; a1 (in, r), a2 (r, in), b1 (out, r), b2 (r, in[, k, k])."""
    a1, a2 = tensors["a1"].flatten(1), tensors["a2"].flatten(1)
    outer, inner = glora_added(tensors)
    return torch.einsum("oi...,ij,jn->on...", weight, a1, a2) + (outer @ inner).reshape(weight.shape)


def glora_added(tensors: Tensors) -> tuple[Tensor, Tensor]:
    """b1 and b2, the part that does not depend on W: (out, r) and (r, in x k x k); "bm" makes it a Tucker convolution."""
    b1, b2 = tensors["b1"].flatten(1), tensors["b2"].flatten(1)
    return tucker_factors(b1.T, tensors["bm"], b2) if "bm" in tensors else (b1, b2)


def ia3(tensors: Tensors, weight: Tensor) -> Tensor:
    """W times a number per input (on_input) or per output."""
    return weight * (columns if bool(tensors["on_input"]) else rows)(tensors["weight"], weight)


def dora(change: Tensor, magnitude: Tensor, weight: Tensor) -> Tensor:
    """W_dora - W with W_dora = magnitude x (W + change) / |W + change|, normed per output or, for a (1, in, ...), per input.

    The smallest float is added to the norms as LyCORIS does (PEFT does not): it changes nothing but rows of zeros.
    """
    changed = weight + change
    on_input = magnitude.dim() > 1 and tuple(magnitude.shape[:2]) == (1, weight.shape[1])
    axis = columns if on_input else rows
    along = [number for number in range(weight.dim()) if number != int(on_input)]
    norms = torch.linalg.vector_norm(changed, dim=along, keepdim=True) + torch.finfo(torch.float32).eps
    return axis(magnitude, weight) / norms * changed - weight


def rows(values: Tensor, weight: Tensor) -> Tensor:
    """Return one number per output, ready to multiply `weight`."""
    return values.reshape(weight.shape[0], *[1] * (weight.dim() - 1))


def columns(values: Tensor, weight: Tensor) -> Tensor:
    """Return one number per input, ready to multiply `weight`."""
    return values.reshape(1, weight.shape[1], *[1] * (weight.dim() - 2))


FORMULAS = {  # of (tensors, weight, alpha): dW before alpha / rank and DoRA, in a shape that fits or folds into the weight's
    "lora": lambda tensors, weight, alpha: lora(tensors),
    "loha": lambda tensors, weight, alpha: loha(tensors),
    "lokr": lambda tensors, weight, alpha: lokr(tensors),
    "full": lambda tensors, weight, alpha: full(tensors, weight),
    "oft": oft,
    "glora": lambda tensors, weight, alpha: glora(tensors, weight),
    "ia3": lambda tensors, weight, alpha: ia3(tensors, weight),
}
