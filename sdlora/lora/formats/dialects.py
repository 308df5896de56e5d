"""The names inside LoRA files <-> canonical module paths. Knows nothing about tensors or torch.

A spelling is read by grammar, not from a list of one model's modules, so it works for every UNet. Spellings: kohya, diffusers of
every age with its wrappers, ComfyUI, SimpleTuner; block names of diffusers, or those of LDM and sgm (CompVis, ComfyUI, kohya's
SDXL), for networks of two layers a block: SD 1, SD 2 and SDXL. Files with numbers instead of names: cloneofsimo.py.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from sdlora.lora.formats.kinds import SplitName, split_suffix, unsupported_kind

FLAT_NETWORKS = {"lora_unet": "", "oft_unet": "", "lora_te": "te1:", "lora_te1": "te1:", "lora_te2": "te2:", "lycoris": None}
FLAT_PREFIX = re.compile(rf"(?:({'|'.join(FLAT_NETWORKS)})_)+(?:unet_)?")
DOTTED_NETWORKS = {  # None: a wrapper that says nothing about the network
    "base_model.model.": None, "base_model.": None, "module.": None, "_orig_mod.": None,
    "unet.": "", "text_encoder.": "te1:", "text_encoder_2.": "te2:", "diffusion_model.": "", "model.diffusion_model.": "",
    **{f"{outer}{clip}.{inner}": network for outer in ("text_encoders.", "") for inner in ("transformer.", "")
       for clip, network in (("clip_l", "te1:"), ("clip_h", "te1:"), ("clip_g", "te2:"))}}
DOTTED_PREFIX = re.compile("|".join(re.escape(prefix) for prefix in sorted(DOTTED_NETWORKS, key=len, reverse=True)))
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
LDM_RESNET = {"in_layers.2": "conv1", "out_layers.3": "conv2", "in_layers.0": "norm1", "out_layers.0": "norm2",
              "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut"}
LDM_OUTSIDE = {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",  # modules outside the blocks
               "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
               "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"}
LDM_RESNET_BACK = {diffusers: ldm for ldm, diffusers in LDM_RESNET.items()}
LDM_OUTSIDE_BACK = {diffusers: ldm for ldm, diffusers in LDM_OUTSIDE.items()}
LDM_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d{1,3})\.(\d)\.(.+)|middle_block\.([012])\.(.+)")
DIFFUSERS_BLOCK = re.compile(r"(down|up|mid)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


class ParsedName(NamedTuple):
    """One tensor's name. path: of its module; part: of kinds.PARTS; blocks: "sgm" or "diffusers"; repaired: what was, or ""."""
    path: str
    part: str
    spelling: str
    blocks: str = "diffusers"
    adapter: str = ""
    repaired: str = ""


@dataclass
class FileNames:
    """The names of one file. modules: {canonical path: {part, as in kinds.PARTS: tensor name}}."""
    dialect: str  # "kohya", "diffusers", "comfyui", "simpletuner"
    spelling: str  # the exact kind, for the report
    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)  # {tensor name: kind we do not read}
    unknown: list[str] = field(default_factory=list)  # tensor names of no spelling
    repeated: dict[str, str] = field(default_factory=dict)  # {tensor name: why another name of this module was read}
    repairs: Counter[str] = field(default_factory=Counter)  # {what was repaired: how many names}


def parse_names(names: list[str]) -> FileNames:
    """Parse all tensor names of a file. Raises nothing: names that are not read are in `kinds` and `unknown`."""
    found, known, spellings = FileNames("", ""), set(names), Counter()
    variants: dict[str, dict[tuple[str, str, str], dict[str, str]]] = {}
    for name in names:
        parsed = parse_name(name) or parse_ia3_vector(name, known)
        if parsed is None:
            if kind := unsupported_kind(name):
                found.kinds[name] = kind
            else:
                found.unknown.append(name)
            continue
        key = (parsed.blocks, parsed.spelling.split(" ")[0], parsed.adapter)
        parts = variants.setdefault(parsed.path, {}).setdefault(key, {})
        if parsed.part in parts:
            found.repeated[name] = "the same thing twice"
            continue
        parts[parsed.part] = name
        spellings[parsed.spelling] += 1
        if parsed.repaired:
            found.repairs[parsed.repaired] += 1
    found.modules = {path: choose_variant(several, found.repeated) for path, several in variants.items()}
    found.spelling = " + ".join(spelling for spelling, _ in spellings.most_common())
    found.dialect = found.spelling.split(" ")[0]
    return found


