"""A blend of LoRAs baked into a copy of a base. Knows nothing about pictures or models in memory.

The copy has the form of the original: a folder stays a folder, a single file keeps its CompVis names, every weight its number
format. Weights are read, changed and written one at a time; the copy gets its name when all of it is written.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sdlora.base import catalog
from sdlora.base.weights import Weights, write_copy
from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.families import FAMILIES
from sdlora.lora.formats.reading import LoraFile, read
from sdlora.lora.math import blocks
from sdlora.lora.math.blend import Ingredient, bias_change, change, parts_of, rounded
from sdlora.lora.tools.report import refuse_other_build

Parts = dict[str, list]
MAX_LOST = 0.9
REPORTED_LOST = 0.1  # rounding to an fp16 base loses some hundredths of a LoRA; to a bf16 base, some tenths


def bake(base: Path, choices: Sequence[LoraChoice], out: Path,
         progress: Callable[[int, int], object] = lambda done, of: None) -> dict[str, object]:
    """Write a copy of the resolved `base` to `out`, its weights those of the live blend of `choices`.

    Report: out, weights (how many changed), matched ({LoRA: [modules found, of how many]}), lost (what rounding lost of the
    change, 0..1), notes. Raises UserError: a LoRA that fits no module or was made for another family, a weight that the base's
    number format cannot hold, no room on the disk.
    """
    weights = Weights(base)
    check_form(base, out)
    files = [read(Path(choice.file)) for choice in choices]
    matched = {}
    for choice, found in zip(choices, files, strict=True):
        name = Path(choice.file).stem
        refuse_misfit(name, found, weights)
        present = [path for path in found.adapters if f"{path}.weight" in weights]
        if not present:
            raise UserError(f"{name} changes nothing in {base.name}: none of its {len(found.adapters)} modules is there.",
                            "Choose a LoRA that was made for this kind of base.")
        matched[name] = [len(present), len(found.adapters)]
    ingredients = [Ingredient(found.adapters, choice.strength, choice.text_strength, blocks.parse(choice.blocks, weights.family),
                              name=Path(choice.file).stem, family=weights.family)
                   for choice, found in zip(choices, files, strict=True)]
    parts = parts_of(ingredients, {path: None for found in files for path in found.adapters if f"{path}.weight" in weights})
    done, lost = [], Loss()
    write_copy(weights, counted(changed(weights, parts, lost), done, len(parts), progress), out, recipe(base, choices))
    timed = [Path(choice.file).name for choice in choices if (choice.start, choice.end) != (0.0, 1.0)]
    notes = [f"Start and end cannot be in a base: {', '.join(timed)} acts all the time in it."] if timed else []
    if lost.share > REPORTED_LOST:
        notes.append(f"The number format of the base loses {lost.share:.0%} of the change by rounding. An fp32 base keeps it.")
    return {"out": str(out), "weights": len(done), "matched": matched, "lost": lost.share, "notes": notes}


@dataclass
class Loss:
    """What rounding to the base's number format lost of a blend: ||W' - W - dW||^2 and ||dW||^2 (Frobenius norms)."""
    lost: float = 0.0
    whole: float = 0.0

    @property
    def share(self) -> float:
        return (self.lost / self.whole) ** 0.5 if self.whole else 0.0

    def add(self, before: Tensor, change_of: Tensor, after: Tensor) -> Tensor:
        """Count one weight; return `after`."""
        change_of = change_of.reshape(before.shape)
        self.lost += float((after.float() - before.float() - change_of).square().sum(dtype=torch.float64))
        self.whole += float(change_of.square().sum(dtype=torch.float64))
        return after


def changed(weights: Weights, parts: Parts, lost: Loss) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, new weight or bias) of everything the blend changes. Raises UserError when rounding loses nearly all of it."""
    for path, each in parts.items():
        name, bias_name = f"{path}.weight", f"{path}.bias"
        if any(adapter.tensors.keys() - {"diff_b"} for adapter, _ in each):
            weight = weights[name]
            try:
                moved = change(each, weight)
                yield name, lost.add(weight, moved, checked(name, rounded(weight, moved)))
            except ValueError as error:
                raise UserError(f"{path} has another shape in this base ({error}).",
                                "Choose LoRAs that were made for this kind of base.") from error
        bias = bias_change(each)
        if bias is not None and bias_name in weights:
            yield bias_name, checked(bias_name, rounded(weights[bias_name], bias))
    if lost.share > MAX_LOST:
        raise UserError(f"Nothing was baked: the number format of the base loses {lost.share:.0%} of the change by rounding.",
                        "Raise the strengths, or bake into an fp32 base.")


def checked(name: str, value: Tensor) -> Tensor:
    """Return the weight. Raises UserError where it has left the range of its number format."""
    ends = (value if value.dtype.itemsize > 1 else value.float()).aminmax()  # one pass; a NaN is found by it too
    if not (ends.min.isfinite() and ends.max.isfinite()):
        raise UserError(f"{name} leaves the range of the base's number format: the blend is too strong.",
                        "Lower the strengths, or bake into an fp32 base.")
    return value


def counted(changes: Iterator[tuple[str, Tensor]], done: list[str], total: int,
            progress: Callable[[int, int], object]) -> Iterator[tuple[str, Tensor]]:
    for name, value in changes:
        yield name, value
        done.append(name)
        progress(len(done), max(total, len(done)))


def check_form(base: Path, out: Path) -> None:
    """Raise UserError where `out` does not name a file or folder as `base` is one, or names the base itself."""
    if out.resolve() == base.resolve():
        raise UserError(f"{out.name} is the base itself, which is never changed.", "Give the copy another name with --out.")
    if base.is_file() != (out.suffix.lower() == ".safetensors"):
        raise UserError(f"{base.name} is a {'single file' if base.is_file() else 'folder'}, and so its copy will be.",
                        "Write --out NAME.safetensors." if base.is_file() else "Give --out the name of a folder.")


def refuse_misfit(name: str, found: LoraFile, weights: Weights) -> None:
    """Raise UserError for a LoRA of another family, or of another build of mini."""
    if found.families and weights.family not in found.families:
        titles = " or ".join(FAMILIES[family].title for family in found.families)
        raise UserError(f"{name} was made for {titles}, and {weights.path.name} is {FAMILIES[weights.family].title}.",
                        "Choose a base of the family the LoRA was made for.")
    if weights.family == "mini":
        refuse_other_build(found.metadata, catalog.identity(weights.path), name)


def recipe(base: Path, choices: Sequence[LoraChoice]) -> dict[str, str]:
    """Return the metadata of the copy."""
    sources = [{"name": Path(choice.file).stem, "strength": choice.strength, "text_strength": choice.text_strength,
                "blocks": choice.blocks, "hash": catalog.identity(Path(choice.file))} for choice in choices]
    names = [base.stem, *(Path(choice.file).stem for choice in choices)]
    return {"format": "pt", "modelspec.merged_from": ", ".join(name.replace(",", " ") for name in names),
            "sdlora_recipe": json.dumps({"method": "bake", "base": catalog.identity(base), "sources": sources}, sort_keys=True)}
