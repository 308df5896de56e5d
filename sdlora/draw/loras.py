"""A chosen LoRA file -> an ingredient of a blend. Knows nothing about merging or denoising."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from cachetools import LRUCache

from sdlora.base import catalog
from sdlora.base.load import Base
from sdlora.config import LoraChoice, make
from sdlora.errors import UserError
from sdlora.lora.formats import reading as lora_file
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.math import blocks, relative_norm
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.tools.report import refuse_other_build

CACHE_BYTES, MIN_CACHED = 2 * 1024**3, 8


class CachedFile(NamedTuple):
    """A LoRA file in memory. norm: |dW| / |W| beside typical weights, at strength 1."""
    lora: lora_file.LoraFile
    norm: float
    nbytes: int


FILES: LRUCache[tuple[Path, int, int], CachedFile] = LRUCache(math.inf, getsizeof=lambda file: file.nbytes)


def ingredient(choice: LoraChoice, base: Base) -> Ingredient:
    """Read the file of `choice`, once for as long as it does not change. Raises UserError.

    A LoRA that was made for another build of the embedded base is refused: it would only draw noise. So is one whose change is
    many times as large as the weights, at this strength.
    """
    path = Path(choice.file)
    lora, norm, _ = cached_file(path)
    if norm * abs(choice.strength) > relative_norm.DAMAGED:
        raise UserError(f"{path.name} would draw only noise. {relative_norm.damage_warning(norm * abs(choice.strength))}",
                        "Use another copy of it, or a much lower strength.")
    if base.family == "mini":
        refuse_other_build(lora.metadata, base.identity, path.name)
    return Ingredient(lora.adapters, choice.strength, choice.text_strength, blocks.parse(choice.blocks, base.family),
                      choice.start, choice.end, path.stem, base.family)


def cached_file(path: Path) -> CachedFile:
    """Read a file, or return it as it was read before where its size and time of change are still the same.

    The least recently used files are dropped when all together take too much memory.
    """
    try:
        facts = path.stat()
        key = path, facts.st_size, facts.st_mtime_ns
    except OSError:
        key = path, 0, 0  # a file that is gone: read() says so in a sentence
    file = FILES.get(key)
    if file is None:
        lora = lora_file.read(path)
        table = family_table(lora.families[0]) if lora.families else {}
        known = {name: adapter for name, adapter in lora.adapters.items() if name in table}
        file = FILES[key] = CachedFile(lora, relative_norm.relative_size(relative_norm.sizes(known, table, {})), key[1])
    while len(FILES) > MIN_CACHED and FILES.currsize > CACHE_BYTES:
        FILES.popitem()
    return file


def settings_of(choice: LoraChoice) -> dict[str, Any]:
    """Return what infotext says of a LoRA: its name, the hash that A1111 and kohya know it by, and settings that are not default.

    The hash is over the tensor bytes (`sshs_model_hash`), so notes in the file do not change it; 12 hex digits.
    """
    path, default = Path(choice.file), make(LoraChoice, {"file": choice.file})
    special = {key for key in ("text_strength", "blocks", "start", "end") if getattr(choice, key) != getattr(default, key)}
    return {"name": title(path), "strength": choice.strength, "hash": catalog.identity(path)[:12],
            **choice.model_dump(include=special)}


def title(path: Path) -> str:
    """Return what a LoRA file is called. That of a checkpoint is always lora.safetensors: its run and step say more."""
    of_run = len(path.parents) > 2 and re.fullmatch(r"step-\d{6,}", path.parent.name)
    return f"{path.parents[2].name} {path.parent.name}" if of_run else path.stem
