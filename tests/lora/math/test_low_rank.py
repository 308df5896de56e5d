"""Fewer ranks, as good as can be: torch's full SVD of dW is the judge (Eckart and Young)."""

import math

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.blocks import parse
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.math.low_rank import Limit, concat, extract, resize, svd, svd_of_matrix
from tests.lora.blended import blend
from tests.lora.formats.test_reading import style

LINEAR, CONV = (40, 24), (20, 12, 3, 3)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64).float()


def lora(shape, rank=8, alpha=4.0, **more):
    tensors = {"down": numbers(rank, *shape[1:]), "up": numbers(shape[0], rank, *[1] * len(shape[2:]))}
    return Adapter("lora", tensors | more, alpha, rank, "unet")


ADAPTERS = {
    "linear": (lora(LINEAR), LINEAR),
    "convolution": (lora(CONV, alpha=16.0), CONV),
    "tucker": (Adapter("lora", {"down": numbers(6, 12, 1, 1), "mid": numbers(6, 6, 3, 3), "up": numbers(20, 6, 1, 1)}, 3.0, 6,
                       "unet"), CONV),
    "loha": (Adapter("loha", {"w1_a": numbers(40, 6), "w1_b": numbers(6, 24), "w2_a": numbers(40, 6, seed=1),
                              "w2_b": numbers(6, 24, seed=1)}, 3.0, 6, "unet"), LINEAR),
    "lokr": (Adapter("lokr", {"w1": numbers(4, 4), "w2_a": numbers(10, 2), "w2_b": numbers(2, 6)}, 1.0, 2, "unet"), LINEAR),
    "full": (Adapter("full", {"diff": numbers(*CONV)}, 0.0, 0, "unet"), CONV)}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("limit", [Limit(rank=3), Limit(keep=0.8), Limit(fro=0.3), Limit(rank=2, keep=0.99)])
def test_nothing_of_that_rank_is_nearer(name, limit):
    adapter, shape = ADAPTERS[name]
    change = delta(adapter, torch.zeros(shape)).double().flatten(1)
    values = torch.linalg.svdvals(change)
    made, energy = resize({"a": adapter}, limit, shapes={"a": shape})
    small, rank = made["a"], made["a"].rank
    assert small.kind == "lora" and small.alpha == rank == small.tensors["down"].shape[0]
    shares = values.square().cumsum(0) / values.square().sum()
    assert energy["a"] == pytest.approx(float(shares[rank - 1]), rel=1e-5)
    error = delta(small, torch.zeros(shape)).double().flatten(1) - change
    assert float(error.norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-4, abs=1e-4)
    wanted = limit.keep or (1 - limit.fro**2 if limit.fro else 1)
    enough = limit.rank == rank if limit.rank else energy["a"] >= wanted - 1e-6
    assert enough and (rank == 1 or limit.rank or shares[rank - 2] < wanted)


def test_what_is_small_enough_is_kept_to_the_bit():
    adapter, norm = lora(LINEAR), Adapter("full", {"diff": numbers(16), "diff_b": numbers(16)}, 0.0, 0, "unet")
    made, energy = resize({"a": adapter, "n": norm}, Limit(rank=8))
    assert made["a"] is adapter and made["n"] is norm and set(energy.values()) == {1.0}


def test_a_rank_that_is_not_there_is_not_made_up():
    doubled = lora(LINEAR)
    both = {role: torch.cat([value, value], 0 if role == "down" else 1) for role, value in doubled.tensors.items()}
    made, energy = resize({"a": Adapter("lora", both, 8.0, 16, "unet")}, Limit(keep=1.0))
    assert made["a"].rank == 8 and energy["a"] == pytest.approx(1)
    zero = Adapter("lora", {"down": torch.zeros(4, 24), "up": torch.zeros(40, 4)}, 4.0, 4, "unet")
    made, energy = resize({"a": zero}, Limit(rank=2))
    assert made["a"].rank == 1 and energy["a"] == 1.0 and not delta(made["a"], torch.zeros(LINEAR)).any()


def test_dora_keeps_its_magnitudes():
    adapter = lora(LINEAR, dora_scale=numbers(40, 1).abs(), diff_b=numbers(40))
    small = resize({"a": adapter}, Limit(rank=3))[0]["a"]
    assert small.rank == 3 and small.tensors["dora_scale"] is adapter.tensors["dora_scale"] and "diff_b" in small.tensors
    bare = resize({"a": lora(LINEAR)}, Limit(rank=3))[0]["a"]
    assert torch.equal(small.tensors["up"], bare.tensors["up"])


def test_what_depends_on_the_base_needs_the_base():
    turn = Adapter("oft", {"blocks": numbers(10, 4, 4) * 0.05}, 0.0, 0, "unet")
    with pytest.raises(UserError, match="Name the base"):
        resize({"a": turn}, Limit(rank=4))
    weight = numbers(*LINEAR)
    made, energy = resize({"a": turn}, Limit(keep=1.0), weight_of={"a": weight}.get)
    assert torch.allclose(delta(made["a"], weight), delta(turn, weight), atol=1e-5) and energy["a"] == pytest.approx(1)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"keep": 0.0}, {"keep": 1.5}, {"fro": -0.1}])
def test_limits_that_make_no_sense_are_sentences(wrong):
    with pytest.raises(UserError):
        Limit(**wrong)


@pytest.mark.parametrize("wrong", [1.0000001, -1e-9, 1 + 2**-52])
def test_a_number_out_of_range_is_told_as_it_is(wrong):
    with pytest.raises(UserError) as caught:
        Limit(keep=wrong)
    assert not 0 < float(caught.value.message.rpartition(" ")[2].rstrip(".")) <= 1


def test_the_randomized_svd_is_as_good_and_always_the_same():
    matrix = numbers(900, 40) @ torch.diag(0.9 ** torch.arange(40)) @ numbers(40, 700, seed=1) + 0.01 * numbers(900, 700)
    u, s, v = svd_of_matrix(matrix, 16)
    assert torch.allclose(s[:16], torch.linalg.svdvals(matrix)[:16], rtol=1e-4)
    assert all(torch.equal(one, other) for one, other in zip((u, s, v), svd_of_matrix(matrix, 16), strict=True))


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
