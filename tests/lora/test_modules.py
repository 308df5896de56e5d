"""The computed module tables against the real networks of diffusers and transformers, built without memory."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from sdlora import storage
from sdlora.lora import modules


def real_shapes(network, prefix=""):
    return {prefix + name: tuple(module.weight.shape) for name, module in network.named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)}


@pytest.mark.parametrize("family", modules.FAMILIES)
def test_the_table_of_every_family_is_the_networks_own(family):
    folder = storage.shipped("assets", "mini") if family == "mini" else storage.shipped("assets", "configs", family)
    config = storage.read_json(folder / "unet" / "config.json")
    with torch.device("meta"):
        real = real_shapes(UNet2DConditionModel.from_config(config))
    table = {name: shape for name, shape in modules.family_table(family).items() if ":" not in name}
    assert real == table


@pytest.mark.parametrize(("family", "count"), [("sd1", 72), ("sd2", 138), ("sdxl", 264)])
def test_text_encoders_have_the_published_number_of_modules(family, count):
    assert sum(":" in name for name in modules.family_table(family)) == count


def test_text_encoder_of_mini_is_the_networks_own():
    folder = storage.shipped("assets", "mini", "text_encoder")
    with torch.device("meta"):
        real = real_shapes(CLIPTextModel(CLIPTextConfig.from_pretrained(folder)))
    real = {"te1:text_model." + name.removeprefix("text_model."): shape for name, shape in real.items()}
    assert real == {name: shape for name, shape in modules.family_table("mini").items() if name.startswith("te1:")}
