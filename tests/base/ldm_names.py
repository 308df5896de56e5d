"""diffusers -> CompVis names of whole checkpoints, written from the published block maps: the reverse of what we load."""

import re

import torch

RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "norm1": "in_layers.0", "norm2": "out_layers.0",
          "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
UNET_EDGES = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
              "time_embedding.linear_1": "time_embed.0",
              "time_embedding.linear_2": "time_embed.2", "add_embedding.linear_1": "label_emb.0.0",
              "add_embedding.linear_2": "label_emb.0.2"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_names(state):
    """{diffusers name: tensor} -> {LDM name: tensor}."""
    layers = 1 + max(int(re.match(r"down_blocks\.0\.resnets\.(\d+)", key)[1]) for key in state if "down_blocks.0.resnets" in key)
    return {"model.diffusion_model." + unet_name(key, layers, state): value for key, value in state.items()}


def unet_name(key, layers, state):
    for ours, theirs in UNET_EDGES.items():
        if key.startswith(ours + "."):
            return key.replace(ours, theirs, 1)
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", key):
        side, i, kind, j, rest = found.groups()
        number = (1 if side == "down" else 0) + (layers + 1) * int(i) + int(j)
        block = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{0 if kind == 'resnets' else 1}."
        return block + (resnet(rest) if kind == "resnets" else rest)
    if found := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", key):
        return f"input_blocks.{(layers + 1) * (int(found[1]) + 1)}.0.op.{found[2]}"
    if found := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", key):
        attends = any(name.startswith(f"up_blocks.{found[1]}.attentions") for name in state)
        return f"output_blocks.{(layers + 1) * int(found[1]) + layers}.{2 if attends else 1}.conv.{found[2]}"
    found = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key)
    return f"middle_block.{1 if found[1] == 'attentions' else 2 * int(found[2])}." + (
        resnet(found[3]) if found[1] == "resnets" else found[3])


def resnet(rest):
    name, _, leaf = rest.rpartition(".")
    return f"{RESNET[name]}.{leaf}"


def vae_names(state):
    depth = 1 + max(int(re.search(r"down_blocks\.(\d+)", key)[1]) for key in state if "down_blocks" in key)
    return dict(vae_name(key, value, depth) for key, value in state.items())


def vae_name(key, value, depth):
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{depth - 1 - int(m[1])}.block.", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{depth - 1 - int(m[1])}.upsample.", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        head, rest = key.split("mid_block.attentions.0.")
        name, _, leaf = rest.rpartition(".")
        key = f"{head}mid.attn_1.{VAE_ATTENTION[name]}.{leaf}"
        value = value[:, :, None, None] if value.ndim == 2 else value
    return "first_stage_model." + key, value


def clip_names(state, prefix):
    """Hugging Face's CLIP names, as in SD 1 and the first encoder of XL."""
    return {prefix + "text_model." + key.removeprefix("text_model."): value for key, value in state.items()}


def open_clip_names(state, prefix):
    """OpenCLIP's names, as in SD 2 and the second encoder of XL: q, k and v in one matrix."""
    state = {key.removeprefix("text_model."): value for key, value in state.items()}
    named = {"token_embedding.weight": state["embeddings.token_embedding.weight"],
             "positional_embedding": state["embeddings.position_embedding.weight"],
             "ln_final.weight": state["final_layer_norm.weight"], "ln_final.bias": state["final_layer_norm.bias"]}
    if "text_projection.weight" in state:
        named["text_projection"] = state["text_projection.weight"].T.contiguous()
    for layer in range(1 + max(int(re.search(r"layers\.(\d+)", key)[1]) for key in state if "layers." in key)):
        ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for leaf in ("weight", "bias"):
            named[f"{theirs}attn.in_proj_{leaf}"] = torch.cat([state[f"{ours}self_attn.{n}_proj.{leaf}"] for n in "qkv"])
            for a, b in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                         ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                named[f"{theirs}{b}.{leaf}"] = state[f"{ours}{a}.{leaf}"]
    return {prefix + key: value for key, value in named.items()}
