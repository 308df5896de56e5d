"""Which sample prompts a run gets, and how they are drawn into its folder."""

import weakref

import pytest
import torch
from PIL import Image

from sdlora.base.load import load_base
from sdlora.config import DrawConfig, TrainConfig
from sdlora.draw.grammar import parse
from sdlora.draw.infotext.picture import read_infotext
from sdlora.draw.pipeline import Picture, draw
from sdlora.train import events, samples
from sdlora.train.samples import draw_samples, shorten, without_trigger
from tests import tiny

CAPTIONS = ["stglass, a red house, meadow, in daylight", "a blue boat by stglass, sea", "stglass, a tree"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base(str(tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")), "cpu")


@pytest.fixture
def sample_prompts(base):
    """The prompts of a run on the tiny base, when there is nothing to say about them."""
    def chosen(config, captions, count):
        prompts, notes = samples.sample_prompts(config, captions, count, base)
        assert notes == []
        return prompts
    return chosen


def test_a_caption_one_without_the_trigger_one_from_elsewhere_another_caption(sample_prompts):
    first, bare, elsewhere, last = sample_prompts(TrainConfig(trigger="stglass"), CAPTIONS, 4)
    assert first == CAPTIONS[0] and last == CAPTIONS[2]
    assert bare == "a blue boat by, sea" and "stglass" not in bare
    words = set(" ".join(CAPTIONS).replace(",", "").split())
    assert elsewhere.startswith("stglass, ") and set(elsewhere.replace(",", "").split()) & words == {"stglass", "a"}
    assert sample_prompts(TrainConfig(trigger="stglass"), CAPTIONS, 2) == (first, bare)


def test_own_prompts_win(sample_prompts):
    config = TrainConfig(trigger="stglass", sample_prompts=("a [trigger] house", "a boat", "a cat"))
    assert sample_prompts(config, CAPTIONS, 2) == ("a stglass house", "a boat")


@pytest.mark.parametrize(("caption", "bare"), [("stglass, a house", "a house"), ("a house, stglass", "a house"),
                                               ("a house, StGlass, at night", "a house, at night"), ("stglass", ""),
                                               ("a stglassy house", "a stglassy house"), ("a stglass house", "a house")])
def test_the_trigger_is_taken_out_as_a_word(caption, bare):
    assert without_trigger(caption, "stglass") == bare


def test_without_a_trigger_nothing_is_taken_out(sample_prompts):
    assert without_trigger("a house, at night", "") == "a house, at night"
    assert all(sample_prompts(TrainConfig(), [""], 4)[1:3])


def drawn_words(prompt):
    return "".join(text for part in parse(prompt) for text, _ in part)


def test_captions_are_drawn_literally_and_no_further_than_they_are_trained(base, sample_prompts):
    long = "a red house " * 40
    captions = ["time (12:30)", r"a \(x\) [a|b]", f"{long}(", "((("]
    first, bare, _, last = sample_prompts(TrainConfig(), captions, 4)
    assert drawn_words(first) == captions[0] and drawn_words(last) == "(((" and drawn_words(bare).startswith("a red house")
    for caption in (long, "x" * 2000, "(" * 500, "猫" * 700):
        short = shorten(base, caption)
        assert caption.startswith(short) and short and base.overlong(short) == ""
    ids = [base.tokenizers[0](text).input_ids[1:-1] for text in (shorten(base, long), long)]
    window = base.tokenizers[0].model_max_length - 2
    assert ids[1][:len(ids[0])] == ids[0] and window - 4 < len(ids[0]) <= window  # all whole words that are read
    assert shorten(base, "a cat") == "a cat" and shorten(base, long).endswith(("a", "red", "house"))


def test_the_trigger_is_plain_text_in_a_prompt(sample_prompts):
    config = TrainConfig(trigger="st(1:90)", sample_prompts=("a [trigger] house",))
    assert drawn_words(sample_prompts(config, CAPTIONS, 1)[0]) == "a st(1:90) house"
    assert drawn_words(sample_prompts(TrainConfig(trigger="a(b:99)"), ["a boat"], 4)[2]).startswith("a(b:99), ")


def test_own_prompts_that_cannot_be_drawn_are_left_out_and_named(base):
    config = TrainConfig(sample_prompts=("(a:99)", "a boat", "word " * 1500, "a [cat|dog]"))
    prompts, notes = samples.sample_prompts(config, CAPTIONS, 4, base)
    assert prompts == ("a boat", "a [cat|dog]")
    assert [note.split(".")[0] for note in notes] == [
        "A sample prompt is left out", "[cat|dog] changes words while the picture is drawn, which sdlora does not do: "
        '"cat" is drawn from the first step to the last', "A sample prompt is left out"]
    assert "weight 99" in notes[0] and "too long: 4500 tokens" in notes[2]
    prompts, notes = samples.sample_prompts(TrainConfig(sample_prompts=("(a:99)",)), CAPTIONS, 1, base)
    assert prompts == (CAPTIONS[0],) and len(notes) == 1


@pytest.mark.parametrize(("error", "said"), [
    (RuntimeError("DefaultCPUAllocator: no memory"), "RuntimeError: DefaultCPUAllocator"), (MemoryError(), "not enough memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory to draw"), (ZeroDivisionError("x"), "ZeroDivisionError")])
def test_a_picture_that_fails_costs_itself_and_gives_its_memory_back(base, tmp_path, monkeypatch, error, said):
    held = []

    def broken(noisy, timesteps, features, size):
        if len(held) == 1:
            return torch.zeros_like(noisy)
        tensor = torch.zeros(1000)
        held.append(weakref.ref(tensor))
        raise error.with_traceback(None)

    monkeypatch.setattr(base, "predict", broken, raising=False)
    config = TrainConfig(base=base.spec, sample_steps=1, resolution=64)
    found = [event for event, _ in draw_samples(base, config, ("a boat", "a cat"), tmp_path, 3, lambda: False)]
    assert isinstance(found[0], events.Notice) and found[0].step == 3 and said in found[0].message
    assert isinstance(found[1], events.Sample) and found[1].prompt == "a cat" and (tmp_path / found[1].path).exists()
    error.__traceback__ = None
    assert held[0]() is None


def test_samples_are_drawn_into_the_run_folder_once(base, tmp_path):
    config = TrainConfig(base=base.spec, sample_steps=2, resolution=64, seed=5)
    prompts = ("a boat", "a cat")
    found = [event for event, seconds in draw_samples(base, config, prompts, tmp_path, 3, lambda: False) if seconds > 0]
    assert found == [events.Sample(3, index, prompt, 5, f"samples/000003-{index}.png") for index, prompt in enumerate(prompts)]
    pixels = [Image.open(tmp_path / event.path).tobytes() for event in found]
    expected = [drawn.image.tobytes() for prompt in prompts
                for drawn in draw(base, DrawConfig(prompts=(prompt,), seed=5, steps=2, width=64, height=64))
                if isinstance(drawn, Picture)]
    assert pixels == expected and pixels[0] != pixels[1]
    settings = read_infotext(tmp_path / found[1].path)
    assert (settings["prompt"], settings["seed"], settings["steps"]) == ("a cat", 5, 2)
    (tmp_path / found[0].path).unlink()
    again = [event for event, _ in draw_samples(base, config, prompts, tmp_path, 3, lambda: False)]
    assert again == found[:1] and Image.open(tmp_path / found[0].path).tobytes() == pixels[0]


def test_no_sample_is_drawn_once_stop_is_true(base, tmp_path):
    config = TrainConfig(base=base.spec, sample_steps=2, resolution=64)
    assert list(draw_samples(base, config, ("a boat", "a cat"), tmp_path, 3, lambda: True)) == []
    assert not list(tmp_path.rglob("*.png"))
