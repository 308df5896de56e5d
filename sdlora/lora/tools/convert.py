"""LoRA files -> a LoRA file: converted, resized, blended or extracted. Knows nothing about bases on disk.

Each function writes a file and returns a report of JSON values. weights: those of a base by "PATH.weight", as
base.weights.Weights returns them; None without a base.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.lora.formats import metadata
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.formats.reading import LoraFile, read
from sdlora.lora.formats.writing import FileDtype, alpha_placement, diffusers_holds, kohya_holds, write
from sdlora.lora.math import blocks
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter, Adapters, delta, factors, norm, product_norm, shape_of
from sdlora.lora.math.low_rank import (
    Extracted,
    Limit,
    Shapes,
    WeightOf,
    compress,
    concat,
    known_shape,
    low_rank,
    narrow,
    no_weights,
    resize,
    svd,
    without,
)
from sdlora.lora.math.rounding import DTYPES, lost
from sdlora.lora.math.ties import Thinning, dare, ties

Weights = Mapping[str, Tensor] | None
Method = Literal["concat", "svd", "ties", "dare", "dare-ties"]
Form = Literal["kohya", "diffusers", "plain"]
HOLDS = {"kohya": kohya_holds, "diffusers": diffusers_holds,
         "plain": lambda adapter: diffusers_holds(adapter) and "dora_scale" not in adapter.tensors}
MAX_RANK = 128
USUAL = Limit(rank=MAX_RANK, keep=0.99)
NOISE = 1e-12  # of a comparison in fp64: rounding to fp32 leaves 1e-8 and more
ALPHA = {"kept": "alpha is the rank: tensors are copied as they are", "folded": "alpha / rank went into one factor, exactly",
         "header": "alpha stays in the header (lora_adapter_metadata)", "fp32": "alpha / rank was folded in, so the file is fp32",
         "data": "alpha stays as data"}


def convert_file(path: Path, out: Path, dialect: Literal["kohya", "diffusers"], *, plain: bool = False, dtype: FileDtype = None,
                 limit: Limit = USUAL, weights: Weights = None) -> dict[str, Any]:
    """Write the LoRA `path` in another dialect to `out`, lossless for every kind that the dialect has, and compare.

    plain: everything as plain LoRA, DoRA too. dtype None: each tensor keeps its own. limit: for what must be approximated.
    Report: file out dialect modules_in modules_out alpha (a sentence) difference (the largest, relative, of the modules that
    were not approximated; None: all were) approximated ({path: retained energy}) expanded (paths that became another kind)
    left_out problems bytes_in bytes_out. Raises UserError.
    """
    found, family = read_with_family(path)
    shapes, weight_of = shapes_of(found, weights), weight_finder(weights)
    made = to_form(found.adapters, "plain" if plain else dialect, limit=limit, shapes=shapes, weight_of=weight_of)
    placement = alpha_placement(made.adapters, DTYPES[dtype]) if dialect == "diffusers" else "data"
    about = metadata.with_required(network_metadata(found, made.adapters), family, *written_ranks(made.adapters, placement))
    write(out, made.adapters, about, dialect=dialect, dtype=dtype, family=family)
    again = read(out)
    exact = [name for name in again.adapters if name not in made.energy and name in found.adapters]
    return {"file": str(path), "out": str(out), "dialect": dialect, "modules_in": len(found.adapters),
            "modules_out": len(again.adapters), "alpha": alpha_sentence(placement, len(made.adapters), len(made.expanded)),
            "difference": difference(found, again, exact, shapes, weight_of) if exact else None,
            "approximated": made.energy, "expanded": list(made.expanded), "left_out": list(made.left_out),
            "problems": list(found.problems), "bytes_in": Path(path).stat().st_size, "bytes_out": Path(out).stat().st_size}


def resize_file(path: Path, out: Path, limit: Limit, *, dtype: FileDtype = None, weights: Weights = None) -> dict[str, Any]:
    """Write the LoRA `path` with fewer ranks to `out`, in the dialect it came in where that can hold it.

    Report: file out ranks_before ranks_after (smallest, largest) energy (of all) blocks ({block: energy}) lost (the share of the
    change that the number format takes) bytes_in bytes_out.
    """
    found, family = read_with_family(path)
    made, energy = resize(found.adapters, limit, shapes=shapes_of(found, weights), weight_of=weight_finder(weights))
    dtype = dtype or usual_dtype(found.adapters)
    dialect = "diffusers" if found.dialect == "diffusers" and all(map(diffusers_holds, made.values())) else "kohya"
    recipe = {"method": "resize", "rank": limit.rank, "keep": limit.keep, "fro": limit.fro, "sources": [source_of(path)]}
    placement = alpha_placement(made, DTYPES[dtype]) if dialect == "diffusers" else "data"
    ranks, alphas = written_ranks(made, placement)
    about = metadata.derived(network_metadata(found, made), title=Path(out).stem, ranks=ranks, alphas=alphas, recipe=recipe)
    write(out, made, about, dialect=dialect, dtype=dtype, family=family)
    return {"file": str(path), "out": str(out), "ranks_before": rank_range(found.adapters), "ranks_after": rank_range(made),
            **retained_energy(made, energy, family), "lost": lost(made, DTYPES[dtype]),
            "bytes_in": Path(path).stat().st_size, "bytes_out": Path(out).stat().st_size}


def merge_files(choices: Sequence[LoraChoice], out: Path, *, method: Method = "concat", rank: int | None = None,
                dtype: FileDtype = "fp32", weights: Weights = None, thinning: Thinning = Thinning()) -> dict[str, Any]:
    """Write the blend of `choices` as one new LoRA: strengths, text strengths and block weights are in it.

    rank: for all but concat; None: the largest of the LoRAs. thinning: for ties, dare and dare-ties.
    Report: out method modules ranks energy blocks bytes_out lost (the share of the change that the number format takes) notes
    (sentences: what a file cannot hold). Raises UserError.
    """
    files = [read_with_family(Path(choice.file)) for choice in choices]
    family = common_family(choices, [found for found, _ in files])
    blocked = next((choice for choice in choices if choice.blocks and not family), None)
    if blocked:
        raise UserError(f"{Path(blocked.file).name} does not say which kind of base it is for, so its blocks are not known.",
                        "Blend it without block weights.")
    ingredients = [Ingredient(found.adapters, choice.strength, choice.text_strength,
                              blocks.parse(choice.blocks, family) if family else {}, name=Path(choice.file).stem, family=family)
                   for choice, (found, _) in zip(choices, files, strict=True)]
    shapes = {name: shape for found, _ in files for name, shape in shapes_of(found, weights).items()}
    if method != "concat":
        rank = rank if rank is not None else max(rank_range(found.adapters)[1] for found, _ in files) or MAX_RANK
    made, energy = blended(ingredients, method, MAX_RANK if rank is None else rank, thinning, shapes, weight_finder(weights))
    thinned = {} if method in ("concat", "svd") else asdict(thinning)
    sources = [source_of(Path(choice.file)) | choice.model_dump(include={"strength", "text_strength", "blocks"})
               for choice in choices]
    recipe = {"method": method, "rank": rank, **thinned, "sources": sources}
    ranks, alphas = ranks_and_alphas(made)
    about = metadata.merged([found.metadata for found, _ in files], family, title=Path(out).stem, ranks=ranks, alphas=alphas,
                            recipe=recipe)
    write(out, made, about, dtype=dtype, family=family)
    return {"out": str(out), "method": method, "modules": len(made), "ranks": rank_range(made),
            **retained_energy(made, energy, family),
            "bytes_out": Path(out).stat().st_size, "lost": lost(made, DTYPES[dtype]), "notes": notes(choices, made)}


def blended(ingredients: Sequence[Ingredient], method: Method, rank: int, thinning: Thinning, shapes: Shapes,
            weight_of: WeightOf) -> tuple[Adapters, dict[str, float]]:
    """Return a blend by one of the methods, and {path: retained energy}. rank: ignored by concat."""
    if method == "concat":
        return concat(ingredients, shapes=shapes, weight_of=weight_of), {}
    if method == "svd":
        return svd(ingredients, rank, shapes=shapes, weight_of=weight_of)
    if method == "ties":
        return ties(ingredients, rank, density=thinning.density, shapes=shapes, weight_of=weight_of)
    return dare(ingredients, rank, density=thinning.density, seed=thinning.seed, elect=method == "dare-ties", shapes=shapes,
                weight_of=weight_of)


def extracted_file(found: Extracted, out: Path, family: str, recipe: Mapping[str, Any],
                   dtype: FileDtype = "fp16") -> dict[str, Any]:
    """Write what low_rank.extract() found. recipe: how it was made, for the metadata.

    Report: out modules ranks energy blocks elsewhere (the share that lies in norms, biases, embeddings) lost bytes_out.
    """
    ranks, alphas = ranks_and_alphas(found.adapters)
    about = metadata.merged([], family, title=Path(out).stem, ranks=ranks, alphas=alphas, recipe={"method": "extract", **recipe})
    write(out, found.adapters, about, dtype=dtype, family=family)
    return {"out": str(out), "modules": len(found.adapters), "ranks": rank_range(found.adapters),
            **retained_energy(found.adapters, found.energy, family), "elsewhere": found.elsewhere,
            "lost": lost(found.adapters, DTYPES[dtype]), "bytes_out": Path(out).stat().st_size}


def network_metadata(found: LoraFile, made: Adapters) -> dict[str, str]:
    """Return the metadata of a file, without kohya's kind of network where `made` from it is of another kind."""
    same = all(made[path].kind == adapter.kind for path, adapter in found.adapters.items() if path in made)
    return {key: value for key, value in found.metadata.items() if same or key not in ("ss_network_module", "ss_network_args")}


