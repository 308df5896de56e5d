"""Whether a LoRA fits a base, and which of its parameters it changes. Changes none; knows nothing about files or key names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdlora.base.load import Base
from sdlora.errors import UserError
from sdlora.families import FAMILIES, WIDTHS
from sdlora.lora.math.delta import Adapter, Adapters, delta, shape_of

BIAS = "|bias"  # after the path of a module: its bias, not its weight


@dataclass(frozen=True)
class Matched:
    """How one LoRA met the base: modules changed, and the paths of those that the base has not (loaded).

    biases: modules there without a bias, of which the LoRA would change it.
    """
    modules: int
    absent: tuple[str, ...]
    biases: tuple[str, ...] = ()


class Met(NamedTuple):
    """What one LoRA changes in the base: {path [+ BIAS]: parameter}, while the base has these parts."""
    targets: dict[str, Tensor]
    report: Matched
    roots: tuple[nn.Module | None, ...]


def meet(base: Base, name: str, adapters: Adapters) -> Met:
    """Find what a LoRA changes in the base. Raises UserError when it matches nothing, does not fit or is of another family."""
    there = {path: module for path in adapters if (module := find(base, path)) is not None}
    refuse_misfit(base, name, adapters, there)
    targets = {path: module.weight for path, module in there.items() if adapters[path].tensors.keys() - {"diff_b"}}
    biases = {path: getattr(module, "bias", None) for path, module in there.items() if "diff_b" in adapters[path].tensors}
    targets |= {path + BIAS: bias for path, bias in biases.items() if bias is not None}
    report = Matched(len(there), tuple(path for path in adapters if path not in there),
                     tuple(path for path, bias in biases.items() if bias is None))
    return Met(targets, report, roots(base))


def roots(base: Base) -> tuple[nn.Module | None, ...]:
    """The parts whose modules a LoRA can change."""
    return base.unet, *base.text_encoders


def refuse_misfit(base: Base, name: str, adapters: Adapters, there: Mapping[str, nn.Module]) -> None:
    """Raises UserError unless at least one module is there and every one that is there has the right shape."""
    ours = FAMILIES[base.family].title
    misfits = [path for path, module in there.items() if not fits(adapters[path], module)]
    other = WIDTHS.get(text_width(adapters)) if misfits else None
    if other and other != base.family:
        raise UserError(f"{name} was made for {FAMILIES[other].title}, and {base.title} is {ours}.",
                        f"Choose a base of the {FAMILIES[other].title} family, or a LoRA made for {ours}.")
    if not there:
        raise UserError(f"{name} changes nothing in {base.title}: none of its {len(adapters)} modules is there.",
                        f"Choose a LoRA that was made for {ours}.")
    if misfits:
        raise UserError(f"{name} does not fit {base.title}: {misfits[0]} has another shape, and so have "
                        f"{len(misfits) - 1} more of its modules.", f"Choose a LoRA that was made for {ours}.")


def find(base: Base, path: str) -> nn.Module | None:
    """The module with a weight that a canonical path names, or None. CLIP is flat or below `text_model`, by its class."""
    part, colon, rest = path.rpartition(":")
    if not colon:
        root = base.unet
    else:
        number = int(part.removeprefix("te")) - 1
        root = base.text_encoders[number] if number < len(base.text_encoders) else None
        if root is not None and not hasattr(root, "text_model"):
            rest = rest.removeprefix("text_model.")
    try:
        module = root.get_submodule(rest) if root is not None else None
    except AttributeError:
        return None
    return module if isinstance(getattr(module, "weight", None), Tensor) else None


def text_width(adapters: Adapters) -> int | None:
    """How wide the text states are that a LoRA's cross-attention reads: tells its family."""
    shapes = (shape_of(adapter) for path, adapter in adapters.items() if path.endswith(("attn2.to_k", "attn2.to_v")))
    return next((shape[1] for shape in shapes if shape), None)


def fits(adapter: Adapter, module: nn.Module) -> bool:
    """Whether the change of an adapter has the shape of the module's weight, and that of its bias."""
    weight, bias = module.weight, adapter.tensors.get("diff_b")
    if bias is not None and isinstance(getattr(module, "bias", None), Tensor) and bias.numel() != module.bias.numel():
        return False
    tensors = adapter.tensors
    if adapter.kind == "lora" and tensors.keys() <= {"up", "down"}:  # nearly all there are: without the detour below
        up, down = tensors["up"], tensors["down"]
        return (up.shape[0], up.shape[1], down.shape[1:].numel()) == (weight.shape[0], down.shape[0], weight.shape[1:].numel())
    try:
        delta(adapter, torch.empty_like(weight, device="meta"))
    except ValueError:
        return False
    return True