def choose_variant(several: dict[tuple[str, str, str], dict[str, str]], repeated: dict[str, str]) -> dict[str, str]:
    """Return the parts of a module in one of its spellings; the names in the others go into `repeated`.

    Halves of two spellings are never mixed. diffusers' block names are preferred to sgm's, as in diffusers (InvokeAI #5725).
    """
    best = min(several, key=lambda key: (not {"down", "up"} <= several[key].keys(), key[0], -len(several[key])))
    parts = dict(several[best])
    for key, others in several.items():
        if key == best:
            continue
        if key[:2] == best[:2] and not key[2]:  # an alpha has no adapter's name
            parts = others | parts
            continue
        why = "a second adapter in the same file" if key[:2] == best[:2] else "the same module in a second spelling"
        repeated |= dict.fromkeys(others.values(), why)
    return parts


@lru_cache(maxsize=65_536)
def parse_name(name: str) -> ParsedName | None:
    """Return the module path and the part of one tensor's name; None for a name of no spelling."""
    split = split_suffix(name)
    if not split or not split.module:
        return None
    prefix = FLAT_PREFIX.match(split.module + "_")
    return parse_flat(split, prefix) if prefix else parse_dotted(split)


def parse_ia3_vector(name: str, known: set[str]) -> ParsedName | None:
    """Parse the vector of LyCORIS' IA3, a bare ".weight": only beside its "on_input"."""
    beside = f"{name.removesuffix('.weight')}.on_input"
    parsed = parse_name(beside) if name.endswith(".weight") and beside in known else None
    return parsed._replace(part="weight") if parsed else None


def parse_flat(split: SplitName, prefix: re.Match[str]) -> ParsedName | None:
    """Parse a name such as "lora_unet_mid_block_..._attn1_to_q"; None for modules that no Stable Diffusion has."""
    inner = split.module[prefix.end():].replace(".", "_")  # a converter of diffusers leaves one dot in DoRA names
    doubled = "a doubled prefix" if prefix.end() > len(prefix[1]) + 1 else ""
    dotted = unflatten(inner)
    known = canonical(dotted, FLAT_NETWORKS[prefix[1]]) if dotted else None
    if known is None:
        return None
    path, blocks = known
    spelling = "simpletuner (LyCORIS)" if prefix[1] == "lycoris" else "kohya"
    spelling += " (sgm block names)" if blocks == "sgm" else ""
    repaired = "a suffix with underscores" if split.form == "repaired" else doubled
    return ParsedName(path, split.part, spelling, blocks, split.adapter, repaired)


@lru_cache(maxsize=65_536)
def unflatten(flat: str) -> str | None:
    """Return "down_blocks.0.attn1.to_q" for "down_blocks_0_attn1_to_q"; None where a word is not in WORDS."""
    parts, rest = [], flat
    while rest:
        head = rest.partition("_")[0]
        word = head if head.isdecimal() else next((w for w in WORDS if rest == w or rest.startswith(w + "_")), None)
        if word is None:
            return None
        parts.append(word)
        rest = rest[len(word) + 1:]
    return ".".join(parts) or None


def parse_dotted(split: SplitName) -> ParsedName | None:
    """Parse a name of diffusers, PEFT or ComfyUI below any of its wrappers; None for other modules."""
    module, seen = split.module, []
    while match := DOTTED_PREFIX.match(module):
        seen.append(match[0])
        module = module[match.end():]
    networks = [network for prefix in seen if (network := DOTTED_NETWORKS[prefix]) is not None]
    known = canonical(module, networks[-1] if networks else None)
    if known is None:
        return None
    path, blocks = known
    form = split.form or "lora_down"
    if blocks == "sgm" or any(prefix.startswith(COMFYUI) for prefix in seen):
        spelling = "comfyui" if form == "lora_down" else f"comfyui ({form})"
    else:
        bare = "" if seen or form == "attention processors" else ", no prefix"
        spelling = f"diffusers ({form}{bare})"
    doubled = "a doubled prefix" if len(set(seen)) < len(seen) else ""
    repaired = "a suffix with underscores" if split.form == "repaired" else doubled
    return ParsedName(path, split.part, spelling, blocks, split.adapter, repaired)


