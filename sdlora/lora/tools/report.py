"""What an artist may know about a LoRA file before using it. Knows nothing about drawing or the shelf.

`summary` does without torch, for the web process; `inspect` measures the change too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdlora import storage
from sdlora.errors import UserError
from sdlora.families import WIDTHS
from sdlora.lora.formats.header import Header, array, header
from sdlora.lora.formats.layout import Layout, matching, opened_lora
from sdlora.lora.formats.module_tables import Table, family_table, folder_table

if TYPE_CHECKING:
    from sdlora.lora.math.delta import Tensor

SHOWN = 2000
EXPECTED_TRIGGERS = ("sdlora_trigger", "modelspec.trigger_phrase", "ss_trigger_words")
IDENTITY = "sdlora_base_identity"
TITLES = {"mini": "mini", "sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL"}


def inspect(path: Path, base: Path | None = None, *, weights: "Mapping[str, Tensor] | None" = None,
            identity: str = "") -> dict[str, object]:
    """The report on one file, against a base (a resolved folder or single file) or else against the family's module table.

    weights: those of the base by "PATH.weight", as base.weights.Weights gives them; mini's own are at hand. identity: of the
    build of mini in use, to tell LoRAs of another one. Keys: those of `summary`, and push (|dW| / |W| over all modules that
    match) push_against ("weights", or "typical" ones) blocks {block: {"modules", "push"}}. A file that is no LoRA is a UserError.
    """
    from sdlora.lora.formats.unpack import adapters_of
    from sdlora.lora.math import relative_norm

    found, data, plan = opened_lora(path)
    table = base_table(base) if base else family_table(plan.families[0]) if plan.families else {}
    report = summed(found, plan, table, burnt(found, data, plan))
    fitting = matching(plan.modules, table)
    adapters = adapters_of(found, data, {name: plan.modules[name] for name in fitting})
    there = at_hand(fitting, weights, plan.families if base is None else ())
    sizes = relative_norm.sizes(adapters, table, there)
    if fitting and not any(moved for moved, _ in sizes.values()) and not report["burnt"]:
        report["problems"].append("It changes nothing: all its values are zero.")
    times = relative_norm.total(sizes)
    if times > relative_norm.ABSURD:
        report["problems"].append(relative_norm.absurd(times))
    elif 0 < times < relative_norm.NOTHING and not report["burnt"]:
        report["problems"].append(f"It changes next to nothing: {times:.1g} of the weights, which no picture shows.")
    if identity and "mini" in plan.families:
        report["problems"] += other_build(found.metadata, identity)
    blocks = relative_norm.by_block(sizes, plan.families[0]) if plan.families else {}
    return report | {"push": relative_norm.total(sizes), "push_against": "weights" if len(there) == len(fitting) else "typical",
                     "blocks": blocks}


def summary(path: Path, base: Path | None = None) -> dict[str, object]:
    """All of the report that needs no torch. Raises UserError for a file that is no LoRA.

    Keys: dialect spelling kind family rank ranks alpha modules matched parts ignored effective_scale trigger name metadata
    burnt (paths that hold values which are no numbers) problems file_bytes.
    """
    found, data, plan = opened_lora(path)
    table = base_table(base) if base else family_table(plan.families[0]) if plan.families else {}
    return summed(found, plan, table, burnt(found, data, plan))


def summed(found: Header, plan: Layout, table: Table, nan: list[str]) -> dict[str, object]:
    """The keys of `summary`. nan: paths whose values are not finite."""
    fitting = matching(plan.modules, table)
    ranks = sorted({module.rank for module in plan.modules.values()} - {0}) or [0]
    scales = sorted({module.scale for module in plan.modules.values()})
    alphas = sorted({module.alpha for module in plan.modules.values() if module.rank}) or [0.0]
    return {
        "dialect": plan.dialect, "spelling": plan.spelling, "kind": plan.kind,
        "family": plan.families[0] if len(plan.families) == 1 else list(plan.families),
        "rank": ranks[-1], "ranks": ranks, "alpha": alphas[0] if len(alphas) == 1 else alphas,
        "modules": len(plan.modules), "matched": len(fitting), "parts": parts(plan, fitting),
        "ignored": [{"name": name, "reason": reason} for name, reason in plan.ignored],
        "effective_scale": scales[0] if len(scales) == 1 else scales,
        "trigger": trigger(found.metadata), "name": found.metadata.get("ss_output_name", "")[:SHOWN],
        "metadata": {storage.clean_text(key, 200): storage.clean_text(value, SHOWN) for key, value in found.metadata.items()},
        "burnt": nan, "problems": problems(plan, fitting, table, nan), "file_bytes": found.file_bytes,
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


def burnt(found: Header, data: bytearray, plan: Layout) -> list[str]:
    """Paths of modules that hold NaN or infinity."""
    return [path for path, module in plan.modules.items()
            if not all(np.isfinite(array(found, data, name)).all() for name in module.tensors.values())]


def at_hand(names: list[str], weights: "Mapping[str, Tensor] | None", families: tuple[str, ...]) -> "dict[str, Tensor]":
    """The weights of a base under the names of their modules, as far as they are there; mini's ship with sdlora."""
    if weights is None and families == ("mini",):
        weights = minis_own()
    return {name: weights[f"{name}.weight"] for name in names if f"{name}.weight" in weights} if weights is not None else {}


