"""The part and the block of the network that a module lies in, and block weights. Knows nothing about tensors or files.

Slots are named as in sd-webui-lora-block-weight and kohya's svd_merge_lora: BASE is the text encoders, IN00.. the way
down, MID, OUT00.. the way up, counted over resnets (with their attention) and samplers as in the original network.
The shorter layout of a family (17, 12) has only the slots with attention, the longer one (26, 20) all of them.
"""

import math
import re
from collections.abc import Mapping
from typing import Literal, cast

from sdlora.errors import UserError

LEVELS = {"sd1": (4, 2), "sd2": (4, 2), "sdxl": (3, 2), "mini": (3, 1)}  # {family: (levels, resnets on the way down)}
ATTENTION = {"sd1": "IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03 OUT04 OUT05 OUT06 OUT07 OUT08 OUT09 OUT10 OUT11",
             "sdxl": "IN04 IN05 IN07 IN08 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05",
             "mini": "IN01 IN03 IN05 MID OUT00 OUT01 OUT02 OUT03 OUT04 OUT05"}
ATTENTION["sd2"] = ATTENTION["sd1"]
DEPTH = {"sd1": (5, 7), "sd2": (5, 7), "sdxl": (6, 3), "mini": (3, 4)}  # the first deep IN slot, the first shallow OUT slot
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)(\.|$)")
MOST = 4.0
Part = Literal["unet", "te1", "te2"]


def part_of(path: str) -> Part:
    """Return the network that a module lies in, by its canonical path."""
    part, colon, _ = path.partition(":")
    return cast(Part, part) if colon else "unet"


def all_slots(family: str) -> tuple[str, ...]:
    """Return every slot of a family, in order: BASE, IN00.., MID, OUT00.. (26 for SD 1.x and 2.x, 20 for SDXL, 14 for mini)."""
    levels, resnets = LEVELS[family]
    down = [f"IN{number:02d}" for number in range(levels * (resnets + 1))]  # conv_in counts in place of the last downsampler
    up = [f"OUT{number:02d}" for number in range(levels * (resnets + 1))]
    return ("BASE", *down, "MID", *up)


SLOTS = {family: {len(slots): slots for slots in (all_slots(family), ("BASE", *ATTENTION[family].split()))} for family in LEVELS}


def block_of(path: str, family: str) -> str:
    """Return the slot of a module by its canonical path. IN00 holds all before the blocks, the last OUT all after them."""
    if ":" in path:
        return "BASE"
    if path.startswith("mid_block."):
        return "MID"
    levels, resnets = LEVELS[family]
    found = BLOCK.match(path)
    if found is None:
        return f"OUT{levels * (resnets + 1) - 1:02d}" if path.startswith(("conv_out", "conv_norm_out")) else "IN00"
    way, level, kind, index = found[1], int(found[2]), found[3], int(found[4])
    if way == "down":
        return f"IN{(resnets + 1) * (level + 1) if kind == 'downsamplers' else (resnets + 1) * level + index + 1:02d}"
    return f"OUT{(resnets + 1) * level + (resnets if kind == 'upsamplers' else index):02d}"


def presets(family: str) -> dict[str, tuple[str, ...]]:
    """Return {name: the slots with the weight 1; all others have 0} of one family. The short names are lora-block-weight's.

    "style only" and "content only" are B-LoRA's blocks in SDXL (arXiv 2403.14572); elsewhere they are a rule of thumb: the
    deep blocks carry the content, the shallow end of the way up carries the look.
    """
    slots, (first_deep, first_shallow) = all_slots(family), DEPTH[family]
    base = ("BASE",)
    shallow_in = tuple(slot for slot in slots if slot.startswith("IN") and int(slot[2:]) < first_deep)
    deep_in = tuple(slot for slot in slots if slot.startswith("IN") and int(slot[2:]) >= first_deep)
    deep_out = tuple(slot for slot in slots if slot.startswith("OUT") and int(slot[3:]) < first_shallow)
    shallow_out = tuple(slot for slot in slots if slot.startswith("OUT") and int(slot[3:]) >= first_shallow)
    middle = (*deep_in, "MID", *deep_out)
    return {"all": slots,
            "style only": ("OUT01",) if family == "sdxl" else shallow_out,
            "content only": ("OUT00",) if family == "sdxl" else middle,
            "INS": base + shallow_in, "IND": base + deep_in, "INALL": base + shallow_in + deep_in, "MIDD": base + middle,
            "OUTD": base + deep_out, "OUTS": base + shallow_out, "OUTALL": base + deep_out + shallow_out,
            "BASE": base, "NBASE": slots[1:]}


PRESETS = {name: {family: presets(family)[name] for family in LEVELS} for name in presets("mini")}


def parse(text: str, family: str) -> dict[str, float]:
    """Return {slot: weight} of a preset's name, a slot's name (that one alone) or a comma list whose length chooses the layout.

    "" gives {}: all 1. A slot that the shorter layout lacks has the weight 0 in it, as in lora-block-weight.
    Raises UserError for anything else.
    """
    text = text.strip()
    if not text:
        return {}
    known = presets(family) | {slot: (slot,) for slot in all_slots(family)}
    chosen = {name.casefold(): slots for name, slots in known.items()}.get(text.casefold())
    if chosen is not None:
        return {slot: float(slot in chosen) for slot in all_slots(family)}
    if "," not in text:
        raise UserError(f"There are no block weights named {text[:40]!r}.", f"Choose one of: {', '.join(PRESETS)}.")
    numbers = [parse_weight(part) for part in text.split(",")]
    lengths = SLOTS[family]
    if len(numbers) not in lengths:
        raise UserError(f"{len(numbers)} block weights were given, and {family} has {' or '.join(map(str, sorted(lengths)))}.",
                        f"Write them in this order: {', '.join(lengths[min(lengths)])}.")
    return dict.fromkeys(all_slots(family), 0.0) | dict(zip(lengths[len(numbers)], numbers, strict=True))


def parse_weight(text: str) -> float:
    """Return one number of a list as it was written. Raises UserError unless it is one from -4 to 4."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) <= MOST:
        raise UserError(f"A block weight must be a number from -{MOST:g} to {MOST:g}, got {text.strip()[:40]!r}.",
                        "Write numbers with commas between them, such as 1,0.5,0.")
    return number


def block_weight(blocks: Mapping[str, float], path: str, family: str) -> float:
    """Return the factor on a module's strength: 1 where `blocks` does not name its slot."""
    return blocks.get(block_of(path, family), 1.0) if blocks else 1.0
