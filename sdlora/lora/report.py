"""What an artist may know about a LoRA file before using it. Knows nothing about torch, drawing or the shelf."""

import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from sdlora import storage
from sdlora.errors import UserError
from sdlora.lora.header import Header, array, contents, header
from sdlora.lora.layout import Layout, Module, matching, opened_lora
from sdlora.lora.modules import Table, family_table, folder_table

SHOWN = 2000
EXPECTED_TRIGGERS = ("sdlora_trigger", "modelspec.trigger_phrase", "ss_trigger_words")


def inspect(path: Path, base: Path | None = None) -> dict[str, object]:
    """The report on one file, against a base (a resolved folder or single file) or else against the family's module table.

    Keys: dialect spelling kind family rank ranks alpha modules matched parts ignored effective_scale push push_against
    trigger name metadata problems file_bytes. `push` is |dW| / |W| over all modules. A file that is no LoRA is a UserError.
    """
    found, data, plan = opened_lora(path)
    table = base_table(base) if base else family_table(plan.families[0]) if plan.families else {}
    fitting = matching(plan.modules, table)
    changes, burnt = changes_of(plan, found, data)
    weights, against = weight_norms(fitting, table, base, plan)
    ranks = sorted({module.rank for module in plan.modules.values()})
    scales = [module.alpha / module.rank for module in plan.modules.values()]
    alphas = sorted({module.alpha for module in plan.modules.values()})
    push = math.sqrt(sum(changes[name] ** 2 for name in fitting)) / weights if weights else 0.0
    return {
        "dialect": plan.dialect, "spelling": plan.spelling, "kind": "LoCon" if any(convolution(plan)) else "LoRA",
        "family": plan.families[0] if len(plan.families) == 1 else list(plan.families),
        "rank": ranks[-1], "ranks": ranks, "alpha": alphas[0] if len(alphas) == 1 else alphas,
        "modules": len(plan.modules), "matched": len(fitting), "parts": parts(plan, fitting),
        "ignored": [{"name": name, "reason": reason} for name, reason in plan.ignored],
        "effective_scale": scales[0] if len(set(scales)) == 1 else sorted(set(scales)),
        "push": push if math.isfinite(push) else 0.0, "push_against": against,
        "trigger": trigger(found.metadata), "name": found.metadata.get("ss_output_name", "")[:SHOWN],
        "metadata": {storage.clean_text(key, 200): storage.clean_text(value, SHOWN) for key, value in found.metadata.items()},
        "problems": problems(plan, fitting, table, burnt, max(changes.values(), default=0.0)), "file_bytes": found.file_bytes,
    }


def base_table(base: Path) -> Table:
    """The modules of a resolved base: from a diffusers folder's configs, or by the cross-attention width of a single file."""
    if base.is_dir():
        return folder_table(base)
    shapes = {name: shape for name, (_, shape) in header(base).tensors.items()}
    width = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) == 2), 0)
    known = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
    if width not in known:
        raise UserError(f"{base.name} is not a Stable Diffusion 1.x, 2.x or XL base model.", "Choose another base.")
    return family_table(known[width])


def changes_of(plan: Layout, found: Header, data: bytearray) -> tuple[dict[str, float], list[str]]:
    """({path: Frobenius norm of dW}, paths whose values are not finite)."""
    norms, burnt = {}, []
    with np.errstate(all="ignore"):
        for path, module in plan.modules.items():
            norms[path] = change(module, found, data)
            if not math.isfinite(norms[path]):
                burnt.append(path)
    return {path: norm if math.isfinite(norm) else 0.0 for path, norm in norms.items()}, burnt