def read_with_family(path: Path) -> tuple[LoraFile, str]:
    """Return a LoRA file, and the family by which its modules are named ("" where its tensors fit none)."""
    found = read(path)
    return found, found.families[0] if found.families else ""


def common_family(choices: Sequence[LoraChoice], files: Sequence[LoraFile]) -> str:
    """Return the family that all files can belong to. Raises UserError when there is none."""
    shared = set(files[0].families).intersection(*(found.families for found in files[1:]))
    if not shared and any(found.families for found in files):
        names = " and ".join(Path(choice.file).name for choice in choices)
        raise UserError(f"{names} were made for different kinds of base models.", "Blend LoRAs of one family only.")
    return next((family for family in files[0].families if family in shared), "")


def shapes_of(found: LoraFile, weights: Weights) -> Shapes:
    """Return {path: shape of its weight}, of the base, else of the family, else as the tensors themselves give it."""
    shapes = {name: shape for name, adapter in found.adapters.items() if (shape := shape_of(adapter))}
    table = family_table(found.families[0]) if found.families else {}
    shapes |= {name: table[name] for name in found.adapters if name in table}
    known = weights or {}
    return shapes | {name: tuple(known[f"{name}.weight"].shape) for name in found.adapters if f"{name}.weight" in known}


def weight_finder(weights: Weights) -> WeightOf:
    """Return the function from a module path to its pristine weight."""
    return no_weights if weights is None else lambda path: weights.get(f"{path}.weight")


