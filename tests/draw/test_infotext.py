"""Infotext in files: written and read as PNG, JPEG and WebP, turned into settings, and what cannot be used is named."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlora.config import DrawConfig
from sdlora.draw.infotext import not_taken, read_infotext, settings_from, write_picture
from sdlora.errors import UserError

SETTINGS = {"prompt": "a red house, (meadow:1.2)", "negative": "blurry, text", "steps": 20, "sampler": "DPM++ 2M",
            "guidance": 5.5, "seed": 42, "width": 128, "height": 192, "model": "sdlora mini", "model_hash": "db80aea1b4",
            "loras": [{"name": "stained-glass", "strength": 0.8, "hash": "a33ded9e396c"},
                      {"name": "木版", "strength": -1.0, "start": 0.0, "end": 0.5, "hash": "0123456789ab"}],
            "version": "sdlora 0.1.0"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_carries_its_settings(tmp_path, suffix):
    path = write_picture(tmp_path / f"picture{suffix}", Image.new("RGB", (64, 64), "red"), SETTINGS)
    assert read_infotext(path) == SETTINGS
    with Image.open(path) as opened:
        assert opened.convert("RGB").getpixel((3, 3))[0] > 250


def test_settings_are_fields_of_a_drawing():
    fields = settings_from(SETTINGS)
    assert fields.pop("loras") == [{"name": "stained-glass", "hash": "a33ded9e396c", "strength": 0.8},
                                   {"name": "木版", "hash": "0123456789ab", "strength": -1.0, "start": 0.0, "end": 0.5}]
    config = DrawConfig(**fields)
    assert (config.prompts, config.seed, config.width, config.height, config.base) == (
        ("a red house, (meadow:1.2)",), 42, 128, 192, "mini")
    assert not_taken(SETTINGS) == []


def test_what_is_out_of_range_or_unknown_is_named_not_used():
    found = {"prompt": "x", "steps": 500, "sampler": "Restart", "seed": -1, "width": 513, "guidance": 0.5,
             "negative": "", "init_strength": 0.4,
             "loras": [{"name": "a", "strength": 9.0, "hash": "", "dyn": "8"}, {"name": "b", "strength": 1.0, "hash": ""}],
             "other": {"Clip skip": "2", "Script": "X/Y/Z plot"}}
    fields = settings_from(found)
    assert fields == {"prompts": ("x",), "negative": "", "init_strength": 0.4,
                      "loras": [{"name": "a", "hash": ""}, {"name": "b", "hash": "", "strength": 1.0}]}
    assert not_taken(found) == ["steps: 500", "sampler: Restart", "guidance: 0.5", "seed: -1", "width: 513", "strength of a: 9.0",
                                "rank cut of a (dyn=8)", "Clip skip: 2", "the picture it was drawn over"]


def test_a_picture_of_invokeai(tmp_path):
    info = PngInfo()
    info.add_text("invokeai_metadata", json.dumps({"positive_prompt": "a cat", "seed": 3, "scheduler": "euler"}))
    info.add_text("invokeai_graph", "{}")
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png", pnginfo=info)
    assert settings_from(read_infotext(tmp_path / "x.png")) == {
        "prompts": ("a cat",), "negative": "", "seed": 3, "sampler": "Euler", "loras": []}


def test_what_has_no_infotext_is_a_sentence(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "bare.png")
    camera = Image.Exif()
    camera.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a day at the sea"
    Image.new("RGB", (64, 64)).save(tmp_path / "bare.jpg", exif=camera)
    graph = PngInfo()
    graph.add_text("workflow", "{}")
    Image.new("RGB", (64, 64)).save(tmp_path / "comfy.png", pnginfo=graph)
    said = {"bare.png": "does not say", "bare.jpg": "does not say", "comfy.png": "ComfyUI", "absent.png": "absent.png"}
    for name, words in said.items():
        with pytest.raises(UserError, match=words):
            read_infotext(tmp_path / name)
