"""A LoRA is a file of the shelf or a checkpoint of a run; anything else is a sentence."""

import pytest

from sdlora.errors import UserError
from sdlora.ui import loras
from tests.ui.gallery.conftest import put


def test_a_file_of_the_shelf_is_found_by_its_id_and_listed_in_the_menu():
    put("ink", "wood")
    found = loras.find("lora:ink")
    assert (found.name, found.base, found.file.name) == ("ink", "mini", "ink.safetensors")
    assert {lora for _, lora in loras.menu()} == {"lora:ink", "lora:wood"}


def test_a_checkpoint_of_a_run_is_found_by_its_step(folder, monkeypatch):
    monkeypatch.setattr(loras.runs, "lora_file", lambda run, step: run.folder / f"{step}.safetensors")
    found = loras.find(f"point:{folder.name}:20")
    assert found.name == "Hatching <b>, step 20" and found.trigger == "htchng" and found.prompt == "htchng, a cat"
    assert loras.menu(f"point:{folder.name}:20")[0] == (found.name, found.id)


@pytest.mark.parametrize("value", [None, 3, "", "lora:", "lora:gone", "point:../x:3", "point:gone:3", "other:ink", "lora:../x"])
def test_what_is_no_lora_is_a_sentence(value):
    with pytest.raises(UserError):
        loras.find(value)


def test_only_steps_with_a_checkpoint_can_be_chosen(folder):
    for step in ("0", "21", "x", "99999999"):
        with pytest.raises(UserError):
            loras.find(f"point:{folder.name}:{step}")
