"""Which sample prompts a run gets."""

import pytest

from sdlora.config import TrainConfig
from sdlora.train.samples import sample_prompts, without_trigger

CAPTIONS = ["stglass, a red house, meadow, in daylight", "a blue boat by stglass, sea", "stglass, a tree"]


def test_a_caption_one_without_the_trigger_one_from_elsewhere_another_caption():
    first, bare, elsewhere, last = sample_prompts(TrainConfig(trigger="stglass"), CAPTIONS, 4)
    assert first == CAPTIONS[0] and last == CAPTIONS[2]
    assert bare == "a blue boat by, sea" and "stglass" not in bare
    words = set(" ".join(CAPTIONS).replace(",", "").split())
    assert elsewhere.startswith("stglass, ") and set(elsewhere.replace(",", "").split()) & words == {"stglass", "a"}
    assert sample_prompts(TrainConfig(trigger="stglass"), CAPTIONS, 2) == (first, bare)


def test_own_prompts_win():
    config = TrainConfig(trigger="stglass", sample_prompts=("a [trigger] house", "a boat", "a cat"))
    assert sample_prompts(config, CAPTIONS, 2) == ("a stglass house", "a boat")


@pytest.mark.parametrize(("caption", "bare"), [("stglass, a house", "a house"), ("a house, stglass", "a house"),
                                               ("a house, StGlass, at night", "a house, at night"), ("stglass", ""),
                                               ("a stglassy house", "a stglassy house"), ("a stglass house", "a house")])
def test_the_trigger_is_taken_out_as_a_word(caption, bare):
    assert without_trigger(caption, "stglass") == bare


def test_without_a_trigger_nothing_is_taken_out():
    assert without_trigger("a house, at night", "") == "a house, at night"
    assert all(sample_prompts(TrainConfig(), [""], 4)[1:3])
