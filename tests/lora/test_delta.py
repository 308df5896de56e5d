"""dW against PEFT's and LyCORIS's own."""

import pytest
import torch
from lycoris.functional import locon
from peft import LoraConfig, get_peft_model

from sdlora.lora.delta import Adapter, delta, norm


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


def test_a_misfit_is_refused():
    with pytest.raises(ValueError, match="7 x 9"):
        delta(adapter({"down": torch.ones(4, 9), "up": torch.ones(7, 4)}, 2.0), torch.zeros(7, 8))
