"""draw() against diffusers' own pipeline; same seed, same bits; previews, cancel, sizes."""

import dataclasses

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.draw import samplers
from sdlora.draw.pipeline import Picture, Preview, draw, scheduler_of
from sdlora.errors import UserError
from tests import tiny

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
    config = DrawConfig(prompts=(PROMPT,), steps=6, width=64, height=64)
    made = list(draw(mini, config, blend=()))
    assert [one.step for one in made[:-1]] == [0, 1, 2, 3, 4, 5] and all(isinstance(one, Preview) for one in made[:-1])
    final = np.asarray(made[-1].image).astype(float)
    off = [np.abs(np.asarray(one.image).astype(float) - final).mean() for one in made[:-1]]
    assert made[0].image.size == (64, 64) and off[5] < off[0] / 2 and off[5] < 40


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
