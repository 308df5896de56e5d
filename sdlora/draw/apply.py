"""A blend of LoRAs -> the weights of a base in place, and back to the very bits it had.

Knows nothing about files or key names. Weights are always rebuilt from a kept pristine copy, never fused and unfused by
subtraction, so no rounding piles up. Parameters keep their storage: what was compiled for them stays valid.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdlora.base.catalog import FAMILIES, WIDTHS
from sdlora.base.load import Base
from sdlora.draw.ready import Ready, Shelf
from sdlora.errors import UserError
from sdlora.lora.blend import Ingredient, change, product, strength_at
from sdlora.lora.delta import Adapter, Adapters, delta, shape_of

BIAS = "|bias"  # after the path of a module: its bias, not its weight
CHUNK_BYTES = {"cpu": 4 * 1024**2, "cuda": 256 * 1024**2}  # of fp32 products made at once; on a CPU what its cache holds
SPARE_BYTES = 2 * 1024**3  # GPU memory left to drawing: pristine copies that would take it lie in pinned RAM
Multiplier = float | Mapping[str, float]


@dataclass(frozen=True)
class Matched:
    """How one LoRA met the base: modules changed, and the paths of those that the base has not (loaded).

    biases: modules there without a bias, of which the LoRA would change it.
    """
    modules: int
    absent: tuple[str, ...]
    biases: tuple[str, ...] = ()


class Kept(NamedTuple):
    """A parameter of the base and the bits it had."""
    parameter: Tensor
    pristine: Tensor


class Part(NamedTuple):
    """What one LoRA adds to one parameter."""
    lora: Ready
    strength: float


class Applied:
    """The LoRAs merged into `base` right now; nothing at first. A base takes one Applied at a time."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.shelf = Shelf(base.device)
        self.kept: dict[str, Kept] = {}                        # of every parameter touched so far, by path [+ BIAS]
        self.loaded: list[tuple[Ready, dict[str, float]]] = []  # with {path [+ BIAS]: strength}, where it is not 0
        self.merged: dict[str, tuple[Part, ...]] = {}          # what every changed parameter holds now, in canonical order

    def set(self, ingredients: Sequence[Ingredient]) -> list[Matched]:
        """Merge W = W0 + sum of strength x dW (fp32, rounded once) in place of whatever was merged before.

        Strength 0 leaves the base's bits. Raises UserError, with the base as it was before any LoRA, when a LoRA matches no
        module, does not fit or was made for another family.
        """
        try:
            reports = self.load(ingredients)
        except BaseException:
            self.clear()
            raise
        self.mix()
        return reports

    def load(self, ingredients: Sequence[Ingredient]) -> list[Matched]:
        """Check the ingredients and make them ready for mix(); the weights stay as they are. Raises UserError."""
        loaded, reports = [], []
        for each in ingredients:
            there = {path: module for path in each.adapters if (module := find(self.base, path)) is not None}
            self.refuse_misfit(each.name, each.adapters, there)
            lora = self.shelf.ready(each.adapters)
            strengths = {path: strength for path in there if (strength := strength_at(each, path))}
            biased = [path for path in lora.biases if path in there]
            without = [path for path in biased if not isinstance(getattr(there[path], "bias", None), Tensor)]
            targets = {path: there[path].weight for path in strengths if path in lora.rows or path in lora.others}
            targets |= {path + BIAS: there[path].bias for path in biased if path in strengths and path not in without}
            self.keep(targets)
            loaded.append((lora, {key: strengths[key.removesuffix(BIAS)] for key in targets}))
            reports.append(Matched(len(there), tuple(path for path in each.adapters if path not in there), tuple(without)))
        self.loaded = loaded
        self.shelf.trim(len(ingredients))
        return reports

    def mix(self, multipliers: Sequence[Multiplier] | None = None) -> None:
        """Merge what load() was given, each strength times its multiplier: one number, or {path: number} (1 where not named).

        Only what differs from the last mix is merged anew; the result is the same. None: all 1.
        """
        wanted = self.wanted(multipliers or [1.0] * len(self.loaded))
        changed = {key: parts for key, parts in wanted.items() if self.merged.get(key) != parts}
        try:
            with torch.no_grad():
                self.restore([key for key in self.merged if key not in wanted])
                self.merge(changed)
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        """Put the pristine bits back. What was loaded stays ready for another load()."""
        with torch.no_grad():
            self.restore(list(self.merged))
        self.loaded = []

    def pristine(self, path: str) -> Tensor | None:
        """The weight of a module without any LoRA; None where the base has none."""
        if path in self.kept:
            return self.kept[path].pristine
        module = find(self.base, path)
        return None if module is None else module.weight

    def keep(self, targets: Mapping[str, Tensor]) -> None:
        """Copy the parameters that were never touched: beside them, or into pinned RAM when GPU memory is short."""
        new = {key: parameter for key, parameter in targets.items() if key not in self.kept}
        near = has_room(self.base.device, sum(parameter.nbytes for parameter in new.values()))
        for key, parameter in new.items():
            self.kept[key] = Kept(parameter, parameter.detach().clone() if near else pinned(parameter.detach()))

    def wanted(self, multipliers: Sequence[Multiplier]) -> dict[str, tuple[Part, ...]]:
        """What every parameter shall hold, where that is not its pristine value; parts in canonical order."""
        found: dict[str, list[Part]] = defaultdict(list)
        for (lora, strengths), multiplier in zip(self.loaded, multipliers, strict=True):
            by_path = isinstance(multiplier, Mapping)
            for key, strength in strengths.items() if by_path or multiplier else ():
                total = strength * (multiplier.get(key.removesuffix(BIAS), 1.0) if by_path else multiplier)
                if total:
                    found[key].append(Part(lora, total))
        return {key: tuple(parts if len(parts) == 1 else sorted(parts, key=lambda part: (part.lora.digest, part.strength)))
                for key, parts in found.items()}

    def restore(self, keys: Sequence[str]) -> None:
        """The pristine bits of these parameters."""
        for key in keys:
            kept = self.kept[key]
            kept.parameter.copy_(kept.pristine)
            del self.merged[key]

    def merge(self, wanted: Mapping[str, tuple[Part, ...]]) -> None:
        """Rebuild these parameters from their pristine bits: low-rank changes of equal shape together, others one by one."""
        groups: dict[tuple, list[str]] = defaultdict(list)
        for key, parts in wanted.items():
            self.merged[key] = parts  # before the first bit changes: an interruption then finds it to restore
            if all(key in part.lora.rows for part in parts):
                groups[tuple((id(part.lora), part.lora.rows[key][0], part.strength) for part in parts)].append(key)
            else:
                self.add(key, alone(key, parts, self.kept[key].pristine.to(self.base.device)))
        chunk = CHUNK_BYTES.get(self.base.device.type, CHUNK_BYTES["cuda"]) // 4
        for keys in groups.values():
            size = self.kept[keys[0]].parameter.numel()
            many = max(1, chunk // size)
            scratch = torch.empty(min(many, len(keys)) * size, device=self.base.device)
            for at in range(0, len(keys), many):
                some = keys[at:at + many]
                for key, change_of in zip(some, together(some, wanted[some[0]], scratch[:len(some) * size]), strict=True):
                    self.add(key, change_of)

    def add(self, key: str, change_of: Tensor) -> None:
        """parameter = round(pristine + change), the change in fp32: one addition, one rounding."""
        parameter, pristine = self.kept[key]
        torch.add(pristine.to(parameter.device, non_blocking=True), change_of.view(parameter.shape), out=parameter)

    @torch.no_grad()
    def rounding_error(self) -> float:
        """How much of the merged change is lost by rounding to the base's dtype: ||what was added - what was meant|| / ||meant||.

        Far below 1 % in fp32 and fp16; a base in bf16 should not be drawn with unless this number stands beside the strengths.
        """
        meant = lost = 0.0
        for key, parts in self.merged.items():
            parameter, pristine = self.kept[key]
            change_of = alone(key, parts, pristine.to(parameter.device))
            meant += float(change_of.double().square().sum())
            lost += float((parameter.double() - pristine.to(parameter.device).double() - change_of.double()).square().sum())
        return (lost / meant) ** 0.5 if meant else 0.0

    def refuse_misfit(self, name: str, adapters: Adapters, there: Mapping[str, nn.Module]) -> None:
        """Raises UserError unless at least one module is there and every one that is there has the right shape."""
        ours = FAMILIES[self.base.family].title
        misfits = [path for path, module in there.items() if not fits(adapters[path], module)]
        other = WIDTHS.get(text_width(adapters)) if misfits else None
        if other and other != self.base.family:
            raise UserError(f"{name} was made for {FAMILIES[other].title}, and {self.base.title} is {ours}.",
                            f"Choose a base of the {FAMILIES[other].title} family, or a LoRA made for {ours}.")
        if not there:
            raise UserError(f"{name} changes nothing in {self.base.title}: none of its {len(adapters)} modules is there.",
                            f"Choose a LoRA that was made for {ours}.")
        if misfits:
            raise UserError(f"{name} does not fit {self.base.title}: {misfits[0]} has another shape, and so have "
                            f"{len(misfits) - 1} more of its modules.", f"Choose a LoRA that was made for {ours}.")


def together(keys: Sequence[str], parts: Sequence[Part], scratch: Tensor) -> Sequence[Tensor]:
    """The low-rank changes of n weights that are alike in `parts`, each (out, in x k x k) fp32, as views of `scratch`."""
    stacked = []
    for lora, strength in parts:
        stack = lora.rows[keys[0]][0]
        rows = [lora.rows[key][1] for key in keys]
        up, down = lora.stacks[stack]
        ordered = rows == list(range(rows[0], rows[0] + len(rows)))  # then they are views, and nothing is copied
        picked = slice(rows[0], rows[0] + len(rows)) if ordered else rows
        stacked.append((up[picked].to(scratch.device), down[picked].to(scratch.device), stack[2] * strength))
    out = scratch.view(len(keys), stacked[0][0].shape[1], -1)
    return product(stacked, out=out).unbind()


def alone(key: str, parts: Sequence[Part], pristine: Tensor) -> Tensor:
    """The change of one parameter of any kind, fp32 in its shape."""
    path = key.removesuffix(BIAS)
    if path == key:
        return change([(part.lora.adapters[path], part.strength) for part in parts], pristine)
    return sum(part.lora.biases[path].to(pristine.device) * part.strength for part in parts)


def has_room(device: torch.device, nbytes: int) -> bool:
    """Whether `nbytes` more may lie on the device and leave drawing its share. Elsewhere than on a GPU all memory is RAM."""
    return device.type != "cuda" or nbytes + SPARE_BYTES <= torch.cuda.mem_get_info(device)[0]


def pinned(values: Tensor) -> Tensor:
    """A copy in RAM that a GPU reads at full speed."""
    return torch.empty_like(values, device="cpu", pin_memory=torch.cuda.is_available()).copy_(values)


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
