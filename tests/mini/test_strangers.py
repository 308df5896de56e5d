"""Every style of the benchmark shows the scene, differs from all others, and is the same each time."""

from itertools import combinations

import numpy as np
import pytest

from sdlora.mini.render import render
from sdlora.mini.scenes import Scene, Thing
from sdlora.mini.strangers import FINAL_STRANGERS, STRANGERS

ALL = STRANGERS + FINAL_STRANGERS
HOUSE = Scene((Thing("house", "red"),), "meadow", "in daylight", layout=3)
BOAT = Scene((Thing("boat", "blue"),), "sea", "at night", layout=3)


def pixels(style, scene=HOUSE):
    return np.asarray(render(scene, 128, style), np.float32)


@pytest.mark.parametrize("stranger", ALL, ids=lambda stranger: stranger.name)
def test_the_same_scene_gives_the_same_pixels_and_another_scene_others(stranger):
    first = pixels(stranger.style)
    assert first.shape == (128, 128, 3) and (first == pixels(stranger.style)).all()
    assert np.abs(first - pixels(stranger.style, BOAT)).mean() > 3


def test_no_style_is_another_or_the_plain_one():
    pictures = {"plain": pixels(None)} | {stranger.name: pixels(stranger.style) for stranger in ALL}
    assert len(pictures) == 13
    for (one, a), (other, b) in combinations(pictures.items(), 2):
        assert np.abs(a - b).mean() > 10, (one, other)
