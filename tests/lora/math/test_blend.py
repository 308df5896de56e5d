"""The blend against dense fp64 matrices, and the promises about bits."""

import itertools

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient, rounded
from sdlora.lora.math.delta import Adapter, delta
from tests.lora.blended import blend as blend_ingredients
from tests.lora.blended import blend_biases

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_change_is_added_in_fp32_and_rounded_once(dtype):
    weight, change = WEIGHTS["b"].to(dtype), torch.randn(6, 36, generator=torch.Generator().manual_seed(5))
    before, out = weight.clone(), torch.full_like(weight, torch.nan)
    wanted = (weight.float() + change.reshape(weight.shape)).to(dtype)
    assert torch.equal(rounded(weight, change), wanted) and torch.equal(weight, before)
    assert rounded(weight, change, out) is out and torch.equal(out, wanted)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 1e9, -4.1, True, "1", None])
def test_no_strength_but_a_number_in_range(strength):
    with pytest.raises(UserError, match="strength"):
        blend([(style(1), strength)], WEIGHTS)


def test_kinds_that_depend_on_the_weight_are_summed_relative_to_the_pristine_one_in_any_order():
    generator = torch.Generator().manual_seed(9)
    dora = {"a": Adapter("lora", style(1)["a"].tensors | {"dora_scale": torch.rand(12, 1, generator=generator)}, 2.0, 3, "unet")}
    full = {"a": Adapter("full", {"diff": torch.randn(12, 8, generator=generator)}, 0.0, 0, "unet")}
    diff = full["a"].tensors["diff"].clone()
    loras = [(dora, 0.8), (full, 1), (style(2), 1.2), (dora, 0.1)]
    results = [blend(order, WEIGHTS)["a"] for order in itertools.permutations(loras)]
    assert all(torch.equal(results[0], other) for other in results)
    wanted = WEIGHTS["a"] + sum(strength * delta(adapters["a"], WEIGHTS["a"]) for adapters, strength in loras)
    torch.testing.assert_close(results[0], wanted)
    blend([(full, 1), ({"a": Adapter("full", {"diff": torch.ones(12, 8)}, 0.0, 0, "unet")}, 1)], WEIGHTS)
    blend([(full, 1), ({"a": Adapter("full", {"diff": -torch.ones(12, 8)}, 0.0, 0, "unet")}, 1)], WEIGHTS)
    assert torch.equal(full["a"].tensors["diff"], diff)                # no tensor of a LoRA was summed into


def test_block_weights_and_the_strength_of_the_text_encoders_multiply():
    path, text = "up_blocks.0.attentions.1.proj_in", "te1:text_model.encoder.layers.0.self_attn.q_proj"
    weights = {path: torch.zeros(12, 8), text: torch.zeros(12, 8)}
    adapters = {path: style(1)["a"], text: style(2)["a"]}
    whole = blend_ingredients([Ingredient(adapters)], weights)
    for strengths, blocks, unet, of_text in (((2.0, None), {}, 2.0, 2.0), ((2.0, 0.5), {}, 2.0, 0.5),
                                             ((2.0, -1.0), {"OUT01": 0.25}, 0.5, -1.0),
                                             ((1.0, None), {"BASE": 0.5, "OUT00": 7.0}, 1.0, 0.5)):
        blended = blend_ingredients([Ingredient(adapters, *strengths, blocks=blocks, family="sdxl")], weights)
        torch.testing.assert_close(blended[path], whole[path] * unet)
        torch.testing.assert_close(blended[text], whole[text] * of_text)
    assert list(blend_ingredients([Ingredient(adapters, blocks={"OUT01": 0.0}, family="sdxl")], weights)) == [text]
    with pytest.raises(UserError, match="strength"):
        blend_ingredients([Ingredient(adapters, 1.0, 5.0)], weights)


def test_biases_are_summed_too():
    changes = [torch.randn(12, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    loras = [{"a": Adapter("full", {"diff_b": change}, 0.0, 0, "unet")} for change in changes]
    bias = torch.linspace(-1, 1, 12)
    blended = blend_biases([Ingredient(loras[0], 0.5), Ingredient(loras[1], -2), Ingredient(style(1))], {"a": bias, "b": bias})
    torch.testing.assert_close(blended["a"], bias + 0.5 * changes[0] - 2 * changes[1])
    assert list(blended) == ["a"]
    assert torch.equal(blend_ingredients([Ingredient(loras[0])], WEIGHTS).get("a", WEIGHTS["a"]), WEIGHTS["a"])


def test_what_does_not_fit_the_weight_raises():
    with pytest.raises(ValueError, match="fit"):
        blend([(style(1), 1.0)], {"a": torch.zeros(12, 9)})
