"""Every object can be drawn, and is large enough."""

import pytest
from PIL import Image, ImageDraw

from sdlora.mini.objects import DRAW_OBJECT
from sdlora.mini.pen import Pen
from sdlora.mini.render import class_map
from sdlora.mini.scenes import OBJECTS, Scene, Thing


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_is_large_where_the_class_map_says(name):
    scene = Scene((Thing(name, "purple"),), "meadow", "in daylight", layout=1)
    labels = class_map(scene)
    share = sum(label == 1 + OBJECTS.index(name) for label in labels) / len(labels)
    assert set(labels) <= {0, 1 + OBJECTS.index(name)}
    assert share > 0.08


def test_there_is_a_drawing_of_every_object_and_of_no_other():
    assert set(DRAW_OBJECT) == set(OBJECTS)


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_fills_its_box_in_its_colour(name):
    image, colour = Image.new("RGB", (192, 192)), (150, 40, 200)
    DRAW_OBJECT[name](Pen(ImageDraw.Draw(image), 64, 64, 64), colour)
    left, top, right, bottom = ((edge - 64) / 64 for edge in image.getbbox())
    assert right - left > 0.5 and bottom - top > 0.5
    assert -0.2 < left and right < 1.2 and -0.05 < top and bottom < 1.05
    assert {shown: count for count, shown in image.getcolors()}[colour] > 0.05 * 64**2
