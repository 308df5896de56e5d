"""How the world spells the names inside LoRA files <-> canonical module paths. Knows nothing about tensors or torch.

A spelling is read by grammar, not from a list of one model's modules, so it works for every UNet. Spellings of
lora-files.md 2.2-2.4: kohya, diffusers D1-D7 with their wrappers, ComfyUI, SimpleTuner. Positional files: positional.py.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from sdlora.lora.formats.ldm_names import from_sgm, to_sgm
from sdlora.lora.formats.tensor_suffixes import Leaf, leaf_of, refused_kind

FLAT_PARTS = {"lora_unet": "", "oft_unet": "", "lora_te": "te1:", "lora_te1": "te1:", "lora_te2": "te2:", "lycoris": None}
FLAT_PREFIX = re.compile(rf"(?:({'|'.join(FLAT_PARTS)})_)+(?:unet_)?")
DOTTED_PARTS = {  # None: a wrapper that says nothing about the part
    "base_model.model.": None, "base_model.": None, "module.": None, "_orig_mod.": None,
    "unet.": "", "text_encoder.": "te1:", "text_encoder_2.": "te2:", "diffusion_model.": "", "model.diffusion_model.": "",
    **{f"{outer}{clip}.{inner}": part for outer in ("text_encoders.", "") for inner in ("transformer.", "")
       for clip, part in (("clip_l", "te1:"), ("clip_h", "te1:"), ("clip_g", "te2:"))}}
DOTTED_PREFIX = re.compile("|".join(re.escape(prefix) for prefix in sorted(DOTTED_PARTS, key=len, reverse=True)))
COMFYUI = ("diffusion_model.", "model.diffusion_model.", "text_encoders.", "clip_")
UNET_ROOTS = {"down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding"}
TEXT_ROOTS = {"text_model", "text_projection"}
BELOW_TEXT_MODEL = ("encoder.layers.", "embeddings.", "final_layer_norm")  # newer transformers lost the level above these
OLD_PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
WORDS = sorted("""
    down_blocks up_blocks mid_block attentions resnets downsamplers upsamplers transformer_blocks attn1 attn2 to_q to_k to_v
    to_out ff net proj proj_in proj_out conv conv1 conv2 conv_in conv_out conv_shortcut conv_norm_out time_emb_proj
    time_embedding linear_1 linear_2 add_embedding pool norm norm1 norm2 norm3 input_blocks middle_block output_blocks in_layers
    out_layers emb_layers skip_connection time_embed label_emb op out text_model encoder layers self_attn q_proj k_proj v_proj
    out_proj mlp fc1 fc2 text_projection embeddings token_embedding position_embedding final_layer_norm layer_norm1 layer_norm2
    """.split(), key=len, reverse=True)


class Place(NamedTuple):
    """One tensor's name, understood. blocks: "sgm" or "diffusers"; repaired: what had to be mended, or ""."""
    path: str
    part: str
    spelling: str
    blocks: str = "diffusers"
    adapter: str = ""
    repaired: str = ""


@dataclass
class Spelled:
    """The names of one file, understood. modules: {canonical path: {part, as leaves.PARTS says it: tensor name}}."""
    dialect: str                                              # "kohya", "diffusers", "comfyui", "simpletuner"
    spelling: str                                             # the exact kind, for the report
    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)       # {tensor name: kind we do not read}
    unknown: list[str] = field(default_factory=list)          # tensor names of no spelling
    repeated: dict[str, str] = field(default_factory=dict)    # {tensor name: why another name of this module was read}
    repairs: dict[str, int] = field(default_factory=dict)     # {what was mended: how many names}


def spell(names: list[str]) -> Spelled:
    """Understand all tensor names of a file. Nothing is raised: what is not understood is in `kinds` and `unknown`."""
    found, known, spellings = Spelled("", ""), set(names), {}
    variants: dict[str, dict[tuple[str, str, str], dict[str, str]]] = {}
    for name in names:
        place = place_of(name) or scaling_place(name, known)
        if place is None:
            if kind := refused_kind(name):
                found.kinds[name] = kind
            else:
                found.unknown.append(name)
            continue
        key = (place.blocks, place.spelling.split(" ")[0], place.adapter)
        roles = variants.setdefault(place.path, {}).setdefault(key, {})
        if place.part in roles:
            found.repeated[name] = "the same thing twice"
            continue
        roles[place.part] = name
        spellings[place.spelling] = spellings.get(place.spelling, 0) + 1
        if place.repaired:
            found.repairs[place.repaired] = found.repairs.get(place.repaired, 0) + 1
    for path, several in variants.items():
        found.modules[path] = next(iter(several.values())) if len(several) == 1 else chosen(several, found.repeated)
    found.spelling = " + ".join(sorted(spellings, key=lambda key: -spellings[key]))
    found.dialect = found.spelling.split(" ")[0]
    return found


def chosen(several: dict[tuple[str, str, str], dict[str, str]], repeated: dict[str, str]) -> dict[str, str]:
    """One set of parts where a module is spelled more than once; the names of the others go into `repeated`.

    Halves of two spellings are never mixed. diffusers' block names win over sgm's, as in diffusers (InvokeAI #5725).
    """
    best = min(several, key=lambda key: (not {"down", "up"} <= several[key].keys(), key[0], -len(several[key])))
    roles = dict(several[best])
    for key, others in several.items():
        if key == best:
            continue
        if key[:2] == best[:2] and not key[2]:                 # an alpha has no adapter's name
            roles = others | roles
            continue
        why = "a second adapter in the same file" if key[:2] == best[:2] else "the same module in a second spelling"
        repeated |= dict.fromkeys(others.values(), why)
    return roles


