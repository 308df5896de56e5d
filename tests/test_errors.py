"""A refusal shows numbers that stand in the relation that was checked."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlora.errors import distinct_decimals


@pytest.mark.parametrize("value, limit, said", [
    (2.04, 2, ("2.04", "2")), (2.5, 2, ("2.5", "2")), (3, 2, ("3", "2")), (2.0000000001, 2, ("2.0000000001", "2")),
    (50.2, 50, ("50.2", "50")), (50 + 2**-20, 50, ("50.000001", "50")), (7, 7, ("7", "7")),
    (1.96, 2.04, ("1.96", "2.04")), (10.00001, 10.0, ("10.00001", "10")), (-0.001, 0, ("-0.001", "0")),
    (1200, 1000, ("1200", "1000"))])
def test_rounded_numbers_are_told_apart(value, limit, said):
    assert distinct_decimals(value, limit) == said


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6) | st.just(0.0))
def test_what_is_shown_stands_in_the_same_relation(value, limit):
    for near in (value, limit, math.nextafter(limit, value)):
        left, right = map(float, distinct_decimals(near, limit))
        assert (left > right) == (near > limit) and (left < right) == (near < limit)
