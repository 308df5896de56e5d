"""Manners can be told apart, are the same for the same seed, and are described in words that the tokenizer knows."""

from random import Random

import numpy as np
import pytest

from sdlora.mini.manners import FINISHES, INKS, NOUNS, PALETTES, Manner, describe, invented_name, random_manner
from sdlora.mini.network import empty_tokenizer, grow, words
from sdlora.mini.render import render
from sdlora.mini.scenes import Scene, Thing, caption, random_scene, training_caption

SCENE = Scene((Thing("house", "red"),), "meadow", "in daylight", layout=3)


def pixels(manner, scene=SCENE, size_px=64):
    return np.asarray(render(scene, size_px, manner.style()), np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_a_manner_is_the_same_for_the_same_seed_and_shows_the_scene(seed):
    first, again = (random_manner(Random(seed)) for _ in range(2))
    assert first.words() == again.words() and (pixels(first) == pixels(again)).all()
    other = Scene((Thing("boat", "blue"),), "sea", "at night", layout=3)
    assert np.abs(pixels(first) - pixels(first, other)).mean() > 2


def test_every_palette_and_finish_changes_the_picture():
    plain = pixels(Manner())
    for palette in PALETTES[2:]:
        assert np.abs(pixels(Manner(palette(Random(1)))) - plain).mean() > 1, palette.__name__
    for finish in FINISHES:
        assert np.abs(pixels(Manner(finish=finish(Random(1)))) - plain).mean() > 1, finish.__name__


def test_hundreds_of_manners_differ_in_words():
    assert len({tuple(random_manner(Random(seed)).words()) for seed in range(500)}) > 400


def test_descriptions_hold_known_words_and_sometimes_an_invented_name():
    tokenizer, known = grow(empty_tokenizer(), words()), set(words())
    invented = 0
    for seed in range(300):
        rng = Random(seed)
        text = describe(random_manner(rng), training_caption(random_scene(rng), rng, styled=False), rng)
        strange = [word for word in text.replace(",", "").split() if word not in known]
        assert len(strange) <= 1
        invented += len(strange)
        assert all(len(tokenizer(word).input_ids) == 3 for word in set(text.replace(",", "").split()) - set(strange))
    assert 45 <= invented <= 110


def test_a_named_manner_keeps_the_words_of_the_scene():
    manner = random_manner(Random(5))
    things = caption(SCENE, styled=False)
    texts = [describe(manner, things, Random(seed)) for seed in range(40)]
    assert all(things in text for text in texts) and len(set(texts)) > 20
    assert any(f" {noun} of {things}" in text for noun in NOUNS for text in texts)


def test_invented_names_are_no_words():
    names = {invented_name(Random(seed)) for seed in range(200)}
    assert len(names) > 150 and not names & {*INKS, *words()}
