"""What an adapter tells about itself: dW of a LoRA, factors, norm, shape. The other kinds: test_formulas.py."""

import pytest
import torch
from lycoris.functional import locon
from peft import LoraConfig, get_peft_model

from sdlora.lora.math.delta import Adapter, delta, factors, is_linear, norm, shape_of


def adapter(tensors, alpha):
    return Adapter("lora", tensors, alpha, tensors["down"].shape[0], "unet")


def test_a_linear_change_is_pefts():
    torch.manual_seed(0)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 10)), LoraConfig(r=3, lora_alpha=5, target_modules=["0"]))
    layer = model.base_model.model[0]
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    mine = adapter({"down": layer.lora_A["default"].weight, "up": layer.lora_B["default"].weight}, 5.0)
    torch.testing.assert_close(delta(mine, layer.weight), layer.get_delta_weight("default"))


@pytest.mark.parametrize("tucker", [False, True])
def test_a_convolution_is_lycoris(tucker):
    torch.manual_seed(0)
    down, up, mid = locon.weight_gen(torch.empty(8, 4, 3, 3), 2, tucker=tucker)
    down, up = down if tucker else torch.randn(2, 4, 3, 3), torch.randn(8, 2, 1, 1)
    tensors = {"down": down, "up": up} | ({"mid": mid} if tucker else {})
    weight = torch.zeros(8, 4, 3, 3)
    expected = locon.diff_weight(down, up, mid, gamma=0.5).reshape(weight.shape)
    torch.testing.assert_close(delta(adapter(tensors, 1.0), weight), expected)


def test_the_norm_is_that_of_the_full_change_and_halves_are_read_in_fp32():
    tensors = {"down": torch.randn(4, 9).half(), "up": torch.randn(7, 4).half()}
    change = delta(adapter(tensors, 2.0), torch.zeros(7, 9))
    assert change.dtype == torch.float32
    assert norm(adapter(tensors, 2.0)) == pytest.approx(change.norm().item(), rel=1e-5)


def several():
    """{name: (adapter, shape of its weight)}, one of each kind."""
    generator = torch.Generator().manual_seed(0)

    def made(*shape):
        return torch.randn(shape, generator=generator) / 3

    lora = {"down": made(2, 24), "up": made(32, 2)}
    conv = {"down": made(2, 24, 1, 1), "mid": made(2, 2, 3, 3), "up": made(32, 2, 1, 1)}
    loha = {"w1_a": made(32, 3), "w1_b": made(3, 24), "w2_a": made(32, 3), "w2_b": made(3, 24)}
    return {
        "lora": (Adapter("lora", lora, 1.0, 2, "unet"), (32, 24)),
        "tucker": (Adapter("lora", conv, 1.0, 2, "unet"), (32, 24, 3, 3)),
        "dora": (Adapter("lora", lora | {"dora_scale": made(32, 1)}, 1.0, 2, "unet"), (32, 24)),
        "loha": (Adapter("loha", loha, 1.0, 3, "unet"), (32, 24)),
        "large loha": (Adapter("loha", {role: tensor.repeat(2, 1) if role.endswith("b") else tensor.repeat(1, 2)
                                        for role, tensor in loha.items()}, 1.0, 6, "unet"), (32, 24)),
        "lokr": (Adapter("lokr", {"w1": made(4, 4), "w2_a": made(8, 2), "w2_b": made(2, 6)}, 1.0, 2, "unet"), (32, 24)),
        "lokr of factors": (Adapter("lokr", {"w1_a": made(4, 2), "w1_b": made(2, 4), "w2_a": made(8, 2), "w2_b": made(2, 6)},
                                    1.0, 2, "unet"), (32, 24)),
        "lokr conv": (Adapter("lokr", {"w1": made(4, 4), "w2_a": made(2, 8), "w2_b": made(2, 6), "t2": made(2, 2, 3, 3)},
                              1.0, 2, "unet"), (32, 24, 3, 3)),
        "whole lokr": (Adapter("lokr", {"w1": made(4, 4), "w2": made(8, 6)}, 3.0, 2, "unet"), (32, 24)),
        "oft": (Adapter("oft", {"blocks": made(8, 4, 4)}, 0.0, 0, "unet"), (32, 24)),
        "glora": (Adapter("glora", {"a1": made(24, 2), "a2": made(2, 24), "b1": made(32, 2), "b2": made(2, 24)}, 1.0, 2, "unet"),
                  (32, 24)),
        "full": (Adapter("full", {"diff": made(32, 24, 3, 3)}, 1.0, 0, "unet"), (32, 24, 3, 3)),
        "norm": (Adapter("full", {"diff": made(32), "diff_b": made(32)}, 1.0, 0, "unet"), (32,)),
        "set": (Adapter("full", {"set": made(32, 24)}, 1.0, 0, "unet"), (32, 24)),
        "bias": (Adapter("full", {"diff_b": made(32)}, 1.0, 0, "unet"), (32, 24)),
        "ia3": (Adapter("ia3", {"weight": made(24), "on_input": torch.tensor(1)}, 1.0, 0, "unet"), (32, 24))}


