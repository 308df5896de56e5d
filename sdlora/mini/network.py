"""The tokenizer and the networks of the embedded base: built from nothing or read from a folder, and written to one.

A small, plain diffusers StableDiffusionPipeline: VAE of factor 8, CLIP text encoder, UNet with cross-attention at every
resolution. Knows nothing about training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdlora.mini.manners import PHRASES
from sdlora.mini.scenes import vocabulary

MAX_TERMINAL_SNR = 0.02
MAX_TOKENS = 48
START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


@dataclass(frozen=True)
class Shape:
    """Widths of the networks; the default is what ships."""

    vae_channels: tuple[int, ...] = (32, 64, 96, 128)
    latent_channels: int = 16
    text_width: int = 128
    text_layers: int = 4
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
            nn.Module.to(module, device)
        return self


def _tokenizer(vocab: dict[str, int], merges: list[Any]) -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab=vocab, merges=merges, unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=MAX_TOKENS
    )


def empty_tokenizer() -> CLIPTokenizer:
    """Return a CLIP tokenizer whose tokens are single bytes."""
    characters = sorted(ByteLevel.alphabet())
    tokens = [START, END, *characters, *(character + WORD_END for character in characters)]
    return _tokenizer({token: n for n, token in enumerate(tokens)}, [])


def grow(tokenizer: CLIPTokenizer, words: list[str]) -> CLIPTokenizer:
    """Return a tokenizer in which every word is one token: merges are appended, so old tokens keep their ids."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    merges = [tuple(pair) for pair in model["merges"]]
    for word in words:
        while len(parts := BPE(vocab, merges, end_of_word_suffix=WORD_END).tokenize(word)) > 1:
            pair = (parts[0].value, parts[1].value)
            merges.append(pair)
            vocab.setdefault("".join(pair), len(vocab))
    return _tokenizer(vocab, merges)


def words() -> list[str]:
    """Return every word that is one token: those of scenes, then those of manners."""
    return list(dict.fromkeys([*vocabulary(), *" ".join(PHRASES).split()]))


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> list[list[int]]:
    """Captions -> ids of MAX_TOKENS each, padded with END."""
    return tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Return the tokenizer of a base folder."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer")


def schedule() -> DPMSolverMultistepScheduler:
    """Epsilon prediction with DDPM's linear betas: SD's own leave the scene's brightness readable in "pure noise"."""
    return DPMSolverMultistepScheduler(
        beta_schedule="linear", beta_start=1e-4, beta_end=0.02, algorithm_type="dpmsolver++", steps_offset=1
    )


def fresh(shape: Shape = Shape()) -> Networks:
    """Untrained networks."""
    tokenizer = grow(empty_tokenizer(), words())
    levels = len(shape.vae_channels)
    blocks: dict[str, Any] = {  # diffusers annotates them as tuples of one
        "down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": shape.vae_channels,
    }
    vae = AutoencoderKL(
        latent_channels=shape.latent_channels, layers_per_block=1, norm_num_groups=min(8, shape.norm_groups),
        sample_size=shape.size_px, mid_block_add_attention=False, **blocks,
    )
    text = _text_encoder(shape, len(tokenizer))
    levels = len(shape.unet_channels)
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D",) * levels, "up_block_types": ("CrossAttnUpBlock2D",) * levels,
        "block_out_channels": shape.unet_channels,
        "attention_head_dim": tuple(max(1, c // shape.head_size) for c in shape.unet_channels),
    }
    unet = UNet2DConditionModel(
        sample_size=shape.size_px // 8, in_channels=shape.latent_channels, out_channels=shape.latent_channels,
        layers_per_block=1, cross_attention_dim=shape.text_width, norm_num_groups=shape.norm_groups,
        addition_embed_type="text", addition_embed_type_num_heads=4, **blocks,
    )
    _zero_pooled_text(unet)
    return Networks(vae, tokenizer, text, unet)


def load_networks(folder: Path) -> Networks:
    """Return a base from its folder, its text encoder grown to our vocabulary and shape, its UNet with a pooled-text path."""
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)
    tokenizer = grow(load_tokenizer(folder), words())
    text = _grown_text(CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32), len(tokenizer))
    if unet.config["addition_embed_type"] is None:
        config = dict(unet.config) | {"addition_embed_type": "text", "addition_embed_type_num_heads": 4}
        weights = unet.state_dict()
        unet = cast(UNet2DConditionModel, UNet2DConditionModel.from_config(config))
        unet.load_state_dict(weights, strict=False)
        _zero_pooled_text(unet)
    return Networks(vae, tokenizer, text, unet)


