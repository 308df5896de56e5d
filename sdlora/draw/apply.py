"""A blend of LoRAs -> the weights of a base in place, and back to the very bits it had.

Knows nothing about files or key names. Weights are always rebuilt from a kept pristine copy, never fused and unfused by
subtraction, so no rounding piles up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdlora.base.catalog import FAMILIES, WIDTHS
from sdlora.base.load import Base
from sdlora.errors import UserError
from sdlora.lora.blend import Ingredient, blend, strength_at
from sdlora.lora.delta import Adapters


@dataclass(frozen=True)
class Matched:
    """How one LoRA met the base: modules changed, and the paths of those that the base has not (loaded)."""
    modules: int
    absent: tuple[str, ...]


class Applied:
    """The LoRAs merged into `base` right now; nothing at first."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.pristine: dict[str, Tensor] = {}  # {path: the weight before any merge}, of touched modules only

    def set(self, ingredients: Sequence[Ingredient]) -> list[Matched]:
        """Merge W = W0 + sum of strength x dW (fp32, rounded once) in place of whatever was merged before.

        Strength 0 leaves the base's bits. Raises UserError, with the base as it was before any LoRA, when a LoRA matches no
        module or was made for another family.
        """
        self.clear()
        modules = {path: find(self.base, path) for each in ingredients for path in each.adapters}
        reports = []
        for each in ingredients:
            there = [path for path in each.adapters if modules[path] is not None]
            self.refuse_misfit(each.name, each.adapters, {path: modules[path].weight for path in there})
            reports.append(Matched(len(there), tuple(path for path in each.adapters if modules[path] is None)))
        touched = sorted({path for each in ingredients for path in each.adapters
                          if modules[path] is not None and strength_at(each, path)})
        try:
            with torch.no_grad():
                for path in touched:  # one at a time: never a second copy of the model in fp32
                    weight = modules[path].weight
                    self.pristine[path] = weight.detach().clone()
                    weight.copy_(blend(ingredients, {path: weight})[path])
        except BaseException:
            self.clear()
            raise
        return reports

    def clear(self) -> None:
        """Put the pristine weights back, bit for bit."""
        with torch.no_grad():
            for path, kept in self.pristine.items():
                module = find(self.base, path)
                if module is not None:  # a part may have been dropped in between
                    module.weight.copy_(kept)
        self.pristine = {}

    def refuse_misfit(self, name: str, adapters: Adapters, weights: dict[str, Tensor]) -> None:
        """Raises UserError unless at least one module is there and every one that is there has the right shape."""
        theirs = text_width(adapters)
        ours = FAMILIES[self.base.family].title
        other = WIDTHS.get(theirs)
        misfits = [path for path, weight in weights.items() if not fits(adapters[path].tensors, weight)]
        if misfits and other and other != self.base.family:
            raise UserError(f"{name} was made for {FAMILIES[other].title}, and {self.base.title} is {ours}.",
                            f"Choose a base of the {FAMILIES[other].title} family, or a LoRA made for {ours}.")
        if not weights:
            raise UserError(f"{name} changes nothing in {self.base.title}: none of its {len(adapters)} modules is there.",
                            f"Choose a LoRA that was made for {ours}.")
        if misfits:
            raise UserError(f"{name} does not fit {self.base.title}: {misfits[0]} has another shape, and so have "
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
    return next((adapter.tensors["down"].shape[1] for path, adapter in adapters.items()
                 if path.endswith(("attn2.to_k", "attn2.to_v")) and "down" in adapter.tensors), None)


def fits(tensors: dict[str, Tensor], weight: Tensor) -> bool:
    """Whether up x down has as many outputs and inputs as the weight."""
    if "up" not in tensors or "down" not in tensors:
        return True  # other kinds check their own shapes
    return tensors["up"].shape[0] == weight.shape[0] and tensors["down"].shape[1] == weight.shape[1]
