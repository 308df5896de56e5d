"""What lies in a LoRA file: modules, ranks, alphas, family; or a sentence that says what the file is instead.

Works on the header and a few scalars; knows nothing about torch, bases on disk or drawing.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from sdlora.errors import UserError
from sdlora.lora.dialects import Spelled, diffusers_name, spell
from sdlora.lora.header import FLOATS, Header, array, contents
from sdlora.lora.modules import FAMILIES, WIDTHS, Table, family_table

ELSEWHERE = (  # what the names of a file that is no readable LoRA give away
    (("lora_unet_double_blocks", "lora_unet_single_blocks", "transformer.single_transformer_blocks"), "a LoRA for Flux"),
    (("joint_blocks", "lora_sd3", "lora_te3"), "a LoRA for Stable Diffusion 3"),
    (("transformer.", "lora_transformer_", "base_model.model.transformer"), "a LoRA for SD 3, Flux or the like"),
    (("lora_prior_", "lora_decoder_"), "a LoRA for another kind of model"),
    (("unet:0", "text_encoder:0"), "an old positional LoRA (cloneofsimo)"),
    (("lycoris_",), "a LyCORIS file of SimpleTuner"),
    (("diffusion_model.", "text_encoders."), "a LoRA in ComfyUI's own spelling"),
    (("control_model.", "controlnet_", "input_hint_block"), "a ControlNet"),
    (("model.diffusion_model.", "first_stage_model.", "cond_stage_model."), "a whole base model"),
    (("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"), "a whole UNet"),
    (("encoder.down", "decoder.up", "decoder.mid", "post_quant_conv"), "a VAE"),
    (("emb_params", "string_to_param", "clip_l", "clip_g", "<"), "a textual inversion embedding"))


@dataclass(frozen=True)
class Module:
    """One adapter as it lies in the file. tensors: {"down"|"up"|"mid": tensor name}; shape: that of the weight it changes."""
    tensors: dict[str, str]
    rank: int
    alpha: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """A readable file. families: those it can belong to; ignored: (tensor name, reason); notes: sentences."""
    dialect: str
    spelling: str
    modules: dict[str, Module]
    families: tuple[str, ...]
    ignored: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def opened_lora(path: Path) -> tuple[Header, bytearray, Layout]:
    """Header, a copy of the tensor bytes and the layout of a LoRA file. Raises UserError for anything else.

    PEFT's save_pretrained keeps alpha in adapter_config.json beside the file; it is then read from there.
    """
    path = Path(path)
    found, data = contents(path)
    beside = path.with_name("adapter_config.json")
    if "lora_adapter_metadata" not in found.metadata and any(key.startswith("base_model.") for key in found.tensors) \
            and beside.is_file() and beside.stat().st_size < 1_000_000:
        told = beside.read_text(encoding="utf-8", errors="replace")
        found = replace(found, metadata=found.metadata | {"lora_adapter_metadata": told})
    return found, data, layout(path.name, found, data)


def layout(name: str, found: Header, data: bytes | bytearray) -> Layout:
    """Understand the file `name`. Raises UserError for other kinds of files, unknown kinds of LoRA and broken pairs."""
    names = spell(list(found.tensors))
    refuse_other_kinds(name, found, names)
    notes: list[str] = []
    told = peft_alphas(found.metadata)
    modules = {}
    for path, roles in names.modules.items():
        rank, shape = pair(name, path, roles, found)
        alpha = told_alpha(told, path, rank)
        if "alpha" in roles:
            alpha = stored_alpha(name, path, array(found, data, roles["alpha"]), rank, notes)
        elif names.dialect == "kohya":
            notes.append("alpha is missing: read as the rank")
        modules[path] = Module({role: key for role, key in roles.items() if role != "alpha"}, rank, alpha, shape)
    ignored = tuple((key, "an embedding inside the file" if key.startswith("bundle_emb") else "a name we do not know")
                    for key in names.unknown)
    return Layout(names.dialect, names.spelling, modules, families(modules), ignored, tuple(dict.fromkeys(notes)))


def refuse_other_kinds(name: str, found: Header, names: Spelled) -> None:
    """Raises UserError with the kind's name for LoHa, LoKr, DoRA..., and for files that hold no LoRA at all."""
    if names.kinds:
        kinds = " and ".join(sorted(set(names.kinds.values())))
        raise UserError(f"{name} is of the kind {kinds}, which sdlora does not read yet.",
                        "Use a plain LoRA, or convert it to one where it was made.")
    if names.modules:
        return
    what = next((what for marks, what in ELSEWHERE if any(key.startswith(marks) for key in found.tensors)), None)
    if what:
        raise UserError(f"{name} is {what}, not a LoRA that sdlora reads.", "Choose a LoRA for Stable Diffusion 1.x, 2.x or XL.")
    example = next(iter(found.tensors))
    raise UserError(f"{name} holds no LoRA: none of its {len(found.tensors)} names is known (the first is {example[:80]!r}).",
                    "Choose a LoRA for Stable Diffusion 1.x, 2.x or XL.")


