"""Samplers by name: every one is a scheduler that diffusers has, with settings it knows."""

import inspect

import diffusers
import pytest

from sdlora.draw import samplers
from sdlora.errors import UserError


@pytest.mark.parametrize("name", samplers.NAMES)
def test_every_name_is_a_scheduler_that_takes_these_settings(name):
    kind, options = samplers.find(name)
    takes = inspect.signature(getattr(diffusers, kind).__init__).parameters
    assert set(options) <= set(takes)
    scheduler = getattr(diffusers, kind)(**options)
    scheduler.set_timesteps(5)
    assert samplers.name_of({"_class_name": kind, **scheduler.config}) == name
    assert " ".join(samplers.split(name)).strip() == name
    assert ("use_karras_sigmas" in takes) is (samplers.split(name)[0] not in samplers.ONE_SCHEDULE)


@pytest.mark.parametrize("spelt, meant", [
    ("dpm++ 2m karras", "DPM++ 2M Karras"), ("dpmpp_2m_k", "DPM++ 2M Karras"), ("dpmpp_2m_sde", "DPM++ 2M SDE"),
    ("euler_a", "Euler a"), ("euler_ancestral", "Euler a"), (" UNIPC ", "UniPC"), ("DPM++2M", "DPM++ 2M")])
def test_other_programs_spellings_are_understood(spelt, meant):
    assert samplers.official(spelt) == meant


@pytest.mark.parametrize("sampler, schedule, meant", [
    ("dpmpp_2m", "karras", "DPM++ 2M Karras"), ("dpmpp_2m_sde_gpu", "karras", "DPM++ 2M SDE Karras"),  # ComfyUI, Fooocus
    ("DPM++ 2M SDE Karras", "", "DPM++ 2M SDE Karras"), ("DPM++ 2M", "Automatic", "DPM++ 2M Karras"),  # A1111
    ("DPM++ 2M", "Uniform", "DPM++ 2M"), ("Euler", "Automatic", "Euler"),
    ("k_euler", "native", "Euler"), ("k_dpmpp_2m", "exponential", "DPM++ 2M Exponential"), ("ddim_v3", "", "DDIM"),  # NovelAI
    ("euler_ancestral", "normal", "Euler a"), ("sample_dpmpp_sde", "normal", "DPM++ SDE"), ("uni_pc_bh2", "", "UniPC"),
    ("kdpm_2_k", "", "DPM2 Karras"), ("dpmpp_2s", "", "DPM++ 2S"), ("k_euler_a", "", "Euler a"),  # InvokeAI
    ("EulerAncestralDiscreteScheduler", "", "Euler a"), ("DPMSolverMultistepScheduler", "", "DPM++ 2M"),  # diffusers
    ("UniPCMultistepScheduler", "", "UniPC"), ("PNDMScheduler", "", "PLMS"), ("Euler A", "", "Euler a"),
    ("dpm2_a", "", "DPM2 a"), ("unipc_snr", "", "UniPC")])  # Draw Things, Easy Diffusion
def test_every_program_means_a_sampler_of_ours(sampler, schedule, meant):
    assert samplers.title(sampler, schedule) == meant and meant in samplers.NAMES


@pytest.mark.parametrize("sampler, schedule, name, parts", [
    ("euler", "sgm_uniform", "Euler SGM Uniform", ("Euler", "SGM Uniform")),
    ("Euler a", "Karras", "Euler a Karras", ("Euler a", "Karras")), ("Restart", "", "Restart", ("", "Restart")),
    ("DPM++ 2M AYS", "", "DPM++ 2M Align Your Steps", ("DPM++ 2M", "Align Your Steps")),
    ("dpmpp_2s_ancestral", "karras", "dpmpp_2s_ancestral karras", ("", "dpmpp_2s_ancestral karras"))])
def test_what_we_have_not_is_named_apart(sampler, schedule, name, parts):
    assert samplers.title(sampler, schedule) == name and name not in samplers.NAMES
    assert samplers.without_schedule(name) == parts


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"no sampler 'Eulr'.*Did you mean Euler\?"):
        samplers.find("Eulr")
    with pytest.raises(UserError, match="The samplers are: DPM"):
        samplers.find("zzz")


def test_a_base_of_an_unnamed_scheduler_keeps_its_class_as_the_name():
    assert samplers.name_of({"_class_name": "TCDScheduler"}) == "TCDScheduler"
    assert samplers.name_of({"_class_name": "PNDMScheduler"}) == "PLMS"
