"""The interference meter against dense sums of changes, and its promises about the strengths it suggests."""

import json
import math
from dataclasses import replace

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter
from sdlora.lora.tools.geometry import measure
from sdlora.lora.tools.interference import BURNS, FINE, interference
from tests.lora.blended import blend

PATHS = ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
         "te1:text_model.encoder.layers.0.mlp.fc1")
WEIGHTS = {path: torch.randn(24, 16, generator=torch.Generator().manual_seed(number)) for number, path in enumerate(PATHS)}


def style(seed, size=1.0, paths=PATHS):
    generator = torch.Generator().manual_seed(seed)
    return {path: Adapter("lora", {"down": size * torch.randn(2, 16, generator=generator),
                                   "up": torch.randn(24, 2, generator=generator)}, 1.0, 2, "unet") for path in paths}


def of(adapters, strength=1.0, **options):
    return Ingredient(adapters, strength, name=options.pop("name", "Ink"), family="sd1", **options)


def moved(ingredients, paths=PATHS):
    """|W' - W| over the paths, by blending for real."""
    blended = blend(ingredients, {path: WEIGHTS[path] for path in paths})
    return math.sqrt(sum(float((blended[path] - WEIGHTS[path]).double().square().sum()) for path in blended))


def size(paths=PATHS):
    return math.sqrt(sum(float(WEIGHTS[path].double().square().sum()) for path in paths))


MIXED = [of(style(1), 0.8), of(style(2, 2.0), -0.5, text_strength=1.5), of(style(3, 0.5, PATHS[:2]), 1.2, blocks={"MID": 0.25})]


def test_pushes_are_those_of_the_blended_weights():
    told = interference(MIXED, WEIGHTS)
    assert told.push == pytest.approx(moved(MIXED) / size(), rel=1e-5)
    assert [row.push for row in told.rows] == pytest.approx(
        [moved([MIXED[0]]) / size(), moved([MIXED[1]]) / size(), moved([MIXED[2]], PATHS[:2]) / size(PATHS[:2])], rel=1e-5)
    assert told.blocks == pytest.approx({slot: moved(MIXED, [path]) / size([path])
                                         for slot, path in zip(("IN01", "MID", "BASE"), PATHS, strict=True)}, rel=1e-5)
    trained = [moved([replace(each, strength=1.0, text_strength=None, blocks={})]) for each in MIXED]
    units = [replace(each, adapters={path: replace(one, alpha=one.alpha / length) for path, one in each.adapters.items()})
             for each, length in zip(MIXED, trained, strict=True)]
    assert told.stretch == pytest.approx(moved(units), rel=1e-4)


def test_cosines_are_those_of_the_changes_at_their_strengths():
    told = {(pair.one, pair.other): pair for pair in interference(MIXED, WEIGHTS).pairs}
    alone = [torch.cat([(blend([each], WEIGHTS).get(path, WEIGHTS[path]) - WEIGHTS[path]).double().flatten() for path in PATHS])
             for each in MIXED]
    for (one, other), pair in told.items():
        assert pair.cosine == pytest.approx(float(torch.cosine_similarity(alone[one], alone[other], dim=0)), abs=1e-5)
    assert set(told) == {(0, 1), (0, 2), (1, 2)} and set(told[0, 2].blocks) == {"IN01", "MID"}
    twin = interference([of(style(1)), of(style(1), -0.5)], WEIGHTS).pairs[0]
    assert twin.cosine == pytest.approx(-1) and twin.shared == pytest.approx(1, abs=1e-5)
    assert all(block["cosine"] == pytest.approx(-1) for block in twin.blocks.values())


def test_a_blend_that_would_burn_is_told_and_mended():
    strong = [of(style(1), 1.5, name="Ink"), of(style(2), 1.5, text_strength=2.0, name="Oil")]
    told = interference(strong, WEIGHTS)
    assert told.stretch > BURNS and "Ink" in told.warning and f"{told.rows[1].suggested:g}" in told.warning
    mended = [replace(each, strength=row.suggested, text_strength=row.suggested_text)
              for each, row in zip(strong, told.rows, strict=True)]
    after = interference(mended, WEIGHTS)
    assert FINE - 0.05 < after.stretch <= FINE and after.warning == ""
    assert [row.suggested for row in after.rows] == [each.strength for each in mended]
    assert mended[1].text_strength / mended[1].strength == pytest.approx(2.0 / 1.5, rel=0.03)


