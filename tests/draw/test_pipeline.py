"""draw() against diffusers' own pipeline; same seed, same bits; previews, cancel, sizes.

Also every sampler in few steps, from noise, from a picture and within a mask: a finite picture, or the smallest number of steps.
"""

import dataclasses
import re

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.draw import pipeline, samplers
from sdlora.draw.pipeline import Picture, Preview, denoise, draw, scheduler_of, with_steps
from sdlora.draw.start import begin
from sdlora.errors import UserError
from tests import tiny

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "leading",
                    "set_alpha_to_one": False}
PROMPT = "a red house and a blue boat, meadow, in daylight"


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return load_base(str(tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")), "cpu")


def pictures(base, **settings):
    config = DrawConfig(**{"prompts": (PROMPT,), "steps": 3, "width": 64, "height": 64} | settings)
    return [made for made in draw(base, config, blend=()) if isinstance(made, Picture)]


def distance(one, other):
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("sampler", ["DPMSolverMultistepScheduler", "PNDMScheduler"])
def test_a_picture_is_the_one_diffusers_draws(mini, sampler):
    base = dataclasses.replace(mini, scheduler_config=mini.scheduler_config | {"_class_name": sampler})
    scheduler = getattr(diffusers, sampler).from_config(base.scheduler_config)
    oracle = StableDiffusionPipeline(
        mini.vae, mini.text_encoders[0], mini.tokenizers[0], mini.unet, scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    oracle.set_progress_bar_config(disable=True)
    (ours,) = pictures(base, steps=4, seed=7, negative="a green tree", guidance=4.0, width=72, height=64)
    latents = torch.randn((1, mini.channels, 8, 9), generator=torch.Generator().manual_seed(7))
    theirs = oracle(PROMPT, negative_prompt="a green tree", num_inference_steps=4, guidance_scale=4.0, latents=latents,
                    width=72, height=64).images[0]
    assert ours.image.size == theirs.size == (72, 64)
    assert distance(ours.image, theirs) <= 2
    assert distance(ours.image, pictures(base, steps=4, seed=8, width=72, height=64)[0].image) > 20


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("sampler", samplers.SOLVERS)
def test_a_named_sampler_draws_as_diffusers_does(small, sampler):
    """Also with noise from the same generator, where the sampler takes any."""
    name, options = samplers.find(sampler)
    if name in samplers.EVEN:
        options = options | {"timestep_spacing": "leading", "clip_sample": False}
    scheduler = getattr(diffusers, name).from_config(small.scheduler_config | options)
    oracle = StableDiffusionPipeline(
        small.vae, small.text_encoders[0], small.tokenizers[0], small.unet, scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    oracle.set_progress_bar_config(disable=True)
    steps = 40 if sampler == "PLMS" else 3  # in fewer its order is lower
    (ours,) = pictures(small, steps=steps, seed=7, guidance=4.0, sampler=sampler.lower())
    theirs = oracle(PROMPT, num_inference_steps=steps, guidance_scale=4.0, generator=torch.Generator().manual_seed(7),
                    width=64, height=64).images[0]
    assert distance(ours.image, theirs) <= 2 and ours.settings["sampler"] == sampler


def test_the_bases_own_sampler_is_told_by_its_name_and_is_that_one(mini):
    (own,), (named,) = pictures(mini, steps=2), pictures(mini, steps=2, sampler="DPM++ 2M")
    assert own.settings["sampler"] == named.settings["sampler"] == "DPM++ 2M" and own.image.tobytes() == named.image.tobytes()
    velocity = dataclasses.replace(mini, scheduler_config=mini.scheduler_config | {"prediction_type": "v_prediction"})
    assert scheduler_of(velocity, DrawConfig(sampler="Euler a")).config.prediction_type == "v_prediction"
    many = scheduler_of(mini, DrawConfig(sampler="LCM", steps=120))
    many.set_timesteps(120)
    assert len(many.timesteps) == 120


def test_weights_in_a_prompt_and_its_whole_length_act(mini):
    (plain,), (weighted,) = pictures(mini), pictures(mini, prompts=(PROMPT.replace("blue boat", "(blue boat:0.3)"),))
    assert distance(plain.image, weighted.image) > 20
    long = f"{PROMPT}, {PROMPT}, {PROMPT}"
    (more,), (other,) = pictures(mini, prompts=(f"{long}, a cat",)), pictures(mini, prompts=(f"{long}, a tree",))
    assert distance(more.image, other.image) > 0


def test_image_j_uses_seed_plus_j_whatever_the_count(mini):
    many = pictures(mini, prompts=("a cat", PROMPT), seed=5, count=2)
    assert [(one.prompt_index, one.image_index, one.seed) for one in many] == [(0, 0, 5), (0, 1, 6), (1, 0, 5), (1, 1, 6)]
    (alone,) = pictures(mini, seed=6)
    assert alone.image.tobytes() == many[3].image.tobytes() != many[2].image.tobytes()
    assert alone.settings == many[3].settings and alone.settings["seed"] == 6


def test_previews_come_closer_to_the_picture(mini):
    config = DrawConfig(prompts=(PROMPT,), steps=6)
    made = list(draw(mini, config, blend=()))
    assert [one.step for one in made[:-1]] == [0, 1, 2, 3, 4, 5] and all(isinstance(one, Preview) for one in made[:-1])
    final = np.asarray(made[-1].image).astype(float)
    off = [np.abs(np.asarray(one.image).astype(float) - final).mean() for one in made[:-1]]
    assert made[0].image.size == (128, 128) and off[5] < off[0] / 2 and off[5] < 30


def test_stop_ends_between_two_steps(mini):
    calls = []

    def stop():
        calls.append(1)
        return len(calls) > 3

    made = list(draw(mini, DrawConfig(prompts=(PROMPT,), steps=20, width=64, height=64), blend=(), stop=stop))
    assert [one.step for one in made] == [0, 1, 2]


def test_guidance_of_one_needs_no_second_row(mini, monkeypatch):
    rows = []
    real = mini.predict
    monkeypatch.setattr(mini, "predict", lambda noisy, *rest: rows.append(len(noisy)) or real(noisy, *rest), raising=False)
    pictures(mini, steps=1, guidance=1.0)
    pictures(mini, steps=1, guidance=2.0)
    assert rows == [1, 2]


def test_what_cannot_be_drawn_is_a_sentence(mini):
    coarse = dataclasses.replace(mini, factor=16)
    with pytest.raises(UserError, match="multiple of 16 px"):
        pictures(coarse, width=72)
    odd = dataclasses.replace(mini, scheduler_config={"_class_name": "os.system"})
    with pytest.raises(UserError, match="sampler os.system"):
        pictures(odd)
    with pytest.raises(UserError, match="Did you mean UniPC"):
        pictures(mini, sampler="unipcc")
    with pytest.raises(UserError, match="weight 50"):
        pictures(mini, prompts=("(red:50) house",))


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
def starts(small, ways):
    return [(way, begin(small, DrawConfig(width=64, height=64, **way))) for way in ways]


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
def test_few_steps_draw_or_say_how_many_it_takes(small, starts, sampler, noise):
    there = dataclasses.replace(small, scheduler_config=small.scheduler_config | noise)
    few = {steps for steps in range(1, 6) for way, start in starts
           if refused(there, start, DrawConfig(sampler=sampler, steps=steps, width=64, height=64, **way))}
    assert few <= ({2} if sampler.startswith("DPM2 a") else {2, 3, 4, 5} if sampler == "PLMS" else set())


@pytest.mark.filterwarnings("ignore")
def test_the_sentence_names_sampler_base_and_steps(small):
    with pytest.raises(UserError, match="DPM2 a cannot draw in 2 steps with base. It needs 3 steps or more"):
        list(draw(small, DrawConfig(sampler="DPM2 a", steps=2)))
    three = list(draw(small, DrawConfig(sampler="DPM2 a", steps=3)))
    assert isinstance(three[-1], Picture)


def test_nothing_is_decoded_for_somebody_who_does_not_look(small, monkeypatch):
    looked = []

    def preview(base, denoised, size):
        looked.append(denoised())
        return Image.new("RGB", size)

    monkeypatch.setattr("sdlora.draw.pipeline.preview", preview)
    monkeypatch.setattr("sdlora.draw.pipeline.predicted_x0", lambda *_: looked.append(1) or torch.zeros(1, 4, 8, 8))
    made = list(draw(small, DrawConfig(steps=4)))
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
def test_plms_keeps_its_order_on_the_noise_of_stable_diffusion(small, steps, order):
    there = dataclasses.replace(small, scheduler_config=small.scheduler_config | STABLE_DIFFUSION)
    scheduler = with_steps(there, DrawConfig(sampler="PLMS"), steps)
    for timestep in scheduler.timesteps[:6]:
        scheduler.step(torch.zeros(1), timestep, torch.ones(1))
    assert len(scheduler.ets) == order


@pytest.mark.parametrize("sampler", ["DPM2", "DPM2 a Karras", "PLMS", "DPM++ 2M"])
def test_a_scheduler_is_built_once_and_no_picture_changes_the_next(small, starts, sampler):
    """Building one of DPM2 takes half a second, more than drawing a small picture with it."""
    def latents(steps):
        config = DrawConfig(sampler=sampler, steps=steps, width=64, height=64)
        return list(denoise(small, config, starts[0][1], 1, lambda noisy, timestep, step: noisy * 0.9))[-1].latents

    fresh = []
    for steps in (12, 15):
        pipeline.built.cache_clear()
        fresh.append(latents(steps))
    pipeline.built.cache_clear()
    again = [latents(steps) for steps in (12, 15, 12)]
    assert pipeline.built.cache_info().misses == 1
    assert all(torch.equal(one, other) for one, other in zip(again, [*fresh, fresh[0]], strict=True))
