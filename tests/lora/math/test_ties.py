"""TIES and DARE against PEFT's own functions on whole changes of weights."""

import itertools

import pytest
import torch
from peft.utils import merge_utils

from sdlora.errors import UserError
from sdlora.lora.math import ties as module
from sdlora.lora.math.blend import Ingredient, parts_of
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.math.ties import dare, ties

SHAPE = (24, 20)


def style(seed, rank=3, **extra):
    generator = torch.Generator().manual_seed(seed)
    tensors = {"down": torch.randn(rank, SHAPE[1], generator=generator), "up": torch.randn(SHAPE[0], rank, generator=generator)}
    return {"a": Adapter("lora", tensors | extra, 2.0, rank, "unet")}


BLEND = [Ingredient(style(1), 0.8), Ingredient(style(2, 4), 1.5), Ingredient(style(3, 2), -0.5)]


def changes(ingredients):
    """Signed changes and positive strengths, as PEFT wants them, in the canonical order that decides the masks."""
    parts = parts_of(ingredients, {"a": None})["a"]
    return ([delta(one, torch.zeros(SHAPE)) * (1 if strength > 0 else -1) for one, strength in parts],
            torch.tensor([abs(strength) for _, strength in parts]))


def whole(result):
    """dW of a result in full rank."""
    return delta(result[0]["a"], torch.zeros(SHAPE))


@pytest.mark.filterwarnings("ignore:The density 1.0")
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_is_pefts(density):
    tensors, strengths = changes(BLEND)
    expected = merge_utils.ties(tensors, strengths, density)
    torch.testing.assert_close(whole(ties(BLEND, 20, density=density)), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, sum(tensor * s for tensor, s in zip(tensors, strengths, strict=True)), atol=0.1)


@pytest.mark.parametrize("elect", [False, True])
def test_dare_is_pefts_with_the_same_masks(elect, monkeypatch):
    tensors, strengths = changes(BLEND)
    masks = iter([module.dropped(torch.ones(SHAPE), 0.3, f"7 {number} a") * 0.3 for number in range(3)])
    monkeypatch.setattr(torch, "bernoulli", lambda likely: next(masks))
    expected = (merge_utils.dare_ties if elect else merge_utils.dare_linear)(tensors, strengths, 0.3)
    torch.testing.assert_close(whole(dare(BLEND, 20, density=0.3, seed=7, elect=elect)), expected, rtol=1e-4, atol=1e-5)


def test_dare_keeps_its_share_and_the_mean():
    change = torch.ones(300, 300)
    kept = module.dropped(change, 0.25, "key")
    assert (kept != 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert kept.mean().item() == pytest.approx(1, abs=0.04) and set(kept.unique().tolist()) == {0.0, 4.0}


def test_the_seed_decides_and_the_order_of_choice_does_not():
    results = [whole(dare(list(order), 20, seed=3)) for order in itertools.permutations(BLEND)]
    assert all(torch.equal(results[0], other) for other in results)
    assert not torch.equal(results[0], whole(dare(BLEND, 20, seed=4)))
    merged = [whole(ties(list(order), 20)) for order in itertools.permutations(BLEND)]
    assert all(torch.equal(merged[0], other) for other in merged)


def test_the_retained_energy_is_that_of_the_rank():
    full, some = ties(BLEND, 20), ties(BLEND, 4)
    assert full[1]["a"] == pytest.approx(1, abs=1e-5) and some[0]["a"].rank == 4
    lost = float((whole(full) - whole(some)).square().sum() / whole(full).square().sum())
    assert 0.05 < lost and some[1]["a"] == pytest.approx(1 - lost, abs=1e-4)


def test_one_lora_whole_at_full_density_is_itself_at_its_strength():
    for result in (ties([BLEND[0]], 3, density=1.0), dare([BLEND[0]], 3, density=1.0)):
        torch.testing.assert_close(whole(result), 0.8 * delta(BLEND[0].adapters["a"], torch.zeros(SHAPE)), rtol=1e-4, atol=1e-5)
        assert result[1]["a"] == pytest.approx(1, abs=1e-6)


def test_biases_are_summed_and_kinds_that_need_the_base_ask_for_it():
    with_bias = [Ingredient(style(1, diff_b=torch.ones(24)), 0.5), Ingredient(style(2, diff_b=torch.ones(24)), 2.0)]
    assert torch.equal(ties(with_bias, 4)[0]["a"].tensors["diff_b"], torch.full((24,), 2.5))
    dora = Ingredient(style(1, dora_scale=torch.ones(24, 1)), 1.0)
    with pytest.raises(UserError, match="depends on the base"):
        ties([dora, BLEND[1]], 4)
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4))
    found = ties([dora], 20, density=1.0, weight_of=lambda path: weight)
    torch.testing.assert_close(whole(found), delta(dora.adapters["a"], weight), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("density", [0, -0.5, 1.1, float("nan"), True, "half"])
def test_no_density_but_a_share(density):
    with pytest.raises(UserError, match="density"):
        ties(BLEND, 4, density=density)


def test_a_blend_of_nothing_is_refused():
    with pytest.raises(UserError, match="Nothing is left"):
        dare([Ingredient(style(1), 0.0)], 4)
