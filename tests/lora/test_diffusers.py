"""A file of ours in plain diffusers with PEFT draws the picture that our own blended weights draw."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from sdlora.lora import file
from sdlora.lora.blend import Ingredient, blend
from sdlora.lora.modules import family_table
from sdlora.storage import shipped
from tests.lora.test_file import style


@pytest.fixture(scope="module")
def pipeline():
    pipe = StableDiffusionPipeline.from_pretrained(shipped("assets", "mini"), dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe):
    drawn = pipe("a red house", num_inference_steps=2, height=64, width=64, output_type="np",
                 generator=torch.Generator().manual_seed(4)).images[0]
    return np.asarray(drawn)


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_load_lora_weights_draws_our_picture(tmp_path, pipeline, dialect):
    paths = [path for path in family_table("mini") if ".attn" in path or "layers.1.self_attn" in path]
    path = file.write(tmp_path / "a.safetensors", style(paths, rank=8, alpha=4.0), {}, dialect=dialect, family="mini")
    bare = picture(pipeline)
    pipeline.load_lora_weights(str(path))
    theirs = picture(pipeline)
    pipeline.unload_lora_weights()
    adapters = file.read(path).adapters
    modules = {name: module_of(pipeline, name) for name in adapters}
    kept = {name: module.weight.detach().clone() for name, module in modules.items()}
    for name, weight in blend([Ingredient(adapters)], kept).items():
        modules[name].weight.data.copy_(weight)
    ours = picture(pipeline)
    for name, weight in kept.items():
        modules[name].weight.data.copy_(weight)
    assert np.abs(theirs - bare).mean() > 0.02
    assert np.abs(theirs - ours).max() < 0.01


def module_of(pipe, name):
    """The module of a canonical path; newer transformers have no `text_model.` inside CLIPTextModel."""
    if not name.startswith("te1:"):
        return pipe.unet.get_submodule(name)
    inner = name.removeprefix("te1:")
    names = {key for key, _ in pipe.text_encoder.named_modules()}
    return pipe.text_encoder.get_submodule(inner if inner in names else inner.removeprefix("text_model."))