def change(module: Module, found: Header, data: bytearray) -> float:
    """|alpha / rank x up @ down| without forming the product: |BA|^2 = sum((B'B) * (AA'))."""
    up, down = (array(found, data, module.tensors[role]).astype(np.float64) for role in ("up", "down"))
    if "mid" in module.tensors:
        middle = array(found, data, module.tensors["mid"]).astype(np.float64)
        down = np.einsum("ijkl,jm->imkl", middle, down.reshape(module.rank, -1))
    up, down = up.reshape(up.shape[0], -1), down.reshape(module.rank, -1)
    return module.alpha / module.rank * math.sqrt(max(float(((up.T @ up) * (down @ down.T)).sum()), 0.0)) \
        if np.isfinite(up).all() and np.isfinite(down).all() else math.nan


def weight_norms(names: list[str], table: Table, base: Path | None, plan: Layout) -> tuple[float, str]:
    """(norm of the weights under `names`, what it was taken from: "weights" of a diffusers folder or "typical").

    Without the weights at hand a weight is taken to be as large as PyTorch makes a new one: rms 1 / sqrt(3 in).
    """
    folder = base or (storage.shipped("assets", "mini") if plan.families == ("mini",) else None)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors" if folder and folder.is_dir() else None
    if weights and weights.is_file():
        squares = weight_squares(weights, weights.stat().st_mtime_ns)
        if all(name in squares for name in names):
            return math.sqrt(sum(squares[name] for name in names)), "weights"
    return math.sqrt(sum(table[name][0] / 3 for name in names)), "typical"


@lru_cache(maxsize=4)
def weight_squares(path: Path, changed_ns: int) -> dict[str, float]:
    """{module path: sum of its squared weights} of a UNet file, kept until the file changes."""
    found, data = contents(path)
    return {name.removesuffix(".weight"): float(np.square(array(found, data, name), dtype=np.float64).sum())
            for name in found.tensors if name.endswith(".weight")}


def convolution(plan: Layout) -> list[bool]:
    return [len(module.shape) == 4 and module.shape[2:] != (1, 1) for module in plan.modules.values()]


def parts(plan: Layout, fitting: list[str]) -> dict[str, dict[str, int]]:
    """{"unet": {"modules", "matched"}, "te": {...}}"""
    counts = {"unet": {"modules": 0, "matched": 0}, "te": {"modules": 0, "matched": 0}}
    for name in plan.modules:
        counts["te" if ":" in name else "unet"]["modules"] += 1
    for name in fitting:
        counts["te" if ":" in name else "unet"]["matched"] += 1
    return counts


def trigger(metadata: dict[str, str]) -> str:
    """The trigger word the file names, or ""."""
    for key in EXPECTED_TRIGGERS:
        if metadata.get(key):
            return storage.clean_text(metadata[key], 200)
    try:
        settings = json.loads(metadata.get("sdlora_settings", "{}"))
    except (ValueError, RecursionError):
        return ""
    told = settings.get("trigger") if isinstance(settings, dict) else None
    return storage.clean_text(told, 200) if isinstance(told, str) else ""


def problems(plan: Layout, fitting: list[str], table: Table, burnt: list[str], largest: float) -> list[str]:
    """Sentences about everything that keeps the file from acting as its author meant."""
    found = list(plan.notes)
    if not table:
        found.append("It was made for another kind of base model: its cross-attention is none of Stable Diffusion's.")
    elif not fitting:
        found.append("It fits no module of this base: it was made for another one.")
    elif len(fitting) < len(plan.modules):
        odd = next(name for name in plan.modules if name not in set(fitting))
        found.append(f"{len(plan.modules) - len(fitting)} of {len(plan.modules)} modules do not fit this base ({odd}).")
    if plan.ignored:
        found.append(f"{len(plan.ignored)} tensors are ignored ({plan.ignored[0][1]}).")
    if burnt:
        found.append(f"It is a burnt style: {burnt[0]} holds values that are no numbers.")
    elif not largest:
        found.append("It changes nothing: all its values are zero.")
    return found


def other_build(report: dict[str, object], identity: str) -> list[str]:
    """A sentence when the file names another base than the one of `identity` (catalog.identity), else nothing."""
    told = report["metadata"].get("sdlora_base_identity", "")
    if not told or told == identity:
        return []
    return ["It was made for another build of this base: its colours and shapes may come out differently."]
