"""The truth at every checkpoint beside what the run said: ranks, gain of the suggestion, plot."""

import pytest
from PIL import Image

from sdlora.bench.curves import Curve, Point, agreement, plot, rank_correlation

POINTS = [Point(100, 10.0, 20.0, 1.0, 30.0, 1.0), Point(200, 20.0, 60.0, 0.9, 70.0, 1.0), Point(300, 30.0, 70.0, 0.5, 80.0, 1.0)]
CURVE = Curve("chalk", POINTS, 200)


def test_the_order_counts_and_nothing_else():
    assert rank_correlation([1, 2, 3], [4, 5, 60]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [9, 1, 0]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [4, 4, 4]) == 0


def test_agreement_is_the_mean_of_the_runs_that_said_something():
    against = Curve("riso", [Point(p.step, p.seconds, -p.style, p.content, p.told_style, None) for p in POINTS], None)
    assert agreement([CURVE], "style") == pytest.approx(1) and agreement([CURVE, against], "style") == pytest.approx(0)
    assert agreement([CURVE, against], "content") is None, "all told alike, or nothing"


def test_the_suggested_checkpoint_gains_what_it_keeps():
    assert CURVE.gained == pytest.approx(60 * 0.9 - 70 * 0.5)
    assert Curve("chalk", POINTS, None).gained is None


def test_the_plot_is_a_picture(tmp_path):
    plot([CURVE], tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 600
