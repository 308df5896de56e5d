"""A file's bytes and their layout -> adapters. Knows nothing about key names, families or models.

kohya's and LyCORIS' tensors are taken as they are; PEFT keeps some under other shapes or meanings.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sdlora.lora.formats.header import Header
from sdlora.lora.formats.layout import Module
from sdlora.lora.formats.writing import TORCH_NAMES
from sdlora.lora.math.delta import Adapter, Adapters

SCALED = {"full": ("diff", "diff_b"), "lokr": ("w1",), "ia3": ("weight",)}  # what carries a scale where no alpha can

OUTER = {"lora": ("up",), "loha": ("w1_a",), "lokr": ("w1", "w1_a"), "glora": ("a1", "b1")}  # a change is 0 where these are


def adapters_of(found: Header, data: bytearray, modules: Mapping[str, Module]) -> Adapters:
    """{path: Adapter} of these modules. Tensors share the private copy `data` where nothing had to be computed."""
    return {path: adapter_of(module, {role: tensor(found, data, name) for role, name in module.tensors.items()},
                             path.split(":")[0] if ":" in path else "unet") for path, module in modules.items()}


def tensor(found: Header, data: bytearray, name: str) -> Tensor:
    """One tensor of the file as torch, in the file's dtype. It shares the private copy `data`."""
    dtype, shape = found.tensors[name]
    begin, end = found.spans[name]
    kind = getattr(torch, TORCH_NAMES[dtype])
    if begin % kind.itemsize:                                  # only a hand-made file is not aligned
        return torch.frombuffer(data[begin:end], dtype=kind).reshape(shape)
    return torch.frombuffer(data, dtype=kind, offset=begin, count=(end - begin) // kind.itemsize).reshape(shape)


def adapter_of(module: Module, tensors: Mapping[str, Tensor], part: str) -> Adapter:
    """The adapter of one module. Tensors keep their dtype wherever nothing is computed from them, else they are fp32."""
    tensors = dict(tensors)
    if "magnitude" in tensors:                                 # DoRA of PEFT: (out,), or (1, out, 1, 1) for convolutions
        tensors["dora_scale"] = tensors.pop("magnitude").flatten()
    if "bias" in tensors:                                      # the bias of B, scaled as B is
        tensors["diff_b"] = tensors.pop("bias").float() * module.scale
    if "ia3_l" in tensors:                                     # PEFT multiplies by it, LyCORIS adds it to 1
        factors = tensors.pop("ia3_l")
        tensors |= {"weight": factors.float().flatten() - 1, "on_input": torch.tensor(factors.shape[0] == 1)}
    if "oft_R" in tensors:
        tensors["inputs"] = rotations(tensors.pop("oft_R").float(), module.terms)
    alpha = module.alpha
    if module.rank and not alpha:                              # a file says 0 for "the rank": a change of nothing is kept so
        tensors |= {role: tensors[role] * 0 for role in OUTER[module.kind] if role in tensors}
        alpha = float(module.rank)
    if module.factor != 1.0:
        tensors |= {role: tensors[role].float() * module.factor for role in SCALED.get(module.kind, ()) if role in tensors}
    return Adapter(module.kind, tensors, alpha, module.rank, part)


def rotations(packed: Tensor, terms: int) -> Tensor:
    """PEFT's oft_R, (n, s (s - 1) / 2): the upper triangles of skew matrices Q -> the rotations, (n, s, s).

    (1 - Q)(1 + Q)^-1 when `terms` is 0; else the series 1 + 2 Q + 2 Q^2 + ... + Q^(terms - 1) that PEFT makes by default
    (peft.tuners.oft.layer.OFTRotationModule._cayley_batch).
    """
    side = round((1 + (1 + 8 * packed.shape[1]) ** 0.5) / 2)
    rows, columns = torch.triu_indices(side, side, 1)
    skew = torch.zeros(packed.shape[0], side, side)
    skew[:, rows, columns] = packed
    skew = skew - skew.transpose(1, 2)
    one = torch.eye(side).expand_as(skew)
    if not terms:
        return torch.linalg.solve(one + skew, one - skew, left=False)
    turn, power = one.clone(), one
    last = max(terms - 1, 3) if terms > 2 else 0               # its loop gives 3 terms the series of 4
    for exponent in range(1, last + 1 if last else terms):
        power = power @ skew
        turn = turn + power * (1.0 if exponent == last else 2.0)
    return turn
