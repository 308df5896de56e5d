"""The report on a LoRA file: what it is, whether it fits, how much it changes. Knows nothing about drawing or the shelf.

`summary` needs no torch, for the web process; `inspect` measures the change too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdlora import storage
from sdlora.errors import UserError
from sdlora.families import WIDTHS, family_title
from sdlora.lora.formats.header import NAN, Header, array, header
from sdlora.lora.formats.layout import Layout, matching, open_lora
from sdlora.lora.formats.module_tables import Table, family_table, folder_table

if TYPE_CHECKING:
    from sdlora.lora.math.delta import Tensor

MAX_TEXT = 2000  # characters of a metadata value
TRIGGER_KEYS = ("sdlora_trigger", "modelspec.trigger_phrase", "ss_trigger_words")


def inspect(path: Path, base: Path | None = None, *, weights: "Mapping[str, Tensor] | None" = None,
            identity: str = "") -> dict[str, Any]:
    """Report on one file, against a base (a resolved folder or single file) or else against the family's module table.

    weights: those of the base by "PATH.weight", as base.weights.Weights returns them; mini's ship with sdlora. identity: of the
    build of mini in use, to recognize LoRAs of another one. Keys: those of `summary`, and push (|dW| / |W| over all modules that
    match) push_against ("weights", or "typical" ones) blocks {block: {"modules", "push"}}. A file that is no LoRA is a UserError.
    """
    from sdlora.lora.formats.reading import adapters_of
    from sdlora.lora.math import relative_norm

    found, data, plan = open_lora(path)
    table = table_for(plan, base)
    report = summary_of(found, plan, table, not_finite(found, data, plan))
    fitting = matching(plan.modules, table)
    adapters = adapters_of(found, data, {name: plan.modules[name] for name in fitting})
    known = known_weights(fitting, weights, plan.families if base is None else ())
    sizes = relative_norm.sizes(adapters, table, known)
    if fitting and not any(moved for moved, _ in sizes.values()) and not report["burnt"]:
        report["problems"].append("It changes nothing: all its values are zero.")
    times = relative_norm.relative_size(sizes)
    if times > relative_norm.DAMAGED:
        report["problems"].append(relative_norm.damage_warning(times))
    elif 0 < times < relative_norm.NOTHING and not report["burnt"]:
        report["problems"].append(f"It changes next to nothing: {times:.1g} of the weights, which no picture shows.")
    if identity and "mini" in plan.families:
        report["problems"] += other_build(found.metadata, identity)
    return report | {"push": times, "push_against": "weights" if len(known) == len(fitting) else "typical",
                     "blocks": relative_norm.by_block(sizes, plan.families[0]) if plan.families else {}}


def summary(path: Path, base: Path | None = None) -> dict[str, Any]:
    """Return the part of the report that needs no torch. Raises UserError for a file that is no LoRA.

    Keys: dialect spelling kind family rank ranks alpha modules matched parts ignored effective_scale trigger name metadata
    burnt (paths that hold values which are no numbers) problems file_bytes.
    """
    found, data, plan = open_lora(path)
    return summary_of(found, plan, table_for(plan, base), not_finite(found, data, plan))


def summary_of(found: Header, plan: Layout, table: Table, nan: list[str]) -> dict[str, Any]:
    """Return the keys of `summary`. nan: paths whose values are not finite."""
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
        "trigger": trigger(found.metadata), "name": found.metadata.get("ss_output_name", "")[:MAX_TEXT],
        "metadata": {storage.clean_text(key, 200): storage.clean_text(value, MAX_TEXT) for key, value in found.metadata.items()},
        "burnt": nan, "problems": problems(plan, fitting, table, nan), "file_bytes": found.file_bytes,
    }


def table_for(plan: Layout, base: Path | None) -> Table:
    """Return the modules of a resolved base (a diffusers folder or a single file), else of the file's own family.

    Raises UserError for a single file that is no Stable Diffusion.
    """
    if base is None:
        return family_table(plan.families[0]) if plan.families else {}
    if base.is_dir():
        return folder_table(base)
    shapes = {name: shape for name, (_, shape) in header(base).tensors.items()}
    width = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) == 2), 0)
    family = WIDTHS.get(width)
    if family in (None, "mini"):  # mini is never a single file
        raise UserError(f"{base.name} is not a Stable Diffusion 1.x, 2.x or XL base model.", "Choose another base.")
    return family_table(family)


def not_finite(found: Header, data: bytearray, plan: Layout) -> list[str]:
    """Return the paths of modules that hold NaN or infinity."""
    return [path for path, module in plan.modules.items()
            if not all(np.isfinite(array(found, data, name)).all() for name in module.tensors.values())]


def known_weights(names: list[str], weights: "Mapping[str, Tensor] | None", families: tuple[str, ...]) -> "dict[str, Tensor]":
    """Return {path: weight} of those modules whose weights are known; mini's ship with sdlora."""
    if weights is None and families == ("mini",):
        weights = mini_weights()
    return {name: weights[f"{name}.weight"] for name in names if f"{name}.weight" in weights} if weights is not None else {}


