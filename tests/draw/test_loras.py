"""Chosen files: read once, refused when they are for another mini, told by the hash that other tools know."""

import json
import os

import pytest
import torch

from sdlora.base.load import load_base
from sdlora.config import LoraChoice
from sdlora.draw import loras
from sdlora.errors import UserError
from sdlora.lora.formats.header import header
from sdlora.lora.formats.writing import write
from sdlora.lora.math.delta import Adapter
from sdlora.lora.tools.report import inspect
from tests import tiny

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base(str(tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")), "cpu", parts=("unet",))


def lora_file(path, seed=0, **metadata):
    dice = torch.Generator().manual_seed(seed)
    tensors = {"up": torch.randn(16, 2, generator=dice), "down": torch.randn(2, 16, generator=dice)}
    write(path, {QUERY: Adapter("lora", tensors, 2.0, 2, "unet")}, metadata, family="mini")
    return path


def test_every_setting_of_a_choice_reaches_the_blend(base, tmp_path):
    file = lora_file(tmp_path / "a.safetensors")
    made = loras.ingredient(LoraChoice(file=str(file), strength=0.8, text_strength=0.5, blocks="MID", start=0.2, end=0.9), base)
    assert (made.strength, made.text_strength, made.start, made.end, made.name) == (0.8, 0.5, 0.2, 0.9, "a")
    assert made.family == base.family and made.blocks["MID"] == 1 and made.blocks["IN00"] == 0
    assert list(made.adapters) == [QUERY]


def test_a_file_is_read_again_only_when_it_changed(base, tmp_path):
    file = lora_file(tmp_path / "a.safetensors")
    choice = LoraChoice(file=str(file))
    first = loras.ingredient(choice, base).adapters
    assert loras.ingredient(choice, base).adapters is first
    lora_file(file, seed=1)
    os.utime(file, ns=(1, 1))
    again = loras.ingredient(choice, base).adapters
    assert not torch.equal(again[QUERY].tensors["up"], first[QUERY].tensors["up"])
    file.unlink()
    with pytest.raises(UserError, match="a.safetensors"):
        loras.ingredient(choice, base)


def test_a_blend_of_many_files_is_read_once(base, tmp_path, monkeypatch):
    """A grid asks for all files of its blend again for every cell."""
    choices = [LoraChoice(file=str(lora_file(tmp_path / f"{seed}.safetensors", seed))) for seed in range(32)]
    first = [loras.ingredient(choice, base).adapters for choice in choices]
    assert all(loras.ingredient(choice, base).adapters is adapters for choice, adapters in zip(choices, first, strict=True))
    monkeypatch.setattr(loras, "CACHE_BYTES", 0)
    loras.ingredient(choices[0], base)
    assert len(loras.FILES) == loras.MIN_CACHED and loras.ingredient(choices[0], base).adapters is first[0]


def test_a_lora_of_another_build_of_mini_is_refused(base, tmp_path):
    loras.ingredient(LoraChoice(file=str(lora_file(tmp_path / "a.safetensors", sdlora_base_identity=base.identity))), base)
    other = lora_file(tmp_path / "b.safetensors", sdlora_base_family="mini", sdlora_base_identity="0" * 64)
    with pytest.raises(UserError, match="b.safetensors was made for another build of mini"):
        loras.ingredient(LoraChoice(file=str(other)), base)


def test_the_settings_are_kohyas_hash_and_what_is_not_default(tmp_path):
    file = lora_file(tmp_path / "a.safetensors", ss_output_name="Mine")
    kohyas = header(file).metadata["sshs_model_hash"]
    assert loras.settings_of(LoraChoice(file=str(file), strength=0.8)) == {"name": "a", "strength": 0.8, "hash": kohyas[:12]}
    special = loras.settings_of(LoraChoice(file=str(file), text_strength=0.5, blocks="style only", end=0.5))
    assert json.dumps(special) and {key: special[key] for key in special if key not in ("name", "strength", "hash")} == {
        "text_strength": 0.5, "blocks": "style only", "end": 0.5}


def test_a_change_of_absurd_size_is_refused_and_told(base, tmp_path):
    tensors = {"up": torch.full((64, 2), 1e4), "down": torch.full((2, 64), 1.0)}
    path = write(tmp_path / "burnt.safetensors", {QUERY: Adapter("lora", tensors, 2.0, 2, "unet")}, {}, dtype="fp32",
                           family="mini")
    with pytest.raises(UserError, match="burnt.safetensors would draw only noise"):
        loras.ingredient(LoraChoice(file=str(path)), base)
    assert loras.ingredient(LoraChoice(file=str(path), strength=1e-5), base)
    assert any("times as large as the weights" in problem for problem in inspect(path)["problems"])
    tensors["up"][0, 0] = 1e30
    write(path, {QUERY: Adapter("lora", tensors, 2.0, 2, "unet")}, {}, dtype="fp32", family="mini")
    assert any("times as large as the weights" in problem for problem in inspect(path)["problems"])
