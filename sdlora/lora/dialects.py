"""How the world spells the names inside LoRA files <-> canonical module paths. Knows nothing about tensors or torch.

A spelling is read by grammar, not from a list of one model's modules, so it works for every UNet. Tables of
lora-files.md 2.2-2.4: kohya (diffusers and sgm block names), diffusers D1-D5, PEFT D6.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

KOHYA_PARTS = {"lora_unet": "", "lora_te": "te1:", "lora_te1": "te1:", "lora_te2": "te2:"}
DIFFUSERS_PARTS = {"unet.": "", "text_encoder.": "te1:", "text_encoder_2.": "te2:", "base_model.model.": ""}
LEAVES = {"lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid", "alpha": "alpha",
          "lora_A.weight": "down", "lora_B.weight": "up", "lora_A.default.weight": "down", "lora_B.default.weight": "up",
          "lora.down.weight": "down", "lora.up.weight": "up",
          "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
          "_lora_down.weight": "down", "_lora_up.weight": "up", "_lora.down.weight": "down", "_lora.up.weight": "up"}
KINDS = (("dora_scale", "DoRA"), ("lora_magnitude_vector", "DoRA"), ("hada_", "LoHa"), ("lokr_", "LoKr"), ("oft_", "OFT"),
         ("boft_", "BOFT"), ("a1.", "GLoRA"), ("a2.", "GLoRA"), ("b1.", "GLoRA"), ("b2.", "GLoRA"), ("bm.", "GLoRA"),
         ("diff", "full difference"), ("w_norm", "norm difference"), ("b_norm", "norm difference"), ("on_input", "IA3"),
         ("set_weight", "replacement"), ("bias_diff", "full difference"), ("reshape_weight", "resized LoRA"),
         ("scale", "LoRA with its own scale keys"), ("lora_embedding_", "embedding LoRA"))
WORDS = sorted("""
    down_blocks up_blocks mid_block attentions resnets downsamplers upsamplers transformer_blocks attn1 attn2 to_q to_k to_v
    to_out ff net proj proj_in proj_out conv conv1 conv2 conv_in conv_out conv_shortcut conv_norm_out time_emb_proj
    time_embedding linear_1 linear_2 add_embedding pool norm norm1 norm2 norm3 input_blocks middle_block output_blocks in_layers
    out_layers emb_layers skip_connection time_embed label_emb op out text_model encoder layers self_attn q_proj k_proj v_proj
    out_proj mlp fc1 fc2 text_projection embeddings token_embedding position_embedding final_layer_norm layer_norm1 layer_norm2
    """.split(), key=len, reverse=True)
SGM_LEAVES = {"in_layers.2": "conv1", "out_layers.3": "conv2", "in_layers.0": "norm1", "out_layers.0": "norm2",
              "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut"}
SGM_WHOLE = {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
             "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
             "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"}
DIFFUSERS_LEAF = re.compile(
    r"\.?(_lora\.(?:down|up)\.weight|lora_[AB]\.(?:default\.)?weight|lora(?:_linear_layer)?\.(?:down|up)\.weight"
    r"|lora_magnitude_vector(?:\.(?:default\.)?weight)?)$")
ROOTS = {"down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out", "time_embedding", "add_embedding", "text_model",
         "text_projection"}
OLD_PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass
class Spelled:
    """The names of one file, understood. modules: {canonical path: {"down"|"up"|"mid"|"alpha": tensor name}}."""
    dialect: str                                              # "kohya" or "diffusers"
    spelling: str                                             # the exact kind, for the report
    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)       # {tensor name: kind we do not read}
    unknown: list[str] = field(default_factory=list)          # tensor names of no spelling


def spell(names: list[str]) -> Spelled:
    """Understand all tensor names of a file. Nothing is raised: what is not understood is in `kinds` and `unknown`."""
    found, spellings = Spelled("", ""), {}
    for name in names:
        place = kohya_place(name) or diffusers_place(name)
        kind = next((kind for mark, kind in KINDS if place and place[1].startswith(mark)), None)
        if place and place[1] in LEAVES:
            path, leaf, spelling = place
            roles = found.modules.setdefault(path, {})
            if LEAVES[leaf] in roles:
                found.unknown.append(name)
                continue
            roles[LEAVES[leaf]] = name
            spellings[spelling] = spellings.get(spelling, 0) + 1
        elif kind:
            found.kinds[name] = kind
            spellings.setdefault(place[2], 0)
        else:
            found.unknown.append(name)
    found.spelling = " + ".join(sorted(spellings, key=lambda key: -spellings[key]))
    found.dialect = found.spelling.split(" ")[0]
    return found


def kohya_place(name: str) -> tuple[str, str, str] | None:
    """"lora_unet_mid_block_..._attn1_to_q.alpha" -> (canonical path, "alpha", spelling); None for another dialect."""
    module, dot, leaf = name.partition(".")
    prefix = next((part for part in ("lora_unet", "lora_te1", "lora_te2", "lora_te") if module.startswith(part + "_")), None)
    if not dot or prefix is None:
        return None
    dotted = unflatten(module[len(prefix) + 1:])
    if dotted is None:
        return None
    sgm = from_sgm(dotted) if prefix == "lora_unet" else None
    return KOHYA_PARTS[prefix] + (sgm or dotted), leaf, "kohya (sgm block names)" if sgm else "kohya"


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


def diffusers_place(name: str) -> tuple[str, str, str] | None:
    """D1-D6 of lora-files.md 2.2 -> (canonical path, leaf, spelling); None for another dialect."""
    prefix = next((part for part in DIFFUSERS_PARTS if name.startswith(part)), "")
    rest = name[len(prefix):]
    for _ in range(2):                                        # wrappers written twice by some trainers
        rest = rest.removeprefix(prefix)
    match = DIFFUSERS_LEAF.search(rest)
    if not match or not match.start():
        return None
    module, leaf, part = rest[:match.start()], match[1], DIFFUSERS_PARTS.get(prefix, "")
    if module.partition(".")[0] not in ROOTS:
        return None
    if leaf.startswith("_lora"):
        module = module.replace(".processor.", ".")
        owner, _, last = module.rpartition(".")
        if part:
            module = f"{owner}.{OLD_PROJECTIONS.get(last, last)}"
        elif last == "to_out":
            module += ".0"
        return part + module, leaf, "diffusers (attention processors)"
    form = "PEFT" if "lora_A" in leaf or "lora_B" in leaf or "magnitude" in leaf else "lora.down"
    if not part and module.startswith("text_model."):          # a text encoder saved by itself
        part = "te1:"
    return part + module, leaf, f"diffusers ({form}{'' if prefix else ', no prefix'})"


def from_sgm(dotted: str) -> str | None:
    """sgm/LDM path -> diffusers path for two layers a block (SD 1, SD 2, SDXL); None when it is no sgm path."""
    if dotted in SGM_WHOLE:
        return SGM_WHOLE[dotted]
    match = re.fullmatch(r"(input_blocks|output_blocks)\.(\d{1,3})\.(\d)\.(.+)|middle_block\.([012])\.(.+)", dotted)
    if not match:
        return None
    side, number, slot, rest, middle, middle_rest = match.groups()
    if middle is not None:
        owner = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")[int(middle)]
        return f"{owner}.{SGM_LEAVES.get(middle_rest, middle_rest)}"
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
    return f"{'down' if side == 'input_blocks' else 'up'}_blocks.{block}.{kind}.{layer}.{SGM_LEAVES.get(rest, rest)}"


def to_sgm(path: str) -> str:
    """diffusers UNet path -> the sgm path of SDXL; ValueError for a path that SDXL does not have."""
    whole = {theirs: mine for mine, theirs in SGM_WHOLE.items()}
    if path in whole:
        return whole[path]
    match = re.fullmatch(r"(down|up|mid)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", path)
    if not match:
        raise ValueError(f"{path} has no sgm name")
    side, block, kind, layer, rest = match.groups()
    block, layer = int(block or 0), int(layer)
    rest = {theirs: mine for mine, theirs in SGM_LEAVES.items()}.get(rest, rest) if kind == "resnets" else rest
    if kind == "downsamplers":
        return f"input_blocks.{3 * (block + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{3 * block + 2}.2.conv"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * layer}.{rest}"
    number = 3 * block + layer + (1 if side == "down" else 0)
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{1 if kind == 'attentions' else 0}.{rest}"


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
