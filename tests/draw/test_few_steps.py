"""Every sampler in few steps, from noise, from a picture and within a mask: a finite picture, or the smallest number of steps."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.draw import pipeline, samplers
from sdlora.draw.pipeline import Picture, denoise, draw, with_steps
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


@pytest.fixture(scope="module")
def starts(base, ways):
    return [(way, begin(base, DrawConfig(width=64, height=64, **way))) for way in ways]


def refused(base, start, config):
    """Whether so few steps are refused; if so, the number that is named must draw."""
    try:
        last = list(denoise(base, config, start, 1, lambda noisy, timestep, step: noisy * 0.9))[-1].latents
    except UserError as error:
        least = int(re.fullmatch(r"It needs (\d+) steps or more\.", error.hint)[1])
        assert least > config.steps and not refused(base, start, config.model_copy(update={"steps": least}))
        return True
    assert last.isfinite().all() and last.shape == (1, base.channels, 8, 8)
    return False


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("noise", [{}, STABLE_DIFFUSION], ids=["mini", "sd"])
@pytest.mark.parametrize("sampler", samplers.NAMES)
def test_few_steps_draw_or_say_how_many_it_takes(base, starts, sampler, noise):
    there = dataclasses.replace(base, scheduler_config=base.scheduler_config | noise)
    few = {steps for steps in range(1, 6) for way, start in starts
           if refused(there, start, DrawConfig(sampler=sampler, steps=steps, width=64, height=64, **way))}
    assert few <= ({2} if sampler.startswith("DPM2 a") else {2, 3, 4, 5} if sampler == "PLMS" else set())


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


def test_plms_is_as_smooth_as_ddim_or_refuses():
    """Its fourth order draws noise where the steps are large: over 60 levels from the picture that DDIM draws."""
    mini = load_base("mini", "cpu")
    drawn = {}
    for name in ("PLMS", "DDIM"):
        made = list(draw(mini, DrawConfig(prompts=("a red house, meadow",), sampler=name, steps=10)))[-1]
        drawn[name] = np.asarray(made.image).astype(float)
    rough = {name: np.abs(np.diff(array, 2, axis=0)).mean() for name, array in drawn.items()}
    assert rough["PLMS"] < 1.3 * rough["DDIM"] and np.abs(drawn["PLMS"] - drawn["DDIM"]).mean() < 10
    with pytest.raises(UserError, match=r"PLMS cannot draw in 6 steps with .* needs \d+ steps or more"):
        list(draw(mini, DrawConfig(sampler="PLMS", steps=6)))


@pytest.mark.parametrize(("steps", "order"), [(5, 2), (20, 4), (50, 4)])
def test_plms_keeps_its_order_on_the_noise_of_stable_diffusion(base, steps, order):
    there = dataclasses.replace(base, scheduler_config=base.scheduler_config | STABLE_DIFFUSION)
    scheduler = with_steps(there, DrawConfig(sampler="PLMS"), steps)
    for timestep in scheduler.timesteps[:6]:
        scheduler.step(torch.zeros(1), timestep, torch.ones(1))
    assert len(scheduler.ets) == order


@pytest.mark.parametrize("sampler", ["DPM2", "DPM2 a Karras", "PLMS", "DPM++ 2M"])
def test_a_scheduler_is_built_once_and_no_picture_changes_the_next(base, starts, sampler):
    """Building one of DPM2 takes half a second, more than drawing a small picture with it."""
    def latents(steps):
        config = DrawConfig(sampler=sampler, steps=steps, width=64, height=64)
        return list(denoise(base, config, starts[0][1], 1, lambda noisy, timestep, step: noisy * 0.9))[-1].latents

    fresh = []
    for steps in (12, 15):
        pipeline.built.cache_clear()
        fresh.append(latents(steps))
    pipeline.built.cache_clear()
    again = [latents(steps) for steps in (12, 15, 12)]
    assert pipeline.built.cache_info().misses == 1
    assert all(torch.equal(one, other) for one, other in zip(again, [*fresh, fresh[0]], strict=True))