def mini_weights() -> "dict[str, Tensor]":
    """Return {"PATH.weight": tensor} of the base that ships with sdlora. Its text encoder is stored without `text_model.`."""
    from safetensors.torch import load_file

    text = load_file(storage.shipped("assets", "mini", "text_encoder", "model.safetensors"))
    return load_file(storage.shipped("assets", "mini", "unet", "diffusion_pytorch_model.safetensors")) | {
        f"te1:text_model.{name.removeprefix('text_model.')}": value for name, value in text.items()}


def parts(plan: Layout, fitting: list[str]) -> dict[str, dict[str, int]]:
    """Return {"unet": {"modules", "matched"}, "te": {...}}."""
    counts = {"unet": {"modules": 0, "matched": 0}, "te": {"modules": 0, "matched": 0}}
    for name in plan.modules:
        counts["te" if ":" in name else "unet"]["modules"] += 1
    for name in fitting:
        counts["te" if ":" in name else "unet"]["matched"] += 1
    return counts


def trigger(metadata: dict[str, str]) -> str:
    """Return the trigger word that the metadata names, or ""."""
    for key in TRIGGER_KEYS:
        if metadata.get(key):
            return storage.clean_text(metadata[key], 200)
    try:
        settings = json.loads(metadata.get("sdlora_settings", "{}"))
    except (ValueError, RecursionError):
        return ""
    word = settings.get("trigger") if isinstance(settings, dict) else None
    return storage.clean_text(word, 200) if isinstance(word, str) else ""


def problems(plan: Layout, fitting: list[str], table: Table, nan: list[str]) -> list[str]:
    """Return sentences about everything that keeps the file from having its full effect."""
    found = list(plan.notes)
    made_for = " or ".join(family_title(family) for family in plan.families)
    base = next((WIDTHS.get(shape[1]) for path, shape in table.items() if path.endswith("attn2.to_k")), None)
    if not table:
        found.append("It was made for another kind of base model: its cross-attention is none of Stable Diffusion's.")
    elif not fitting:
        found.append(f"It fits no module of this base: it was made for another one{made_for and f' ({made_for})'}.")
    elif plan.families and base and base not in plan.families:
        found.append(f"It was made for {made_for}, and this base is {family_title(base)}: only {len(fitting)} of "
                     f"{len(plan.modules)} modules happen to fit.")
    elif len(fitting) < len(plan.modules):
        odd = next(name for name in plan.modules if name not in set(fitting))
        found.append(f"{len(plan.modules) - len(fitting)} of {len(plan.modules)} modules do not fit this base ({odd}).")
    if nan:
        found.append(f"It is broken: {NAN.format(module=nan[0])}")
    return found


def other_build(metadata: Mapping[str, str], identity: str) -> list[str]:
    """Return a sentence when a LoRA names another build of mini than that of `identity` (catalog.identity)."""
    named = metadata.get("sdlora_base_identity", "")
    if not named or named == identity:
        return []
    return ["It was made for another build of mini: its colours and shapes would come out wrong."]


def refuse_other_build(metadata: Mapping[str, str], identity: str, name: str) -> None:
    """Raise UserError when the LoRA `name` was made for another build of mini than that of `identity`.

    Only for drawing with mini: LoRAs of the public families work with any base of their family.
    """
    if other_build(metadata, identity):
        raise UserError(f"{name} was made for another build of mini, so its colours and shapes would come out wrong.",
                        "Train it again on this one, or draw with the mini that came with the sdlora it was made with.")
