"""LoRA files -> a LoRA file: converted, resized or blended, then reported on. Knows nothing about bases on disk.

weights, wherever it is asked for: those of a base by "PATH.weight", as base.weights.Weights gives them; None where there is no
base at hand. What is returned is a report of plain JSON values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.lora.formats import metadata
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.formats.reading import LoraFile, read
from sdlora.lora.formats.writing import alpha_goes, diffusers_holds, write
from sdlora.lora.math import blocks, merge
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter, Adapters, delta, factors, norm, shape_of
from sdlora.lora.math.extract import Extracted
from sdlora.lora.math.low_rank import Limit, Shapes, WeightOf, resize, without
from sdlora.lora.math.rounding import lost
from sdlora.lora.math.ties import Thinning, dare, ties
from sdlora.lora.tools.forms import USUAL, to_form

Weights = Mapping[str, Tensor] | None
Dtype = Literal["fp16", "bf16", "fp32"] | None
Method = Literal["concat", "svd", "ties", "dare", "dare-ties"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, None: None}
NOISE = 1e-12  # of a comparison in fp64: what rounding to fp32 leaves is 1e-8 and more
ALPHA = {"kept": "alpha is the rank: tensors are copied as they are", "folded": "alpha / rank went into one factor, exactly",
         "header": "alpha stays in the header (lora_adapter_metadata)", "fp32": "alpha / rank was folded in, so the file is fp32",
         "data": "alpha stays as data"}


def convert_file(path: Path, out: Path, dialect: Literal["kohya", "diffusers"], *, plain: bool = False, dtype: Dtype = None,
                 limit: Limit = USUAL, weights: Weights = None) -> dict[str, object]:
    """Write the LoRA `path` in another dialect to `out`, lossless for every kind that it can express, and compare.

    plain: everything as plain LoRA, DoRA too. dtype None: each tensor keeps its own. limit: for what must be approximated.
    Report: file out dialect modules_in modules_out alpha (a sentence) difference (the largest, relative, of the modules that
    were not approximated; None: all were) approximated ({path: retained energy}) left_out problems bytes_in bytes_out.
    Raises UserError.
    """
    found, family = opened(path)
    shapes, weight_of = shapes_of(found, weights), weight_finder(weights)
    made = to_form(found.adapters, "plain" if plain else dialect, limit=limit, shapes=shapes, weight_of=weight_of)
    way = alpha_goes(made.adapters, DTYPES[dtype]) if dialect == "diffusers" else "data"
    told = metadata.completed(told_of(found, made.adapters), family, *written_sizes(made.adapters, way))
    write(out, made.adapters, told, dialect=dialect, dtype=dtype, family=family)
    again = read(out)
    exact = [name for name in again.adapters if name not in made.energy and name in found.adapters]
    return {"file": str(path), "out": str(out), "dialect": dialect, "modules_in": len(found.adapters),
            "modules_out": len(again.adapters), "alpha": copied(way, len(made.adapters), len(made.expanded)),
            "difference": difference(found, again, exact, shapes, weight_of) if exact else None,
            "approximated": made.energy, "expanded": list(made.expanded), "left_out": list(made.left_out),
            "problems": list(found.problems), "bytes_in": Path(path).stat().st_size, "bytes_out": Path(out).stat().st_size}


def resize_file(path: Path, out: Path, limit: Limit, *, dtype: Dtype = None, weights: Weights = None) -> dict[str, object]:
    """Write the LoRA `path` with fewer ranks to `out`, in the dialect it came in where that can hold it.

    Report: file out ranks_before ranks_after (smallest, largest) energy (of all) blocks ({block: energy}) lost (the share of the
    change that the number format takes) bytes_in bytes_out.
    """
    found, family = opened(path)
    made, energy = resize(found.adapters, limit, shapes=shapes_of(found, weights), weight_of=weight_finder(weights))
    dialect = "diffusers" if found.dialect == "diffusers" and all(map(diffusers_holds, made.values())) else "kohya"
    recipe = {"method": "resize", "rank": limit.rank, "keep": limit.keep, "fro": limit.fro, "sources": [source(path)]}
    way = alpha_goes(made, DTYPES[dtype or dtype_of(found.adapters)]) if dialect == "diffusers" else "data"
    ranks, alphas = written_sizes(made, way)
    told = metadata.derived(told_of(found, made), title=Path(out).stem, ranks=ranks, alphas=alphas, recipe=recipe)
    write(out, made, told, dialect=dialect, dtype=dtype or dtype_of(found.adapters), family=family)
    return {"file": str(path), "out": str(out), "ranks_before": ends(found.adapters), "ranks_after": ends(made),
            **retained(made, energy, family), "lost": lost(made, DTYPES[dtype or dtype_of(found.adapters)]),
            "bytes_in": Path(path).stat().st_size, "bytes_out": Path(out).stat().st_size}


def merge_files(choices: Sequence[LoraChoice], out: Path, *, method: Method = "concat", rank: int | None = None,
                dtype: Dtype = "fp32", weights: Weights = None, thinning: Thinning = Thinning()) -> dict[str, object]:
    """Write the blend of `choices` as one new LoRA: strengths, text strengths and block weights are in it.

    rank: for all but concat; None: the largest of the LoRAs. thinning: for ties, dare and dare-ties.
    Report: out method modules ranks energy blocks bytes_out lost (the share of the change that the number format takes) notes
    (sentences: what a file cannot hold). Raises UserError.
    """
    files = [opened(Path(choice.file)) for choice in choices]
    family = common_family(choices, [found for found, _ in files])
    blocked = next((choice for choice in choices if choice.blocks and not family), None)
    if blocked:
        raise UserError(f"{Path(blocked.file).name} does not tell which kind of base it is for, so its blocks are not known.",
                        "Blend it without block weights.")
    ingredients = [Ingredient(found.adapters, choice.strength, choice.text_strength,
                              blocks.parse(choice.blocks, family) if family else {}, name=Path(choice.file).stem, family=family)
                   for choice, (found, _) in zip(choices, files, strict=True)]
    known = {"shapes": merged_shapes([found for found, _ in files], weights), "weight_of": weight_finder(weights)}
    if method == "concat":
        made, energy = merge.concat(ingredients, **known), {}
    else:
        rank = rank if rank is not None else max(max(sizes(found.adapters)[0]) for found, _ in files) or USUAL.rank
        made, energy = compressed(ingredients, method, rank, thinning, known)
    thinned = {} if method in ("concat", "svd") else asdict(thinning)
    recipe = {"method": method, "rank": rank, **thinned, "sources": [
        source(Path(choice.file)) | {"strength": choice.strength, "text_strength": choice.text_strength, "blocks": choice.blocks}
        for choice in choices]}
    told = metadata.merged([found.metadata for found, _ in files], family, title=Path(out).stem, ranks=sizes(made)[0],
                           alphas=sizes(made)[1], recipe=recipe)
    write(out, made, told, dtype=dtype, family=family)
    return {"out": str(out), "method": method, "modules": len(made), "ranks": ends(made), **retained(made, energy, family),
            "bytes_out": Path(out).stat().st_size, "lost": lost(made, DTYPES[dtype]), "notes": notes(choices, made)}


def compressed(ingredients: Sequence[Ingredient], method: Method, rank: int, thinning: Thinning,
               known: Mapping[str, object]) -> tuple[Adapters, dict[str, float]]:
    """A blend in `rank` ranks -> (adapters, {path: retained energy}). known: shapes and weight_of, as merge.svd() takes them."""
    if method == "svd":
        return merge.svd(ingredients, rank, **known)
    if method == "ties":
        return ties(ingredients, rank, density=thinning.density, **known)
    return dare(ingredients, rank, density=thinning.density, seed=thinning.seed, elect=method == "dare-ties", **known)


def extracted_file(found: Extracted, out: Path, family: str, recipe: Mapping[str, object],
                   dtype: Dtype = "fp16") -> dict[str, object]:
    """Write what extract.extract() found. recipe: what the file says of its making.

    Report: out modules ranks energy blocks elsewhere (the share that lies in norms, biases, embeddings) bytes_out.
    """
    ranks, alphas = sizes(found.adapters)
    told = metadata.merged([], family, title=Path(out).stem, ranks=ranks, alphas=alphas, recipe={"method": "extract", **recipe})
    write(out, found.adapters, told, dtype=dtype, family=family)
    return {"out": str(out), "modules": len(found.adapters), "ranks": ends(found.adapters),
            **retained(found.adapters, found.energy, family), "elsewhere": found.elsewhere,
            "lost": lost(found.adapters, DTYPES[dtype]),
            "bytes_out": Path(out).stat().st_size}


def told_of(found: LoraFile, made: Adapters) -> dict[str, str]:
    """The metadata of a file, less what says of which kind of network it was, where `made` of it is of another."""
    same = all(made[path].kind == adapter.kind for path, adapter in found.adapters.items() if path in made)
    return {key: value for key, value in found.metadata.items() if same or key not in ("ss_network_module", "ss_network_args")}


def opened(path: Path) -> tuple[LoraFile, str]:
    """A LoRA file, and the family by which its modules are named ("" where its tensors do not tell)."""
    found = read(path)
    return found, found.families[0] if found.families else ""


def common_family(choices: Sequence[LoraChoice], files: Sequence[LoraFile]) -> str:
    """The family that all files can belong to. Raises UserError when there is none."""
    shared = set(files[0].families).intersection(*(found.families for found in files[1:]))
    if not shared and any(found.families for found in files):
        names = " and ".join(Path(choice.file).name for choice in choices)
        raise UserError(f"{names} were made for different kinds of base models.", "Blend LoRAs of one family only.")
    return next((family for family in files[0].families if family in shared), "")


def shapes_of(found: LoraFile, weights: Weights) -> Shapes:
    """{path: shape of its weight}, as the base, the family or the tensors themselves tell it."""
    told = {name: shape for name, shape in ((name, shape_of(each)) for name, each in found.adapters.items()) if shape}
    table = family_table(found.families[0]) if found.families else {}
    told |= {name: table[name] for name in found.adapters if name in table}
    return told if weights is None else told | {name: tuple(weights[f"{name}.weight"].shape) for name in found.adapters
                                                if f"{name}.weight" in weights}


def merged_shapes(files: Sequence[LoraFile], weights: Weights) -> Shapes:
    return {name: shape for found in files for name, shape in shapes_of(found, weights).items()}


def weight_finder(weights: Weights) -> WeightOf:
    return (lambda path: None) if weights is None else lambda path: weights.get(f"{path}.weight")


def copied(way: str, modules: int, anew: int) -> str:
    """What became of the tensors, as the end of a sentence; `anew`: how many modules were of a kind the form has no place for."""
    if anew == modules:
        return "all are written anew as up x down"
    return f"{anew} are written anew as up x down; of the others {ALPHA[way]}" if anew else ALPHA[way]


def difference(before: LoraFile, after: LoraFile, paths: Sequence[str], shapes: Shapes, weight_of: WeightOf) -> float:
    """The largest |dW_before - dW_after| / |dW_before| of `paths` (Frobenius norms); 0 is bit for bit.

    Kinds that depend on the weight are compared on the base's, or else on one made of noise.
    """
    worst = 0.0
    for path in paths:
        old, new = (without(each.adapters[path], "diff_b") for each in (before, after))
        if equal(old, new) or path not in shapes or not old.tensors:
            continue
        first, second = factors(old), factors(new)
        if first is not None and second is not None:
            size = norm_of([(first, old.scale)])
            off = norm_of([(first, old.scale), (second, -new.scale)])
        else:
            weight = weight_of(path)
            weight = torch.randn(shapes[path], generator=torch.Generator().manual_seed(0)) if weight is None else weight
            change = delta(old, weight)
            size, off = float(change.norm()), float((change - delta(new, weight)).norm())
        worst = max(worst, off / max(size, 1e-30))
    return worst if worst > NOISE else 0.0


def norm_of(parts: Sequence[tuple[tuple[Tensor, Tensor], float]]) -> float:
    """Frobenius norm of the sum of c U D without forming it: by the triangles of two QRs, so that a small sum stays exact."""
    up = torch.cat([first.double() * c for (first, _), c in parts], 1)
    down = torch.cat([second.double() for (_, second), _ in parts])
    return float((torch.linalg.qr(up, mode="r").R @ torch.linalg.qr(down.T, mode="r").R.T).norm())


def equal(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters hold the same numbers."""
    return (one.kind, one.alpha, one.rank, one.tensors.keys()) == (other.kind, other.alpha, other.rank, other.tensors.keys()) \
        and all(torch.equal(one.tensors[role].double(), other.tensors[role].double()) for role in one.tensors)


