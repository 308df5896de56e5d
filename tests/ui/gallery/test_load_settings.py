"""The settings of a picture fill the form; what it does not say stays."""

import gradio as gr
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlora.draw.infotext.picture import write_picture
from sdlora.ui.gallery import load_settings, mixer
from tests.ui.gallery.conftest import put


def test_the_settings_of_a_picture_fill_form_and_mixer(tmp_path):
    put("one")
    loras = [{"name": "one", "strength": 0.6, "hash": ""}, {"name": "gone", "strength": 1, "hash": "0" * 12}]
    settings = {"prompt": "a boat", "negative": "fog", "seed": 9, "sampler": "Euler a", "steps": 12, "guidance": 4.0,
                "width": 128, "height": 128}
    write_picture(tmp_path / "drawn.png", Image.new("RGB", (128, 128)), {**settings, "loras": loras})
    rows, prompt, _, *values, notes, _ = load_settings.updates(tmp_path / "drawn.png")
    assert prompt == "a boat" and dict(zip(load_settings.FIELDS, values, strict=True)) == {
        key: value for key, value in settings.items() if key != "prompt"} | {"method": "sum"}
    assert isinstance(rows, gr.HTML) and [each.choice.strength for each in mixer.rows_of(rows.value)] == [0.6]
    assert any("gone" in sentence for sentence in notes.props["data"]["notes"])


def test_what_a_picture_does_not_say_stays_in_the_form(tmp_path, monkeypatch):
    info = PngInfo()
    info.add_text("parameters", "None\nNegative prompt: None\n"
                  "Steps: 8, Seed: 18446744073709551615, Sampler: Restart, Size: 70x64")
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png", pnginfo=info)
    _, prompt, every, *values, notes, _ = load_settings.updates(tmp_path / "x.png")
    told = dict(zip(load_settings.FIELDS, values, strict=True))
    assert prompt == every == gr.skip()
    assert [told.pop(key) for key in ("steps", "method", "height")] == [8, "sum", 64]
    assert all(value == gr.skip() for value in told.values())
    assert notes.props["data"]["notes"][1] == "The picture tells no prompt."
    assert "18446744073709551615" in notes.props["data"]["notes"][2] and "Restart" in notes.props["data"]["notes"][2]
    info = PngInfo()
    info.add_text("parameters", '{"sui_image_params": {')
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png", pnginfo=info)
    said = []
    monkeypatch.setattr(gr, "Warning", said.append)
    monkeypatch.setattr(load_settings, "uploads", lambda files: files)
    *kept, notes, drop = load_settings.load_upload(tmp_path / "x.png")
    assert all(value == gr.skip() for value in kept) and len(kept) == len(load_settings.FIELDS) + 3
    assert notes.props["data"] == {"notes": []} and drop is None, "the next picture can be dropped at once"
    assert len(said) == 1 and "SwarmUI" in said[0]
