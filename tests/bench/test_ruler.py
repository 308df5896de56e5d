"""The ruler of styles: nothing between equal sets, texture in fine, palette and layout in coarse."""

from dataclasses import replace

import pytest
import torch
from PIL import ImageFilter

from sdlora.bench.ruler import (
    SHORTEST,
    Distances,
    coarse_distance,
    distances,
    fine_distance,
    random_features,
    score,
    scores,
    separation,
)
from sdlora.mini.classifier import measured_scenes
from sdlora.mini.pictures import as_tensor
from sdlora.mini.render import render
from sdlora.mini.strangers import STRANGERS
from sdlora.train.wasserstein import sliced_wasserstein

SCENES = measured_scenes(8, 5, plain=1.0)
OTHERS = [replace(scene, layout=scene.layout ^ 12345) for scene in SCENES]  # the same prompts
STYLES = {stranger.name: stranger.style for stranger in STRANGERS}


def pictures(name=None, scenes=SCENES, change=lambda image: image):
    return as_tensor(change(render(scene, 128, STYLES[name] if name else None)) for scene in scenes)


@pytest.mark.parametrize("name", ["riso", "chalk", "thermal"])
def test_the_same_style_and_prompts_are_nearer_than_another_style(name):
    real = pictures(name)
    same, other = distances(pictures(name, OTHERS), real), distances(pictures("neon"), real)
    assert same.fine < 0.5 * other.fine and same.coarse < 0.5 * other.coarse


def test_a_blur_takes_the_fine_part_and_leaves_the_coarse_one():
    real, none = pictures("riso"), pictures()
    blurred = pictures("riso", change=lambda image: image.filter(ImageFilter.GaussianBlur(2)))
    perfect, nothing, worse = (distances(x, real) for x in (pictures("riso", OTHERS), none, blurred))
    assert score(worse.fine, nothing.fine, perfect.fine) < 30
    assert score(worse.coarse, nothing.coarse, perfect.coarse) > 70


def test_grain_is_fine_and_a_tint_is_coarse():
    plain = pictures().float() / 127.5 - 1
    grain = plain + 0.3 * torch.randn(plain.shape, generator=torch.Generator().manual_seed(0))
    tint = plain * 0.7 + torch.tensor([0.3, 0.0, -0.3]).view(3, 1, 1)
    assert fine_distance(grain, plain) > 3 * fine_distance(tint, plain)
    assert coarse_distance(tint, plain) > 3 * coarse_distance(grain, plain)


def test_a_ruler_without_length_measures_nothing():
    assert score(5, nothing=9, perfect=1) == 50 and score(1, 9, 1) == 100 and score(9, 9, 1) == 0
    assert score(5, nothing=1, perfect=1) is None and score(5, nothing=9, perfect=1, shortest=10) is None
    short = scores(Distances(3, 2, 4), nothing=Distances(3 + SHORTEST / 2, 4, 9), perfect=Distances(3, 0, 9))
    assert (short.fine, short.coarse, short.random) == (None, 50, None) and short.main == 50


def test_random_filters_see_texture_and_colour():
    real, same = (random_features(x.float() / 127.5 - 1) for x in (pictures("riso"), pictures("riso", OTHERS)))
    assert real.shape == (8 * 16 * 16, 144)
    changed = [pictures("riso", change=lambda image: image.filter(ImageFilter.GaussianBlur(2))), pictures("neon")]
    for other in changed:
        assert sliced_wasserstein(random_features(other.float() / 127.5 - 1), real) > 3 * sliced_wasserstein(same, real)


def test_styles_apart_separate_fully_and_equal_ones_by_half():
    assert separation([1, 2], [3, 4]) == 1 and separation([3, 4], [1, 2]) == 0 and separation([1, 2], [1, 2]) == 0.5