def _text_encoder(shape: Shape, words: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=words, hidden_size=shape.text_width, intermediate_size=3 * shape.text_width,
            num_hidden_layers=shape.text_layers, num_attention_heads=4, max_position_embeddings=MAX_TOKENS,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )


def _grown_text(text: CLIPTextModel, words: int) -> CLIPTextModel:
    """Return a text encoder of our shape that answers as the given one does, up to the positions that it did not have."""
    layers = text.config.num_hidden_layers
    grown = _text_encoder(Shape(text_width=text.config.hidden_size, text_layers=max(layers, Shape().text_layers)), words)
    weights = grown.state_dict()
    for name in weights:
        if any(f".layers.{layer}." in name and part in name for layer in range(layers, grown.config.num_hidden_layers)
               for part in ("out_proj", "fc2")):
            weights[name].zero_()  # a new layer changes nothing at first
    for name, old in text.state_dict().items():
        weights[name][: len(old)] = old[: len(weights[name])]  # new words and positions keep what they have
    grown.load_state_dict(weights)
    return grown


def forget_latents(unet: UNet2DConditionModel) -> None:
    """Start the first and the last convolution anew, for latents of another VAE."""
    for convolution in (unet.conv_in, unet.conv_out):
        convolution.reset_parameters()


def _zero_pooled_text(unet: UNet2DConditionModel) -> None:
    """Start the pooled text at zero, so that a UNet which never had it predicts what it did."""
    norm = unet.get_submodule("add_embedding.norm2")
    for name in ("weight", "bias"):
        nn.init.zeros_(norm.get_parameter(name))


def save_networks(networks: Networks, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write a diffusers folder; the networks themselves stay as they are."""
    parts: dict[str, Any] = {  # of types that diffusers annotates too narrowly
        "vae": _copy(networks.vae, dtype), "text_encoder": _copy(networks.text, dtype), "unet": _copy(networks.unet, dtype),
        "scheduler": schedule(), "safety_checker": None, "feature_extractor": None,
    }
    networks.tokenizer.backend_tokenizer.no_truncation()  # what its last use left set would be written too
    networks.tokenizer.backend_tokenizer.no_padding()
    StableDiffusionPipeline(tokenizer=networks.tokenizer, requires_safety_checker=False, **parts).save_pretrained(folder)


def _copy(module: Any, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a diffusers or transformers model in another number format."""
    if hasattr(module, "from_config"):
        # Without the folder it was read from, which is private.
        copy = type(module).from_config({key: v for key, v in module.config.items() if key != "_name_or_path"})
    else:
        copy = type(module)(module.config)
    copy.load_state_dict(module.state_dict())
    return copy.to(dtype)


@torch.no_grad()
def set_latent_scale(vae: AutoencoderKL, latents: Tensor) -> float:
    """Choose scaling_factor so that the last step hides the strongest mode; return the terminal SNR that is left.

    latents: (n, c, h, w), unscaled. With a terminal SNR above 0.02, training reads the scene's brightness off its noise and
    learns to ignore the prompt.
    """
    snr = terminal_snr(latents, schedule())
    scale = min(1.0 / latents.float().std().item(), (MAX_TERMINAL_SNR / snr) ** 0.5)
    vae.register_to_config(scaling_factor=scale)
    return snr * scale**2


def terminal_snr(latents: Tensor, scheduler: Any) -> float:
    """Return the SNR of the first principal component of latents (n, c, h, w) at t = 999 of a diffusers scheduler."""
    flat = latents.float().flatten(1)
    flat = flat - flat.mean(0)
    strongest = torch.linalg.matrix_norm(flat, 2).square().item() / len(flat)
    return scheduler.alphas_cumprod[-1].item() * strongest
