"""Each family is what its networks and its bases say."""

import pytest

from sdlora import storage
from sdlora.base.catalog import family_of
from sdlora.families import FAMILIES, WIDTHS, family_title
from sdlora.lora.formats.module_tables import family_table


@pytest.mark.parametrize("key", FAMILIES)
def test_the_width_and_resolution_are_those_of_the_networks(key):
    family = FAMILIES[key]
    read = {shape[1] for name, shape in family_table(key).items() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    assert read == {family.width}
    folder = storage.shipped("assets", "mini") if key == "mini" else storage.shipped("assets", "configs", key)
    assert storage.read_json(folder / "unet" / "config.json")["sample_size"] * 8 == family.resolution


@pytest.mark.parametrize("key", FAMILIES)
def test_a_base_is_known_by_the_width_of_its_family_alone(key):
    assert WIDTHS[FAMILIES[key].width] == key
    assert family_of(FAMILIES[key].width, 4, "a base", has_time_ids=False) is FAMILIES[key]


def test_a_family_of_others_is_called_as_it_calls_itself():
    assert family_title("sd1") == "Stable Diffusion 1.x" and family_title("flux") == "flux"
