"""The difference of two checkpoints as a LoRA: torch's SVD of the difference is the judge."""

import math

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.math.delta import delta
from sdlora.lora.math.extract import extract
from sdlora.lora.math.low_rank import Limit

SHAPES = {"a.to_q": (32, 20), "b.conv1": (12, 8, 3, 3), "te1:c.fc1": (24, 16), "d.embedding": (50, 16)}
MODULES = set(SHAPES) - {"d.embedding"}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def checkpoint():
    weights = {f"{path}.weight": numbers(*shape) for path, shape in SHAPES.items()}
    return weights | {"a.to_q.bias": numbers(32), "norm.weight": numbers(8), "norm.bias": numbers(8), "ids": torch.arange(4)}


def low_rank(shape, rank, seed):
    return (numbers(shape[0], rank, seed=seed) @ numbers(rank, math.prod(shape[1:]), seed=seed)).reshape(shape)


def trained(rank=3):
    tuned = checkpoint()
    for path in MODULES - {"te1:c.fc1"}:
        tuned[f"{path}.weight"] = tuned[f"{path}.weight"] + low_rank(SHAPES[path], rank, 5)
    return tuned


def test_every_weight_is_read_once():
    class Counted(dict):
        read = 0

        def __getitem__(self, name):
            self.read += 1
            return super().__getitem__(name)
    before, after = Counted(checkpoint()), Counted(trained())
    extract(before, after, MODULES, Limit(rank=3))
    assert before.read == len(before) and after.read <= len(after)


def test_a_low_rank_difference_is_found_again():
    found = extract(checkpoint(), trained(), MODULES, Limit(rank=3))
    assert found.adapters.keys() == {"a.to_q", "b.conv1"} and found.elsewhere == 0.0
    for path, adapter in found.adapters.items():
        meant = low_rank(SHAPES[path], 3, 5)
        assert adapter.rank == 3 and found.energy[path] == pytest.approx(1, abs=1e-5)
        assert torch.allclose(delta(adapter, torch.zeros(SHAPES[path])), meant, atol=1e-4)


def test_what_is_cut_off_is_said():
    found = extract(checkpoint(), trained(), MODULES, Limit(rank=1))
    values = torch.linalg.svdvals(low_rank(SHAPES["a.to_q"], 3, 5).double())
    assert found.energy["a.to_q"] == pytest.approx(float(values[0] ** 2 / values.square().sum()), rel=1e-3)


def test_norms_biases_and_embeddings_are_measured_and_may_come_along():
    tuned = trained()
    for name in ("a.to_q.bias", "norm.weight", "norm.bias", "d.embedding.weight"):
        tuned[name] = tuned[name] + 1
    found = extract(checkpoint(), tuned, MODULES, Limit(rank=3))
    inside = sum(float((tuned[f"{path}.weight"] - checkpoint()[f"{path}.weight"]).square().sum()) for path in MODULES)
    outside = 32 + 8 + 8 + 50 * 16
    assert found.elsewhere == pytest.approx(outside / (inside + outside), rel=1e-4) and "norm" not in found.adapters
    whole = extract(checkpoint(), tuned, MODULES, Limit(rank=3), whole=True).adapters
    assert whole["norm"].kind == "full" and torch.allclose(whole["norm"].tensors["diff"], torch.ones(8))
    assert whole["norm"].tensors.keys() == {"diff", "diff_b"}
    assert whole["a.to_q"].kind == "lora" and torch.allclose(whole["a.to_q"].tensors["diff_b"], torch.ones(32))


def test_checkpoints_that_do_not_go_together_are_sentences():
    with pytest.raises(UserError, match="do not differ"):
        extract(checkpoint(), checkpoint(), MODULES, Limit(rank=3))
    other = trained() | {"a.to_q.weight": numbers(32, 24)}
    with pytest.raises(UserError, match="different kinds"):
        extract(checkpoint(), other, MODULES, Limit(rank=3))
    with pytest.raises(UserError, match="no weight that a LoRA can hold"):
        extract(checkpoint(), checkpoint() | {"d.embedding.weight": numbers(50, 16, seed=9)}, MODULES, Limit(rank=3))
