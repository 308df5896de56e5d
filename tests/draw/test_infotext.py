"""Infotext: read by Pillow and by A1111's own grammar, read back whole, and no prompt can break out of its line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlora.draw.infotext import from_text, read_infotext, to_text, write_picture
from sdlora.errors import UserError

SETTINGS = {"prompt": "a red house, (meadow:1.2)", "negative": "blurry, text", "steps": 20, "sampler": "DPM++ 2M",
            "guidance": 5.5, "seed": 42, "width": 128, "height": 192, "model": "sdlora mini", "model_hash": "db80aea1b4",
            "loras": [{"name": "stained-glass", "strength": 0.8, "hash": "a33ded9e396c"},
                      {"name": "woodcut", "strength": -1.0, "hash": "0123456789ab"}], "version": "sdlora 0.1.0"}
# the two patterns of stable-diffusion-webui's infotext_utils.py
A1111_PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
A1111_SIZE = re.compile(r"^(\d+)x(\d+)$")


def test_a_picture_carries_its_settings(tmp_path):
    path = write_picture(tmp_path / "picture.png", Image.new("RGB", (8, 8), "red"), SETTINGS)
    assert read_infotext(path) == SETTINGS
    with Image.open(path) as opened:
        text = opened.text["parameters"]
        assert opened.convert("RGB").getpixel((3, 3)) == (255, 0, 0)
    *words, last = text.split("\n")
    pairs = dict(A1111_PAIR.findall(last))
    assert words == ["a red house, (meadow:1.2) <lora:stained-glass:0.8> <lora:woodcut:-1>", "Negative prompt: blurry, text"]
    assert pairs["Steps"] == "20" and pairs["CFG scale"] == "5.5" and A1111_SIZE.match(pairs["Size"]).groups() == ("128", "192")
    assert pairs["Lora hashes"] == '"stained-glass: a33ded9e396c, woodcut: 0123456789ab"'


@given(prompt=st.text(max_size=80), negative=st.text(max_size=80), name=st.text(min_size=1, max_size=30))
def test_no_text_breaks_out_of_its_place(prompt, negative, name):
    lora = {"name": name, "strength": 0.5, "hash": "0123456789ab"}
    read = from_text(to_text(SETTINGS | {"prompt": prompt, "negative": negative, "loras": [lora], "model": name}))
    assert read["seed"] == 42 and read["steps"] == 20 and read["width"] == 128
    assert [one["hash"] for one in read["loras"]] == ["0123456789ab"]
    assert set(read) == set(SETTINGS)


def test_injected_lines_stay_words():
    evil = "cat\nNegative prompt: x\nSteps: 1, Seed: 7, Size: 1x1, CFG scale: 2"
    read = from_text(to_text(SETTINGS | {"prompt": evil, "negative": ""}))
    assert read["seed"] == 42 and read["negative"] == "" and read["prompt"].startswith("cat Negative prompt: x Steps: 1")
    assert from_text(to_text(SETTINGS | {"prompt": "Negative prompt: x"}))["prompt"] == "negative prompt: x"


def test_texts_of_other_programs():
    read = from_text("a cat\nin the sun\nNegative prompt: dog\nbird\n"
                     'Steps: 25, Sampler: Euler a, CFG scale: 6, Seed: 3, Size: 512x768, Hires upscaler: Latent, TI: "a, b: c"')
    assert read["prompt"] == "a cat\nin the sun" and read["negative"] == "dog\nbird"
    assert read["other"] == {"Hires upscaler": "Latent", "TI": "a, b: c"} and read["height"] == 768
    assert from_text("only words")["prompt"] == "only words" and "seed" not in from_text("only words")
    assert "steps" not in from_text("x\nSteps: many, Seed: 1, Sampler: y")


def test_compressed_and_plain_chunks_are_read(tmp_path):
    for number, keep in enumerate((lambda i: i.add_text("parameters", to_text(SETTINGS)),
                                   lambda i: i.add_itxt("parameters", to_text(SETTINGS), zip=True))):
        info = PngInfo()
        info.add_text("other", "x" * 100)
        keep(info)
        Image.new("RGB", (4, 4)).save(tmp_path / f"{number}.png", pnginfo=info)
        assert read_infotext(tmp_path / f"{number}.png") == SETTINGS


def test_what_has_no_infotext_is_a_sentence(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    (tmp_path / "fake.png").write_bytes(b"not a picture")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\x20tEXt")
    for name in ("bare.png", "fake.png", "cut.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            read_infotext(tmp_path / name)
