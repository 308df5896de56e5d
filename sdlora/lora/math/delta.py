"""dW, the change of one weight by one adapter of any kind. Knows nothing about files, key names or models.

A LoRA in memory is `Adapters`: {module path in diffusers names: Adapter}. UNet paths are bare
("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"), those of the text encoders begin with "te1:" or "te2:".

dW is always that at strength 1 on the PRISTINE weight, and every strength multiplies it: with DoRA too, W + m (W_dora - W).
So a blend is a sum, and the order of its LoRAs never matters. (Trainers that nest one DoRA in another get another result.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.lora.formats.kinds import Kind
from sdlora.lora.math import formulas
from sdlora.lora.math.blocks import Part


@dataclass(frozen=True)
class Adapter:
    """The change of one module, computed by formulas.py. The tensors keep the dtype of their file.

    Roles by kind ([k, k] only for convolutions):
    lora: dW = alpha / rank x up @ down, "down" (r, in[, k, k]), "up" (out, r[, 1, 1]); Tucker: + "mid" (r, r, k, k),
    and "down" (r, in, 1, 1). loha: "w1_a" "w1_b" "w2_a" "w2_b" ["t1" "t2"]. lokr: "w1" or "w1_a" "w1_b", and "w2" or
    "w2_a" "w2_b" ["t2"]. oft: "blocks" (3-D; 4-D is BOFT) or "diag", ["rescale"], or "inputs"; alpha limits the norm, 0 does
    not. glora: "a1" "a2" "b1" "b2" ["bm"]. full: "diff", or "set" (the weight itself); neither where only the bias changes.
    ia3: "weight" "on_input".
    Any kind: "dora_scale" makes it DoRA: (out,) or (out, 1, ...) per output, (1, in, ...) per input (PEFT writes (1, out, 1, 1)
    for convolutions: readers flatten that); "diff_b" is the change of the module's bias.
    rank: the inner size of the factors, 0 where the kind has none; alpha then counts for nothing, but in oft.
    """
    kind: Kind
    tensors: dict[str, Tensor]
    alpha: float
    rank: int
    part: Part

    @property
    def scale(self) -> float:
        """alpha / rank; 1 for kinds without rank, and for a LoKr both halves of which are whole."""
        if self.kind in ("lora", "loha", "glora") or "w1_a" in self.tensors or "w2_a" in self.tensors:
            return self.alpha / self.rank
        return 1.0


Adapters = dict[str, Adapter]
Dtype = torch.dtype
MISFIT = (RuntimeError, IndexError, ValueError, KeyError)  # of torch for shapes that do not fit, of a dict for a lacking role


def delta(adapter: Adapter, weight: Tensor) -> Tensor:
    """Return dW of `adapter` on the pristine `weight`: fp32, in its shape, on its device, at strength 1.

    Raises ValueError when the shapes do not fit each other or the weight; nothing large is computed before that is known.
    """
    if adapter.kind != "lora" or "dora_scale" in adapter.tensors:
        try:
            on_weight(adapter, torch.empty_like(weight, device="meta", dtype=torch.float32))
        except MISFIT as error:
            raise misfit(adapter, weight) from error
        return on_weight(adapter, weight.float())
    try:
        up, down = formulas.lora_factors({role: tensor.float() for role, tensor in adapter.tensors.items()})
    except MISFIT as error:
        raise misfit(adapter, weight) from error
    if up.shape[0] != weight.shape[0] or up.shape[0] * down.shape[1] != weight.numel() or up.shape[1] != down.shape[0]:
        raise misfit(adapter, weight)
    return (adapter.scale * (up.to(weight.device) @ down.to(weight.device))).reshape(weight.shape)


def bias_delta(adapter: Adapter) -> Tensor | None:
    """Return the change of the module's bias at strength 1, (out,) fp32; None where it does not change."""
    bias = adapter.tensors.get("diff_b")
    return None if bias is None else bias.float().flatten()


def is_linear(adapter: Adapter) -> bool:
    """Return whether dW is the same on every weight. DoRA, OFT, GLoRA, IA3 and replacements depend on the base."""
    return adapter.kind in ("lora", "loha", "lokr", "full") and not adapter.tensors.keys() & {"dora_scale", "set"}