LOW_RANK = {"lora", "tucker", "loha", "lokr", "lokr of factors", "lokr conv"}


@pytest.mark.parametrize("name", several())
def test_factors_norm_and_shape_are_those_of_the_change(name):
    one, shape = several()[name]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    change = delta(one, weight)
    assert change.shape == weight.shape and change.dtype == torch.float32
    assert norm(one, weight) == pytest.approx(change.norm().item(), rel=1e-4)
    pair = factors(one)
    assert (pair is not None) == (name in LOW_RANK)
    if pair is not None:
        assert pair[0].shape[1] == pair[1].shape[0] < min(change.flatten(1).shape)
        torch.testing.assert_close(one.scale * (pair[0] @ pair[1]), change.flatten(1), rtol=1e-4, atol=1e-5)
    told = shape_of(one)
    assert told is None or told == tuple(shape) or told == (shape[0], weight[0].numel())
    assert (told is None) == (name in ("oft", "ia3", "bias"))


@pytest.mark.parametrize("name", several())
def test_only_kinds_that_look_at_the_weight_need_it(name):
    one, shape = several()[name]
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(9))
    assert is_linear(one) == torch.equal(delta(one, weight), delta(one, 2 * weight))
    if is_linear(one):
        assert norm(one) == pytest.approx(norm(one, weight), rel=1e-5)
    else:
        with pytest.raises(ValueError, match="depends"):
            norm(one)


@pytest.mark.parametrize("name", several())
@pytest.mark.parametrize("wrong", [(33, 24), (24, 32), (32, 25), (31,), (32, 24, 5, 5)])
def test_a_misfit_is_refused(name, wrong):
    one, shape = several()[name]
    if name not in ("bias", "oft", "ia3") or name == "oft" and wrong[0] != 32 or name == "ia3" and wrong[-1] == 25:
        with pytest.raises(ValueError, match="the weight"):
            delta(one, torch.zeros(wrong))


@pytest.mark.parametrize(("kind", "tensors"), [
    ("lora", {"down": torch.ones(4, 9), "up": torch.ones(7, 3)}), ("lora", {"down": torch.ones(9), "up": torch.ones(7)}),
    ("lora", {"down": torch.ones(2, 9, 1, 1), "mid": torch.ones(3, 3, 3, 3), "up": torch.ones(7, 2)}),
    ("lora", {"down": torch.ones(4, 9)}),
    ("loha", {"w1_a": torch.ones(7, 1), "w1_b": torch.ones(1, 9), "w2_a": torch.ones(7, 1), "w2_b": torch.ones(1, 1)}),
    ("lokr", {"w1": torch.ones(7, 9), "w2_a": torch.ones(1, 2), "w2_b": torch.ones(3, 1)}),
    ("glora", {"a1": torch.ones(9, 2), "a2": torch.ones(2, 9), "b1": torch.ones(7, 2), "b2": torch.ones(3, 9)})])
def test_tensors_that_do_not_fit_each_other_are_refused(kind, tensors):
    one = Adapter(kind, tensors, 1.0, 1, "unet")
    with pytest.raises(ValueError, match="has"):
        delta(one, torch.zeros(7, 9))
    with pytest.raises(ValueError, match="has"):
        shape_of(one)


def test_a_small_file_that_asks_for_a_huge_change_is_refused_before_it_is_made():
    bombs = {"lokr": {"w1": torch.ones(3000, 3000), "w2": torch.ones(3000, 3000)},
             "lora": {"up": torch.ones(10**6, 1), "down": torch.ones(1, 10**6)},
             "loha": {"w1_a": torch.ones(10**6, 1), "w1_b": torch.ones(1, 10**6)} |
                     {"w2_a": torch.ones(10**6, 1), "w2_b": torch.ones(1, 10**6)}}
    for kind, tensors in bombs.items():
        with pytest.raises(ValueError, match="the weight"):
            delta(Adapter(kind, tensors, 1.0, 1, "unet"), torch.zeros(7, 9))
        assert shape_of(Adapter(kind, tensors, 1.0, 1, "unet"))[0] >= 10**6


@pytest.mark.parametrize("name", several())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_every_number_format_is_computed_in_fp32(name, dtype):
    one, shape = several()[name]
    stored = Adapter(one.kind, {role: tensor.to(dtype) for role, tensor in one.tensors.items()}, one.alpha, one.rank, "unet")
    wide = Adapter(one.kind, {role: tensor.float() for role, tensor in stored.tensors.items()}, one.alpha, one.rank, "unet")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(9)).half()
    assert delta(stored, weight).dtype == torch.float32
    assert torch.equal(delta(stored, weight), delta(wide, weight.float()))


def test_a_lokr_of_few_numbers_is_not_made_into_huge_factors():
    """kron(1, w2_b) of this one would have 4096 x 4096 x 4096 numbers."""
    tensors = {"w1": torch.ones(1, 4096), "w2_a": torch.ones(1, 4096), "w2_b": torch.ones(4096, 1)}
    assert factors(Adapter("lokr", tensors, 1.0, 4096, "unet")) is None
