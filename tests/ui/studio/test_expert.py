"""The Expert section comes from TrainConfig: every setting is there, says its range, and reads back what it shows."""

import gradio as gr
import pytest

from sdlora.config import TrainConfig, from_preset
from sdlora.errors import UserError
from sdlora.ui.studio import expert


def test_every_setting_has_a_field_with_help_and_range():
    with gr.Blocks():
        _, fields = expert.layout()
    assert [field.label for field in fields] == list(expert.SETTINGS)
    assert set(expert.SETTINGS) | expert.ELSEWHERE == set(TrainConfig.model_fields)
    told = {field.label: field.info for field in fields}
    assert "(1 to 128)" in told["rank"] and "(above 0 to 0.1)" in told["learning_rate"]
    assert all(told.values())


def test_empty_means_the_preset_and_a_run_fills_all_fields():
    assert expert.read(("",) * len(expert.SETTINGS)) == {}
    config = from_preset("quick", "mini", 12, rank=8, alpha=12.3456789, learning_rate=1.23456789e-05,
                         min_snr_gamma=5.0, sample_prompts=("a cat", "a red house, meadow"))
    again = from_preset("quick", "mini", 12, **expert.read(tuple(expert.filled(config))))
    assert again == config


@pytest.mark.parametrize(("key", "value"), [("rank", "lots"), ("steps", "3.5"), ("learning_rate", "NaNa"), ("steps", "x" * 4001)])
def test_what_is_no_number_is_a_sentence(key, value):
    values = tuple(value if name == key else "" for name in expert.SETTINGS)
    with pytest.raises(UserError):
        expert.read(values)


def test_the_wrong_number_of_fields_is_refused():
    with pytest.raises(UserError):
        expert.read(("1",))