def retained(made: Adapters, energy: Mapping[str, float], family: str) -> dict[str, object]:
    """{"energy": of all modules together, "blocks": {block: energy}}; what is not named in `energy` is exact."""
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
    """What of a blend one file cannot hold, or holds in a large way."""
    told = []
    timed = [Path(choice.file).name for choice in choices if (choice.start, choice.end) != (0.0, 1.0)]
    if timed:
        told.append(f"Start and end cannot be in one file: {', '.join(timed)} acts all the time in it.")
    whole = sum("diff" in adapter.tensors and adapter.tensors["diff"].ndim > 1 for adapter in made.values())
    if whole:
        told.append(f"{whole} modules are whole differences of weights: the file is large. The method svd makes it small.")
    return told


def sizes(made: Adapters) -> tuple[list[int], list[float]]:
    """Ranks and alphas of all modules that have any, for the metadata."""
    ranked = [adapter for adapter in made.values() if adapter.rank] or list(made.values())
    return [adapter.rank for adapter in ranked], [adapter.alpha for adapter in ranked]


def written_sizes(made: Adapters, way: str) -> tuple[list[int], list[float]]:
    """Ranks and alphas as they are written: where alpha / rank goes into the tensors (write.alpha_goes), alpha is the rank."""
    ranks, alphas = sizes(made)
    return ranks, alphas if way in ("data", "header") else [float(rank) for rank in ranks]


def ends(made: Adapters) -> list[int]:
    """The smallest and the largest rank."""
    return [min(sizes(made)[0]), max(sizes(made)[0])]


def source(path: Path) -> dict[str, object]:
    """What a recipe says of a file: its name (never its folder) and the hash of its tensors (AutoV3)."""
    return {"name": path.stem, "hash": metadata.file_hashes(path)["AutoV3"]}


def dtype_of(adapters: Adapters) -> Dtype:
    """The number format most tensors of a file have, for a file made from it: one of the three that are written."""
    counts = {name: sum(value.dtype == kind for adapter in adapters.values() for value in adapter.tensors.values())
              for name, kind in DTYPES.items() if name}
    return max(counts, key=counts.get) if any(counts.values()) else "fp16"