def pair(name: str, path: str, roles: dict[str, str], found: Header) -> tuple[int, tuple[int, ...]]:
    """(rank, shape of the weight) of one module; UserError when its halves are missing or do not fit."""
    missing = {"down", "up"} - roles.keys()
    if missing:
        raise UserError(f"{name} is incomplete: {path} has no {missing.pop()} half.", "Download or export it again.")
    formats = {role: found.tensors[key] for role, key in roles.items()}
    down, up = formats["down"][1], formats["up"][1]
    mid = formats["mid"][1] if "mid" in formats else None
    kernel = down[2:]
    fits = len(down) in (2, 4) and len(up) in (2, 4) and down[0] == up[1] and set(up[2:]) <= {1}
    if mid is not None:
        fits = fits and len(mid) == 4 and mid[:2] == (down[0], down[0]) and set(kernel) <= {1}
        kernel = mid[2:]
    if not fits or any(dtype not in FLOATS for role, (dtype, _) in formats.items() if role != "alpha"):
        raise UserError(f"{name} is damaged: the halves of {path} do not fit ({down} and {up}).", "Download or export it again.")
    return down[0], (up[0], down[1], *kernel)


def stored_alpha(name: str, path: str, values, rank: int, notes: list[str]) -> float:
    """The alpha tensor as a number; 0 means the rank (as kohya and LyCORIS read it), NaN and negative are refused."""
    if values.size != 1:
        raise UserError(f"{name} is damaged: alpha of {path} is not one number.", "Download or export it again.")
    alpha = float(values.reshape(-1)[0])
    if not math.isfinite(alpha) or alpha < 0:
        raise UserError(f"{name} is damaged: alpha of {path} is {alpha}.", "Download or export it again.")
    if alpha == 0:
        notes.append("alpha is 0: read as the rank")
    return alpha or float(rank)


def peft_alphas(metadata: dict[str, str]) -> dict[str, dict]:
    """The LoraConfig that diffusers keeps in the header, by its prefix ("unet", "text_encoder", "text_encoder_2" or "")."""
    try:
        told = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    configs: dict[str, dict] = {}
    for key, value in told.items() if isinstance(told, dict) else ():
        prefix, _, field = key.rpartition(".")
        configs.setdefault(prefix, {})[field] = value
    return configs


def told_alpha(configs: dict[str, dict], path: str, rank: int) -> float:
    """alpha of one module by the header's LoraConfig (with its patterns and rsLoRA), else the rank."""
    prefix, _, module = diffusers_name(path).partition(".")
    config = configs.get(prefix) or configs.get("") or {}
    alpha = config.get("lora_alpha", rank)
    patterns = config.get("alpha_pattern")
    for key, value in patterns.items() if isinstance(patterns, dict) else ():
        if module == key.lstrip("^") or module.endswith("." + key):
            alpha = value
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha <= 0:
        return float(rank)
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") is True else 1.0)


def families(modules: dict[str, Module]) -> tuple[str, ...]:
    """The families a file can belong to: by the width of its cross-attention, else those whose modules it fits best."""
    widths = {module.shape[1] for path, module in modules.items()
              if path.endswith(("attn2.to_k", "attn2.to_v")) and ":" not in path}
    if widths:
        return (WIDTHS[widths.pop()],) if len(widths) == 1 and widths <= WIDTHS.keys() else ()
    counts = {family: len(matching(modules, family_table(family))) for family in FAMILIES}
    best = max(counts.values())
    return tuple(family for family, count in counts.items() if count == best and count)


def matching(modules: dict[str, Module], table: Table) -> list[str]:
    """The paths that `table` has in the same shape; a 1x1 convolution and a linear layer are the same."""
    return [path for path, module in modules.items() if path in table and plain(module.shape) == plain(table[path])]


def plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] in ((1, 1), ()) else shape
