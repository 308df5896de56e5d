"""The interference meter against dense sums of changes, and its promises about the strengths it suggests."""

import json
import math
from dataclasses import replace

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.tools.interference import DIRECTIONS, FINE, TOO_STRONG, interference, measure
from tests.lora.blended import blend
from tests.lora.math.test_delta import several

PATHS = ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
         "te1:text_model.encoder.layers.0.mlp.fc1")
WEIGHTS = {path: torch.randn(24, 16, generator=torch.Generator().manual_seed(number)) for number, path in enumerate(PATHS)}


def style(seed, size=1.0, paths=PATHS):
    generator = torch.Generator().manual_seed(seed)
    return {path: Adapter("lora", {"down": size * torch.randn(2, 16, generator=generator),
                                   "up": torch.randn(24, 2, generator=generator)}, 1.0, 2, "unet") for path in paths}


def of(adapters, strength=1.0, **options):
    return Ingredient(adapters, strength, name=options.pop("name", "Ink"), family="sd1", **options)


def meter(ingredients, weights=WEIGHTS):
    """Interference of a blend that is measured for this one question."""
    return interference(ingredients, measure([each.adapters for each in ingredients], weights))


def moved(ingredients, paths=PATHS):
    """|W' - W| over the paths, by blending for real."""
    blended = blend(ingredients, {path: WEIGHTS[path] for path in paths})
    return math.sqrt(sum(float((blended[path] - WEIGHTS[path]).double().square().sum()) for path in blended))


def size(paths=PATHS):
    return math.sqrt(sum(float(WEIGHTS[path].double().square().sum()) for path in paths))


MIXED = [of(style(1), 0.8), of(style(2, 2.0), -0.5, text_strength=1.5), of(style(3, 0.5, PATHS[:2]), 1.2, blocks={"MID": 0.25})]


def test_pushes_are_those_of_the_blended_weights():
    found = meter(MIXED)
    assert found.push == pytest.approx(moved(MIXED) / size(), rel=1e-5)
    assert [row.push for row in found.rows] == pytest.approx(
        [moved([MIXED[0]]) / size(), moved([MIXED[1]]) / size(), moved([MIXED[2]], PATHS[:2]) / size(PATHS[:2])], rel=1e-5)
    assert found.blocks == pytest.approx({slot: moved(MIXED, [path]) / size([path])
                                         for slot, path in zip(("IN01", "MID", "BASE"), PATHS, strict=True)}, rel=1e-5)
    trained = [moved([replace(each, strength=1.0, text_strength=None, blocks={})]) for each in MIXED]
    units = [replace(each, adapters={path: replace(one, alpha=one.alpha / length) for path, one in each.adapters.items()})
             for each, length in zip(MIXED, trained, strict=True)]
    assert found.stretch == pytest.approx(moved(units), rel=1e-4)


def test_cosines_are_those_of_the_changes_at_their_strengths():
    found = {(pair.one, pair.other): pair for pair in meter(MIXED).pairs}
    alone = [torch.cat([(blend([each], WEIGHTS).get(path, WEIGHTS[path]) - WEIGHTS[path]).double().flatten() for path in PATHS])
             for each in MIXED]
    for (one, other), pair in found.items():
        assert pair.cosine == pytest.approx(float(torch.cosine_similarity(alone[one], alone[other], dim=0)), abs=1e-5)
    assert set(found) == {(0, 1), (0, 2), (1, 2)} and set(found[0, 2].blocks) == {"IN01", "MID"}
    twin = meter([of(style(1)), of(style(1), -0.5)]).pairs[0]
    assert twin.cosine == pytest.approx(-1) and twin.shared == pytest.approx(1, abs=1e-5)
    assert all(block["cosine"] == pytest.approx(-1) for block in twin.blocks.values())


def test_a_blend_that_is_too_strong_gets_a_warning_and_strengths_that_are_not():
    strong = [of(style(1), 1.5, name="Ink"), of(style(2), 1.5, text_strength=2.0, name="Oil")]
    found = meter(strong)
    assert found.stretch > TOO_STRONG and found.warning
    suggested = [replace(each, strength=row.suggested, text_strength=row.suggested_text)
              for each, row in zip(strong, found.rows, strict=True)]
    after = meter(suggested)
    assert FINE - 0.05 < after.stretch <= FINE and after.warning is False
    assert [row.suggested for row in after.rows] == [each.strength for each in suggested]
    assert suggested[1].text_strength / suggested[1].strength == pytest.approx(2.0 / 1.5, rel=0.03)


