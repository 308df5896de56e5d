"""The form becomes a drawing: the base model beside the blend, LoRAs named in the prompt, pictures to start from."""

import base64
import io

import gradio as gr
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlora.draw.infotext.picture import write_picture
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.ui.gallery import blend, mixer
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


def test_the_settings_of_a_picture_fill_form_and_mixer(tmp_path):
    put("one")
    loras = [{"name": "one", "strength": 0.6, "hash": ""}, {"name": "gone", "strength": 1, "hash": "0" * 12}]
    settings = {"prompt": "a boat", "negative": "fog", "seed": 9, "sampler": "Euler a", "steps": 12, "guidance": 4.0,
                "width": 128, "height": 128}
    write_picture(tmp_path / "drawn.png", Image.new("RGB", (128, 128)), {**settings, "loras": loras})
    rows, prompt, _, *values, notes = blend.filled(tmp_path / "drawn.png")
    assert prompt == "a boat" and dict(zip(blend.OF_A_PICTURE, values, strict=True)) == {
        key: value for key, value in settings.items() if key != "prompt"} | {"method": "sum"}
    assert isinstance(rows, gr.HTML) and [each.choice.strength for each in mixer.rows_of(rows.value)] == [0.6]
    assert any("gone" in sentence for sentence in notes.props["data"]["notes"])


def test_what_a_picture_does_not_say_stays_in_the_form(tmp_path, monkeypatch):
    info = PngInfo()
    info.add_text("parameters", "None\nNegative prompt: None\n"
                  "Steps: 8, Seed: 18446744073709551615, Sampler: Restart, Size: 70x64")
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png", pnginfo=info)
    _, prompt, every, *values, notes = blend.filled(tmp_path / "x.png")
    found = dict(zip(blend.OF_A_PICTURE, values, strict=True))
    assert prompt == every == gr.skip()
    assert [found.pop(key) for key in ("steps", "method", "height")] == [8, "sum", 64]
    assert all(value == gr.skip() for value in found.values())
    assert notes.props["data"]["notes"][1] == "The picture has no prompt."
    assert "18446744073709551615" in notes.props["data"]["notes"][2] and "Restart" in notes.props["data"]["notes"][2]
    info = PngInfo()
    info.add_text("parameters", '{"sui_image_params": {')
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png", pnginfo=info)
    warnings = []
    monkeypatch.setattr(gr, "Warning", warnings.append)
    monkeypatch.setattr(blend, "uploads", lambda files: files)
    *kept, notes, drop = blend.load_upload(tmp_path / "x.png")
    assert all(value == gr.skip() for value in kept) and len(kept) == len(blend.OF_A_PICTURE) + 3
    assert notes.props["data"] == {"notes": []} and drop is None, "the next picture can be dropped at once"
    assert len(warnings) == 1 and "SwarmUI" in warnings[0]
