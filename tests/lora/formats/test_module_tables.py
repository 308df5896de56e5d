"""The computed module tables against the real networks of diffusers and transformers, built without memory."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdlora import storage
from sdlora.families import FAMILIES
from sdlora.lora.formats import module_tables


def real_shapes(network, prefix=""):
    return {prefix + name: tuple(module.weight.shape) for name, module in network.named_modules()
            if isinstance(getattr(module, "weight", None), torch.Tensor)}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_of_every_family_is_the_networks_own(family):
    folder = storage.shipped("assets", "mini") if family == "mini" else storage.shipped("assets", "configs", family)
    config = storage.read_json(folder / "unet" / "config.json")
    with torch.device("meta"):
        real = real_shapes(UNet2DConditionModel.from_config(config))
    table = {name: shape for name, shape in module_tables.family_table(family).items() if ":" not in name}
    assert real == table


@pytest.mark.parametrize(("family", "count"), [("sd1", 72), ("sd2", 138), ("sdxl", 264)])
def test_text_encoders_have_the_published_number_of_modules(family, count):
    table = module_tables.family_table(family)
    assert sum(":" in name and name.endswith(("_proj", "fc1", "fc2")) for name in table) == count


def test_text_encoders_of_sdxl_are_the_networks_own():
    folder = storage.shipped("assets", "configs", "sdxl")
    with torch.device("meta"):
        real = [network(CLIPTextConfig.from_pretrained(folder / part)) for part, network in
                (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))]
    shapes = {f"te1:text_model.{name.removeprefix('text_model.')}": shape for name, shape in real_shapes(real[0]).items()}
    shapes |= {f"te2:{name}": shape for name, shape in real_shapes(real[1]).items()}
    assert shapes == {name: shape for name, shape in module_tables.family_table("sdxl").items() if ":" in name}


def test_text_encoder_of_mini_is_the_networks_own():
    folder = storage.shipped("assets", "mini", "text_encoder")
    with torch.device("meta"):
        real = real_shapes(CLIPTextModel(CLIPTextConfig.from_pretrained(folder)))
    real = {"te1:text_model." + name.removeprefix("text_model."): shape for name, shape in real.items()}
    assert real == {name: shape for name, shape in module_tables.family_table("mini").items() if name.startswith("te1:")}