@lru_cache(maxsize=65_536)
def place_of(name: str) -> Place | None:
    """Canonical path and part of one tensor's name; None for a name of no spelling."""
    leaf = leaf_of(name)
    return (flat_place(leaf) if FLAT_PREFIX.match(name) else dotted_place(leaf)) if leaf and leaf.module else None


def scaling_place(name: str, known: set[str]) -> Place | None:
    """LyCORIS' IA3 keeps its vector under a bare ".weight": read as one only beside its "on_input"."""
    beside = f"{name.removesuffix('.weight')}.on_input"
    place = place_of(beside) if name.endswith(".weight") and beside in known else None
    return place._replace(part="weight") if place else None


def flat_place(leaf: Leaf) -> Place | None:
    """"lora_unet_mid_block_..._attn1_to_q" -> its place; None for modules that no Stable Diffusion has."""
    prefix = FLAT_PREFIX.match(leaf.module + "_")
    inner = leaf.module[prefix.end():].replace(".", "_")        # a converter of diffusers leaves one dot in DoRA names
    doubled = "a doubled prefix" if prefix.end() > len(prefix[1]) + 1 else ""
    dotted = unflatten(inner)
    if dotted is None:
        return None
    path, blocks = canonical(dotted, FLAT_PARTS[prefix[1]])
    if path is None:
        return None
    spelling = "simpletuner (LyCORIS)" if prefix[1] == "lycoris" else "kohya"
    spelling += " (sgm block names)" if blocks == "sgm" else ""
    mended = "a leaf with underscores" if leaf.form == "repaired" else doubled
    return Place(path, leaf.part, spelling, blocks, leaf.adapter, mended)


@lru_cache(maxsize=65_536)
def unflatten(flat: str) -> str | None:
    """"down_blocks_0_attn1_to_q" -> "down_blocks.0.attn1.to_q": words of the field and numbers; None for anything else."""
    parts, rest = [], flat
    while rest:
        head, _, tail = rest.partition("_")
        word = head if head.isdecimal() else next((w for w in WORDS if rest == w or rest.startswith(w + "_")), None)
        if word is None:
            return None
        parts.append(word)
        rest = tail if head.isdecimal() else rest[len(word) + 1:]
    return ".".join(parts) or None


def dotted_place(leaf: Leaf) -> Place | None:
    """D1-D7 of lora-files.md 2.2 and ComfyUI's names, below any of the wrappers; None for other modules."""
    module, seen = leaf.module, []
    while match := DOTTED_PREFIX.match(module):
        seen.append(match[0])
        module = module[match.end():]
    said = [DOTTED_PARTS[prefix] for prefix in seen if DOTTED_PARTS[prefix] is not None]
    path, blocks = canonical(module, said[-1] if said else None)
    if path is None:
        return None
    form = {"": "lora_down"}.get(leaf.form, leaf.form)
    if blocks == "sgm" or any(prefix.startswith(COMFYUI) for prefix in seen):
        spelling = "comfyui" if form == "lora_down" else f"comfyui ({form})"
    else:
        bare = "" if seen or form == "attention processors" else ", no prefix"
        spelling = f"diffusers ({form}{bare})"
    mended = "a leaf with underscores" if leaf.form == "repaired" else "a doubled prefix" if len(set(seen)) < len(seen) else ""
    return Place(path, leaf.part, spelling, blocks, leaf.adapter, mended)


def canonical(dotted: str, part: str | None) -> tuple[str | None, str]:
    """(path in diffusers names with its "te1:", which block names it had). part None: told by the module itself."""
    dotted = dotted.replace(".processor.", ".")
    if part in (None, ""):
        sgm = from_sgm(dotted)
        if sgm or dotted.partition(".")[0] in UNET_ROOTS:
            path = sgm or dotted
            return path + ".0" if path.endswith(("attn1.to_out", "attn2.to_out")) else path, "sgm" if sgm else "diffusers"
        if part == "":
            return None, ""
    while dotted.startswith("text_model.text_model."):
        dotted = dotted.removeprefix("text_model.")
    if dotted.startswith(BELOW_TEXT_MODEL):
        dotted = f"text_model.{dotted}"
    owner, _, last = dotted.rpartition(".")
    if owner.endswith("self_attn"):
        dotted = f"{owner}.{OLD_PROJECTIONS.get(last, last)}"
    return ((part or "te1:") + dotted, "diffusers") if dotted.partition(".")[0] in TEXT_ROOTS else (None, "")


def kohya_name(path: str, family: str) -> str:
    """Canonical path -> kohya module name. SDXL: sgm block names and lora_te1_; all others: lora_te_ (lora-files.md 2.8)."""
    part, colon, rest = path.partition(":")
    if not colon:
        return "lora_unet_" + (to_sgm(path) if family == "sdxl" else path).replace(".", "_")
    prefix = "lora_te" if part == "te1" and family != "sdxl" else f"lora_{part}"
    return f"{prefix}_{rest.replace('.', '_')}"


def diffusers_name(path: str) -> str:
    """Canonical path -> diffusers module path with its pipeline prefix ("unet.", "text_encoder.", "text_encoder_2.")."""
    part, colon, rest = path.partition(":")
    return {"te1": "text_encoder.", "te2": "text_encoder_2."}[part] + rest if colon else "unet." + path
