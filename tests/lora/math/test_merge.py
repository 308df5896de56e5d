"""A merged LoRA changes every weight as the live blend does. The blend itself is the judge."""

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.blocks import parse
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.math.merge import concat, svd
from tests.lora.blended import blend
from tests.lora.formats.test_reading import style

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "up_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "te1:text_model.encoder.layers.0.mlp.fc1"
TABLE = family_table("mini")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def weights(*paths):
    return {path: numbers(*TABLE[path]) / 8 for path in paths}


def merged_weights(adapters, given):
    return {path: given[path] + delta(adapter, given[path]) for path, adapter in adapters.items() if path in given}


def assert_same(adapters, ingredients, given):
    wanted = blend(ingredients, given)
    found = merged_weights(adapters, given)
    assert found.keys() == wanted.keys()
    for path, weight in wanted.items():
        assert torch.allclose(found[path], weight, rtol=0, atol=3e-6 * float(weight.abs().max())), path


def three():
    blocks = parse("style only", "mini")
    return [Ingredient(style([UNET, OUT, TEXT], rank=4, alpha=2.0), 0.7, 0.3),
            Ingredient(style([UNET, TEXT], rank=3, alpha=5.0, seed=1), -1.5),
            Ingredient(style([UNET, OUT], rank=2, alpha=1.0, seed=2), 0.5, blocks=blocks, family="mini")]


def test_the_concatenation_is_the_blend_in_the_sum_of_the_ranks():
    ingredients, given = three(), weights(UNET, OUT, TEXT)
    made = concat(ingredients)
    assert {path: adapter.rank for path, adapter in made.items()} == {UNET: 7, OUT: 6, TEXT: 7}
    assert all(adapter.kind == "lora" and adapter.alpha == adapter.rank for adapter in made.values())
    assert_same(made, ingredients, given)
    assert not torch.allclose(merged_weights(made, given)[OUT], blend(ingredients[:1], given)[OUT])


def test_factors_of_equal_size_carry_the_sign_on_one_side():
    made = concat([Ingredient(style([UNET], rank=4, alpha=4.0), -0.25)])[UNET]
    meant = style([UNET], rank=4)[UNET]
    assert torch.equal(made.tensors["down"], meant.tensors["down"] * 0.5)
    assert torch.equal(made.tensors["up"], meant.tensors["up"] * -0.5)


@pytest.mark.parametrize("rank", [1, 5, 7])
def test_svd_is_the_best_of_its_rank_and_says_what_is_left(rank):
    ingredients = three()
    change = delta(concat(ingredients)[UNET], torch.zeros(TABLE[UNET])).double()
    made, energy = svd(ingredients, rank)
    values = torch.linalg.svdvals(change)
    assert made[UNET].rank == rank
    assert energy[UNET] == pytest.approx(float(values[:rank].square().sum() / values.square().sum()), rel=1e-5)
    error = (delta(made[UNET], torch.zeros(TABLE[UNET])).double() - change).norm()
    assert float(error) == pytest.approx(float(values[rank:].norm()), rel=1e-3, abs=1e-4)


def test_more_ranks_than_the_weight_has_are_not_written():
    ingredients = [Ingredient(style([UNET], rank=48, seed=seed), 0.1) for seed in range(3)]
    made, given = concat(ingredients), weights(UNET)
    assert made[UNET].rank == min(TABLE[UNET]) < 144
    assert_same(made, ingredients, given)


def kinds(path, seed=0):
    out, width = TABLE[path][:2]
    first, second = numbers(out, 4, seed=seed), numbers(4, width, seed=seed)
    loha = {"w1_a": first, "w1_b": second, "w2_a": numbers(out, 4, seed=seed + 1), "w2_b": numbers(4, width, seed=seed + 1)}
    dora = {"up": first, "down": second, "dora_scale": numbers(out, 1, seed=seed).abs() + 1}
    return {"loha": Adapter("loha", loha, 2.0, 4, "unet"), "dora": Adapter("lora", dora, 2.0, 4, "unet"),
            "oft": Adapter("oft", {"blocks": numbers(out // 8, 8, 8, seed=seed) / 20}, 0.0, 0, "unet"),
            "full": Adapter("full", {"diff": numbers(*TABLE[path], seed=seed)}, 0.0, 0, "unet"),
            "ia3": Adapter("ia3", {"weight": numbers(out, 1, seed=seed), "on_input": torch.tensor(False)}, 0.0, 0, "unet")}


@pytest.mark.parametrize("kind", ["loha", "dora", "oft", "full", "ia3"])
def test_other_kinds_are_in_the_sum_too(kind):
    ingredients, given = [Ingredient({UNET: kinds(UNET)[kind]}, 0.8), Ingredient(style([UNET], rank=2), 0.5)], weights(UNET)
    if kind in ("dora", "oft", "ia3"):
        with pytest.raises(UserError, match="depends on the base"):
            concat(ingredients)
    made = concat(ingredients, weight_of=given.get)
    assert made[UNET].kind == ("lora" if kind == "loha" else "full")
    assert_same(made, ingredients, given)
    small, energy = svd(ingredients, 8, weight_of=given.get)
    assert small[UNET].rank == 8 and 0.05 < energy[UNET] < 1


def test_convolutions_norms_and_biases_are_in_the_sum():
    out, width = TABLE[CONV][:2]
    tucker = Adapter("lora", {"down": numbers(3, width, 1, 1), "mid": numbers(3, 3, 3, 3), "up": numbers(out, 3, 1, 1),
                              "diff_b": numbers(out)}, 3.0, 3, "unet")
    norm = Adapter("full", {"diff": numbers(out), "diff_b": numbers(out)}, 0.0, 0, "unet")
    only_bias = Adapter("full", {"diff_b": numbers(out)}, 0.0, 0, "unet")
    ingredients = [Ingredient({CONV: tucker, "conv_norm_out": norm, "conv_out": only_bias}, 0.5),
                   Ingredient({CONV: tucker, "conv_norm_out": norm}, 1.0)]
    made, given = concat(ingredients), weights(CONV)
    assert_same({CONV: made[CONV]}, ingredients, given)
    assert made[CONV].rank == 6 and torch.allclose(made[CONV].tensors["diff_b"], tucker.tensors["diff_b"] * 1.5)
    assert torch.allclose(made["conv_norm_out"].tensors["diff"], norm.tensors["diff"] * 1.5)
    assert made["conv_out"].tensors.keys() == {"diff_b"}


def test_a_blend_of_nothing_is_a_sentence():
    with pytest.raises(UserError, match="Nothing is left"):
        concat([Ingredient(style([UNET]), 0.0)])