def factors(adapter: Adapter) -> tuple[Tensor, Tensor] | None:
    """Return (out, R) and (R, in x k x k) fp32: dW.flatten(1) = adapter.scale x first @ second; a Tucker core is in the second.

    For "lora", and for a LoHa or a LoKr of which this is below the full rank; None for all else.
    """
    if not is_linear(adapter):
        return None
    tensors = {role: tensor.float() for role, tensor in adapter.tensors.items()}
    if adapter.kind == "lora":
        return formulas.lora_factors(tensors)
    if adapter.kind == "loha" and adapter.rank ** 2 < min(tensors["w1_a"].shape[0], tensors["w1_b"].shape[1]):
        return formulas.loha_factors(tensors)
    if adapter.kind == "lokr" and "w2_a" in tensors:
        up, down = formulas.lokr_factors(placed(adapter.tensors, "meta"))  # few numbers may make factors of any size
        return formulas.lokr_factors(tensors) if up.shape[1] < min(up.shape[0], down.shape[1]) else None
    return None


def norm(adapter: Adapter, weight: Tensor | None = None) -> float:
    """Return the Frobenius norm of dW; for low-rank kinds without forming it: ||BA||^2 = sum((B'B) * (AA')).

    weight: the pristine weight, for kinds that depend on it. Raises ValueError where it is needed and missing.
    """
    if not is_linear(adapter):
        if weight is None:
            raise ValueError("the size of this kind of change depends on the weight")
        return float(delta(adapter, weight).double().norm())
    tensors = {role: tensor.double() for role, tensor in adapter.tensors.items()}
    pair = factors(adapter)
    if adapter.kind == "lokr":
        size = formulas.lokr_left(tensors).norm() * formulas.lokr_right(tensors).norm()
    elif pair is not None:
        up, down = (factor.double() for factor in pair)
        size = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt()
    else:
        size = formulas.loha(tensors).norm() if adapter.kind == "loha" else tensors.get("diff", torch.zeros(1)).norm()
    return abs(adapter.scale) * float(size)


def product_norm(up: Tensor, down: Tensor) -> float:
    """Return the Frobenius norm of up (m, R) @ down (R, n) without forming it, by two QRs, fp64: exact for small ones too."""
    return float((torch.linalg.qr(up.double(), mode="r").R @ torch.linalg.qr(down.double().T, mode="r").R.T).norm())


def shape_of(adapter: Adapter) -> tuple[int, ...] | None:
    """Return the shape of the weight an adapter changes, by its tensors alone; None where they leave it open (oft, ia3, a bias).

    The kernel of a convolution may be folded into its inputs, (out, in x k x k), where the kind keeps it so (loha, lokr,
    glora). Raises ValueError for tensors that do not fit each other. Computes nothing.
    """
    tensors = placed(adapter.tensors, "meta")
    try:
        if adapter.kind == "lora":
            up, down = formulas.lora_factors(tensors)
            kernel = tensors.get("mid", tensors["down"]).shape[2:]
            return (up @ down).shape[0], tensors["down"].shape[1], *kernel
        if adapter.kind in ("loha", "lokr"):
            return tuple((formulas.loha if adapter.kind == "loha" else formulas.lokr)(tensors).shape)
        if adapter.kind == "glora":
            outer, inner = formulas.glora_added(tensors)
            return tuple((outer @ inner).shape)
    except MISFIT as error:
        raise misfit(adapter) from error
    given = tensors.get("diff", tensors.get("set"))
    return None if given is None else tuple(given.shape)


def placed(tensors: formulas.Tensors, device: torch.device | str) -> dict[str, Tensor]:
    """Return the tensors in fp32 on a device; the flag of an IA3 keeps its value even on "meta"."""
    return {role: tensor if role == "on_input" else tensor.to(device).float() for role, tensor in tensors.items()}


def on_weight(adapter: Adapter, weight: Tensor) -> Tensor:
    """Return dW of any kind for a weight in fp32, by the formula of its kind. Raises one of MISFIT when the shapes do not fit."""
    tensors = placed(adapter.tensors, weight.device)
    change = formulas.FORMULAS[adapter.kind](tensors, weight, adapter.alpha)
    if change.shape[0] != weight.shape[0]:
        raise misfit(adapter, weight)
    change = (change if adapter.scale == 1 else change * adapter.scale).reshape(weight.shape)
    return formulas.dora(change, tensors["dora_scale"], weight) if "dora_scale" in tensors else change


def misfit(adapter: Adapter, weight: Tensor | None = None) -> ValueError:
    """Return the error for tensors that do not fit each other or the weight."""
    shapes = ", ".join(f"{role} {' x '.join(map(str, tensor.shape)) or 'one number'}" for role, tensor in adapter.tensors.items())
    return ValueError(f"the {adapter.kind} has {shapes}" + (f", the weight {tuple(weight.shape)}" if weight is not None else ""))
