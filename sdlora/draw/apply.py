"""A blend of LoRAs -> the weights of a base in place, and back to the very bits it had.

Knows nothing about files or key names. Weights are always rebuilt from a pristine copy, never fused and unfused by
subtraction, so rounding errors do not add up. Parameters keep their storage: what was compiled for them stays valid.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple
from weakref import WeakKeyDictionary, proxy

import torch
from cachetools import LRUCache
from torch import Tensor

from sdlora.base.load import Base
from sdlora.draw.fit import BIAS, Match, MatchReport, find_module, match, model_parts
from sdlora.lora.math.blend import Ingredient, bias_change, change, digest, product, rounded, strength_at
from sdlora.lora.math.delta import Adapters, factors

CACHE_BYTES = 2 * 1024**3  # of prepared LoRAs
CHUNK_BYTES = {"cpu": 4 * 1024**2, "cuda": 256 * 1024**2}  # of fp32 products made at once; on a CPU what its cache holds
LITTLE_BYTES = 32 * 1024**2  # of weights: up to here one thread merges them
SPARE_BYTES = 2 * 1024**3  # GPU memory left to drawing: pristine copies that would take it go to pinned RAM
Multiplier = float | Mapping[str, float]
Stack = tuple[Tensor, Tensor]  # up (n, out, r) and down (n, r, in x k x k), fp32
StackKey = tuple[torch.Size, torch.Size, float]  # shapes of up and down, scale


class PreparedLora:
    """One LoRA ready to be merged: its low-rank modules as fp32 factors in stacks of equal shape and scale.

    rows: {path: (key of its stack, row in it)}.
    """

    def __init__(self, adapters: Adapters, device: torch.device) -> None:
        self.adapters = adapters
        self.rows: dict[str, tuple[StackKey, int]] = {}
        pairs: dict[StackKey, list[Stack]] = defaultdict(list)
        for path, adapter in adapters.items():
            if (pair := factors(adapter)) is not None:
                key = pair[0].shape, pair[1].shape, adapter.scale
                self.rows[path] = key, len(pairs[key])
                pairs[key].append(pair)
        self.stacks: dict[StackKey, Stack] = {
            key: (torch.stack([up for up, _ in found]).to(device), torch.stack([down for _, down in found]).to(device))
            for key, found in pairs.items()}
        self.nbytes = sum(up.nbytes + down.nbytes for up, down in self.stacks.values()) + sum(
            tensor.nbytes for adapter in adapters.values() for tensor in adapter.tensors.values())

    @cached_property
    def digest(self) -> bytes:
        """The hash that orders LoRAs in a sum; computed only for a LoRA that is blended with another."""
        return digest(self.adapters)


class LoraCache:
    """The LoRAs prepared for one device; the least recently used are dropped when all together take too much memory."""

    def __init__(self, device: torch.device, max_bytes: int = CACHE_BYTES) -> None:
        self.device, self.max_bytes = device, max_bytes
        # by the id of the adapters, which stay alive as long as their entry
        self.loras: LRUCache[int, PreparedLora] = LRUCache(math.inf, getsizeof=lambda lora: lora.nbytes)

    def prepared(self, adapters: Adapters) -> PreparedLora:
        """Return the prepared LoRA of these adapters, the same one as long as it is cached."""
        lora = self.loras.get(id(adapters))
        if lora is None:
            lora = self.loras[id(adapters)] = PreparedLora(adapters, self.device)
        return lora

    def trim(self, needed: int) -> None:
        """Drop the least recently used LoRAs while all take too much memory, but none of the last `needed`."""
        while len(self.loras) > needed and self.loras.currsize > self.max_bytes:
            self.loras.popitem()


class Original(NamedTuple):
    """A parameter of the base and the bits it had."""
    parameter: Tensor
    pristine: Tensor


class Part(NamedTuple):
    """What one LoRA adds to one parameter."""
    lora: PreparedLora
    strength: float


class Applied:
    """The LoRAs merged into `base` right now; nothing at first. A base takes one Applied at a time."""

    def __init__(self, base: Base) -> None:
        self.base = proxy(base)  # an Applied that is cached beside its base must not keep the base alive
        self.cache = LoraCache(base.device)
        self.matches: WeakKeyDictionary[PreparedLora, Match] = WeakKeyDictionary()
        self.originals: dict[str, Original] = {}  # of every parameter touched so far, by path [+ BIAS]
        self.loaded: list[tuple[PreparedLora, dict[str, float]]] = []  # with {path [+ BIAS]: strength}, where it is not 0
        self.merged: dict[str, tuple[Part, ...]] = {}  # what every changed parameter holds now, in canonical order

    def set(self, ingredients: Sequence[Ingredient]) -> list[MatchReport]:
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

    def load(self, ingredients: Sequence[Ingredient]) -> list[MatchReport]:
        """Check the ingredients and prepare them for mix(); the weights stay as they are. Raises UserError."""
        loaded, reports = [], []
        for each in ingredients:
            lora = self.cache.prepared(each.adapters)
            found = self.matches.get(lora)
            if found is None or found.model_parts != model_parts(self.base):
                found = self.matches[lora] = match(self.base, each.name, each.adapters)
            self.save_originals(found.targets)
            strengths = {key: strength for key in found.targets if (strength := strength_at(each, key.removesuffix(BIAS)))}
            loaded.append((lora, strengths))
            reports.append(found.report)
        self.loaded = loaded
        self.cache.trim(len(ingredients))
        return reports

    def mix(self, multipliers: Sequence[Multiplier] | None = None) -> None:
        """Merge what load() was given, each strength times its multiplier: one number, or {path: number} (1 where not named).

        Only what differs from the last mix is merged again; the result is the same. None: all 1.
        """
        parts_of = self.parts_by_parameter(multipliers or [1.0] * len(self.loaded))
        changed = {key: parts for key, parts in parts_of.items() if self.merged.get(key) != parts}
        try:
            with torch.no_grad(), threads_for(sum(self.originals[key].parameter.nbytes for key in changed)):
                self.restore([key for key in self.merged if key not in parts_of])
                self.merge(changed)
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        """Put the pristine bits back. Prepared LoRAs stay cached for another load()."""
        with torch.no_grad():
            self.restore(list(self.merged))
        self.loaded = []

    def pristine(self, path: str) -> Tensor | None:
        """Return the weight of a module without any LoRA; None where the base has none."""
        if path in self.originals:
            return self.originals[path].pristine
        module = find_module(self.base, path)
        return None if module is None else module.weight

    def save_originals(self, targets: Mapping[str, Tensor]) -> None:
        """Copy the parameters that were never touched: beside them, or into pinned RAM when GPU memory is short."""
        new = [key for key in targets if key not in self.originals or self.originals[key].parameter is not targets[key]]
        if new:
            values = [targets[key].detach() for key in new]
            nbytes = sum(value.nbytes for value in values)
            with threads_for(nbytes):
                made = copies(values) if has_room(self.base.device, nbytes) else map(pinned, values)
            for key, pristine in zip(new, made, strict=True):
                self.originals[key] = Original(targets[key], pristine)
                self.merged.pop(key, None)  # a part of the base that was dropped and loaded again has nothing in it

    def parts_by_parameter(self, multipliers: Sequence[Multiplier]) -> dict[str, tuple[Part, ...]]:
        """Return what each parameter is to hold, where that is not its pristine value; parts in canonical order."""
        found: dict[str, list[Part]] = defaultdict(list)
        for (lora, strengths), multiplier in zip(self.loaded, multipliers, strict=True):
            for key, strength in strengths.items() if multiplier or isinstance(multiplier, Mapping) else ():
                factor = multiplier.get(key.removesuffix(BIAS), 1.0) if isinstance(multiplier, Mapping) else multiplier
                if total := strength * factor:
                    found[key].append(Part(lora, total))
        return {key: tuple(parts if len(parts) == 1 else sorted(parts, key=lambda part: (part.lora.digest, part.strength)))
                for key, parts in found.items()}

    def restore(self, keys: Sequence[str]) -> None:
        """Put the pristine bits of these parameters back."""
        for key in keys:
            parameter, pristine = self.originals[key]
            parameter.copy_(pristine)
            del self.merged[key]

    def merge(self, changed: Mapping[str, tuple[Part, ...]]) -> None:
        """Rebuild these parameters from their pristine bits: low-rank changes of equal shape together, others one by one."""
        groups: dict[tuple, list[str]] = defaultdict(list)
        for key, parts in changed.items():
            self.merged[key] = parts  # before the first bit changes: an interruption then finds it to restore
            if all(key in part.lora.rows for part in parts):
                groups[tuple((id(part.lora), part.lora.rows[key][0], part.strength) for part in parts)].append(key)
            else:
                self.add(key, parameter_change(key, parts, self.originals[key].pristine.to(self.base.device)))
        if groups:
            self.merge_groups(list(groups.values()), changed)

    def merge_groups(self, groups: Sequence[Sequence[str]], parts_of: Mapping[str, tuple[Part, ...]]) -> None:
        """Rebuild the weights of each group, as many at once as a chunk holds."""
        chunk = CHUNK_BYTES.get(self.base.device.type, CHUNK_BYTES["cuda"]) // 4
        sizes = [self.originals[keys[0]].parameter.numel() for keys in groups]
        scratch = torch.empty(max(chunk, *sizes), device=self.base.device)
        for size, keys in zip(sizes, groups, strict=True):
            batch = max(1, chunk // size)
            for start in range(0, len(keys), batch):
                some = keys[start:start + batch]
                changes = low_rank_changes(some, parts_of[some[0]], scratch[:len(some) * size])
                for key, change_of in zip(some, changes, strict=True):
                    self.add(key, change_of)

    def add(self, key: str, change_of: Tensor) -> None:
        """Set parameter = round(pristine + change), the change in fp32."""
        parameter, pristine = self.originals[key]
        rounded(pristine.to(parameter.device, non_blocking=True), change_of, out=parameter)

    @torch.no_grad()
    def rounding_error(self) -> float:
        """Return the share of the merged change that rounding to the base's dtype loses: ||added - dW|| / ||dW||.

        Far below 1 % in fp32 and fp16; a base in bf16 should not be drawn with unless this number stands beside the strengths.
        """
        whole = lost = 0.0
        for key, parts in self.merged.items():
            parameter, pristine = self.originals[key]
            change_of = parameter_change(key, parts, pristine.to(parameter.device))
            whole += float(change_of.double().square().sum())
            lost += float((parameter.double() - pristine.to(parameter.device).double() - change_of.double()).square().sum())
        return (lost / whole) ** 0.5 if whole else 0.0


def low_rank_changes(keys: Sequence[str], parts: Sequence[Part], scratch: Tensor) -> Sequence[Tensor]:
    """Return the changes of n weights whose parts are alike, each (out, in x k x k) fp32, as views of `scratch`."""
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


def parameter_change(key: str, parts: Sequence[Part], pristine: Tensor) -> Tensor:
    """Return the change of one parameter of any kind, fp32 in its shape."""
    path = key.removesuffix(BIAS)
    if path == key:
        return change([(part.lora.adapters[path], part.strength) for part in parts], pristine)
    bias = bias_change([(part.lora.adapters[path], part.strength) for part in parts])
    assert bias is not None
    return bias.to(pristine.device)


def has_room(device: torch.device, nbytes: int) -> bool:
    """Return whether `nbytes` more fit on the device and leave drawing its share. Always on others than GPUs."""
    return device.type != "cuda" or nbytes + SPARE_BYTES <= torch.cuda.mem_get_info(device)[0]


@contextmanager
def threads_for(nbytes: int) -> Iterator[None]:
    """Use one thread for little work: waking others costs more than they bring, ten times as much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if nbytes < LITTLE_BYTES else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def copies(values: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return a copy of each, allocated together where the dtypes are alike."""
    if len({value.dtype for value in values}) > 1:
        return [value.clone() for value in values]
    flat = torch.cat([value.reshape(-1) for value in values]).split([value.numel() for value in values])
    return [one.view(value.shape) for one, value in zip(flat, values, strict=True)]


def pinned(values: Tensor) -> Tensor:
    """Return a copy in RAM that a GPU reads at full speed."""
    return torch.empty_like(values, device="cpu", pin_memory=torch.cuda.is_available()).copy_(values)
