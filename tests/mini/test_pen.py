"""The pen draws in the box it is given, with the inks and lines of its style."""

import pytest
from PIL import Image, ImageDraw

from sdlora.mini.pen import Pen, darker, lighter, mix

RED, WHITE, LINE = (200, 30, 30), (255, 255, 255), (0, 0, 255)
SHAPES = {
    "poly": lambda pen: pen.poly([(0, 0), (1, 0.2), (0.5, 1)], RED),
    "rect": lambda pen: pen.rect(0, 0, 1, 1, RED),
    "oval": lambda pen: pen.oval(0, 0, 1, 1, RED),
    "stroke": lambda pen: pen.stroke([(0.05, 0.05), (0.95, 0.95)], 0.04, RED),
    "arc": lambda pen: pen.arc((0, 0, 1, 1), 0, 360, 0.1, RED),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_drawn_in_the_unit_box_fills_the_box_of_the_pen_and_no_more(shape):
    image = Image.new("RGB", (100, 100))
    SHAPES[shape](Pen(ImageDraw.Draw(image)).at(20, 30, 40))
    left, top, right, bottom = image.getbbox()
    assert 20 <= left <= 23 and 30 <= top <= 33 and 58 <= right <= 61 and 68 <= bottom <= 71
    assert {colour for _, colour in image.getcolors()} == {(0, 0, 0), RED}


def test_a_style_changes_the_ink_and_draws_lines():
    image = Image.new("RGB", (60, 60))
    pen = Pen(ImageDraw.Draw(image), 0, 0, 1, lambda colour: mix(colour, WHITE, 0.5), LINE, 4).at(10, 10, 40)
    pen.rect(0, 0, 1, 1, RED)
    assert image.getpixel((30, 30)) == mix(RED, WHITE, 0.5) and image.getpixel((10, 30)) == image.getpixel((30, 50)) == LINE
    pen.oval(0.2, 0.2, 0.8, 0.8, (0, 0, 0), outlined=False)
    assert image.getpixel((30, 30)) == mix((0, 0, 0), WHITE, 0.5) and image.getpixel((18, 30)) != LINE


def test_details_stay_visible_on_black_and_white():
    assert sum(darker(RED)) < sum(RED) < sum(lighter(RED))
    assert darker((0, 0, 0)) > (60, 60, 60) and lighter(WHITE) < (210, 210, 210)
