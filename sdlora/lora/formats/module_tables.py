"""The modules of a base that a LoRA can change, with their weight shapes. Knows nothing about LoRA files, and loads no model.

Computed from the configurations that diffusers and transformers publish; the tests compare with the real networks.
"""

from functools import lru_cache
from pathlib import Path

from sdlora import storage

Table = dict[str, tuple[int, ...]]  # {canonical path: weight shape (out, in[, k, k])}


@lru_cache(maxsize=8)
def family_table(family: str) -> Table:
    """Return every module of a family, from the configurations that ship with sdlora."""
    return folder_table(storage.shipped("assets", "mini") if family == "mini" else storage.shipped("assets", "configs", family))


def folder_table(folder: Path) -> Table:
    """Return every module of a diffusers folder: UNet, "te1:" and "te2:" text encoders. Raises UserError for a damaged config."""
    table = unet_table(storage.read_json(folder / "unet" / "config.json"))
    for name, part in (("text_encoder", "te1"), ("text_encoder_2", "te2")):
        if (folder / name / "config.json").is_file():
            table |= text_table(storage.read_json(folder / name / "config.json"), part)
    return table


def text_table(config: dict, part: str) -> Table:
    """Return the modules of a CLIP text encoder: projections and norms of every layer, embeddings, the pooled projection."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    around = {"text_model.final_layer_norm": (width,), "text_model.embeddings.token_embedding": (config["vocab_size"], width),
              "text_model.embeddings.position_embedding": (config["max_position_embeddings"], width)}
    if "CLIPTextModelWithProjection" in config.get("architectures", ()):
        around["text_projection"] = (config["projection_dim"], width)
    shapes = {f"self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner), "layer_norm1": (width,), "layer_norm2": (width,)}
    return {f"{part}:{name}": shape for name, shape in around.items()} | {
        f"{part}:text_model.encoder.layers.{layer}.{name}": shape
        for layer in range(config["num_hidden_layers"]) for name, shape in shapes.items()}


def unet_table(config: dict) -> Table:
    """Return the modules of a UNet2DConditionModel with (cross-attention) down, middle and up blocks."""
    channels = config["block_out_channels"]
    depth = len(channels)
    layers = spread(config["layers_per_block"], depth)
    transformers = spread(config.get("transformer_layers_per_block", 1), depth)
    embed = channels[0] * 4
    shapes = {"conv_in": (channels[0], config["in_channels"], 3, 3), "conv_out": (config["out_channels"], channels[0], 3, 3),
              "conv_norm_out": (channels[0],), "time_embedding.linear_1": (embed, channels[0]),
              "time_embedding.linear_2": (embed, embed)}
    if config.get("addition_embed_type") == "text_time":
        shapes |= {"add_embedding.linear_1": (embed, config["projection_class_embeddings_input_dim"]),
                   "add_embedding.linear_2": (embed, embed)}
    if config.get("addition_embed_type") == "text":
        states = config.get("encoder_hid_dim") or config["cross_attention_dim"]
        shapes |= {f"add_embedding.pool.{name}_proj": (states, states) for name in ("q", "k", "v")}
        shapes |= {"add_embedding.proj": (embed, states), "add_embedding.norm1": (states,), "add_embedding.norm2": (embed,)}
    last = channels[0]
    for i, (out, kind) in enumerate(zip(channels, config["down_block_types"], strict=True)):
        for j in range(layers[i]):
            shapes |= resnet(f"down_blocks.{i}.resnets.{j}", last, out, config)
            if "CrossAttn" in kind:
                shapes |= transformer(f"down_blocks.{i}.attentions.{j}", out, transformers[i], config)
            last = out
        if i < depth - 1:
            shapes[f"down_blocks.{i}.downsamplers.0.conv"] = (out, out, 3, 3)
    for j in range(2):
        shapes |= resnet(f"mid_block.resnets.{j}", last, last, config)
    if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn":
        shapes |= transformer("mid_block.attentions.0", last, transformers[-1], config)
    return shapes | up_table(config, channels[::-1], layers[::-1], transformers[::-1])


def up_table(config: dict, channels: list[int], layers: list[int], transformers: list[int]) -> Table:
    """Return the up blocks; all lists run from the deepest block to the first."""
    shapes, last = {}, channels[0]
    for i, (out, kind) in enumerate(zip(channels, config["up_block_types"], strict=True)):
        below = channels[min(i + 1, len(channels) - 1)]
        for j in range(layers[i] + 1):
            skipped = below if j == layers[i] else out
            shapes |= resnet(f"up_blocks.{i}.resnets.{j}", (last if j == 0 else out) + skipped, out, config)
            if "CrossAttn" in kind:
                shapes |= transformer(f"up_blocks.{i}.attentions.{j}", out, transformers[i], config)
        if i < len(channels) - 1:
            shapes[f"up_blocks.{i}.upsamplers.0.conv"] = (out, out, 3, 3)
        last = out
    return shapes


def resnet(path: str, width: int, out: int, config: dict) -> Table:
    """Return the modules of a ResnetBlock2D, with a 1x1 shortcut where the width changes."""
    times = 2 if config.get("resnet_time_scale_shift") == "scale_shift" else 1
    shapes = {f"{path}.norm1": (width,), f"{path}.norm2": (out,), f"{path}.conv1": (out, width, 3, 3),
              f"{path}.conv2": (out, out, 3, 3),
              f"{path}.time_emb_proj": (out * times, config["block_out_channels"][0] * 4)}
    return shapes | ({f"{path}.conv_shortcut": (out, width, 1, 1)} if width != out else {})


def transformer(path: str, width: int, layers: int, config: dict) -> Table:
    """Return the modules of a Transformer2DModel: proj_in, blocks of self-attention, cross-attention and GEGLU, proj_out."""
    edge = (width, width) if config.get("use_linear_projection") else (width, width, 1, 1)
    shapes = {f"{path}.norm": (width,), f"{path}.proj_in": edge, f"{path}.proj_out": edge}
    for k in range(layers):
        block = f"{path}.transformer_blocks.{k}"
        for attention, states in (("attn1", width), ("attn2", config["cross_attention_dim"])):
            shapes |= {f"{block}.{attention}.to_q": (width, width), f"{block}.{attention}.to_k": (width, states),
                       f"{block}.{attention}.to_v": (width, states), f"{block}.{attention}.to_out.0": (width, width)}
        shapes |= {f"{block}.norm{number}": (width,) for number in (1, 2, 3)}
        shapes |= {f"{block}.ff.net.0.proj": (8 * width, width), f"{block}.ff.net.2": (width, 4 * width)}
    return shapes


def spread(value: int | list[int], depth: int) -> list[int]:
    """Return the value of every block: a list as it is, one number repeated."""
    return list(value) if isinstance(value, list | tuple) else [value] * depth
