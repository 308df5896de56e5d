"""LoRAs made ready for blending: their factors in fp32, stacked by shape. Knows nothing about bases, weights or files.

The least recently used ones are let go when all together take too much memory.
"""

from collections import OrderedDict, defaultdict
from functools import cached_property

import torch
from torch import Tensor

from sdlora.lora.math.blend import digest
from sdlora.lora.math.delta import Adapter, Adapters, bias_delta, factors

MOST_BYTES = 2 * 1024**3
Stack = tuple[Tensor, Tensor]  # up (n, out, r) and down (n, r, in x k x k), fp32
StackKey = tuple[torch.Size, torch.Size, float]  # shapes of up and down, scale


class Ready:
    """One LoRA, ready to be merged: low-rank modules in stacks of equal shape and scale, all others as they are.

    rows: {path: (key of its stack, row in it)}; others: {path: adapter}, dW of which is computed one at a time; biases:
    {path: change of the bias (out,) fp32}.
    """

    def __init__(self, adapters: Adapters, device: torch.device) -> None:
        self.adapters = adapters
        self.rows: dict[str, tuple[StackKey, int]] = {}
        self.others: dict[str, Adapter] = {}
        self.biases: dict[str, Tensor] = {}
        pairs: dict[StackKey, list[Stack]] = defaultdict(list)
        for path, adapter in adapters.items():
            pair, bias = factors(adapter), bias_delta(adapter)
            if pair is not None:
                key = pair[0].shape, pair[1].shape, adapter.scale
                self.rows[path] = key, len(pairs[key])
                pairs[key].append(pair)
            elif adapter.tensors.keys() - {"diff_b"}:
                self.others[path] = adapter
            if bias is not None:
                self.biases[path] = bias
        self.stacks: dict[StackKey, Stack] = {
            key: (torch.stack([up for up, _ in found]).to(device), torch.stack([down for _, down in found]).to(device))
            for key, found in pairs.items()}
        self.nbytes = sum(up.nbytes + down.nbytes for up, down in self.stacks.values()) + sum(
            tensor.nbytes for adapter in adapters.values() for tensor in adapter.tensors.values())

    @cached_property
    def digest(self) -> bytes:
        """What decides the place of this LoRA in a sum; made when first something is beside it."""
        return digest(self.adapters)


class Shelf:
    """The LoRAs that are ready on one device, the last used last."""

    def __init__(self, device: torch.device, most_bytes: int = MOST_BYTES) -> None:
        self.device, self.most_bytes = device, most_bytes
        self.kept: OrderedDict[int, Ready] = OrderedDict()  # by the identity of the adapters, which what is kept keeps alive

    def ready(self, adapters: Adapters) -> Ready:
        """The LoRA made ready, or as it was made ready before: the same adapters are the same LoRA."""
        if id(adapters) not in self.kept:
            self.kept[id(adapters)] = Ready(adapters, self.device)
        self.kept.move_to_end(id(adapters))
        return self.kept[id(adapters)]

    def trim(self, needed: int) -> None:
        """Let go of the least recently used LoRAs while all take too much memory, but of none of the last `needed`."""
        taken = sum(each.nbytes for each in self.kept.values())
        while len(self.kept) > needed and taken > self.most_bytes:
            taken -= self.kept.popitem(last=False)[1].nbytes
