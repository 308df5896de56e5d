"""Same scene, same pixels; the class map says where each thing is."""

import pytest

from sdlora.mini.render import class_map, render
from sdlora.mini.scenes import OBJECTS, STYLES, Scene
from tests.mini.test_scenes import PAIR


@pytest.mark.parametrize("style", STYLES)
def test_same_scene_same_pixels(style):
    scene = Scene(PAIR.things, "city", "at sunset", style, 99)
    first, again = render(scene, 64), render(scene, 64)
    assert first.size == (64, 64) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != render(Scene(PAIR.things, "city", "at night", style, 99), 64).tobytes()


def test_left_and_right_are_where_the_scene_says():
    labels = class_map(PAIR)
    columns = [(n % 16, label) for n, label in enumerate(labels) if label]
    house = [x for x, label in columns if label == 1 + OBJECTS.index("house")]
    boat = [x for x, label in columns if label == 1 + OBJECTS.index("boat")]
    assert max(house) <= 8 <= min(boat) + 1