def alpha_sentence(placement: str, modules: int, expanded: int) -> str:
    """Return what became of the tensors. expanded: how many modules are of a kind that the form has no place for."""
    if expanded == modules:
        return "all are rewritten as up x down"
    return f"{expanded} are rewritten as up x down; of the others {ALPHA[placement]}" if expanded else ALPHA[placement]


def difference(before: LoraFile, after: LoraFile, paths: Sequence[str], shapes: Shapes, weight_of: WeightOf) -> float:
    """Return the largest |dW_before - dW_after| / |dW_before| of `paths` (Frobenius norms); 0 is bit for bit.

    Kinds that depend on the weight are compared on the base's, or else on a random one.
    """
    worst = 0.0
    for path in paths:
        old, new = (without(each.adapters[path], "diff_b") for each in (before, after))
        if equal(old, new) or path not in shapes or not old.tensors:
            continue
        first, second = factors(old), factors(new)
        if first is not None and second is not None:
            size = product_norm(first[0].double() * old.scale, first[1])
            off = product_norm(torch.cat([first[0].double() * old.scale, second[0].double() * -new.scale], 1),
                               torch.cat([first[1], second[1]]))
        else:
            weight = weight_of(path)
            weight = torch.randn(shapes[path], generator=torch.Generator().manual_seed(0)) if weight is None else weight
            change = delta(old, weight)
            size, off = float(change.norm()), float((change - delta(new, weight)).norm())
        worst = max(worst, off / max(size, 1e-30))
    return worst if worst > NOISE else 0.0


