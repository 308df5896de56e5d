"""A base model out of one .safetensors file (CompVis, A1111, ComfyUI names), part by part.

Knows nothing about folders of models or the network: configuration and vocabulary come from assets/configs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from sdlora import storage
from sdlora.base import catalog
from sdlora.errors import UserError
from sdlora.families import Family

UNET, VAE = catalog.LDM_UNET, "first_stage_model."
TEXT = {  # family -> [(part, class, key prefix in the file)]
    "sd1": [("text_encoder", CLIPTextModel, "cond_stage_model.transformer.")],
    "sd2": [("text_encoder", CLIPTextModel, "cond_stage_model.model.")],
    "sdxl": [("text_encoder", CLIPTextModel, "conditioner.embedders.0.transformer."),
             ("text_encoder_2", CLIPTextModelWithProjection, "conditioner.embedders.1.model.")],
}
V_MARK = catalog.LDM_UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"


@dataclass
class Opened:
    """What was opened of a model: the configurations always, the models that were asked for."""
    unet_config: dict[str, Any]
    vae_config: dict[str, Any]
    scheduler_config: dict[str, Any]
    tokenizers: list[CLIPTokenizer] = field(default_factory=list)
    text_encoders: list[nn.Module] = field(default_factory=list)
    vae: Any = None  # AutoencoderKL
    unet: Any = None  # UNet2DConditionModel

    def models(self) -> Iterator[nn.Module]:
        yield from (model for model in (*self.text_encoders, self.vae, self.unet) if model is not None)


def open_parts(path: Path, family: Family, parts: Sequence[str], dtype: torch.dtype) -> Opened:
    """Return the asked-for parts of a single file, in `dtype` (VAE fp32). Raises UserError when the file lacks one."""
    if family.key not in TEXT:
        raise UserError(f"{path.name} is a single file of the {family.title} family, which is opened as a folder.",
                        "Give the diffusers folder instead.")
    configs = storage.shipped("assets", "configs", family.key)
    opened = Opened(*(storage.read_json(configs / name) for name in
                      ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")))
    correct_prediction(path, family, opened)
    try:
        for part, kind, prefix in TEXT[family.key] if "text" in parts else ():
            opened.text_encoders.append(open_text(path, kind, prefix, configs / part, dtype))
            opened.tokenizers.append(tokenizer(part, family.key))
        if "vae" in parts:
            opened.vae = AutoencoderKL.from_single_file(
                cast(Any, read_tensors(path, VAE, "vae")), config=str(configs), subfolder="vae", local_files_only=True,
                dtype=torch.float32)
        if "unet" in parts:
            opened.unet = UNet2DConditionModel.from_single_file(
                cast(Any, read_tensors(path, UNET, "unet")), config=str(configs), subfolder="unet", local_files_only=True,
                dtype=dtype)
    except (NotImplementedError, ValueError, KeyError) as error:  # the first is torch's word for a weight left on "meta"
        raise UserError(f"{path.name} lacks weights or has them in other shapes ({storage.clean_text(str(error), 200)}).",
                        "Download it again, or choose the full model file.") from error
    return opened


def open_text(path: Path, kind: type, prefix: str, config: Path, dtype: torch.dtype) -> nn.Module:
    """Return one CLIP text encoder. Raises ValueError when weights are missing."""
    weights = read_tensors(path, prefix, "text encoder")
    if prefix.endswith("transformer."):  # some merges left out a level of the names
        inner = prefix + "text_model."
        weights = {key if key.startswith(inner) else inner + key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    encoder = create_diffusers_clip_model_from_ldm(kind, weights, subfolder=config.name, config=str(config.parent),
                                                   torch_dtype=dtype, local_files_only=True)
    holes = [key for key, tensor in encoder.state_dict().items() if tensor.is_meta]
    if holes:
        raise ValueError(f"{len(holes)} weights of the text encoder, {holes[0]} for one")
    return encoder


def read_tensors(path: Path, prefix: str, part: str) -> dict[str, Tensor]:
    """Return those tensors of the file whose names start with `prefix`. Raises UserError when there are none."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path.name} could not be read ({error}).", "Download it again.") from error
    if not found:
        raise UserError(f"{path.name} holds no {part}.", "Choose the full model file, not one of its parts.")
    return found


def correct_prediction(path: Path, family: Family, opened: Opened) -> None:
    """Set what tensor shapes do not show: epsilon or v prediction, and the resolution of a 2.x model.

    A "v_pred" tensor ("ztsnr" beside it) marks XL models trained on v; modelspec metadata is believed. For 2.x the
    spread of one norm's biases decides, as in ComfyUI (supported_models.py, SD20.model_type): above 0.09 it is a v model.
    """
    with safe_open(path, framework="pt") as file:
        keys, declared = set(file.keys()), (file.metadata() or {}).get("modelspec.prediction_type", "")
        is_v = "v_pred" in keys or declared.lower().startswith("v")
        if family.key == "sd2" and not declared:
            is_v = V_MARK in keys and file.get_tensor(V_MARK).float().std(unbiased=False).item() > 0.09
    opened.scheduler_config["prediction_type"] = "v_prediction" if is_v else "epsilon"
    if "ztsnr" in keys:
        opened.scheduler_config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if family.key == "sd2":
        opened.unet_config["sample_size"] = 96 if is_v else 64


def tokenizer(part: str, family: str) -> CLIPTokenizer:
    """Return CLIP's tokenizer. It pads with "!" (id 0) in 2.x and the second encoder of XL, else with the end token."""
    pad = "!" if family == "sd2" or part == "text_encoder_2" else "<|endoftext|>"
    return CLIPTokenizer.from_pretrained(storage.shipped("assets", "configs", "clip_tokenizer"), local_files_only=True,
                                         pad_token=pad, model_max_length=77)
