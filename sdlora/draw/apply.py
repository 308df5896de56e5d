"""A blend of LoRAs -> the weights of a base in place, and back to the very bits it had.

Knows nothing about files or key names. Weights are always rebuilt from a kept pristine copy, never fused and unfused by
subtraction, so no rounding piles up. Parameters keep their storage: what was compiled for them stays valid.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary, proxy

import torch
from torch import Tensor

from sdlora.base.load import Base
from sdlora.draw.fit import BIAS, Matched, Met, find, meet, roots
from sdlora.draw.ready import Ready, Shelf
from sdlora.lora.math.blend import Ingredient, change, product, rounded, strength_at

CHUNK_BYTES = {"cpu": 4 * 1024**2, "cuda": 256 * 1024**2}  # of fp32 products made at once; on a CPU what its cache holds
LITTLE_BYTES = 32 * 1024**2  # of weights: up to here one thread merges them
SPARE_BYTES = 2 * 1024**3  # GPU memory left to drawing: pristine copies that would take it lie in pinned RAM
Multiplier = float | Mapping[str, float]


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
        self.base = proxy(base)  # what is kept beside a base must not keep the base
        self.shelf = Shelf(base.device)
        self.met: WeakKeyDictionary[Ready, Met] = WeakKeyDictionary()
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
            lora = self.shelf.ready(each.adapters)
            met = self.met.get(lora)
            if met is None or met.roots != roots(self.base):
                met = self.met[lora] = meet(self.base, each.name, each.adapters)
            self.keep(met.targets)
            strengths = {key: strength for key in met.targets if (strength := strength_at(each, key.removesuffix(BIAS)))}
            loaded.append((lora, strengths))
            reports.append(met.report)
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
            with torch.no_grad(), threads_for(sum(self.kept[key].parameter.nbytes for key in changed)):
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
        new = [key for key in targets if key not in self.kept or self.kept[key].parameter is not targets[key]]
        if new:
            values = [targets[key].detach() for key in new]
            nbytes = sum(value.nbytes for value in values)
            with threads_for(nbytes):
                made = copies(values) if has_room(self.base.device, nbytes) else map(pinned, values)
            for key, pristine in zip(new, made, strict=True):
                self.kept[key] = Kept(targets[key], pristine)
                self.merged.pop(key, None)  # a part of the base that was dropped and loaded again has nothing in it

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
        if groups:
            self.merge_groups(list(groups.values()), wanted)

    def merge_groups(self, groups: Sequence[Sequence[str]], wanted: Mapping[str, tuple[Part, ...]]) -> None:
        """Rebuild the weights of each group, as many at once as a chunk holds."""
        chunk = CHUNK_BYTES.get(self.base.device.type, CHUNK_BYTES["cuda"]) // 4
        sizes = [self.kept[keys[0]].parameter.numel() for keys in groups]
        scratch = torch.empty(max(chunk, *sizes), device=self.base.device)
        for size, keys in zip(sizes, groups, strict=True):
            many = max(1, chunk // size)
            for at in range(0, len(keys), many):
                some = keys[at:at + many]
                for key, change_of in zip(some, together(some, wanted[some[0]], scratch[:len(some) * size]), strict=True):
                    self.add(key, change_of)

    def add(self, key: str, change_of: Tensor) -> None:
        """parameter = round(pristine + change), the change in fp32."""
        parameter, pristine = self.kept[key]
        rounded(pristine.to(parameter.device, non_blocking=True), change_of, out=parameter)

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


@contextmanager
def threads_for(nbytes: int) -> Iterator[None]:
    """One thread for little work: waking others costs more than they bring, ten times as much on a busy machine (measured)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if nbytes < LITTLE_BYTES else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def copies(values: Sequence[Tensor]) -> Sequence[Tensor]:
    """A copy of each, allocated together where the dtypes are alike."""
    if len({value.dtype for value in values}) > 1:
        return [value.clone() for value in values]
    flat = torch.cat([value.reshape(-1) for value in values]).split([value.numel() for value in values])
    return [one.view(value.shape) for one, value in zip(flat, values, strict=True)]


def pinned(values: Tensor) -> Tensor:
    """A copy in RAM that a GPU reads at full speed."""
    return torch.empty_like(values, device="cpu", pin_memory=torch.cuda.is_available()).copy_(values)