def minis_own() -> "dict[str, Tensor]":
    """{"PATH.weight": tensor} of the base that ships with sdlora; its text encoder is written without `text_model.`."""
    from safetensors.torch import load_file

    text = load_file(storage.shipped("assets", "mini", "text_encoder", "model.safetensors"))
    return load_file(storage.shipped("assets", "mini", "unet", "diffusion_pytorch_model.safetensors")) | {
        f"te1:text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}


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


def problems(plan: Layout, fitting: list[str], table: Table, nan: list[str]) -> list[str]:
    """Sentences about everything that keeps the file from acting as its author meant."""
    found = list(plan.notes)
    made_for = " or ".join(TITLES[family] for family in plan.families)
    theirs = next((WIDTHS.get(shape[1]) for path, shape in table.items() if path.endswith("attn2.to_k")), None)
    if not table:
        found.append("It was made for another kind of base model: its cross-attention is none of Stable Diffusion's.")
    elif not fitting:
        found.append(f"It fits no module of this base: it was made for another one{made_for and f' ({made_for})'}.")
    elif plan.families and theirs and theirs not in plan.families:
        found.append(f"It was made for {made_for}, and this base is {TITLES[theirs]}: only {len(fitting)} of {len(plan.modules)} "
                     "modules happen to fit.")
    elif len(fitting) < len(plan.modules):
        odd = next(name for name in plan.modules if name not in set(fitting))
        found.append(f"{len(plan.modules) - len(fitting)} of {len(plan.modules)} modules do not fit this base ({odd}).")
    if nan:
        found.append(f"It is a burnt style: {nan[0]} holds values that are no numbers.")
    return found


def other_build(metadata: Mapping[str, str], identity: str) -> list[str]:
    """A sentence when a LoRA names another build of mini than that of `identity` (catalog.identity), else nothing."""
    told = metadata.get(IDENTITY, "")
    if not told or told == identity:
        return []
    return ["It was made for another build of mini: its colours and shapes would come out wrong."]


def refuse_other_build(metadata: Mapping[str, str], identity: str, name: str) -> None:
    """Raises UserError when the LoRA `name` was made for another build of mini than that of `identity`.

    To be asked only when drawing with mini: LoRAs of the public families are meant for any base of theirs.
    """
    if other_build(metadata, identity):
        raise UserError(f"{name} was made for another build of mini, so its colours and shapes would come out wrong.",
                        "Train it again on this one, or draw with the mini that came with the sdlora it was made with.")
