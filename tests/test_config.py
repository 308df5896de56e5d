"""Settings: what is out of range is refused by a sentence, what is unknown gets the nearest name."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlora import config
from sdlora.config import DrawConfig, LoraChoice, TrainConfig, from_preset, make, parse_sets, parted, presets, read_preset
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
    (TrainConfig, {"name": ""}, "name must be text of 1 to 80 letters, got 0 letters."),
    (TrainConfig, {"trigger": "x" * 61}, "trigger must be text of at most 60 letters, got 61 letters."),
    (TrainConfig, {"base": ""}, "base must be text of at least 1 letter, got 0 letters."),
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


@pytest.mark.parametrize(("wrong", "right"), [
    ("LEARNING_RATE", "learning_rate"), ("learning-rate", "learning_rate"), ("Learning Rate", "learning_rate"),
    ("--batch-size", "batch_size"), ("learningRate", "learning_rate"), ("max_train_steps", "steps"), ("network_dim", "rank"),
    ("network-alpha", "alpha"), ("lr", "learning_rate"), ("LR", "learning_rate"), ("train_batch_size", "batch_size"),
    ("lr_warmup_steps", "warmup_steps"), ("lr_scheduler", "schedule"), ("max_grad_norm", "clip_norm"),
    ("snr_gamma", "min_snr_gamma"),
    ("output_name", "name"), ("pretrained_model_name_or_path", "base"), ("save_precision", "file_dtype"), ("dim", "rank"),
    ("checkpointing_steps", "save_every"), ("validation_prompt", "sample_prompts")])
def test_names_written_otherwise_or_of_other_trainers_are_pointed_to(wrong, right):
    with pytest.raises(UserError) as refused:
        parse_sets([f"{wrong}=1"])
    assert refused.value.hint == f"Did you mean {right}?"


def test_a_setting_of_a_drawing_is_likened_to_those_of_a_drawing():
    with pytest.raises(UserError, match="Did you mean prompts?"):
        make(DrawConfig, {"promts": ("a",)})
    with pytest.raises(UserError, match="Did you mean strength?"):
        make(DrawConfig, {"loras": [{"file": "a", "strenght": 1}]})
    with pytest.raises(UserError, match="Did you mean guidance?"):
        make(DrawConfig, {"cfg_scale": 1})


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


def test_rounds_grow_with_the_pictures():
    steps = [from_preset("normal", "sd1", pictures).steps for pictures in (1, 8, 15, 40)]
    assert steps == sorted(steps) and steps[0] < steps[-1]


def test_settings_of_ones_own_win_over_the_preset():
    made = from_preset("quick", "mini", 12, rank=3, steps=40, name="A")
    assert (made.rank, made.steps, made.name, made.save_every) == (3, 40, "A", 5)
    with pytest.raises(UserError, match="no preset 'fast'"):
        from_preset("fast", "mini", 12)
    with pytest.raises(UserError, match="no numbers for flux"):
        from_preset("quick", "flux", 12)


def test_sets_are_typed_by_their_field():
    assert parse_sets(["rank=8", "learning_rate = 1e-3", "min_snr_gamma=none", "resolution=", "schedule=constant",
                       "sample_prompts=a | b", "name=a=b"]) == {
        "rank": 8, "learning_rate": 1e-3, "min_snr_gamma": None, "resolution": None, "schedule": "constant",
        "sample_prompts": ("a", "b"), "name": "a=b"}


@pytest.mark.parametrize(("text", "separator", "parts"), [
    ("a [a|b] c | d", "|", ["a [a|b] c", "d"]), ("(a|b:1.2)|<x:a|b>|{a|b}", "|", ["(a|b:1.2)", "<x:a|b>", "{a|b}"]),
    ("a [(x|y):[u|v]:3] | b", "|", ["a [(x|y):[u|v]:3]", "b"]), (r"a \[x | y\] z", "|", [r"a \[x", r"y\] z"]),
    ("a [b | c", "|", ["a [b", "c"]), ("a] | b (", "|", ["a]", "b ("]), ("[a (b] | c)", "|", ["[a (b]", "c)"]),
    ("I <3 a | b > c", "|", ["I <3 a", "b > c"]), ("a||b|", "|", ["a", "", "b", ""]), ("", "|", [""]),
    ("a (red, big) house, b", ",", ["a (red, big) house", "b"]), ('"a, b", c', ",", ['"a, b"', "c"]),
    ('a 5" nail, a 6" nail', ",", ['a 5" nail', 'a 6" nail']), ('"a | b" | c', "|", ['"a | b"', "c"])])
def test_a_separator_in_brackets_or_quotes_belongs_to_its_part(text, separator, parts):
    assert parted(text, separator) == parts


def test_sample_prompts_keep_their_brackets():
    assert parse_sets(["sample_prompts=a [a|b] c | d | | (e|f)"]) == {"sample_prompts": ("a [a|b] c", "d", "(e|f)")}


@given(st.text(alphabet="ab|,\\()[]{}<>\" ", max_size=30), st.sampled_from("|,"))
def test_no_letter_is_lost_between_parts(text, separator):
    assert separator.join(parted(text, separator)).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("pair, word", [("rank", "no value"), ("rnk=8", "no setting"), ("rank=8.5", "a whole number"),
                                        ("rank=", "a whole number"), ("learning_rate=fast", "a number"), ("=8", "no setting")])
def test_sets_that_cannot_be_read(pair, word):
    with pytest.raises(UserError, match=word):
        parse_sets([pair])


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


@given(st.lists(st.text(max_size=30), max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_set_text_is_read_or_a_sentence(pairs):
    try:
        assert set(parse_sets(pairs)) <= set(TrainConfig.model_fields)
    except UserError as refused:
        assert refused.message


GOOD = '[mini]\nsteps_per_picture = 1\nsteps_min = 1\nsteps_max = 9\n'
BAD = {
    "unknown key": (GOOD + "lernrate = 1\n", "unknown setting 'lernrate'"),
    "duplicate key": (GOOD + "rank = 1\nrank = 2\n", "line 6"),
    "nul": (GOOD + "\0", "could not be read"), "deep": ("a = " + "[" * 20_000, "could not be read"),
    "not toml": ("{", "could not be read"), "too large": ("#" * 65_537, "larger than 64 KB"),
    "latin": (b"title = '\xe4'", "could not be read"), "order": ("order = 'x'\n" + GOOD, "no whole number"),
    "rounds missing": ("[mini]\nsteps_min = 1\nsteps_max = 9\n", "no whole number steps_per_picture"),
    "rounds of the wrong kind": (GOOD.replace("9", "'9'"), "no whole number steps_max"),
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


@pytest.mark.parametrize(("pair", "meant"), [
    ("learning_rate=0,0001", [0.0001]), ("learning_rate=1,5e-4", [0.00015]), ("learning_rate=5*10^-5", [5e-5]),
    ("learning_rate=5x10^-5", [5e-5]), ("learning_rate=5 × 10⁻⁵", [5e-5]), ("learning_rate=2,5·10**-4", [2.5e-4]),
    ("learning_rate=5x10-5", [5e-5]), ("learning_rate=10^-4", [1e-4]), ("learning_rate=1e-4f", [1e-4]),
    ("learning_rate=1e−4", [1e-4]), ("learning_rate=1/1000", [0.001]), ("learning_rate=1/3000", [0.000333333]),
    ("learning_rate=0.01%", [0.0001]), ("caption_dropout=10%", [0.1]), ("caption_dropout=10 %", [0.1]),
    ("caption_dropout=1/4", [0.25]), ("caption_dropout=5 percent", [0.05]), ("caption_dropout=0,25", [0.25]),
    ("steps=1k", [1000]), ("steps=2.5k", [2500]), ("steps=2,5K", [2500]), ("steps=1 k steps", [1000]),
    ("steps=2 thousand", [2000]), ("seed=1M", [1_000_000]), ("seed=2 million", [2_000_000]), ("seed=1.5M", [1_500_000]),
    ("steps=1,000", [1000]), ("steps=1.000", [1000]), ("steps=1'200", [1200]), ("steps=1’200", [1200]), ("steps=1 200", [1200]),
    ("seed=1.200.000", [1_200_000]), ("seed=12'345'678", [12_345_678]), ("steps=500 steps", [500]), ("steps=1e3", [1000]),
    ("steps=16.0", [16]), ("resolution=512px", [512]), ("rank=8,0", [8]), ("rank=16.000", [16]), ("steps=10^3", [1000]),
    ("steps=10³", [1000]), ("learning_rate=10⁻⁴", [1e-4]),
    ("clip_norm=1,000", [1000, 1]), ("clip_norm=1'000.0", [1000]), ("clip_norm=1 000,00", [1000]), ("alpha=0,5", [0.5]),
    ("min_snr_gamma=5,0", [5]), ("weight_decay=0,01", [0.01]),
    # no number that is meant, or none that the setting takes: an example, which is called one
    ("learning_rate=fast", []), ("learning_rate=", []), ("rank=half", []), ("alpha=x", []), ("resolution=wide", []),
    ("steps=1M", []), ("rank=1k", []), ("rank=1/2", []), ("seed=1.5", []), ("steps=1.200.000", []), ("steps=1 hour", []),
    ("steps=2 epochs", []), ("rank=16 bit", []), ("steps=1m", []), ("steps=1 2", []), ("clip_norm=1.2.3", []),
    ("clip_norm=1,2,3", []), ("steps=50%", []), ("learning_rate=1/0", []), ("steps=1 500 00", []), ("learning_rate=1e999x", []),
    ("steps=1-2", []), ("steps=12:30", []), ("steps=.", []), ("steps=e", []), ("steps=1/", []), ("steps=k", []),
    ("steps=5²", []), ("learning_rate=½", []),
])
def test_a_hint_is_of_the_value_that_is_meant(pair, meant):
    key = pair.partition("=")[0]
    with pytest.raises(UserError, match=f"{key} must be a") as caught:
        parse_sets([pair])
    begin = "Write it as " if meant else "For example: "
    assert caught.value.hint.startswith(begin)
    hints = caught.value.hint.removeprefix(begin).removesuffix(".").split(" or ")
    read = [getattr(make(TrainConfig, parse_sets([hint])), key) for hint in hints]
    assert read == meant or (not meant and len(hints) == 1)


@pytest.mark.parametrize("pair", ["steps=1_000", "learning_rate=1E-4", "learning_rate=.001", "rank= 8 "])
def test_what_python_reads_needs_no_hint(pair):
    assert make(TrainConfig, parse_sets([pair]))


@pytest.mark.parametrize("key", TrainConfig.model_fields)
def test_every_setting_without_a_value_is_told_how_to_write_it(key):
    with pytest.raises(UserError) as caught:
        parse_sets([key])
    assert make(TrainConfig, parse_sets([caught.value.hint.removeprefix("Write it as --set ").removesuffix(".")]))
