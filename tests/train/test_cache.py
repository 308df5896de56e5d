"""Latents and caption features: right, computed once, computed again when an entry is damaged."""

import json
import os
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file

from sdlora.base.load import load_base
from sdlora.dataset.folder import read_dataset
from sdlora.errors import UserError
from sdlora.storage import home
from sdlora.train.cache import cache_captions, cache_latents
from tests import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("tiny")
    return tiny.write_base(place / "base"), tiny.write_pictures(place / "pictures", 3)


class Counting:
    """A base that counts what it is asked to compute."""

    def __init__(self, base):
        self.base, self.pictures, self.captions = base, 0, 0
        self.vae, self.text_encoders, self.dtype = base.vae, base.text_encoders, base.dtype

    def encode_pictures(self, pixels):
        self.pictures += 1
        return self.base.encode_pictures(pixels)

    def encode_text(self, prompts):
        self.captions += 1
        return self.base.encode_text(prompts)


@pytest.fixture
def base(folders):
    return Counting(load_base(str(folders[0]), "cpu"))


@pytest.fixture
def examples(folders):
    return read_dataset(folders[1]).examples


def entries(kind):
    return sorted((home() / "cache" / kind).glob("*.safetensors"))


def test_is_what_diffusers_encodes(base, folders, examples):
    vae = AutoencoderKL.from_pretrained(folders[0] / "vae")
    for example, (mean, std) in zip(examples, cache_latents(base, examples, 64), strict=True):
        picture = Image.open(example.path).resize((64, 64), Image.Resampling.LANCZOS)
        pixels = torch.tensor(numpy.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            expected = vae.encode(pixels).latent_dist
        scale = json.loads((folders[0] / "vae" / "config.json").read_text())["scaling_factor"]
        torch.testing.assert_close(mean, expected.mean * scale)
        torch.testing.assert_close(std, expected.std * scale)


def test_is_computed_once(base, examples):
    first = list(cache_latents(base, examples, 64)), list(cache_captions(base, ["a red house", ""]))
    again = list(cache_latents(base, examples, 64)), list(cache_captions(base, ["a red house", ""]))
    assert (base.pictures, base.captions) == (3, 2)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(first[0], again[0], strict=True))
    assert all(torch.equal(one["states"], other["states"]) for one, other in zip(first[1], again[1], strict=True))
    torch.testing.assert_close(first[1][0]["states"], base.base.encode_text(["a red house"])["states"])


def test_another_size_or_vae_is_another_entry(base, examples):
    list(cache_latents(base, examples[:1], 64))
    list(cache_latents(base, examples[:1], 96))
    with torch.no_grad():
        next(base.vae.parameters()).mul_(1.01)
    list(cache_latents(base, examples[:1], 64))
    assert base.pictures == 3 and len(entries("latents")) == 3


def half(path: Path):
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)


def swap(path: Path):
    """The right name, a whole file, another picture's content."""
    save_file({name: tensor * 2 for name, tensor in load_file(path).items()}, path)


def poison(path: Path):
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize("damage", [half, flip, swap, poison, lambda path: path.write_bytes(b"")])
def test_a_damaged_entry_is_computed_again(damage, base, examples):
    before = list(cache_latents(base, examples[:1], 64))
    list(cache_captions(base, ["a red house"]))
    for kind in ("latents", "captions"):
        damage(entries(kind)[0])
    after = list(cache_latents(base, examples[:1], 64))
    list(cache_captions(base, ["a red house"]))
    assert (base.pictures, base.captions) == (2, 2)
    assert torch.equal(before[0][0], after[0][0])
    list(cache_latents(base, examples[:1], 64))
    assert base.pictures == 2


def test_a_picture_the_vae_cannot_carry_is_named_and_not_kept(base, examples, monkeypatch):
    real = base.encode_pictures
    monkeypatch.setattr(base, "encode_pictures", lambda pixels: (real(pixels)[0] * float("inf"), real(pixels)[1]))
    [lost] = cache_latents(base, examples[:1], 64)
    assert isinstance(lost, UserError) and "cannot carry" in lost.message and not entries("latents")


def exchanged(path):
    Image.new("RGB", (64, 64), (1, 2, 3)).save(path)


def removed(path):
    path.unlink()


def piped(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("change, word", [(exchanged, "exchanged or changed"), (removed, "could not be opened"),
                                          (piped, "could not be opened")])
def test_a_picture_that_changes_before_it_is_encoded_costs_only_itself(base, tmp_path, change, word):
    read = read_dataset(tiny.write_pictures(tmp_path / "pictures", 3)).examples
    change(read[1].path)
    first, second, third = cache_latents(base, read, 64)
    assert isinstance(second, UserError) and word in second.message and "01.png" in second.message
    assert isinstance(first, tuple) and isinstance(third, tuple) and len(entries("latents")) == 2


def test_what_was_looked_at_is_what_is_encoded_when_the_file_is_exchanged(base, tmp_path):
    whole = list(cache_latents(base, read_dataset(tiny.write_pictures(tmp_path / "a", 2)).examples, 64))
    shutil.rmtree(home() / "cache")
    read = read_dataset(tiny.write_pictures(tmp_path / "b", 2), side=64).examples
    exchanged(read[1].path)
    again = list(cache_latents(base, read, 64))
    assert all(torch.equal(one, other) for pair in zip(whole, again, strict=True) for one, other in zip(*pair, strict=True))
