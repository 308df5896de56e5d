"""A baked base holds the live blend's weights, and an exported blend draws the live blend's picture."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, safe_open, save_file

from sdlora.base import catalog
from sdlora.base.load import load_base
from sdlora.base.weights import Weights
from sdlora.config import DrawConfig, LoraChoice
from sdlora.draw import pipeline
from sdlora.draw.apply import Applied
from sdlora.draw.bake import bake
from sdlora.errors import UserError
from sdlora.lora.formats import reading, writing
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.tools import convert
from tests.base.ldm_names import unet_names
from tests.lora.formats.test_writing import CONV, LINEAR, POINT, SQUARE, TEXT, adapter

MINI = catalog.resolve("mini")


@pytest.fixture
def loras(tmp_path):
    """Two files of several kinds, one with biases, and how strongly they are chosen."""
    first = writing.write(tmp_path / "a.safetensors", {path: adapter("lora", path) for path in (LINEAR, SQUARE, CONV, TEXT)}, {},
                        dtype="fp32", family="mini")
    second = writing.write(tmp_path / "b.safetensors", {SQUARE: adapter("dora", SQUARE), POINT: adapter("full", POINT),
                                                      TEXT: adapter("loha", TEXT)}, {}, dtype="fp32", family="mini")
    return [LoraChoice(file=str(first), strength=0.7, text_strength=-0.3), LoraChoice(file=str(second), strength=0.5)]


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu")


def test_a_baked_folder_holds_the_live_weights(tmp_path, loras, mini):
    report = bake(MINI, loras, tmp_path / "baked")
    assert report["weights"] == 6 and report["matched"] == {"a": [4, 4], "b": [3, 3]} and report["notes"] == []
    before, kept, moved = Weights(MINI), Weights(tmp_path / "baked"), 0
    baked, applied = load_base(str(tmp_path / "baked"), "cpu", parts=("text", "unet")), Applied(mini)
    applied.set([Ingredient(reading.read(choice.file).adapters, choice.strength, choice.text_strength) for choice in loras])
    try:
        text = (baked.text_encoders[0], mini.text_encoders[0], "te1:text_model.")
        for ours, live, prefix in ((baked.unet, mini.unet, ""), text):
            state = ours.state_dict()
            for key, value in live.state_dict().items():
                name = prefix + key.removeprefix("text_model.")
                assert torch.equal(state[key], kept[name].float())
                assert torch.allclose(state[key], value.to(kept[name].dtype).float(), rtol=2e-3, atol=1e-6), name
                moved += not torch.equal(before[name], kept[name])
    finally:
        applied.clear()
    assert moved == 6                                          # five weights and one bias, nothing else
    told = json.loads(safe_metadata(tmp_path / "baked" / "unet" / "diffusion_pytorch_model.safetensors")["sdlora_recipe"])
    assert told["method"] == "bake" and [source["strength"] for source in told["sources"]] == [0.7, 0.5]


def safe_metadata(path):
    with safe_open(path, "pt") as opened:
        return opened.metadata()


def test_a_single_file_stays_one_with_its_names(tmp_path):
    torch.manual_seed(0)
    unet = UNet2DConditionModel(block_out_channels=(32, 64), cross_attention_dim=768, norm_num_groups=8, attention_head_dim=8,
                                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    base = tmp_path / "sd15.safetensors"
    save_file({name: value.half().contiguous() for name, value in unet_names(unet.state_dict()).items()}, base)
    generator = torch.Generator().manual_seed(1)
    shape = unet.get_submodule(LINEAR).weight.shape
    low = Adapter("lora", {"down": torch.randn(4, shape[1], generator=generator),
                           "up": torch.randn(shape[0], 4, generator=generator)}, 2.0, 4, "unet")
    path = writing.write(tmp_path / "a.safetensors", {LINEAR: low}, {}, dtype="fp32", family="sd1")
    report = bake(base, [LoraChoice(file=str(path), strength=0.5)], tmp_path / "out.safetensors")
    before, after = load_file(base), load_file(tmp_path / "out.safetensors")
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert report["weights"] == 1 and before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {key}
    assert torch.equal(after[key], (before[key].float() + 0.5 * delta(low, before[key].float())).half())


def test_what_cannot_be_baked_is_a_sentence_and_leaves_nothing(tmp_path, loras):
    for out in (MINI, tmp_path / "x.safetensors"):
        with pytest.raises(UserError, match="base itself|will be"):
            bake(MINI, loras, out)
    xl = Adapter("lora", {"down": torch.ones(2, 2048), "up": torch.ones(640, 2)}, 2.0, 2, "unet")
    other = writing.write(tmp_path / "xl.safetensors", {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": xl}, {},
                        family="sdxl")
    with pytest.raises(UserError, match="was made for Stable Diffusion XL"):
        bake(MINI, [LoraChoice(file=str(other))], tmp_path / "out")
    build = writing.write(tmp_path / "old.safetensors", {LINEAR: adapter("lora", LINEAR)}, {"sdlora_base_identity": "0" * 64},
                        family="mini")
    with pytest.raises(UserError, match="another build of mini"):
        bake(MINI, [LoraChoice(file=str(build))], tmp_path / "out")
    huge = adapter("lora", LINEAR)
    huge.tensors["up"] *= 1e9
    wide = writing.write(tmp_path / "huge.safetensors", {LINEAR: huge}, {}, dtype="fp32", family="mini")
    half = shutil.copytree(MINI, tmp_path / "half")
    unet = half / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value.half() for name, value in load_file(unet).items()}, unet)
    bias = Adapter("full", {"diff_b": torch.full((Weights(MINI)[f"{CONV}.bias"].numel(),), 1e9)}, 0.0, 0, "unet")
    loud = writing.write(tmp_path / "loud.safetensors", {CONV: bias}, {}, dtype="fp32", family="mini")
    for path, name in ((wide, f"{LINEAR}.weight"), (loud, f"{CONV}.bias")):
        with pytest.raises(UserError, match=f"{name} leaves the range"):
            bake(half, [LoraChoice(file=str(path))], tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".sdlora-tmp*"))


def test_the_exported_file_draws_the_picture_of_the_live_blend(tmp_path, loras, mini):
    """The DoRA in it is exact for mini, whose weights are given; svd is asked for enough ranks."""
    config = DrawConfig(prompts=("a red house",), base="mini", steps=1, width=64, height=64, seed=3, device="cpu", guidance=1)

    def picture(choices):
        drawn = pipeline.draw(mini, config.model_copy(update={"loras": tuple(choices)}))
        return np.asarray(next(each.image for each in drawn if isinstance(each, pipeline.Picture)), dtype=int)

    both = picture(loras)
    assert np.abs(both - picture([])).mean() > 2
    for method, rank in (("concat", None), ("svd", 64)):
        report = convert.merge_files(loras, tmp_path / "both.safetensors", method=method, rank=rank, weights=Weights(MINI))
        assert report["energy"] > 0.999 and np.abs(both - picture([LoraChoice(file=report["out"])])).max() <= 1


def test_what_the_bases_number_format_loses_is_said_or_refused(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(MINI, base)
    unet = base / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(unet).items()}, unet)
    weight = Weights(base)[f"{SQUARE}.weight"].float()
    for size, says in ((0.3, ""), (0.003, "loses .* of the change by rounding"), (1e-6, None)):
        change = {SQUARE: Adapter("full", {"diff": torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * size
                                           * weight.std()}, 0.0, 0, "unet")}
        path = writing.write(tmp_path / "a.safetensors", change, {}, dtype="fp32", family="mini")
        if says is None:
            with pytest.raises(UserError, match="Nothing was baked: .* loses 100% of the change"):
                bake(base, [LoraChoice(file=str(path))], tmp_path / "none")
            assert not (tmp_path / "none").exists()
        else:
            report = bake(base, [LoraChoice(file=str(path))], tmp_path / f"out{size}")
            kept = Weights(tmp_path / f"out{size}")[f"{SQUARE}.weight"].float() - weight
            real = float((kept - change[SQUARE].tensors["diff"]).norm() / change[SQUARE].tensors["diff"].norm())
            assert report["lost"] == pytest.approx(real, rel=1e-3)
            assert bool(report["notes"]) == bool(says) and re.search(says, " ".join(report["notes"]))
