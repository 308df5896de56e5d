"""Same scene, same pixels; captions say what is shown; every object can be seen."""

from random import Random

import pytest

from sdlora.mini.render import class_map, render
from sdlora.mini.textures import texture
from sdlora.mini.words import COLOURS, OBJECTS, SETTINGS, STYLES, TIMES, Scene, Thing, caption, random_scene, training_caption

PAIR = Scene((Thing("house", "red", 0), Thing("boat", "blue", 2)), "meadow", "in daylight", "watercolor", 7)


def test_caption_is_exact():
    assert caption(PAIR) == "watercolor of a red house and a blue boat, meadow, in daylight"
    assert caption(PAIR, styled=False) == "a red house and a blue boat, meadow, in daylight"
    assert caption(Scene((Thing("cat", "orange"),), "sea", "at night")) == "flat illustration of an orange cat, sea, at night"


def test_promised_words_are_there():
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


@pytest.mark.parametrize("style", STYLES)
def test_same_scene_same_pixels(style):
    scene = Scene(PAIR.things, "city", "at sunset", style, 99)
    first, again = render(scene, 64), render(scene, 64)
    assert first.size == (64, 64) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != render(Scene(PAIR.things, "city", "at night", style, 99), 64).tobytes()


def test_random_scenes_and_textures_repeat():
    assert random_scene(Random(5)) == random_scene(Random(5))
    assert texture(5, 64).tobytes() == texture(5, 64).tobytes()
    assert texture(5, 64).tobytes() != texture(6, 64).tobytes()


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_is_large_where_the_class_map_says(name):
    scene = Scene((Thing(name, "purple"),), "meadow", "in daylight", layout=1)
    labels = class_map(scene)
    share = sum(label == 1 + OBJECTS.index(name) for label in labels) / len(labels)
    assert set(labels) <= {0, 1 + OBJECTS.index(name)}
    assert share > 0.08


def test_left_and_right_are_where_they_are_said():
    labels = class_map(PAIR)
    columns = [(n % 16, label) for n, label in enumerate(labels) if label]
    house = [x for x, label in columns if label == 1 + OBJECTS.index("house")]
    boat = [x for x, label in columns if label == 1 + OBJECTS.index("boat")]
    assert max(house) <= 8 <= min(boat) + 1
