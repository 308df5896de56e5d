"""The form: its Expert section comes from TrainConfig, has every setting with its range, and reads back what it shows."""

import gradio as gr
import pytest
from PIL import Image

from sdlora.config import TrainConfig, from_preset
from sdlora.dataset import sets, upload
from sdlora.errors import UserError
from sdlora.train.plan import plan
from sdlora.ui.studio import train


def test_every_setting_has_a_field_with_help_and_range():
    with gr.Blocks():
        _, fields = train.expert_layout()
    assert [field.elem_id for field in fields] == [f"expert-{key}" for key in train.SETTINGS]
    assert set(train.SETTINGS) | train.NOT_EXPERT == set(TrainConfig.model_fields)
    help_lines = {field.label: field.info for field in fields}
    assert "(1 to 128) [rank]" in help_lines["Network rank"] and "(above 0 to 0.1)" in help_lines["Learning rate"]
    assert len(help_lines) == len(fields) and all(help_lines.values())


def test_empty_means_the_preset_and_a_run_fills_all_fields():
    assert train.expert_settings(("",) * len(train.SETTINGS)) == {}
    config = from_preset("quick", "mini", 12, rank=8, alpha=12.3456789, learning_rate=1.23456789e-05,
                         min_snr_gamma=5.0, sample_prompts=("a cat", "a red house, meadow"))
    again = from_preset("quick", "mini", 12, **train.expert_settings(tuple(train.filled(config))))
    assert again == config


@pytest.mark.parametrize(("key", "value"), [("rank", "lots"), ("steps", "3.5"), ("learning_rate", "NaNa"), ("steps", "x" * 4001)])
def test_what_is_no_number_is_a_sentence(key, value):
    values = tuple(value if name == key else "" for name in train.SETTINGS)
    with pytest.raises(UserError):
        train.expert_settings(values)


def test_the_wrong_number_of_fields_is_refused():
    with pytest.raises(UserError):
        train.expert_settings(("1",))


def test_notes_on_a_run_are_shown_as_they_are_written():
    planned = plan(TrainConfig(steps=600, sample_prompts=("*<b>* (a:99)",)), 3, "mini")
    line = train.plan_line(TrainConfig(steps=600), planned, 3, ["Mini *knows* few."])
    assert "<b>" not in line and r"\*&lt;b&gt;\*" in line and r"Mini \*knows\* few." in line


def test_captions_that_the_base_does_not_know_are_told_before_the_run(tmp_path):
    chosen = sets.create("Fjords")
    for number in range(2):
        Image.new("RGB", (64, 64), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("herons over a fjord, gouache")
    upload.add_pictures(chosen.id, sorted(tmp_path.iterdir()))
    told = train.estimate(chosen.id, "Fjords", "fjrd", "mini", "quick", *[""] * len(train.SETTINGS))
    assert "does not know most words of these captions" in told[1] and "herons" in told[1]
    for picture in sets.load(chosen.id).pictures:
        sets.set_caption(chosen.id, picture.id, "a red house, sea, at night")
    told = train.estimate(chosen.id, "Fjords", "fjrd", "mini", "quick", *[""] * len(train.SETTINGS))
    assert "does not know" not in told[1] and "steps" in told[1]
    about = told[2].props["data"]["about"]
    assert about[:2] == [chosen.id, "mini"] and len(about[2]) == 2, "asked again when the pictures change"
    assert train.carry_payload(about) == {"base": "mini", "images": str(sets.path(chosen.id))}
    with pytest.raises(UserError):
        train.carry_payload(["../etc", "mini", []])