def test_one_lora_as_trained_is_no_reason_to_warn_and_twice_that_is():
    assert meter([of(style(1))]).warning is False
    assert meter([of(style(1))]).stretch == pytest.approx(1)
    assert meter([of(style(1), -2.0)]).rows[0].suggested == pytest.approx(-1.0, abs=0.011)
    assert meter([of(style(1), 2.0)]).warning


def test_balanced_strengths_push_equally_far_and_together_as_far_as_before():
    uneven = [of(style(1), 0.5), of(style(2, 1.5), 0.2), of(style(3, 0.6), -0.3)]
    found = meter(uneven)
    even = [replace(each, strength=row.balanced) for each, row in zip(uneven, found.rows, strict=True)]
    after = meter(even)
    pushes = [row.push for row in after.rows]
    assert max(row.push for row in found.rows) > 2 * min(row.push for row in found.rows)
    assert max(pushes) < 1.1 * min(pushes) and after.push == pytest.approx(found.push, rel=0.1)
    assert even[2].strength < 0
    twice = [of(style(1), 2.0), of(style(2, 4.0), 0.3), of(style(3, 0.5), -1.2)]
    tamed = meter(twice)
    after = meter([replace(each, strength=row.balanced) for each, row in zip(twice, tamed.rows, strict=True)])
    assert after.stretch == pytest.approx(FINE, abs=0.02) and tamed.stretch > TOO_STRONG


@pytest.mark.parametrize("blend_of_nothing", [
    lambda: [of(style(1)), of(style(1), -1.0)],  # what one adds the other takes back
    lambda: [of(style(1), start=0.5, end=0.5)]])  # never acts
def test_a_blend_that_comes_to_nothing_is_left_as_it_is(blend_of_nothing):
    blended = blend_of_nothing()
    assert [row.balanced for row in meter(blended).rows] == [each.strength for each in blended]


def test_a_weak_lora_is_overdone_beside_a_strong_one_too():
    """Drawn so: 60 steps of woodcut at 1.5 beside 600 of stained glass at 0.2 is lost, though their sum is short."""
    found = meter([of(style(1, 0.2), 1.5), of(style(2, 5.0), 0.2)])
    assert found.warning and found.stretch == pytest.approx(math.hypot(1.5, 0.2), rel=0.1)


def test_loras_that_act_one_after_the_other_do_not_add_up():
    early, late = of(style(1), 1.2, end=0.5), of(style(2), 1.2, start=0.5)
    apart, together = meter([early, late]), meter([of(style(1), 1.2), of(style(2), 1.2)])
    assert apart.stretch == pytest.approx(1.2) and together.stretch > TOO_STRONG
    assert apart.pairs == () and len(together.pairs) == 1 and apart.warning is False


def test_what_is_off_or_absent_counts_for_nothing_and_all_of_it_is_plain_json():
    off = meter([of(style(1)), of(style(2), 0.0)])
    assert off.stretch == pytest.approx(1) and off.pairs == () and off.rows[1].push == 0
    nothing = meter([of(style(1), 0.0)])
    assert nothing.push == nothing.stretch == 0 and nothing.warning is False
    assert meter([of(style(1))], {}).push == 0
    found = meter(MIXED)
    assert json.loads(json.dumps(found.plain(), allow_nan=False))["rows"][1]["push"] == found.rows[1].push


def test_measured_once_it_answers_for_any_strengths():
    kept = measure([each.adapters for each in MIXED], WEIGHTS)
    for factor in (0.5, 1.7):
        moved_on = [replace(each, strength=each.strength * factor) for each in MIXED]
        assert interference(moved_on, kept) == meter(moved_on)


def test_a_strength_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="strength"):
        meter([of(style(1), math.nan)])


