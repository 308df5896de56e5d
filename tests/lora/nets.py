"""Networks small enough to be adapted by other people's libraries in a test: real classes, few weights."""

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def tiny_unet(seed=0, **changes):
    """A UNet of mini's cross-attention width with every kind of block a LoRA can reach."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(**{
        "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 128} | changes).requires_grad_(False)


def tiny_text(seed=0):
    torch.manual_seed(seed)
    return CLIPTextModel(CLIPTextConfig(hidden_size=128, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                                        vocab_size=99, max_position_embeddings=16, bos_token_id=1, eos_token_id=2,
                                        pad_token_id=0)).requires_grad_(False)


def shuffled(parameters, seed=1, size=0.1):
    """Give trained-looking values to parameters that start at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
