"""The measured programs: one that ends too early is a sentence, and the spread tells a busy machine."""

from types import SimpleNamespace

import pytest

from sdlora.bench import sides, train
from sdlora.errors import UserError


def test_a_script_that_ends_too_early_is_a_sentence_with_its_last_words(base, script, tmp_path):
    case = train.Case(str(base), pictures=str(train.shipped_pictures()))
    with pytest.raises(UserError, match=r"their script.py ended before it was measured") as caught:
        train.measure_script(case, script, [str(tmp_path / "said.json"), "15"], rounds=5)
    assert "trained to the end" in caught.value.hint


def test_every_round_begins_with_another_side():
    order = []
    running = {name: SimpleNamespace(turn=lambda name=name: order.append(name) or len(order)) for name in "ab"}
    assert sides.in_turn(running, rounds=2) == {"a": [3, 6], "b": [4, 5]}, "the first round warms up"
    assert "".join(order) == "baabba"


def test_the_spread_leaves_out_the_slowest_and_fastest_tenth():
    assert sides.spread([7.0]) == 1.0
    assert sides.spread([float(number) for number in range(1, 12)]) == pytest.approx(10 / 2)