def canonical(dotted: str, network: str | None) -> tuple[str, str] | None:
    """Return (diffusers path with its "te1:", which block names it had), or None. network: "", "te1:", "te2:"; None: unknown."""
    dotted = dotted.replace(".processor.", ".")
    if not network:
        sgm = from_ldm(dotted)
        if sgm or dotted.partition(".")[0] in UNET_ROOTS:
            path = sgm or dotted
            return path + ".0" if path.endswith(("attn1.to_out", "attn2.to_out")) else path, "sgm" if sgm else "diffusers"
        if network == "":
            return None
    while dotted.startswith("text_model.text_model."):
        dotted = dotted.removeprefix("text_model.")
    if dotted.startswith(BELOW_TEXT_MODEL):
        dotted = f"text_model.{dotted}"
    owner, _, last = dotted.rpartition(".")
    if owner.endswith("self_attn"):
        dotted = f"{owner}.{OLD_PROJECTIONS.get(last, last)}"
    return ((network or "te1:") + dotted, "diffusers") if dotted.partition(".")[0] in TEXT_ROOTS else None


def from_ldm(dotted: str) -> str | None:
    """Return the diffusers path of a path of LDM or sgm; None for other paths."""
    if dotted in LDM_OUTSIDE:
        return LDM_OUTSIDE[dotted]
    match = LDM_BLOCK.fullmatch(dotted)
    if not match:
        return None
    side, number, slot, rest, middle, middle_rest = match.groups()
    if middle is not None:
        owner = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")[int(middle)]
        return f"{owner}.{LDM_RESNET.get(middle_rest, middle_rest)}"
    number = int(number)
    if side == "input_blocks":
        block, layer = divmod(number - 1, 3)
        if rest == "op":
            return f"down_blocks.{block}.downsamplers.0.conv"
    else:
        block, layer = divmod(number, 3)
        if rest == "conv":
            return f"up_blocks.{block}.upsamplers.0.conv"
    kind = "attentions" if slot == "1" else "resnets"
    return f"{'down' if side == 'input_blocks' else 'up'}_blocks.{block}.{kind}.{layer}.{LDM_RESNET.get(rest, rest)}"


def to_ldm(path: str) -> str:
    """Return the sgm path of a diffusers path of SDXL's UNet. Raises ValueError for a path that SDXL does not have."""
    if path in LDM_OUTSIDE_BACK:
        return LDM_OUTSIDE_BACK[path]
    match = DIFFUSERS_BLOCK.fullmatch(path)
    if not match:
        raise ValueError(f"{path} has no sgm name")
    side, block, kind, layer, rest = match.groups()
    block, layer = int(block or 0), int(layer)
    rest = LDM_RESNET_BACK.get(rest, rest) if kind == "resnets" else rest
    if kind == "downsamplers":
        return f"input_blocks.{3 * (block + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{3 * block + 2}.2.conv"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * layer}.{rest}"
    number = 3 * block + layer + (1 if side == "down" else 0)
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{1 if kind == 'attentions' else 0}.{rest}"


def kohya_name(path: str, family: str) -> str:
    """Return the kohya name of a module. SDXL: sgm block names and lora_te1_; all others: lora_te_."""
    network, colon, rest = path.partition(":")
    if not colon:
        return "lora_unet_" + (to_ldm(path) if family == "sdxl" else path).replace(".", "_")
    prefix = "lora_te" if network == "te1" and family != "sdxl" else f"lora_{network}"
    return f"{prefix}_{rest.replace('.', '_')}"


def diffusers_name(path: str) -> str:
    """Return the diffusers name of a module with its pipeline prefix ("unet.", "text_encoder.", "text_encoder_2.")."""
    network, colon, rest = path.partition(":")
    return {"te1": "text_encoder.", "te2": "text_encoder_2."}[network] + rest if colon else "unet." + path
