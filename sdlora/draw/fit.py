"""Whether a LoRA fits a base, and which of its parameters it changes. Changes none; knows nothing about files or key names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sdlora.base.load import Base
from sdlora.errors import UserError
from sdlora.families import FAMILIES, WIDTHS
from sdlora.lora.math.delta import Adapter, Adapters, delta, shape_of

BIAS = "|bias"  # after the path of a module: its bias, not its weight


@dataclass(frozen=True)
class MatchReport:
    """How a LoRA matches the loaded parts of a base.

    modules: how many it changes; absent: paths that the base lacks; biases: paths of modules whose bias it would change, but
    which have none.
    """
    modules: int
    absent: tuple[str, ...]
    biases: tuple[str, ...] = ()


class Match(NamedTuple):
    """What one LoRA changes in the base: {path [+ BIAS]: parameter}, as long as the base has these parts."""
    targets: dict[str, Tensor]
    report: MatchReport
    model_parts: tuple[nn.Module | None, ...]


def match(base: Base, name: str, adapters: Adapters) -> Match:
    """Find what a LoRA changes in the base. Raises UserError when it matches nothing, does not fit or is of another family."""
    present = {path: module for path in adapters if (module := find_module(base, path)) is not None}
    refuse_misfit(base, name, adapters, present)
    targets: dict[str, Tensor] = {
        path: module.weight for path, module in present.items() if adapters[path].tensors.keys() - {"diff_b"}}
    biases = {path: getattr(module, "bias", None) for path, module in present.items() if "diff_b" in adapters[path].tensors}
    targets |= {path + BIAS: bias for path, bias in biases.items() if bias is not None}
    report = MatchReport(len(present), tuple(path for path in adapters if path not in present),
                         tuple(path for path, bias in biases.items() if bias is None))
    return Match(targets, report, model_parts(base))


def model_parts(base: Base) -> tuple[nn.Module | None, ...]:
    """Return the models whose modules a LoRA can change."""
    return base.unet, *base.text_encoders


def refuse_misfit(base: Base, name: str, adapters: Adapters, present: Mapping[str, nn.Linear]) -> None:
    """Raise UserError unless at least one module is present and every present one has the right shape."""
    ours = FAMILIES[base.family].title
    misfits = [path for path, module in present.items() if not fits(adapters[path], module)]
    other = WIDTHS.get(text_width(adapters) or 0) if misfits else None
    if other and other != base.family:
        raise UserError(f"{name} was made for {FAMILIES[other].title}, and {base.title} is {ours}.",
                        f"Choose a base of the {FAMILIES[other].title} family, or a LoRA made for {ours}.")
    if not present:
        raise UserError(f"{name} changes nothing in {base.title}: none of its {len(adapters)} modules is there.",
                        f"Choose a LoRA that was made for {ours}.")
    if misfits:
        raise UserError(f"{name} does not fit {base.title}: {misfits[0]} has another shape, and so have "
                        f"{len(misfits) - 1} more of its modules.", f"Choose a LoRA that was made for {ours}.")


def find_module(base: Base, path: str) -> nn.Linear | None:
    """Return the module with a weight that a canonical path names, or None. It may be a convolution or a norm as well.

    Some classes of CLIP have their layers below `text_model`, others have not: the path names it always.
    """
    part, colon, rest = path.rpartition(":")
    if not colon:
        model = base.unet
    else:
        number = int(part.removeprefix("te")) - 1
        model = base.text_encoders[number] if number < len(base.text_encoders) else None
        if model is not None and not hasattr(model, "text_model"):
            rest = rest.removeprefix("text_model.")
    try:
        module = model.get_submodule(rest) if model is not None else None
    except AttributeError:
        return None
    return cast(nn.Linear, module) if isinstance(getattr(module, "weight", None), Tensor) else None


def text_width(adapters: Adapters) -> int | None:
    """Return the width of the text states that a LoRA's cross-attention reads: it tells the family."""
    shapes = (shape_of(adapter) for path, adapter in adapters.items() if path.endswith(("attn2.to_k", "attn2.to_v")))
    return next((shape[1] for shape in shapes if shape), None)


def fits(adapter: Adapter, module: nn.Linear) -> bool:
    """Return whether the change of an adapter has the shape of the module's weight, and that of its bias."""
    tensors, weight = adapter.tensors, module.weight
    bias, own_bias = tensors.get("diff_b"), getattr(module, "bias", None)
    if bias is not None and own_bias is not None and bias.numel() != own_bias.numel():
        return False
    if adapter.kind == "lora" and tensors.keys() <= {"up", "down"}:  # nearly all adapters: without the slower check below
        up, down = tensors["up"], tensors["down"]
        return (up.shape[0], up.shape[1], down.shape[1:].numel()) == (weight.shape[0], down.shape[0], weight.shape[1:].numel())
    try:
        delta(adapter, torch.empty_like(weight, device="meta"))
    except ValueError:
        return False
    return True
