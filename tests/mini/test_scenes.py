"""Captions say what is in the scene; the same seed gives the same scene."""

from random import Random

from sdlora.mini.scenes import COLOURS, OBJECTS, SETTINGS, STYLES, TIMES, Scene, Thing, caption, random_scene, training_caption

PAIR = Scene((Thing("house", "red", 0), Thing("boat", "blue", 2)), "meadow", "in daylight", "watercolor", 7)


def test_caption_is_exact():
    assert caption(PAIR) == "watercolor of a red house and a blue boat, meadow, in daylight"
    assert caption(PAIR, styled=False) == "a red house and a blue boat, meadow, in daylight"
    assert caption(Scene((Thing("cat", "orange"),), "sea", "at night")) == "flat illustration of an orange cat, sea, at night"


def test_the_words_of_the_examples_are_there():
    assert {"house", "boat", "cat", "tree"} <= set(OBJECTS)
    assert {"red", "blue", "green", "yellow"} <= set(COLOURS)
    assert {"meadow", "sea", "city"} <= set(SETTINGS)
    assert {"in daylight", "at sunset", "at night"} <= set(TIMES)


def test_training_captions_keep_colour_and_object_together():
    rng = Random(3)
    for _ in range(300):
        scene = random_scene(rng, crowded=0.6)
        text = training_caption(scene, rng)
        assert all(thing.colour in text for thing in scene.things)
        if scene.style != STYLES[0]:
            assert scene.style in text


def test_random_scenes_repeat():
    assert random_scene(Random(5)) == random_scene(Random(5)) != random_scene(Random(6))