def lora(seed, out=40, inner=30, rank=3, alpha=2.0, up=None, down=None):
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(out, rank, generator=generator) if up is None else up
    down = torch.randn(rank, inner, generator=generator) if down is None else down
    return Adapter("lora", {"down": down, "up": up}, alpha, up.shape[1], "unet")


KINDS = several()
SAME_SHAPE = [(one, other) for one in KINDS for other in ("lora", "tucker", "dora", "large loha", "norm")
              if KINDS[one][1] == KINDS[other][1]]


@pytest.mark.parametrize(("one", "other"), SAME_SHAPE)
def test_products_of_any_kinds_are_those_of_the_dense_changes(one, other):
    (first, shape), (second, _) = KINDS[one], KINDS[other]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    found = measure([{"a": first}, {}, {"a": second}], {"a": weight})
    changes = torch.stack([delta(first, weight).flatten(), torch.zeros(weight.numel()), delta(second, weight).flatten()])
    dense = changes.double() @ changes.double().T
    torch.testing.assert_close(found.products["a"], dense, rtol=1e-4, atol=1e-5)
    assert found.sizes["a"] == pytest.approx(weight.norm().item(), rel=1e-5)


def textbook(first, second):
    """Principal angles by SVD of the dense matrices."""
    shares = []
    for sides in ((0, 0), (2, 2)):
        bases = []
        for change in (first, second):
            parts = torch.linalg.svd(change.double(), full_matrices=False)
            energy = parts[1].square().cumsum(0) / parts[1].square().sum()
            kept = int((energy < DIRECTIONS).sum()) + 1
            bases.append(parts[0][:, :kept] if sides == (0, 0) else parts[2][:kept].T)
        cosines = torch.linalg.svdvals(bases[0].T @ bases[1])
        smaller, larger = sorted(each.shape[1] for each in bases)
        chance = larger / bases[0].shape[0]
        shares.append(max(0.0, (float(cosines.square().sum()) / smaller - chance) / (1 - chance)))
    return sum(shares) / 2


def test_the_shared_subspace_is_that_of_the_principal_angles():
    common = torch.randn(40, 2, generator=torch.Generator().manual_seed(5))
    first = lora(1, up=torch.cat([common, torch.randn(40, 2, generator=torch.Generator().manual_seed(6))], 1), rank=4)
    second = lora(2, up=torch.cat([common @ torch.tensor([[1.0, 2], [0.5, -1]]), torch.zeros(40, 1)], 1))
    weight = torch.randn(40, 30)
    found = measure([{"a": first}, {"a": second}], {"a": weight}).shared["a"]
    expected = textbook(delta(first, weight), delta(second, weight))
    assert 0.2 < expected < 0.9
    assert [float(found[0, 1]), float(found[1, 0])] == pytest.approx([expected, expected], abs=1e-4)
    assert float(found[0, 0]) == pytest.approx(1, abs=1e-6)


def test_strangers_share_nothing_and_a_scaled_copy_everything():
    strangers = [measure([{"a": lora(seed, 200, 150, 8)}, {"a": lora(seed + 50, 200, 150, 8)}], {"a": torch.ones(200, 150)})
                 for seed in range(4)]
    assert sum(float(each.shared["a"][0, 1]) for each in strangers) / 4 < 0.02
    copy = lora(1)
    turned = Adapter("lora", {"down": 3 * copy.tensors["down"], "up": -copy.tensors["up"]}, 7.0, 3, "unet")
    found = measure([{"a": copy}, {"a": turned}], {"a": torch.ones(40, 30)})
    assert float(found.shared["a"][0, 1]) == pytest.approx(1, abs=1e-5)
    assert float(found.products["a"][0, 1]) < 0


def test_a_change_of_nothing_and_absent_modules():
    nothing = lora(1, up=torch.zeros(40, 3))
    found = measure([{"a": nothing, "elsewhere": lora(2)}, {"a": lora(3)}, {}], {"a": torch.ones(40, 30)})
    assert list(found.sizes) == ["a"]
    assert found.products["a"][0].abs().max() == 0 and found.shared["a"][0].isnan().all() and found.shared["a"][2].isnan().all()


def test_a_misfit_is_refused():
    with pytest.raises(ValueError, match="fit"):
        measure([{"a": lora(1)}], {"a": torch.ones(30, 40)})
