"""The form becomes a drawing: the base model beside the blend, LoRAs named in the prompt, a picture to start from."""

import base64
import io

import pytest
from PIL import Image

from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.ui.gallery import blend
from tests.ui.gallery.conftest import form_values, put, queued, row


def test_the_base_is_drawn_too_where_that_is_wanted():
    put("one")
    blend.draw(*form_values(row("one", strength=0.7)))
    (first, alone), (second, mixed) = queued()[0]
    assert (first, second) == blend.COMPARED and alone.loras == () and mixed.loras[0].strength == 0.7
    assert alone == mixed.model_copy(update={"loras": ()})


def test_loras_named_in_the_prompt_join_the_rows():
    put("one", "two")
    blend.draw(*form_values(row("one"), prompt="a house <lora:two:0.4>", compare=False, method="switch", switch_every=3))
    ((_, config),) = queued()[0]
    assert config.prompts == ("a house",) and [choice.strength for choice in config.loras] == [1.0, 0.4]
    assert (config.method, config.switch_every) == ("switch", 3)
    with pytest.raises(UserError, match="three"):
        blend.draw(*form_values(prompt="a house <lora:three:1>"))


def test_a_painted_mask_comes_back_as_painted(tmp_path):
    kept = draws.save_input(Image.new("RGB", (64, 64), "teal"))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    held = io.BytesIO()
    mask.save(held, "PNG")
    found = blend.init_settings({"id": kept, "mask": blend.MASK + base64.b64encode(held.getvalue()).decode()})
    with Image.open(found["mask"]) as image:
        assert image.getpixel((40, 3)) == 255 and image.getpixel((3, 40)) == 0
    assert blend.init_settings({"id": kept, "mask": ""}) == {"init": str(draws.input_path(kept))}
    assert blend.init_settings(None) == {}
    for wrong in ({"id": "../x", "mask": ""}, {"id": kept, "mask": "data:image/png;base64,%%%"}, {"id": kept, "mask": "aGk="}):
        with pytest.raises(UserError):
            blend.init_settings(wrong)
