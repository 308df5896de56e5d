"""The blend against dense fp64 matrices, and the promises about bits."""

import itertools

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.blend import Ingredient
from sdlora.lora.blend import blend as blend_ingredients
from sdlora.lora.delta import Adapter

WEIGHTS = {"a": torch.randn(12, 8, generator=torch.Generator().manual_seed(0)),
           "b": torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))}


def style(seed, rank=3, alpha=2.0, paths=("a", "b"), dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for path in paths:
        out, *inner = WEIGHTS[path].shape
        shape = (out, rank) if len(inner) == 1 else (out, rank, 1, 1)
        made[path] = Adapter("lora", {"down": torch.randn(rank, *inner, generator=generator).to(dtype),
                                      "up": torch.randn(shape, generator=generator).to(dtype)}, alpha, rank, "unet")
    return made


def blend(loras, weights):
    return blend_ingredients([Ingredient(adapters, strength) for adapters, strength in loras], weights)


def dense(loras):
    sums = {}
    for path, weight in WEIGHTS.items():
        total = weight.double()
        for adapters, strength in loras:
            if path in adapters:
                kept = adapters[path]
                product = kept.tensors["up"].double().flatten(1) @ kept.tensors["down"].double().flatten(1)
                total = total + strength * kept.alpha / kept.rank * product.reshape(weight.shape)
        sums[path] = total
    return sums


def test_a_blend_of_different_ranks_dtypes_and_modules_is_the_dense_sum():
    loras = [(style(1), 0.7), (style(2, rank=5, alpha=5.0, paths=("a",), dtype=torch.float16), -1.5),
             (style(3, rank=1, dtype=torch.bfloat16), 4)]
    for path, value in blend(loras, WEIGHTS).items():
        torch.testing.assert_close(value.double(), dense(loras)[path], rtol=1e-5, atol=1e-5)


def test_the_order_of_choice_changes_no_bit():
    loras = [(style(seed), strength) for seed, strength in ((1, 0.3), (2, 1.1), (3, -0.7), (1, 0.9))]
    results = [blend(list(order), WEIGHTS) for order in itertools.permutations(loras)]
    naive = [sum((strength * adapters["a"].tensors["up"] @ adapters["a"].tensors["down"] for adapters, strength in order),
                 torch.zeros(12, 8)) for order in itertools.permutations(loras)]
    assert any(not torch.equal(naive[0], other) for other in naive)   # in the order of choice it would not hold
    assert all(torch.equal(results[0][path], other[path]) for other in results for path in WEIGHTS)


def test_strength_zero_is_the_base_and_a_at_one_is_a():
    assert blend([(style(1), 0.0), (style(2), 0)], WEIGHTS) == {}
    alone, beside = blend([(style(1), 1.0)], WEIGHTS), blend([(style(2), 0.0), (style(1), 1.0)], WEIGHTS)
    assert all(torch.equal(alone[path], beside[path]) for path in WEIGHTS)


def test_the_result_is_rounded_once_to_the_weights_dtype():
    halves = {path: weight.half() for path, weight in WEIGHTS.items()}
    loras = [(style(1), 0.7), (style(2), 0.3)]
    full = blend(loras, {path: weight.float() for path, weight in halves.items()})
    for path, value in blend(loras, halves).items():
        assert value.dtype == torch.float16 and torch.equal(value, full[path].half())


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 1e9, -4.1, True, "1", None])
def test_no_strength_but_a_number_in_range(strength):
    with pytest.raises(UserError, match="strength"):
        blend([(style(1), strength)], WEIGHTS)
