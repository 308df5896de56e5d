"""Settings written as text: typed by their field, lists that keep brackets, hints for mistyped numbers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlora.config import TrainConfig, make
from sdlora.errors import UserError
from sdlora.parsing import parse_sets, split_list


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
    assert split_list(text, separator) == parts


def test_sample_prompts_keep_their_brackets():
    assert parse_sets(["sample_prompts=a [a|b] c | d | | (e|f)"]) == {"sample_prompts": ("a [a|b] c", "d", "(e|f)")}


@given(st.text(alphabet="ab|,\\()[]{}<>\" ", max_size=30), st.sampled_from("|,"))
def test_no_character_is_lost_between_parts(text, separator):
    assert separator.join(split_list(text, separator)).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("pair, word", [("rank", "no value"), ("rnk=8", "no setting"), ("rank=8.5", "a whole number"),
                                        ("rank=", "a whole number"), ("learning_rate=fast", "a number"), ("=8", "no setting")])
def test_sets_that_cannot_be_read(pair, word):
    with pytest.raises(UserError, match=word):
        parse_sets([pair])


@given(st.lists(st.text(max_size=30), max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_set_text_is_read_or_a_sentence(pairs):
    try:
        assert set(parse_sets(pairs)) <= set(TrainConfig.model_fields)
    except UserError as refused:
        assert refused.message


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
