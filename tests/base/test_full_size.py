"""Stable Diffusion 1.5 in full size with random weights: as one LDM file and as a diffusers folder. 5 GB of disk and memory."""

import shutil

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from sdlora import storage
from sdlora.base.load import load_base
from tests.base.ldm_names import clip_names, unet_names, vae_names

CONFIGS = storage.shipped("assets", "configs", "sd1")


def random_state(model):
    """Weights for a model on the meta device, fp16: slices of one pool, because a billion fresh numbers take minutes."""
    pool = torch.randn(1 << 24, generator=torch.Generator().manual_seed(1)).mul_(0.02).half()
    return {key: pool.repeat(-(-value.numel() // len(pool)))[:value.numel()].view(value.shape).clone()
            for key, value in model.state_dict().items()}


@pytest.mark.slow
def test_full_size_sd1_as_file_and_as_folder(tmp_path):
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIGS, subfolder="unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIGS, subfolder="vae"))
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(CONFIGS / "text_encoder"))
    path, folder = tmp_path / "sd15.safetensors", tmp_path / "sd15"
    state = unet_names(random_state(unet)) | vae_names(random_state(vae)) | clip_names(
        random_state(text), "cond_stage_model.transformer.")
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    count = sum(value.numel() for value in state.values())
    del state

    base = load_base(str(path), "cpu", dtype=torch.float16)
    assert (base.family, base.resolution, base.factor, base.channels) == ("sd1", 512, 8, 4)
    models = (base.unet, base.vae, base.text_encoders[0])
    assert sum(p.numel() for model in models for p in model.parameters()) == count == 859_520_964 + 83_653_863 + 123_060_480
    features = base.encode_text(["a photo of a cat"])
    assert features["states"].shape == (1, 77, 768)
    noisy, timestep = torch.randn(1, 4, 16, 16), torch.tensor([500])
    with torch.no_grad():
        first = base.predict(noisy, timestep, features, 128)
    assert first.shape == noisy.shape
    assert base.encode_pictures(torch.zeros(1, 3, 64, 64))[0].shape == (1, 4, 8, 8)

    shutil.copytree(CONFIGS, folder)
    shutil.copytree(storage.shipped("assets", "configs", "clip_tokenizer"), folder / "tokenizer")
    for name, model in (("unet", base.unet), ("vae", base.vae), ("text_encoder", base.text_encoders[0])):
        model.save_pretrained(folder / name, safe_serialization=True)
    del model, models
    base.drop("unet", "vae", "text")
    again = load_base(str(folder), "cpu", dtype=torch.float16)
    assert torch.equal(again.encode_text(["a photo of a cat"])["states"], features["states"])
    with torch.no_grad():
        assert torch.equal(again.predict(noisy, timestep, features, 128).nan_to_num(), first.nan_to_num())