def test_one_lora_as_trained_is_no_reason_to_warn_and_twice_that_is():
    assert interference([of(style(1))], WEIGHTS).warning == ""
    assert interference([of(style(1))], WEIGHTS).stretch == pytest.approx(1)
    assert interference([of(style(1), -2.0)], WEIGHTS).rows[0].suggested == pytest.approx(-1.0, abs=0.011)
    assert "This LoRA" in interference([of(style(1), 2.0)], WEIGHTS).warning


def test_balanced_strengths_push_equally_far_and_together_as_far_as_before():
    uneven = [of(style(1), 0.5), of(style(2, 1.5), 0.2), of(style(3, 0.6), -0.3)]
    told = interference(uneven, WEIGHTS)
    even = [replace(each, strength=row.balanced) for each, row in zip(uneven, told.rows, strict=True)]
    after = interference(even, WEIGHTS)
    pushes = [row.push for row in after.rows]
    assert max(row.push for row in told.rows) > 2 * min(row.push for row in told.rows)
    assert max(pushes) < 1.1 * min(pushes) and after.push == pytest.approx(told.push, rel=0.1)
    assert even[2].strength < 0
    twice = [of(style(1), 2.0), of(style(2, 4.0), 0.3), of(style(3, 0.5), -1.2)]
    tamed = interference(twice, WEIGHTS)
    assert interference([replace(each, strength=row.balanced) for each, row in zip(twice, tamed.rows, strict=True)],
                        WEIGHTS).stretch == pytest.approx(FINE, abs=0.02) and tamed.stretch > BURNS


@pytest.mark.parametrize("blend_of_nothing", [
    lambda: [of(style(1)), of(style(1), -1.0)],  # what one adds the other takes back
    lambda: [of(style(1), start=0.5, end=0.5)]])  # never acts
def test_a_blend_that_comes_to_nothing_is_left_as_it_is(blend_of_nothing):
    blended = blend_of_nothing()
    assert [row.balanced for row in interference(blended, WEIGHTS).rows] == [each.strength for each in blended]


def test_a_weak_lora_is_overdone_beside_a_strong_one_too():
    """Drawn so: 60 steps of woodcut at 1.5 beside 600 of stained glass at 0.2 is lost, though their sum is short."""
    told = interference([of(style(1, 0.2), 1.5), of(style(2, 5.0), 0.2)], WEIGHTS)
    assert told.warning and told.stretch == pytest.approx(math.hypot(1.5, 0.2), rel=0.1)


def test_loras_that_act_one_after_the_other_do_not_add_up():
    early, late = of(style(1), 1.2, end=0.5), of(style(2), 1.2, start=0.5)
    apart, together = interference([early, late], WEIGHTS), interference([of(style(1), 1.2), of(style(2), 1.2)], WEIGHTS)
    assert apart.stretch == pytest.approx(1.2) and together.stretch > BURNS
    assert apart.pairs == () and len(together.pairs) == 1 and apart.warning == ""


def test_likeness_is_worth_a_sentence_and_being_strangers_is_not():
    alike = style(1)
    assert interference([of(alike, name="Ink"), of(style(1), 0.2, name="Pen")], WEIGHTS).lines == (
        "Ink and Pen pull the same way (100%): they add up to one stronger style.",)
    assert "against" in interference([of(alike), of(style(1), -0.2)], WEIGHTS).lines[0]
    assert interference([of(style(1)), of(style(2))], WEIGHTS).lines == ()


def test_what_is_off_or_absent_counts_for_nothing_and_all_of_it_is_plain_json():
    off = interference([of(style(1)), of(style(2), 0.0)], WEIGHTS)
    assert off.stretch == pytest.approx(1) and off.pairs == () and off.rows[1].push == 0
    nothing = interference([of(style(1), 0.0)], WEIGHTS)
    assert nothing.push == nothing.stretch == 0 and nothing.warning == ""
    assert interference([of(style(1))], {}).push == 0
    told = interference(MIXED, WEIGHTS)
    assert json.loads(json.dumps(told.plain(), allow_nan=False))["rows"][1]["push"] == told.rows[1].push


def test_measured_once_it_answers_for_any_strengths():
    kept = measure([each.adapters for each in MIXED], WEIGHTS)
    for factor in (0.5, 1.7):
        moved_on = [replace(each, strength=each.strength * factor) for each in MIXED]
        assert interference(moved_on, measured=kept) == interference(moved_on, WEIGHTS)


def test_a_strength_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="strength"):
        interference([of(style(1), math.nan)], WEIGHTS)
