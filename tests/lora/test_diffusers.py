"""diffusers as the judge: files it saved, converted or loads mean to us what they mean to it, weight for weight."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from sdlora.lora.formats import reading
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.formats.writing import write
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import delta
from sdlora.storage import shipped
from tests.lora.blended import blend
from tests.lora.formats.test_reading import style
from tests.lora.nets import shuffled, tiny_unet
from tests.lora.spellings import every_spelling, halves

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LAYER = "te1:text_model.encoder.layers.1."
ATTENTION = [f"{BLOCK}.{name}" for name in ("attn1.to_q", "attn1.to_out.0", "attn2.to_v")]
TEXT = [LAYER + "self_attn.k_proj", LAYER + "self_attn.out_proj"]
MORE = [f"{BLOCK}.ff.net.2", "down_blocks.0.attentions.0.proj_in", "mid_block.resnets.0.conv1", LAYER + "mlp.fc1"]


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
    path = write(tmp_path / "a.safetensors", style(paths, rank=8, alpha=4.0), {}, dialect=dialect, family="mini")
    bare = picture(pipeline)
    pipeline.load_lora_weights(str(path))
    theirs = picture(pipeline)
    pipeline.unload_lora_weights()
    adapters = reading.read(path).adapters
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


@pytest.mark.parametrize("spelling", ["kohya", "kohya, lora_te1", "D2", "D3", "D4", "D4 with its header", "D4, flat CLIP"])
def test_what_diffusers_fuses_is_what_we_read(tmp_path, pipeline, spelling):
    paths = ATTENTION + TEXT if spelling == "D2" else ATTENTION + MORE + TEXT if spelling != "D3" else ATTENTION + TEXT + MORE[:3]
    tensors, metadata, *_ = every_spelling(halves("mini", paths), "mini")[spelling]
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    adapters = reading.read(tmp_path / "a.safetensors").adapters
    assert adapters.keys() == set(paths)
    kept = {path: module_of(pipeline, path).weight.detach().clone() for path in paths}
    pipeline.load_lora_weights(str(tmp_path / "a.safetensors"))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    fused = {path: module_of(pipeline, path).weight.detach().clone() for path in paths}
    for path, weight in kept.items():
        module_of(pipeline, path).weight.data.copy_(weight)
    for path, adapter in adapters.items():
        assert not torch.equal(fused[path], kept[path]), path
        torch.testing.assert_close(kept[path] + delta(adapter, kept[path]), fused[path], rtol=1e-4, atol=1e-5)


def trained(**options):
    """A tiny UNet with a PEFT adapter whose values are not those of the start."""
    unet = tiny_unet()
    unet.add_adapter(LoraConfig(**{"r": 3, "lora_alpha": 6, "target_modules": ["to_q", "to_out.0", "conv1"],
                                   "alpha_pattern": {"attn1.to_q": 1.5}} | options))
    shuffled(parameter for parameter in unet.parameters() if parameter.requires_grad)
    return unet


def expected(unet):
    """{path: dW} by PEFT's own layers."""
    return {path: module.get_delta_weight("default").detach() for path, module in unet.named_modules()
            if hasattr(module, "get_delta_weight")}


def test_a_saved_adapter_of_a_unet_keeps_its_scale_in_the_header(tmp_path):
    """D5: unet.save_lora_adapter, which only this header tells the scale of."""
    unet = trained()
    unet.save_lora_adapter(tmp_path)
    compare(tmp_path / "pytorch_lora_weights.safetensors", expected(unet))


def test_a_saved_pipeline_keeps_its_scale_in_the_header(tmp_path):
    unet = trained()
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=json.loads(json.dumps(unet.peft_config["default"].to_dict(), default=list)))
    compare(tmp_path / "pytorch_lora_weights.safetensors", expected(unet))


@pytest.mark.parametrize("dora", [False, True])
def test_diffusers_own_kohya_converter_is_understood(tmp_path, dora):
    """It writes alpha = rank and spells DoRA in a way that ComfyUI cannot read."""
    unet = trained(use_dora=dora, lora_alpha=3, alpha_pattern={})
    converted = convert_state_dict_to_kohya({f"unet.{key}": value for key, value in get_peft_model_state_dict(unet).items()})
    save_file({key: value.contiguous() for key, value in converted.items()}, tmp_path / "a.safetensors")
    if not dora:
        return compare(tmp_path / "a.safetensors", expected(unet))
    found = reading.read(tmp_path / "a.safetensors")
    state = get_peft_model_state_dict(unet)
    for path, adapter in found.adapters.items():
        assert torch.equal(adapter.tensors["dora_scale"].flatten(), state[f"{path}.lora_magnitude_vector"].flatten())
    return None


def compare(path, changes):
    found = reading.read(path)
    assert found.adapters.keys() == changes.keys() and len(load_file(path)) >= 2 * len(changes)
    assert not [problem for problem in found.problems if "alpha" in problem]
    for name, change in changes.items():
        torch.testing.assert_close(delta(found.adapters[name], torch.zeros_like(change)), change)
