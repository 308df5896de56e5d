"""The one door for LoRA files: read what nobody vouches for, write what everybody reads. Knows nothing about training or drawing.

Importing it does not import torch: only the functions that return or take tensors do, inside themselves.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdlora.errors import UserError
from sdlora.lora.formats.header import Header, header
from sdlora.lora.formats.layout import opened_lora
from sdlora.lora.formats.writing import same, write
from sdlora.lora.tools.report import inspect

if TYPE_CHECKING:
    from sdlora.lora.math.delta import Adapters, Tensor

__all__ = ["Header", "LoraFile", "header", "inspect", "read", "verify", "write"]


@dataclass(frozen=True)
class LoraFile:
    """A LoRA in memory. families: the bases it can belong to; problems: sentences about what was ignored or assumed."""
    adapters: "Adapters"
    metadata: dict[str, str]
    dialect: str
    family: str
    families: tuple[str, ...]
    problems: tuple[str, ...]


def read(path: Path) -> LoraFile:
    """Read a LoRA of any spelling we know, by copy. Tensors keep the file's dtype.

    Raises UserError for hostile, damaged or foreign files, unknown kinds (by name), and NaN or infinity (naming the layer).
    """
    from sdlora.lora.formats.unpack import adapters_of

    path = Path(path)
    found, data, plan = opened_lora(path)
    adapters = adapters_of(found, data, plan.modules)
    burnt = next((module for module, adapter in adapters.items()
                  for value in adapter.tensors.values() if not finite(value)), None)
    if burnt:
        raise UserError(f"{path.name} is a burnt style: {burnt} holds values that are no numbers.",
                        "Use an earlier saved point of it, or ask its author.")
    return LoraFile(adapters, found.metadata, plan.dialect, plan.families[0] if len(plan.families) == 1 else "",
                    plan.families, plan.notes)


def finite(value: "Tensor") -> bool:
    """Whether all values are numbers. Their sum tells it in a fifth of the time, but for huge ones whose sum is none."""
    import torch

    value = value.float()
    return math.isfinite(value.sum()) or bool(torch.isfinite(value).all())


def verify(path: Path, adapters: "Adapters", unet: object | None = None) -> LoraFile:
    """Open a file just written and compare it with what was meant; with `unet`, every module must be there and fit.

    Raises UserError when anything is missing, different, not finite, or does not fit: the file is then not to be trusted.
    """
    again = read(path)
    wrong = sorted(set(again.adapters) ^ set(adapters))
    for name, adapter in adapters.items() if not wrong else ():
        fits = unet is None or adapter.part != "unet" or tuple(unet.get_submodule(name).weight.shape[:2]) == (
            adapter.tensors["up"].shape[0], adapter.tensors["down"].shape[1])
        wrong += [] if fits and same(adapter, again.adapters[name]) else [name]
    if wrong:
        raise UserError(f"{Path(path).name} was written, but read back it differs in {len(wrong)} modules ({wrong[0]}).",
                        "Check the disk, then press Stop or resume to write it again.")
    return again
