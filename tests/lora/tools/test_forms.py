"""Other forms of the same change; what only the base tells is asked for."""

import pytest
import torch

from sdlora.errors import UserError
from sdlora.lora.formats.writing import diffusers_holds
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.math.low_rank import Limit
from sdlora.lora.tools.forms import to_form
from tests.lora.formats.test_writing import CONV, LINEAR, SQUARE, TABLE, adapter, numbers


def weight(path):
    return numbers(*TABLE[path], seed=9)


@pytest.mark.parametrize(("kind", "path"), [("lora", LINEAR), ("tucker", CONV), ("loha", LINEAR), ("lokr", LINEAR)])
def test_few_ranks_are_expanded_exactly_without_a_base(kind, path):
    meant = adapter(kind, path)
    made = to_form({path: meant}, "plain", shapes=TABLE)
    assert made.energy == {} and diffusers_holds(made.adapters[path])
    assert made.expanded == (() if kind == "lora" else (path,)) and (kind != "lora" or made.adapters[path] is meant)
    assert torch.allclose(delta(made.adapters[path], weight(path)), delta(meant, weight(path)), atol=1e-5)


@pytest.mark.parametrize(("kind", "path"), [("dora", LINEAR), ("dora", CONV), ("oft", SQUARE), ("ia3", SQUARE),
                                            ("glora", SQUARE)])
def test_what_depends_on_the_base_is_approximated_on_it(kind, path):
    meant, given = adapter(kind, path), {path: weight(path)}
    with pytest.raises(UserError, match="--base"):
        to_form({path: meant}, "plain", shapes=TABLE)
    made = to_form({path: meant}, "plain", limit=Limit(rank=8), weight_of=given.get)
    change = delta(meant, given[path]).double().flatten(1)
    values = torch.linalg.svdvals(change).square()
    assert 4 <= made.adapters[path].rank <= 8
    assert made.energy[path] == pytest.approx(float(values[:8].sum() / values.sum()), rel=1e-4)
    error = (delta(made.adapters[path], given[path]).double().flatten(1) - change).square().sum() / values.sum()
    assert float(error) == pytest.approx(1 - made.energy[path], abs=1e-5)
    full = to_form({path: meant}, "plain", limit=Limit(keep=1.0), weight_of=given.get).adapters[path]
    assert torch.allclose(delta(full, given[path]), delta(meant, given[path]), atol=1e-4)


def test_dora_may_stay_dora():
    meant = {LINEAR: adapter("dora", LINEAR), CONV: adapter("dora", CONV)}
    assert to_form(meant, "diffusers", shapes=TABLE).adapters == meant
    loha = Adapter("loha", adapter("loha", LINEAR).tensors | {"dora_scale": numbers(TABLE[LINEAR][0], 1).abs()}, 2.0, 4, "unet")
    made = to_form({LINEAR: loha}, "diffusers", shapes=TABLE).adapters[LINEAR]
    assert made.kind == "lora" and torch.allclose(delta(made, weight(LINEAR)), delta(loha, weight(LINEAR)), atol=1e-5)
    on_input = adapter("lora", LINEAR).tensors | {"dora_scale": numbers(1, TABLE[LINEAR][1]).abs()}
    with pytest.raises(UserError, match="--base"):
        to_form({LINEAR: Adapter("lora", on_input, 2.0, 4, "unet")}, "diffusers", shapes=TABLE)


def test_a_part_with_some_dora_gets_magnitudes_that_change_nothing():
    meant = {LINEAR: adapter("dora", LINEAR), CONV: adapter("lora", CONV)}
    with pytest.raises(UserError, match="Some modules are DoRA"):
        to_form(meant, "diffusers", shapes=TABLE)
    given = {path: weight(path) for path in meant}
    made = to_form(meant, "diffusers", weight_of=given.get).adapters
    assert made[LINEAR] is meant[LINEAR] and "dora_scale" in made[CONV].tensors
    assert torch.allclose(delta(made[CONV], given[CONV]), delta(meant[CONV], given[CONV]), atol=1e-5)


def test_norms_and_biases_are_left_out_by_name():
    biased = Adapter("lora", adapter("lora", LINEAR).tensors | {"diff_b": numbers(4)}, 2.0, 4, "unet")
    norm = Adapter("full", {"diff": numbers(8), "diff_b": numbers(8)}, 0.0, 0, "unet")
    made = to_form({LINEAR: biased, "conv_norm_out": norm}, "plain", shapes=TABLE)
    assert made.adapters.keys() == {LINEAR}
    assert made.left_out == (f"{LINEAR} (bias)", "conv_norm_out (bias)", "conv_norm_out (norm)")
    with pytest.raises(UserError, match="norms and biases only"):
        to_form({"conv_norm_out": norm}, "plain")


def test_a_kohya_file_keeps_all_that_it_has_names_for():
    """PEFT's OFT turns the inputs, for which kohya files have no name; its neighbours stay what they are."""
    turn = torch.linalg.qr(torch.eye(16) + numbers(TABLE[SQUARE][1] // 16, 16, 16) / 8).Q
    odd = Adapter("oft", {"inputs": turn}, 0.0, 0, "unet")
    meant = {SQUARE: odd, LINEAR: adapter("loha", LINEAR), CONV: adapter("full", CONV)}
    with pytest.raises(UserError, match="--base"):
        to_form(meant, "kohya", shapes=TABLE)
    made = to_form(meant, "kohya", limit=Limit(keep=1.0), weight_of={SQUARE: weight(SQUARE)}.get, shapes=TABLE)
    assert made.adapters[LINEAR] is meant[LINEAR] and made.adapters[CONV] is meant[CONV] and made.expanded == (SQUARE,)
    assert torch.allclose(delta(made.adapters[SQUARE], weight(SQUARE)), delta(odd, weight(SQUARE)), atol=1e-4)