def equal(one: Adapter, other: Adapter) -> bool:
    """Return whether two adapters hold the same numbers."""
    return (one.kind, one.alpha, one.rank, one.tensors.keys()) == (other.kind, other.alpha, other.rank, other.tensors.keys()) \
        and all(torch.equal(one.tensors[role].double(), other.tensors[role].double()) for role in one.tensors)


def retained_energy(made: Adapters, energy: Mapping[str, float], family: str) -> dict[str, Any]:
    """Return {"energy": of all modules together, "blocks": {block: energy}}. A module that `energy` does not name is exact."""
    sums: dict[str, list[float]] = {}
    for path, adapter in made.items():
        kept = norm(without(adapter, "dora_scale")) ** 2 if adapter.kind == "lora" else 0.0
        slot = blocks.block_of(path, family) if family else "all"
        for name in (slot, ""):
            pair = sums.setdefault(name, [0.0, 0.0])
            pair[0] += kept
            pair[1] += kept / max(energy.get(path, 1.0), 1e-12)
    shares = {name: kept / total if total else 1.0 for name, (kept, total) in sums.items()}
    return {"energy": shares.pop("", 1.0), "blocks": dict(sorted(shares.items()))}


def notes(choices: Sequence[LoraChoice], made: Adapters) -> list[str]:
    """Return sentences about what one file cannot hold of a blend, and about what makes it large."""
    found = []
    timed = [Path(choice.file).name for choice in choices if (choice.start, choice.end) != (0.0, 1.0)]
    if timed:
        found.append(f"Start and end cannot be in one file: {', '.join(timed)} acts all the time in it.")
    whole = sum("diff" in adapter.tensors and adapter.tensors["diff"].ndim > 1 for adapter in made.values())
    if whole:
        found.append(f"{whole} modules are whole differences of weights: the file is large. The method svd makes it small.")
    return found


def ranks_and_alphas(made: Adapters) -> tuple[list[int], list[float]]:
    """Return the ranks and alphas of all modules that have any."""
    ranked = [adapter for adapter in made.values() if adapter.rank] or list(made.values())
    return [adapter.rank for adapter in ranked], [adapter.alpha for adapter in ranked]


def written_ranks(made: Adapters, placement: str) -> tuple[list[int], list[float]]:
    """Return ranks and alphas as they are written: alpha is the rank where its `placement` is in the tensors."""
    ranks, alphas = ranks_and_alphas(made)
    return ranks, alphas if placement in ("data", "header") else [float(rank) for rank in ranks]


def rank_range(made: Adapters) -> list[int]:
    """Return [smallest rank, largest rank]."""
    ranks, _ = ranks_and_alphas(made)
    return [min(ranks), max(ranks)]


def source_of(path: Path) -> dict[str, Any]:
    """Return the entry of a file in a recipe: its name (never its folder) and the hash of its tensors (AutoV3)."""
    return {"name": path.stem, "hash": metadata.file_hashes(path)["AutoV3"]}


def usual_dtype(adapters: Adapters) -> FileDtype:
    """Return the number format of most tensors, of those that are written; fp16 where no tensor has one of them."""
    counts = Counter(value.dtype for adapter in adapters.values() for value in adapter.tensors.values())
    return max(("fp16", "bf16", "fp32"), key=lambda name: counts[DTYPES[name]])


