"""The networks of the embedded base: built from nothing or read from a folder, and written as one.

A plain diffusers StableDiffusionPipeline in small: VAE of factor 8, CLIP text encoder, UNet with cross-attention
at every resolution. Knows nothing about training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdlora.mini.tokenizer import MAX_TOKENS, empty_tokenizer, grow, load_tokenizer
from sdlora.mini.words import vocabulary

TERMINAL_LEAK = 0.02


@dataclass(frozen=True)
class Shape:
    """Widths of the networks; the default is what ships."""

    vae_channels: tuple[int, ...] = (32, 64, 96, 128)
    latent_channels: int = 16
    text_width: int = 128
    text_layers: int = 3
    unet_channels: tuple[int, ...] = (64, 128, 192)
    head_size: int = 32
    norm_groups: int = 16
    size_px: int = 128


@dataclass
class Networks:
    """All parts of a base, in fp32."""

    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    text: CLIPTextModel
    unet: UNet2DConditionModel

    def to(self, device: str) -> Networks:
        """Move the three models."""
        for module in (self.vae, self.text, self.unet):
            module.to(device)
        return self


def schedule() -> DPMSolverMultistepScheduler:
    """Plain epsilon with DDPM's linear betas: SD's own leave the scene's brightness readable in "pure noise"."""
    return DPMSolverMultistepScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, algorithm_type="dpmsolver++", steps_offset=1
    )


def fresh(shape: Shape = Shape()) -> Networks:
    """Networks that know nothing yet."""
    tokenizer = grow(empty_tokenizer(), vocabulary())
    levels = len(shape.vae_channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=shape.vae_channels, latent_channels=shape.latent_channels, layers_per_block=1,
        norm_num_groups=min(8, shape.norm_groups), sample_size=shape.size_px, mid_block_add_attention=False,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=shape.text_width, intermediate_size=3 * shape.text_width,
            num_hidden_layers=shape.text_layers, num_attention_heads=4, max_position_embeddings=MAX_TOKENS,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip
    blocks = len(shape.unet_channels)
    unet = UNet2DConditionModel(
        sample_size=shape.size_px // 8, in_channels=shape.latent_channels, out_channels=shape.latent_channels,
        block_out_channels=shape.unet_channels, layers_per_block=1, cross_attention_dim=shape.text_width,
        down_block_types=("CrossAttnDownBlock2D",) * blocks, up_block_types=("CrossAttnUpBlock2D",) * blocks,
        attention_head_dim=tuple(max(1, c // shape.head_size) for c in shape.unet_channels),
        norm_num_groups=shape.norm_groups, addition_embed_type="text", addition_embed_type_num_heads=4,
    )  # fmt: skip
    _silence_pooled_text(unet)
    return Networks(vae, tokenizer, text, unet)


def load_networks(folder: Path) -> Networks:
    """A base from its folder, its vocabulary grown to ours; where the UNet lacks the pooled-text path, it gains one."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    tokenizer = grow(load_tokenizer(folder), vocabulary())
    if len(tokenizer) > text.config.vocab_size:
        text.resize_token_embeddings(len(tokenizer))
    if unet.config.addition_embed_type is None:
        config = dict(unet.config) | {"addition_embed_type": "text", "addition_embed_type_num_heads": 4}
        grown = UNet2DConditionModel.from_config(config)
        grown.load_state_dict(unet.state_dict(), strict=False)
        _silence_pooled_text(grown)
        unet = grown
    return Networks(vae, tokenizer, text, unet)


def _silence_pooled_text(unet: nn.Module) -> None:
    """The pooled text starts at zero, so a UNet that never had it predicts what it did."""
    nn.init.zeros_(unet.add_embedding.norm2.weight)
    nn.init.zeros_(unet.add_embedding.norm2.bias)


def save_networks(networks: Networks, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a diffusers folder; the networks themselves stay as they are."""
    pipeline = StableDiffusionPipeline(
        vae=_cast(networks.vae, dtype), text_encoder=_cast(networks.text, dtype), tokenizer=networks.tokenizer,
        unet=_cast(networks.unet, dtype), scheduler=schedule(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in another precision."""
    if hasattr(module, "from_config"):
        # Without the folder it once was read from: that is nobody else's business.
        copy = type(module).from_config({key: v for key, v in module.config.items() if key != "_name_or_path"})
    else:
        copy = type(module)(module.config)
    copy.load_state_dict(module.state_dict())
    return copy.to(dtype)


@torch.no_grad()
def set_latent_scale(vae: AutoencoderKL, latents: Tensor) -> float:
    """Choose scaling_factor so that the last step hides the strongest mode; returns the leak that is left.

    latents: (n, c, h, w), unscaled. The leak is the SNR of their first principal component at t = 999: above
    0.02, training reads the scene's brightness off its noise and learns to ignore the prompt.
    """
    flat = latents.float().flatten(1)
    flat = flat - flat.mean(0)
    strongest = torch.linalg.matrix_norm(flat, 2).square().item() / len(flat)
    last = schedule().alphas_cumprod[-1].item()
    highest = (TERMINAL_LEAK / (last * strongest)) ** 0.5
    scale = min(1.0 / latents.float().std().item(), highest)
    vae.register_to_config(scaling_factor=scale)
    return last * strongest * scale**2
