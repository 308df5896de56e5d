"""Every kind of change against what LyCORIS's own module really computes, and DoRA against PEFT's too.

The oracle is a module's forward pass, not its get_diff_weight: that multiplies by alpha / rank twice for LoHa and LoKr.
"""

import pytest
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from peft import LoraConfig, OFTConfig, get_peft_model

from sdlora.lora.math.delta import Adapter, bias_delta, delta

KINDS = {LoConModule: "lora", LohaModule: "loha", LokrModule: "lokr", DiagOFTModule: "oft", ButterflyOFTModule: "oft",
         GLoRAModule: "glora", FullModule: "full", IA3Module: "ia3", NormModule: "full"}
LEAVES = {"lora_up.weight": "up", "lora_down.weight": "down", "lora_mid.weight": "mid", "w_norm": "diff", "b_norm": "diff_b",
          "oft_blocks": "blocks"}
DORA, INPUTS, TUCKER = {"weight_decompose": True}, {"weight_decompose": True, "wd_on_out": False}, {"use_tucker": True}
LINEAR, CONV, POINT = ("linear", 12, 8), ("conv", 12, 8, 3), ("conv", 12, 8, 1)
SQUARE, WIDE = ("linear", 8, 8), ("linear", 16, 32)


def layer_of(kind, out, inner, kernel=1):
    torch.manual_seed(0)
    return torch.nn.Linear(inner, out) if kind == "linear" else torch.nn.Conv2d(inner, out, kernel, padding=kernel // 2)


def adapter_of(module, alpha, rank):
    state = module.custom_state_dict() or module.state_dict()
    names = {name: LEAVES.get(name, name.removeprefix("hada_").removeprefix("lokr_").removesuffix(".weight"))
             for name in state if name != "alpha"}
    return Adapter(KINDS[type(module)], {role: state[name].detach().clone() for name, role in names.items()}, alpha, rank, "unet")


def check(module, layer, mine, inputs):
    """The layer with the module on it does what the layer with W + dW and bias + its difference does."""
    weight = layer.weight.detach().clone()
    changed = layer_of_same(layer)
    with torch.no_grad():
        change = delta(mine, weight)
        assert change.norm() > 0.01 * weight.norm()  # something happens at all
        changed.weight.copy_(weight + change)
        if bias_delta(mine) is not None:
            changed.bias.add_(bias_delta(mine))
        module.eval().apply_to()
        torch.testing.assert_close(changed(inputs), module(inputs), rtol=2e-5, atol=2e-5)


def layer_of_same(layer):
    same = type(layer)(layer.in_features, layer.out_features) if isinstance(layer, torch.nn.Linear) else \
        torch.nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
    same.load_state_dict(layer.state_dict())
    return same


def fill(module):
    """Parameters as after training; magnitudes of DoRA and rescales stay near what they are."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in ("dora_scale", "rescale"):
                parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 2))
            else:
                parameter.normal_(std=0.3)


@pytest.mark.parametrize(("oracle", "shape", "options"), [
    (LoConModule, LINEAR, {}), (LoConModule, CONV, {}), (LoConModule, CONV, TUCKER),
    (LoConModule, LINEAR, DORA), (LoConModule, CONV, DORA), (LoConModule, CONV, DORA | TUCKER),
    (LoConModule, LINEAR, INPUTS), (LoConModule, CONV, INPUTS), (LoConModule, SQUARE, DORA), (LoConModule, SQUARE, INPUTS),
    (LohaModule, LINEAR, {}), (LohaModule, POINT, {}), (LohaModule, CONV, {}), (LohaModule, CONV, TUCKER),
    (LohaModule, CONV, DORA), (LohaModule, LINEAR, INPUTS),
    (LokrModule, WIDE, {}), (LokrModule, WIDE, {"factor": 8, "decompose_both": True}),
    (LokrModule, WIDE, {"full_matrix": True}), (LokrModule, WIDE, {"factor": 2, "unbalanced_factorization": True}),
    (LokrModule, ("conv", 32, 24, 3), {}), (LokrModule, ("conv", 32, 24, 3), {"full_matrix": True}),
    (LokrModule, ("conv", 32, 24, 3), TUCKER | {"factor": 8, "decompose_both": True}), (LokrModule, ("conv", 32, 24, 1), {}),
    (LokrModule, WIDE, DORA), (LokrModule, ("conv", 32, 24, 3), INPUTS),
    (GLoRAModule, LINEAR, {}), (GLoRAModule, SQUARE, {}), (GLoRAModule, CONV, {}), (GLoRAModule, POINT, {}),
    (IA3Module, LINEAR, {}), (IA3Module, LINEAR, {"train_on_input": True}), (IA3Module, CONV, {}),
    (IA3Module, CONV, {"train_on_input": True})])
def test_a_kind_does_what_its_trainer_does(oracle, shape, options):
    layer = layer_of(*shape)
    module = oracle("m", layer, lora_dim=3, alpha=2.0, **options)
    fill(module)
    inputs = torch.randn(5, shape[2]) if shape[0] == "linear" else torch.randn(2, shape[2], 5, 5)
    check(module, layer, adapter_of(module, 2.0, 3), inputs)


@pytest.mark.parametrize("oracle", [DiagOFTModule, ButterflyOFTModule])
@pytest.mark.parametrize("shape", [WIDE, ("conv", 16, 8, 3)])
@pytest.mark.parametrize("options", [{}, {"constraint": 0.01}, {"constraint": 50.0}, {"rescaled": True}])
def test_a_rotation_is_lycoris(oracle, shape, options):
    layer = layer_of(*shape)
    module = oracle("m", layer, lora_dim=4, **options)
    fill(module)
    mine = adapter_of(module, options.get("constraint", 0.0), 0)
    assert mine.tensors["blocks"].dim() == (3 if oracle is DiagOFTModule else 4)
    inputs = torch.randn(5, shape[2]) if shape[0] == "linear" else torch.randn(2, shape[2], 5, 5)
    check(module, layer, mine, inputs)


def test_the_older_oft_holds_the_rotation_itself():
    layer = layer_of(*WIDE)
    module = DiagOFTModule("m", layer, lora_dim=4)
    fill(module)
    turn = Adapter("oft", {"diag": module.get_r().detach()}, 0.0, 0, "unet")
    torch.testing.assert_close(delta(turn, layer.weight.detach()), delta(adapter_of(module, 0.0, 0), layer.weight.detach()))
    check(module, layer, turn, torch.randn(5, 32))


@pytest.mark.parametrize("shape", [LINEAR, ("conv", 12, 8, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_a_rotation_of_the_inputs_is_pefts(shape, shared):
    layer = layer_of(*shape)
    weight = layer.weight.detach().clone()
    config = OFTConfig(oft_block_size=4, target_modules=["0"], block_share=shared, use_cayley_neumann=False)
    tuned = get_peft_model(torch.nn.Sequential(layer), config).base_model.model[0]
    rotation = tuned.oft_R["default"]
    torch.nn.init.normal_(rotation.weight, std=0.3)
    blocks = rotation._cayley_batch(rotation.weight, 4, use_cayley_neumann=False).detach()
    assert (len(blocks) == 1) == shared
    change = delta(Adapter("oft", {"inputs": blocks}, 0.0, 0, "unet"), weight)
    assert change.norm() > 0.1 * weight.norm()
    tuned.merge(safe_merge=True)
    torch.testing.assert_close(weight + change, tuned.get_base_layer().weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_full_difference_and_a_norm_are_lycoris_with_their_biases():
    for layer, oracle, inputs in ((layer_of(*CONV), FullModule, torch.randn(2, 8, 5, 5)),
                                  (torch.nn.GroupNorm(4, 8), NormModule, torch.randn(2, 8, 5, 5))):
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        module = oracle("m", layer)
        fill(module)
        trained = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        names = ("weight", "bias") if oracle is FullModule else ("w_norm", "b_norm")
        mine = Adapter("full", {"diff": trained[names[0]], "diff_b": trained[names[1]]}, 1.0, 0, "unet")
        merged_weight, merged_bias = weight + trained[names[0]], bias + trained[names[1]]
        module.eval().apply_to()
        expected = module(inputs)
        ours = torch.nn.functional.conv2d(inputs, weight + delta(mine, weight), bias + bias_delta(mine), padding=1) \
            if oracle is FullModule else \
            torch.nn.functional.group_norm(inputs, 4, weight + delta(mine, weight), bias + bias_delta(mine))
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close((weight + delta(mine, weight), bias + bias_delta(mine)), (merged_weight, merged_bias))


@pytest.mark.parametrize("shape", [LINEAR, CONV])
def test_dora_is_pefts(shape):
    torch.manual_seed(0)
    layer = layer_of(*shape)
    weight = layer.weight.detach().clone()
    model = get_peft_model(torch.nn.Sequential(layer), LoraConfig(r=3, lora_alpha=2, target_modules=["0"], use_dora=True))
    tuned = model.base_model.model[0]
    torch.nn.init.normal_(tuned.lora_B["default"].weight, std=0.3)
    magnitude = tuned.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        magnitude.mul_(torch.empty_like(magnitude).uniform_(0.5, 2))
    tensors = {"down": tuned.lora_A["default"].weight.detach(), "up": tuned.lora_B["default"].weight.detach(),
               "dora_scale": magnitude.detach().flatten()}
    change = delta(Adapter("lora", tensors, 2.0, 3, "unet"), weight)
    tuned.merge(safe_merge=True)
    torch.testing.assert_close(weight + change, tuned.get_base_layer().weight.detach(), rtol=1e-5, atol=1e-6)


def test_strengths_of_a_dora_interpolate_from_the_pristine_weight_as_lycoris_multiplier_does_not():
    """dW is that at strength 1 and multiplied: at half strength the weight is half way, whatever else is in the blend."""
    layer = layer_of(*LINEAR)
    module = LoConModule("m", layer, lora_dim=3, alpha=2.0, **DORA)
    fill(module)
    mine, weight = adapter_of(module, 2.0, 3), layer.weight.detach()
    half = weight + 0.5 * delta(mine, weight)
    torch.testing.assert_close(half, (weight + module.get_merged_weight()[0].detach()) / 2)


def test_a_replacement_arrives_and_a_bias_alone_changes_no_weight():
    weight = torch.randn(4, 3)
    target = torch.randn(4, 3)
    torch.testing.assert_close(weight + delta(Adapter("full", {"set": target}, 1.0, 0, "unet"), weight), target)
    alone = Adapter("full", {"diff_b": torch.ones(4).half()}, 1.0, 0, "unet")
    assert not delta(alone, weight).any() and torch.equal(bias_delta(alone), torch.ones(4))
    assert bias_delta(Adapter("full", {"diff": target}, 1.0, 0, "unet")) is None