@dataclass(frozen=True)
class Converted:
    """energy: {path: retained} of what was approximated; expanded: paths that became another kind; left_out: with a reason."""
    adapters: Adapters
    energy: dict[str, float]
    expanded: tuple[str, ...]
    left_out: tuple[str, ...]


@torch.no_grad()
def to_form(adapters: Adapters, form: Form, *, limit: Limit = USUAL, shapes: Shapes | None = None,
            weight_of: WeightOf = no_weights) -> Converted:
    """Return what a file of this form can hold unchanged, and everything else as up x down, with DoRA's magnitudes.

    form: "kohya", "diffusers" (where some modules of a part are DoRA, all of it gets magnitudes) or "plain" (no DoRA at all).
    The last two have no place for norms and biases: those are in `left_out`. Few ranks are expanded exactly, others approximated
    within `limit`. Raises UserError when a change depends on the base and weight_of does not know it.
    """
    made, energy, expanded, left_out = {}, {}, [], []
    for path, adapter in adapters.items():
        if "diff_b" in adapter.tensors and form != "kohya":
            left_out.append(f"{path} (bias)")
            adapter = without(adapter, "diff_b")
        if HOLDS[form](adapter):
            made[path] = adapter
        elif adapter.kind == "full" and narrow(adapter):
            left_out += [f"{path} (norm)"] if adapter.tensors else []
        else:
            expanded.append(path)
            made[path], kept = expand(path, adapter, form != "plain", limit, (shapes or {}).get(path), weight_of(path))
            energy |= {path: kept} if kept is not None else {}
    if not made:
        raise UserError("Nothing of this LoRA fits into such a file: it changes norms and biases only.", "Write a kohya file.")
    return Converted(with_magnitudes(made, weight_of) if form == "diffusers" else made, energy, tuple(expanded), tuple(left_out))


def expand(path: str, adapter: Adapter, dora: bool, limit: Limit, shape: tuple[int, ...] | None,
           weight: Tensor | None) -> tuple[Adapter, float | None]:
    """Return one adapter as up x down, and the retained energy if it was approximated. Raises UserError."""
    bare, magnitude = without(adapter, "dora_scale"), adapter.tensors.get("dora_scale")
    stays = magnitude is not None and dora and magnitude.shape[0] == magnitude.numel() and magnitude.numel() > 1
    if magnitude is not None and not stays:
        if weight is None:
            raise UserError(f"{path} is DoRA, whose change depends on the base it is put on.", "Name the base with --base.")
        bare = Adapter("full", {"diff": delta(adapter, weight)}, 0.0, 0, adapter.part)
    pair = factors(bare)
    if pair is None:
        made, energy = compress(path, bare, limit, shape, weight)
    else:
        made, energy = low_rank(*pair, known_shape(bare, shape, weight), adapter.part), None
        made = replace(made, alpha=made.rank * bare.scale)
    return (replace(made, tensors=made.tensors | {"dora_scale": magnitude}) if stays else made), energy


def with_magnitudes(adapters: Adapters, weight_of: WeightOf) -> Adapters:
    """Give every module of a part that has DoRA a magnitude: |W + dW|, which changes nothing."""
    some = {adapter.part for adapter in adapters.values() if "dora_scale" in adapter.tensors}
    made = {}
    for path, adapter in adapters.items():
        if adapter.part in some and "dora_scale" not in adapter.tensors:
            weight = weight_of(path)
            if weight is None:
                raise UserError(f"Some modules are DoRA and some, such as {path}, are not, which a diffusers file cannot say.",
                                "Name the base with --base, or write a kohya file.")
            norms = (weight.float() + delta(adapter, weight)).flatten(1).norm(dim=1)
            adapter = replace(adapter, tensors=adapter.tensors | {"dora_scale": norms.reshape(-1, *[1] * (weight.ndim - 1))})
        made[path] = adapter
    return made
