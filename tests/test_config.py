"""Settings: what is out of range is refused by a sentence, what is unknown gets the nearest name."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlora import config
from sdlora.config import DrawConfig, LoraChoice, TrainConfig, format_value, from_preset, make, presets, read_preset
from sdlora.errors import UserError


@pytest.mark.parametrize("key, value", [
    ("steps", 0), ("steps", 20_001), ("steps", "100"), ("steps", True), ("steps", 1.5), ("steps", [1]), ("rank", 0),
    ("rank", 129), ("alpha", 0), ("alpha", math.nan), ("alpha", -1.0), ("learning_rate", 0), ("learning_rate", math.nan),
    ("learning_rate", math.inf), ("learning_rate", -0.0), ("learning_rate", 1e9),
    ("learning_rate", "1e-4"), ("resolution", 511), ("resolution", 8192),
    ("resolution", 56), ("seed", -1), ("seed", 2**32), ("schedule", "linear"), ("caption_dropout", 1.0), ("min_snr_gamma", 0),
    ("min_snr_gamma", math.inf), ("device", "gpu"), ("file_dtype", "fp64"), ("name", ""), ("name", "x" * 81),
    ("trigger", "x" * 61), ("sample_prompts", ("a",) * 9), ("batch_size", 0), ("clip_norm", 0)])
def test_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(UserError, match=f"{key} must be") as refused:
        make(TrainConfig, {key: value})
    assert refused.value.hint


@pytest.mark.parametrize(("model", "values", "said"), [
    (TrainConfig, {"steps": 0}, "steps must be a whole number from 1 to 20000, got 0."),
    (TrainConfig, {"steps": "many"}, "steps must be a whole number from 1 to 20000, got 'many'."),
    (TrainConfig, {"alpha": 0}, "alpha must be a number above 0, at most 1024, or none, got 0."),
    (TrainConfig, {"learning_rate": math.nan}, "learning_rate must be a number above 0, at most 0.1, got nan."),
    (TrainConfig, {"resolution": 511}, "resolution must be a multiple of 8 from 64 to 2048, or none, got 511."),
    (TrainConfig, {"seed": 2**32}, "seed must be a whole number from 0 to 4294967295, got 4294967296."),
    (TrainConfig, {"schedule": "linear"}, "schedule must be cosine or constant, got 'linear'."),
    (TrainConfig, {"file_dtype": None}, "file_dtype must be fp16, bf16 or fp32, got None."),
    (TrainConfig, {"name": ""}, "name must be text of 1 to 80 characters, got 0 characters."),
    (TrainConfig, {"trigger": "x" * 61}, "trigger must be text of at most 60 characters, got 61 characters."),
    (TrainConfig, {"base": ""}, "base must be text of at least 1 character, got 0 characters."),
    (TrainConfig, {"preset": 5}, "preset must be text, got 5."),
    (TrainConfig, {"sample_prompts": ("a",) * 9}, "sample_prompts must be a list of at most 8 texts, got 9."),
    (TrainConfig, {"sample_prompts": ["a", 5]}, "sample_prompts must be a list of at most 8 texts, got 5."),
    (DrawConfig, {"prompts": ()}, "prompts must be a list of 1 to 1000 texts, got 0."),
    (DrawConfig, {"loras": [{"file": "a"}] * 33}, "loras must be a list of at most 32 LoRAs, got 33."),
    (DrawConfig, {"loras": ["a"]}, "loras must be a list of at most 32 LoRAs, got 'a'."),
    (DrawConfig, {"loras": [{"file": "a", "end": 1.5}]}, "end must be a number from 0 to 1, got 1.5."),
    (DrawConfig, {"loras": [{"strength": 1}]}, "file is missing."),
    (DrawConfig, {"steps": "1.5"}, "steps must be a whole number from 1 to 150, got '1.5'."),
    (LoraChoice, {"file": "a", "text_strength": "x"}, "text_strength must be a number from -4 to 4, or none, got 'x'."),
])
def test_every_kind_of_limit_is_said_in_our_words(model, values, said):
    with pytest.raises(UserError) as refused:
        make(model, values)
    assert refused.value.message == said


@pytest.mark.parametrize(("model", "key"), [
    (model, key) for model in (TrainConfig, DrawConfig, LoraChoice) for key in model.model_fields])
def test_no_words_of_the_validator_are_shown(model, key):
    refusals = 0
    for value in (-1e9, 1e9, math.nan, "x" * 3000, "", [], ["x"] * 2000, {}, [[]], True, None, object()):
        try:
            make(model, {"file": "a", key: value} if model is LoraChoice else {key: value})
        except UserError as refused:
            refusals += 1
            shown = str(refused)
            assert shown.startswith(f"{key} must be ") and len(shown) < 250
            assert not [word for word in ("input", "Tuple", "String", "validation", "valid ", "instance") if word in shown]
    assert refusals


def test_a_choice_written_otherwise_is_pointed_to():
    with pytest.raises(UserError, match="Did you mean cosine?"):
        make(TrainConfig, {"schedule": "Cosine"})
    with pytest.raises(UserError, match="Did you mean fp16?"):
        make(TrainConfig, {"file_dtype": "FP-16"})


@pytest.mark.parametrize("key, value", [("steps", 1), ("steps", 20_000), ("rank", 1), ("rank", 128), ("alpha", None),
                                        ("alpha", 0.5), ("resolution", 64), ("resolution", None), ("seed", 2**32 - 1),
                                        ("min_snr_gamma", None)])
def test_the_edges_are_accepted(key, value):
    assert getattr(make(TrainConfig, {key: value}), key) == value


@pytest.mark.parametrize("wrong, right", [("lernrate", "learning_rate"), ("ranks", "rank"), ("step", "steps")])
def test_an_unknown_key_gets_the_nearest_one(wrong, right):
    with pytest.raises(UserError, match="no setting") as refused:
        make(TrainConfig, {wrong: 1})
    assert refused.value.hint == f"Did you mean {right}?"


def test_a_setting_of_a_drawing_is_likened_to_those_of_a_drawing():
    with pytest.raises(UserError, match="Did you mean prompts?"):
        make(DrawConfig, {"promts": ("a",)})
    with pytest.raises(UserError, match="Did you mean strength?"):
        make(DrawConfig, {"loras": [{"file": "a", "strenght": 1}]})
    with pytest.raises(UserError, match="Did you mean guidance?"):
        make(DrawConfig, {"cfg_scale": 1})


@pytest.mark.parametrize("model", [TrainConfig, DrawConfig, LoraChoice])
def test_every_setting_explains_itself(model):
    assert [key for key, field in model.model_fields.items() if not (field.description or "").endswith(".")] == []


def test_the_keys_that_others_set_by_name_are_there():
    assert {"steps", "rank", "alpha", "learning_rate", "batch_size", "resolution", "seed", "save_every",
            "sample_every"} <= set(TrainConfig.model_fields)


def test_settings_are_frozen_and_survive_json():
    whole = make(TrainConfig, {"rank": 8, "alpha": 4.0, "sample_prompts": ("a", "b")})
    with pytest.raises(Exception, match="frozen"):
        whole.rank = 9
    assert make(TrainConfig, json.loads(whole.model_dump_json())) == whole
    drawn = make(DrawConfig, {"prompts": ("a",), "loras": (LoraChoice(file="x", strength=0.5),)})
    assert make(DrawConfig, json.loads(drawn.model_dump_json())) == drawn


@pytest.mark.parametrize("values, word", [({"width": 100}, "width"), ({"count": 65}, "count"),
                                          ({"guidance": math.nan}, "guidance"),
                                          ({"loras": ({"file": "a", "strength": 5},)}, "strength"), ({"prompts": ()}, "prompts"),
                                          ({"steps": 151}, "steps"), ({"seed": -1}, "seed")])
def test_drawing_settings_out_of_range(values, word):
    with pytest.raises(UserError, match=word):
        make(DrawConfig, values)


def test_numbers_keep_their_digits_without_exponents():
    assert [format_value(value) for value in (1.0, 0.1 + 0.2, 1e-05, -4, 100.0, 0.0)] == [
        "1", "0.30000000000000004", "0.00001", "-4", "100", "0"]


def test_a_setting_inside_another_is_called_by_its_own_name():
    with pytest.raises(UserError, match="^strength must be a number from -4 to 4, got 9[.]"):
        make(DrawConfig, {"loras": [{"file": "a.safetensors", "strength": 9}]})


@pytest.mark.parametrize("family", ["mini", "sd1", "sd2", "sdxl"])
def test_every_shipped_preset_fits_every_family(family):
    assert [*presets()][:1] and {"quick", "normal", "thorough"} <= set(presets())
    for key, preset in presets().items():
        assert preset.title and preset.sentence.endswith(".")
        for pictures in (1, 12, 40, 2000):
            made = from_preset(key, family, pictures)
            table = preset.families[family]
            assert table["steps_min"] <= made.steps <= table["steps_max"] and made.preset == key
            assert math.ceil(made.steps / made.sample_every) <= 8 and 1 <= made.save_every <= made.steps


def test_steps_grow_with_the_pictures():
    steps = [from_preset("normal", "sd1", pictures).steps for pictures in (1, 8, 15, 40)]
    assert steps == sorted(steps) and steps[0] < steps[-1]


def test_settings_of_ones_own_win_over_the_preset():
    made = from_preset("quick", "mini", 12, rank=3, steps=40, name="A")
    assert (made.rank, made.steps, made.name, made.save_every) == (3, 40, "A", 5)
    with pytest.raises(UserError, match="no preset 'fast'"):
        from_preset("fast", "mini", 12)
    with pytest.raises(UserError, match="no numbers for flux"):
        from_preset("quick", "flux", 12)


@given(st.dictionaries(st.sampled_from([*TrainConfig.model_fields, "x", ""]), st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=2)), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_values_make_settings_or_a_sentence(values):
    try:
        made = make(TrainConfig, values)
    except UserError as refused:
        assert refused.message and "\n" not in refused.message
    else:
        assert math.isfinite(made.learning_rate) and made.learning_rate > 0


GOOD = '[mini]\nsteps_per_picture = 1\nsteps_min = 1\nsteps_max = 9\n'
BAD = {
    "unknown key": (GOOD + "lernrate = 1\n", "unknown setting 'lernrate'"),
    "duplicate key": (GOOD + "rank = 1\nrank = 2\n", "line 6"),
    "nul": (GOOD + "\0", "could not be read"), "deep": ("a = " + "[" * 20_000, "could not be read"),
    "not toml": ("{", "could not be read"), "too large": ("#" * 65_537, "larger than 64 KB"),
    "latin": (b"title = '\xe4'", "could not be read"), "order": ("order = 'x'\n" + GOOD, "no whole number"),
    "steps missing": ("[mini]\nsteps_min = 1\nsteps_max = 9\n", "no whole number steps_per_picture"),
    "steps of the wrong kind": (GOOD.replace("9", "'9'"), "no whole number steps_max"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_presets_are_refused_by_name(tmp_path, name):
    text, word = BAD[name]
    path = tmp_path / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"(?s)mine.toml.*{word}"):
        read_preset(path)


def test_presets_with_a_mark_or_windows_lines_are_read(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xef\xbb\xbf" + ("title = '<b>x</b>'\n" + GOOD).replace("\n", "\r\n").encode())
    assert read_preset(tmp_path / "mine.toml").title == "<b>x</b>"
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match="folder.toml"):
        read_preset(tmp_path / "folder.toml")


def test_a_value_out_of_range_in_a_preset_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine.toml").write_text(GOOD + "rank = 500\n")
    monkeypatch.setattr(config, "presets", lambda: {"mine": read_preset(tmp_path / "mine.toml")})
    with pytest.raises(UserError, match="rank must be a whole number from 1 to 128, got 500[.]"):
        from_preset("mine", "mini", 4)
