"""Every sampler in few steps, from noise, from a picture and within a mask: a finite picture, or the smallest number of steps."""

import dataclasses
import re

import pytest
import torch
from PIL import Image

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.draw import samplers
from sdlora.draw.pipeline import Picture, denoise, draw
from sdlora.draw.start import begin
from sdlora.errors import UserError
from tests import tiny

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "leading",
                    "set_alpha_to_one": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base(str(tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")), "cpu")


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Settings of the three ways to begin."""
    folder = tmp_path_factory.mktemp("files")
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(folder / "init.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save(folder / "mask.png")
    picture = {"init": str(folder / "init.png")}
    return [{}, *[{**picture, **more, "init_strength": strength} for more in ({}, {"mask": str(folder / "mask.png")})
                  for strength in (0.2, 0.6, 1.0)]]


def refused(base, config):
    """Whether so few steps are refused; if so, the number that is named must draw."""
    start = begin(base, config)
    try:
        last = list(denoise(base, config, start, 1, lambda noisy, timestep, step: noisy * 0.9))[-1].latents
    except UserError as error:
        least = int(re.fullmatch(r"It needs (\d+) steps or more\.", error.hint)[1])
        assert least > config.steps and not refused(base, config.model_copy(update={"steps": least}))
        return True
    assert last.isfinite().all() and last.shape == (1, base.channels, 8, 8)
    return False


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noise", [{}, STABLE_DIFFUSION], ids=["mini", "sd"])
@pytest.mark.parametrize("sampler", samplers.NAMES)
def test_few_steps_draw_or_say_how_many_it_takes(base, ways, sampler, noise):
    there = dataclasses.replace(base, scheduler_config=base.scheduler_config | noise)
    few = {steps for steps in range(1, 6) for way in ways
           if refused(there, DrawConfig(sampler=sampler, steps=steps, width=64, height=64, **way))}
    assert few <= ({2} if sampler.startswith("DPM2 a") else set())


@pytest.mark.filterwarnings("ignore")
def test_the_sentence_names_sampler_base_and_steps(base):
    with pytest.raises(UserError, match="DPM2 a cannot draw in 2 steps with base. It needs 3 steps or more"):
        list(draw(base, DrawConfig(sampler="DPM2 a", steps=2)))
    three = list(draw(base, DrawConfig(sampler="DPM2 a", steps=3)))
    assert isinstance(three[-1], Picture)


def test_nothing_is_decoded_for_somebody_who_does_not_look(base, monkeypatch):
    looked = []
    monkeypatch.setattr("sdlora.draw.pipeline.rough", lambda *_: looked.append(1) or Image.new("RGB", (64, 64)))
    monkeypatch.setattr("sdlora.draw.pipeline.clean_guess", lambda *_: looked.append(1) or torch.zeros(1, 4, 8, 8))
    made = list(draw(base, DrawConfig(steps=4)))
    assert not looked
    assert made[2].image is made[2].image and len(looked) == 2
