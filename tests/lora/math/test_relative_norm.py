"""|dW| / |W| against dense matrices, and what is typical where a weight is unknown."""

import math

import pytest
import torch

from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.math.delta import delta
from sdlora.lora.math.relative_norm import by_block, relative_size, sizes, typical
from tests.lora.formats.test_reading import PATHS, style

TABLE = family_table("mini")
WEIGHTS = {path: torch.randn(TABLE[path], generator=torch.Generator().manual_seed(3)) for path in PATHS}


def test_sizes_are_those_of_the_dense_changes():
    adapters = style()
    found = sizes(adapters, TABLE, WEIGHTS)
    for path, (moved, size) in found.items():
        assert moved == pytest.approx(float(delta(adapters[path], WEIGHTS[path]).norm()), rel=1e-5)
        assert size == pytest.approx(float(WEIGHTS[path].norm()), rel=1e-5)
    moved, size = (math.hypot(*(each[side] for each in found.values())) for side in (0, 1))
    assert relative_size(found) == pytest.approx(moved / size) and relative_size({}) == 0
    blocks = by_block(found, "mini")
    assert sum(block["modules"] for block in blocks.values()) == len(adapters)
    pushes = [block["push"] for block in blocks.values()]
    assert min(pushes) <= relative_size(found) <= max(pushes)


def test_an_unknown_weight_counts_as_a_typical_one():
    adapters = style()
    for path, (_, size) in sizes(adapters, TABLE, {}).items():
        assert size == pytest.approx(float(typical(TABLE[path], adapters[path]).norm()), rel=0.05)


def test_what_is_not_finite_or_does_not_fit_counts_as_no_change():
    adapters = style()
    adapters[PATHS[0]].tensors["up"][0, 0] = math.nan
    assert sizes(adapters, TABLE, WEIGHTS)[PATHS[0]][0] == 0
