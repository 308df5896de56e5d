"""A chosen LoRA file -> a part of a blend. Knows nothing about weights in place or denoising."""

import re
from collections import OrderedDict
from pathlib import Path

from sdlora.base import catalog
from sdlora.base.load import Base
from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.lora.formats import reading as lora_file
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.math import blocks, relative_norm
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.tools.report import refuse_other_build

MOST_BYTES, FEWEST_FILES = 2 * 1024**3, 8
FILES: OrderedDict[tuple[Path, int, int], tuple[lora_file.LoraFile, float]] = OrderedDict()


def ingredient(choice: LoraChoice, base: Base) -> Ingredient:
    """The file of `choice`, read once for as long as it does not change. Raises UserError.

    One that was made for another build of the embedded base is refused: it would only draw noise. So is one whose change is many
    times as large as the weights, at this strength.
    """
    path = Path(choice.file)
    read, size = kept(path, *stamp(path))
    if size * abs(choice.strength) > relative_norm.ABSURD:
        raise UserError(f"{path.name} would draw only noise. {relative_norm.absurd(size * abs(choice.strength))}",
                        "Use another copy of it, or a much lower strength.")
    if base.family == "mini":
        refuse_other_build(read.metadata, base.identity, path.name)
    return Ingredient(read.adapters, choice.strength, choice.text_strength, blocks.parse(choice.blocks, base.family),
                      choice.start, choice.end, path.stem, base.family)


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change; zeros for a file that is gone, which read() then says in a sentence."""
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def kept(path: Path, size: int, changed_ns: int) -> tuple[lora_file.LoraFile, float]:
    """The file as it was read before, where it is still the same, and |dW| / |W| beside typical weights.

    The least recently used are let go when all are large.
    """
    key = path, size, changed_ns
    if key not in FILES:
        read = lora_file.read(path)
        table = family_table(read.families[0]) if read.families else {}
        there = {name: adapter for name, adapter in read.adapters.items() if name in table}
        FILES[key] = read, relative_norm.total(relative_norm.sizes(there, table, {}))
    FILES.move_to_end(key)
    while len(FILES) > FEWEST_FILES and sum(file_bytes for _, file_bytes, _ in FILES) > MOST_BYTES:
        FILES.popitem(last=False)
    return FILES[key]


def told(choice: LoraChoice) -> dict[str, object]:
    """What infotext says of a LoRA: its name, the hash that A1111 and kohya know it by, and what was not left as usual.

    The hash is over the tensor bytes (`sshs_model_hash`), so notes in the file do not change it; 12 hex digits.
    """
    path, usual = Path(choice.file), LoraChoice(file=choice.file)
    special = {key for key in ("text_strength", "blocks", "start", "end") if getattr(choice, key) != getattr(usual, key)}
    return {"name": title(path), "strength": choice.strength, "hash": catalog.identity(path)[:12],
            **choice.model_dump(include=special)}


def title(path: Path) -> str:
    """What a LoRA file is called. The file of a saved point is always lora.safetensors: its run and step say more."""
    of_run = len(path.parents) > 2 and re.fullmatch(r"step-\d{6,}", path.parent.name)
    return f"{path.parents[2].name} {path.parent.name}" if of_run else path.stem
