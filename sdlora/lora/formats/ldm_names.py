"""The block names of LDM and sgm (CompVis, ComfyUI, kohya's SDXL) <-> those of diffusers. Knows nothing about files or prefixes.

For networks of two layers a block: SD 1, SD 2 and SDXL.
"""

import re

RESNET_PARTS = {"in_layers.2": "conv1", "out_layers.3": "conv2", "in_layers.0": "norm1", "out_layers.0": "norm2",
          "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut"}
WHOLE = {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
         "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
         "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"}
RESNET_PARTS_BACK = {theirs: ours for ours, theirs in RESNET_PARTS.items()}
WHOLE_BACK = {theirs: ours for ours, theirs in WHOLE.items()}
INNER = re.compile(r"(input_blocks|output_blocks)\.(\d{1,3})\.(\d)\.(.+)|middle_block\.([012])\.(.+)")
OUTER = re.compile(r"(down|up|mid)_block(?:s\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def from_ldm(dotted: str) -> str | None:
    """Return the diffusers path of an LDM or sgm path; None when it is none."""
    if dotted in WHOLE:
        return WHOLE[dotted]
    match = INNER.fullmatch(dotted)
    if not match:
        return None
    side, number, slot, rest, middle, middle_rest = match.groups()
    if middle is not None:
        owner = ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1")[int(middle)]
        return f"{owner}.{RESNET_PARTS.get(middle_rest, middle_rest)}"
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
    return f"{'down' if side == 'input_blocks' else 'up'}_blocks.{block}.{kind}.{layer}.{RESNET_PARTS.get(rest, rest)}"


def to_ldm(path: str) -> str:
    """Return the sgm path in SDXL of a diffusers UNet path. ValueError for a path that SDXL does not have."""
    if path in WHOLE_BACK:
        return WHOLE_BACK[path]
    match = OUTER.fullmatch(path)
    if not match:
        raise ValueError(f"{path} has no sgm name")
    side, block, kind, layer, rest = match.groups()
    block, layer = int(block or 0), int(layer)
    rest = RESNET_PARTS_BACK.get(rest, rest) if kind == "resnets" else rest
    if kind == "downsamplers":
        return f"input_blocks.{3 * (block + 1)}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{3 * block + 2}.2.conv"
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * layer}.{rest}"
    number = 3 * block + layer + (1 if side == "down" else 0)
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{1 if kind == 'attentions' else 0}.{rest}"
