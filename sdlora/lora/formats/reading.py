"""LoRA files of strangers -> adapters in memory. Knows nothing about training or drawing.

Importing it does not import torch: the functions that handle tensors do, inside themselves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdlora.errors import UserError
from sdlora.lora.formats.header import NAN, TORCH_NAMES, Header
from sdlora.lora.formats.layout import Module, open_lora
from sdlora.lora.math.blocks import part_of

if TYPE_CHECKING:
    from sdlora.lora.math.delta import Adapter, Adapters, Tensor

SCALED = {"full": ("diff", "diff_b"), "lokr": ("w1",), "ia3": ("weight",)}  # {kind: the roles that take a scale without alpha}
OUTER = {"lora": ("up",), "loha": ("w1_a",), "lokr": ("w1", "w1_a"), "glora": ("a1", "b1")}  # a change is 0 where these are


@dataclass(frozen=True)
class LoraFile:
    """A LoRA in memory. families: those it can belong to; problems: sentences about what was ignored or assumed."""
    adapters: "Adapters"
    metadata: dict[str, str]
    dialect: str
    families: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def family(self) -> str:
        """The one family it can belong to, or "" where there are several or none."""
        return self.families[0] if len(self.families) == 1 else ""


def read(path: Path) -> LoraFile:
    """Read a LoRA of any spelling we know, by copy. Tensors keep the file's dtype.

    Raises UserError for hostile, damaged or foreign files, unknown kinds (by name), and NaN or infinity (naming the layer).
    """
    path = Path(path)
    found, data, plan = open_lora(path)
    adapters = adapters_of(found, data, plan.modules)
    for module, adapter in adapters.items():
        if not all(is_finite(value) for value in adapter.tensors.values()):
            raise UserError(f"{path.name} is broken: {NAN.format(module=module)}",
                            "Use an earlier checkpoint of it, or ask its author.")
    return LoraFile(adapters, found.metadata, plan.dialect, plan.families, plan.notes)


def is_finite(value: "Tensor") -> bool:
    """Return whether all values are finite. Their sum shows it in a fifth of the time, unless the sum itself overflows."""
    import torch

    value = value.float()
    return math.isfinite(value.sum()) or bool(torch.isfinite(value).all())


def adapters_of(found: Header, data: bytearray, modules: Mapping[str, Module]) -> "Adapters":
    """Return {path: Adapter} of these modules. Tensors share the private copy `data` where nothing had to be computed."""
    return {path: adapter_of(module, {role: tensor(found, data, name) for role, name in module.tensors.items()}, path)
            for path, module in modules.items()}


def tensor(found: Header, data: bytearray, name: str) -> "Tensor":
    """Return one tensor in the file's dtype. It shares the private copy `data`."""
    import torch

    dtype, shape = found.tensors[name]
    begin, end = found.spans[name]
    kind = getattr(torch, TORCH_NAMES[dtype])
    if begin % kind.itemsize:  # only a hand-made file is not aligned
        return torch.frombuffer(data[begin:end], dtype=kind).reshape(shape)
    return torch.frombuffer(data, dtype=kind, offset=begin, count=(end - begin) // kind.itemsize).reshape(shape)


def adapter_of(module: Module, tensors: Mapping[str, "Tensor"], path: str) -> "Adapter":
    """Return the adapter of one module, with PEFT's tensors turned into those of kohya and LyCORIS.

    Tensors keep their dtype wherever nothing is computed from them, else they are fp32.
    """
    import torch

    from sdlora.lora.math.delta import Adapter

    tensors = dict(tensors)
    if "magnitude" in tensors:  # DoRA of PEFT: (out,), or (1, out, 1, 1) for convolutions
        tensors["dora_scale"] = tensors.pop("magnitude").flatten()
    if "bias" in tensors:  # the bias of B, scaled as B is
        tensors["diff_b"] = tensors.pop("bias").float() * module.scale
    if "ia3_l" in tensors:  # PEFT multiplies by it, LyCORIS adds it to 1
        factors = tensors.pop("ia3_l")
        tensors |= {"weight": factors.float().flatten() - 1, "on_input": torch.tensor(factors.shape[0] == 1)}
    if "oft_R" in tensors:
        tensors["inputs"] = rotations(tensors.pop("oft_R").float(), module.terms)
    alpha = module.alpha
    if module.rank and not alpha:  # 0 was read as the rank unless the file scales by 0: that change of nothing is kept
        tensors |= {role: tensors[role] * 0 for role in OUTER[module.kind] if role in tensors}
        alpha = float(module.rank)
    if module.factor != 1.0:
        tensors |= {role: tensors[role].float() * module.factor for role in SCALED.get(module.kind, ()) if role in tensors}
    return Adapter(module.kind, tensors, alpha, module.rank, part_of(path))


def rotations(packed: "Tensor", terms: int) -> "Tensor":
    """Return the rotations (n, s, s) of PEFT's oft_R, (n, s (s - 1) / 2): the upper triangles of skew matrices Q.

    (1 - Q)(1 + Q)^-1 when `terms` is 0; else the series 1 + 2 Q + 2 Q^2 + ... + Q^(terms - 1) that PEFT makes by default
    (peft.tuners.oft.layer.OFTRotationModule._cayley_batch).
    """
    import torch

    side = round((1 + (1 + 8 * packed.shape[1]) ** 0.5) / 2)
    rows, columns = torch.triu_indices(side, side, 1)
    skew = torch.zeros(packed.shape[0], side, side)
    skew[:, rows, columns] = packed
    skew = skew - skew.transpose(1, 2)
    one = torch.eye(side).expand_as(skew)
    if not terms:
        return torch.linalg.solve(one + skew, one - skew, left=False)
    rotation, power = one.clone(), one
    last = max(terms - 1, 3) if terms > 2 else 0  # PEFT's loop gives 3 terms the series of 4
    for exponent in range(1, last + 1 if last else terms):
        power = power @ skew
        rotation = rotation + power * (1.0 if exponent == last else 2.0)
    return rotation
