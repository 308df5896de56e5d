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


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"no sampler 'Eulr'.*Did you mean Euler\?"):
        samplers.find("Eulr")
    with pytest.raises(UserError, match="The samplers are: DPM"):
        samplers.find("zzz")


def test_a_base_of_an_unnamed_scheduler_keeps_its_class_as_the_name():
    assert samplers.name_of({"_class_name": "TCDScheduler"}) == "TCDScheduler"
    assert samplers.name_of({"_class_name": "PNDMScheduler"}) == "PLMS"
