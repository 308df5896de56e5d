"""Same scene, same pixels; every object is large enough."""

import pytest

from sdlora.mini.render import class_map, render
from sdlora.mini.scenes import OBJECTS, STYLES, Scene, Thing
from tests.mini.test_scenes import PAIR


@pytest.mark.parametrize("style", STYLES)
def test_same_scene_same_pixels(style):
    scene = Scene(PAIR.things, "city", "at sunset", style, 99)
    first, again = render(scene, 64), render(scene, 64)
    assert first.size == (64, 64) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != render(Scene(PAIR.things, "city", "at night", style, 99), 64).tobytes()


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_is_large_where_the_class_map_says(name):
    scene = Scene((Thing(name, "purple"),), "meadow", "in daylight", layout=1)
    labels = class_map(scene)
    share = sum(label == 1 + OBJECTS.index(name) for label in labels) / len(labels)
    assert set(labels) <= {0, 1 + OBJECTS.index(name)}
    assert share > 0.08


def test_left_and_right_are_where_the_scene_says():
    labels = class_map(PAIR)
    columns = [(n % 16, label) for n, label in enumerate(labels) if label]
    house = [x for x, label in columns if label == 1 + OBJECTS.index("house")]
    boat = [x for x, label in columns if label == 1 + OBJECTS.index("boat")]
    assert max(house) <= 8 <= min(boat) + 1
