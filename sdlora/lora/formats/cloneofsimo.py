"""The numbered LoRA files of 2022-23 (cloneofsimo): tensors have numbers instead of names, and their order says the module.

"unet:{i}:up", "unet:{i}:down", "text_encoder:{i}:up|down", in the order in which modules were registered in 2022. No network of
today has it, so it is written down here as a table. Knows nothing about torch.
"""

import json
import re
from collections.abc import Iterable, Mapping

from sdlora.errors import UserError
from sdlora.lora.formats.dialects import FileNames
from sdlora.lora.formats.header import Header
from sdlora.lora.formats.kinds import Weight, fits
from sdlora.lora.formats.module_tables import Table, family_table

DIALECT = "cloneofsimo"
FAMILIES = ("sd1", "sd2")  # that could be trained then
NAME = re.compile(r"(unet|text_encoder):(\d{1,4}):(up|down)")
BLOCKS = (*(f"down_blocks.{i}.attentions.{j}" for i in range(3) for j in range(2)),
          *(f"up_blocks.{i}.attentions.{j}" for i in range(1, 4) for j in range(3)), "mid_block.attentions.0")
ORDERS = (("attn1", "ff", "attn2"), ("attn1", "attn2", "ff"))  # of diffusers up to 0.14, and of those since
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")  # the order of CLIPAttention in transformers
CONVERT = "Convert it where it was made."


def is_numbered(names: Iterable[str]) -> bool:
    """Return whether a file has numbered tensors."""
    return any(NAME.fullmatch(name) for name in names)


def parse_numbered(name: str, found: Header) -> FileNames:
    """Return the names of the numbered file `name`, in that one of ORDERS whose widths it has. Raises UserError."""
    try:
        orders = [numbered_modules(found, order) for order in ORDERS]
    except ValueError as error:
        raise UserError(f"{name} is an old positional LoRA (cloneofsimo) that cannot be read: {error}.", CONVERT) from error
    modules = max(orders, key=lambda each: fitting_widths(found, each))
    names = FileNames(DIALECT, "cloneofsimo (positional)", unknown=[key for key in found.tensors if key not in modules])
    for key, (path, half) in modules.items():
        names.modules.setdefault(path, {})[half] = key
    return names


def numbered_modules(found: Header, order: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """Return {tensor name: (canonical path, "up" or "down")}, counted in `order` within each block.

    Raises ValueError for a file whose modules are others than the table's (the "extended" kind with convolutions).
    """
    numbered = {name: (match[1], int(match[2]), match[3]) for name in found.tensors if (match := NAME.fullmatch(name))}
    counts = {part: 1 + max((number for where, number, _ in numbered.values() if where == part), default=-1)
              for part in ("unet", "text_encoder")}
    tables = {"unet": unet_table(counts["unet"], adapted_classes(found.metadata), order),
              "text_encoder": text_table(counts["text_encoder"])}
    return {name: (tables[part][number], half) for name, (part, number, half) in numbered.items()}


def adapted_classes(metadata: Mapping[str, str]) -> set[str]:
    """Return the classes whose layers were adapted, as the header lists them; empty where it does not."""
    try:
        listed = json.loads(metadata.get("unet", "[]"))
    except (ValueError, RecursionError):
        return set()
    return {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()


def unet_table(count: int, classes: set[str], order: tuple[str, ...] = ORDERS[0]) -> list[str]:
    """Return the UNet's paths by number: blocks down, up, middle; in each, in `order`: attn1, attn2, ff."""
    if strange := classes - {"CrossAttention", "Attention", "GEGLU"}:
        raise ValueError(f"it numbers the layers of {', '.join(sorted(strange))[:60]} too, whose order nobody wrote down")
    feed_forward = count > len(BLOCKS) * 8 if not classes else "GEGLU" in classes
    inner = {"ff": ["ff.net.0.proj"] if feed_forward else [],
             **{attention: [f"{attention}.{name}" for name in ATTENTION] for attention in ("attn1", "attn2")}}
    table = [f"{block}.transformer_blocks.0.{name}" for block in BLOCKS for part in order for name in inner[part]]
    if count not in (0, len(table)):
        raise ValueError(f"it numbers {count} layers of the UNet, and Stable Diffusion 1.x and 2.x have {len(table)}")
    return table


def text_table(count: int) -> list[str]:
    """Return the text encoder's paths by number: each layer's k, v, q, out."""
    if count % len(TEXT):
        raise ValueError(f"it numbers {count} layers of the text encoder, which is no whole number of blocks")
    return [f"te1:text_model.encoder.layers.{layer}.self_attn.{name}" for layer in range(count // 4) for name in TEXT]


def fitting_widths(found: Header, modules: Mapping[str, tuple[str, str]]) -> int:
    """Return how many tensors have the width of their module, in the family where that is most."""
    def fitting(table: Table) -> int:
        return sum(found.tensors[key][1][half == "down"] == table[path][half == "down"]
                   for key, (path, half) in modules.items() if path in table and len(found.tensors[key][1]) == 2)
    return max(fitting(family_table(family)) for family in FAMILIES)


def check_order(name: str, shapes: Mapping[str, Weight]) -> None:
    """Raise UserError unless the weight of every module, {path: shape}, is that of one family."""
    tables = [family_table(family) for family in FAMILIES]
    if not any(all(path in table and fits(shape, table[path]) for path, shape in shapes.items()) for table in tables):
        raise UserError(f"{name} is an old positional LoRA (cloneofsimo) whose order is not that of Stable Diffusion 1.x or 2.x.",
                        CONVERT)
