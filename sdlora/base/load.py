"""A frozen base model in memory: text in, latents in and out, the UNet's prediction.

Knows nothing about LoRA, training, schedulers or where models are stored: it opens what catalog.resolve() found.
"""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # diffusers copies this at import: no look-up may reach for the network
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from sdlora import storage
from sdlora.base import catalog, single_file
from sdlora.errors import UserError

transformers_logging.disable_progress_bar()  # progress and messages are ours, not those of the libraries
transformers_logging.set_verbosity_error()
diffusers_logging.set_verbosity_error()
PARTS = ("text", "vae", "unet")


@dataclass(eq=False)
class Base:
    """A Stable Diffusion whose weights never change here. Parts that were not loaded are None (or empty).

    resolution: px of a side the model was made for; factor: px per latent; dtype: of UNet and text encoders
    (the VAE is always fp32: SDXL's overflows in fp16, and latents are cached anyway).
    """
    spec: str
    title: str
    family: str
    identity: str
    resolution: int
    factor: int
    prediction_type: str
    tokenizers: list[CLIPTokenizer]
    text_encoders: list[nn.Module]
    vae: Any  # AutoencoderKL or None; diffusers declares neither the fields of a config nor what a model returns
    unet: Any  # UNet2DConditionModel or None
    scheduler_config: dict[str, Any] = field(repr=False)
    device: torch.device
    dtype: torch.dtype

    @property
    def channels(self) -> int:
        """Latent channels: 4 in Stable Diffusion, 16 in mini."""
        return self.unet.config.in_channels if self.unet is not None else self.vae.config.latent_channels

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """n prompts -> {"states": (n, tokens, width)}, for SDXL also {"pooled": (n, p)}; on the device, in dtype.

        The same as diffusers' encode_prompt; an empty prompt is encoded like any other. Prompts longer than the
        model reads are cut (see overlong()).
        """
        states, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            ids = tokenizer(list(prompts), padding="max_length", max_length=tokenizer.model_max_length,
                            truncation=True, return_tensors="pt").input_ids  # (n, tokens)
            if self.family == "sdxl":
                output = encoder(ids.to(self.device), output_hidden_states=True)
                states.append(output.hidden_states[-2])
                pooled = output[0] if output[0].ndim == 2 else pooled
            else:
                states.append(encoder(ids.to(self.device))[0])
        features = {"states": torch.cat(states, dim=-1)}
        return features if pooled is None else features | {"pooled": pooled}

    def overlong(self, prompt: str) -> str:
        """Return the end of `prompt` that the model will not read, or ""."""
        tokenizer = self.tokenizers[0]
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids[1:-1]
        return str(tokenizer.decode(ids[tokenizer.model_max_length - 2:])).strip()

    @torch.no_grad()
    def encode_pictures(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels (n, 3, h, w) in -1..1 -> mean and std, each (n, c, h/factor, w/factor) fp32, scaled and shifted."""
        chosen = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        config = self.vae.config
        mean = (chosen.mean.float() - (config.shift_factor or 0.0)) * config.scaling_factor
        return mean, chosen.std.float() * config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """latents (n, c, h, w), scaled -> n RGB pictures of (h, w) x factor px, decoded one by one (bits and memory)."""
        config = self.vae.config
        raw = latents.to(self.device, self.vae.dtype) / config.scaling_factor + (config.shift_factor or 0.0)
        pictures = []
        for one in raw.split(1):
            pixels = (self.vae.decode(one).sample[0].float() / 2 + 0.5).clamp(0, 1)  # (3, h, w)
            array = (pixels.permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().numpy()
            pictures.append(Image.fromarray(array))
        return pictures

    def predict(self, noisy: Tensor, timesteps: Tensor, features: dict[str, Tensor],
                size_px: int | tuple[int, int]) -> Tensor:
        """Return the UNet's output for noisy latents (n, c, h, w) at timesteps (n,) -> (n, c, h, w) in noisy's dtype.

        features as encode_text gives them, one row per latent. size_px: (width, height) of the picture or its side;
        SDXL gets it as original and target size, uncropped. Gradients flow.
        """
        extra = {}
        if "pooled" in features:
            width, height = (size_px, size_px) if isinstance(size_px, int) else size_px
            ids = torch.tensor([height, width, 0, 0, height, width], device=self.device, dtype=self.dtype)
            extra = {"added_cond_kwargs": {"text_embeds": features["pooled"].to(self.dtype),
                                           "time_ids": ids.expand(len(noisy), -1)}}
        output = self.unet(noisy.to(self.dtype), timesteps, encoder_hidden_states=features["states"].to(self.dtype),
                           return_dict=False, **extra)[0]
        return output.to(noisy.dtype)

    def drop(self, *parts: str) -> None:
        """Free "text", "vae" or "unet" from memory."""
        if "text" in parts:
            self.tokenizers, self.text_encoders = [], []
        if "vae" in parts:
            self.vae = None
        if "unet" in parts:
            self.unet = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def pick_device(name: str = "auto") -> torch.device:
    """"auto" | "cuda" | "mps" | "cpu" -> a device that is there. Raises UserError for one that is not."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, works in there.items() if works))
    if not there.get(name):
        raise UserError(f"This computer has no device {name!r} that sdlora can use.",
                        "Leave --device out, or run `sdlora doctor` to see why.")
    return torch.device(name)


def training_dtype(device: torch.device) -> torch.dtype:
    """Return what a frozen base computes in: fp32 on a CPU, bf16 where a card has it, else fp16 (with a gradient scaler)."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16


def load_base(spec: str, device: str = "auto", *, parts: Sequence[str] = PARTS,
              dtype: torch.dtype | None = None) -> Base:
    """Open a base model without touching the network.

    spec as catalog.resolve() takes it. parts: which of "text", "vae", "unet" to load. dtype: of UNet and text encoders;
    None: fp32 on the CPU, fp16 elsewhere. Raises UserError when there is no such model or a part of it is missing.
    """
    path = catalog.resolve(spec)
    family = catalog.read_family(path)
    where = pick_device(device)
    dtype = dtype or (torch.float32 if where.type == "cpu" else torch.float16)
    opened = open_folder(path, parts, dtype) if path.is_dir() else single_file.open_parts(path, family, parts, dtype)
    for model in opened.models():
        frozen(model, where)
    unet, vae = opened.unet_config, opened.vae_config
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    return Base(spec=spec, title=catalog.title(spec), family=family.key, identity=catalog.identity(path),
                resolution=unet["sample_size"] * factor, factor=factor,
                prediction_type=opened.scheduler_config.get("prediction_type", "epsilon"),
                tokenizers=opened.tokenizers, text_encoders=opened.text_encoders, vae=opened.vae, unet=opened.unet,
                scheduler_config=opened.scheduler_config, device=where, dtype=dtype)


def frozen(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model without gradients, on its device and in the memory layout it is used in."""
    # Convolutions read this layout faster: on two cores a training step of mini takes 6 % less, its VAE 25 % less.
    layout = torch.preserve_format if device.type == "mps" else torch.channels_last
    return cast(Any, model.requires_grad_(False).eval()).to(device, memory_format=layout)  # torch declares no such `to`


def read_resolution(spec: str) -> int:
    """Return the px of a side that a base was made for; no weight is loaded. Raises UserError as `load_base`."""
    return load_base(spec, "cpu", parts=()).resolution


def open_folder(path: Path, parts: Sequence[str], dtype: torch.dtype) -> single_file.Opened:
    """Open the parts of a diffusers folder, also one that only has fp16 files."""
    opened = single_file.Opened(storage.read_json(path / "unet" / "config.json"),
                                storage.read_json(path / "vae" / "config.json"),
                                storage.read_json(path / "scheduler" / "scheduler_config.json"))
    try:
        if "text" in parts:
            classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
            for name in [name for name in classes if (path / name).is_dir()]:
                opened.text_encoders.append(from_folder(classes[name], path / name, dtype))
                opened.tokenizers.append(CLIPTokenizer.from_pretrained(
                    path / name.replace("text_encoder", "tokenizer"), local_files_only=True))
        if "vae" in parts:
            opened.vae = from_folder(AutoencoderKL, path / "vae", torch.float32)
        if "unet" in parts:
            opened.unet = from_folder(UNet2DConditionModel, path / "unet", dtype)
    except (OSError, ValueError) as error:
        reason = storage.clean_text(str(error), 300)
        raise UserError(f"The base model {path.name} could not be opened ({reason}).", "Download it again.") from error
    return opened


def from_folder(kind: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    """Load one model of a diffusers folder, from safetensors only."""
    variant = "fp16" if all(".fp16" in file.name for file in catalog.weight_files(folder)) else None
    return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, variant=variant, dtype=dtype)
