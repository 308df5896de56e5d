"""Our layers against PEFT's: the same adapters must give the same prediction and the same gradients."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model

from sdlora.train.layers import attach

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return UNet2DConditionModel(sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, in_channels=4,
                                out_channels=4, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=4,
                                cross_attention_dim=24)


def given(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    noisy, states = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 5, 24, generator=generator)
    return noisy.to(dtype), torch.tensor([10, 700]), states.to(dtype)


def stirred(network, rank=4, alpha=2.0):
    """An attached copy whose B is not zero."""
    attached = attach(copy.deepcopy(network), rank, alpha, seed=5)
    with torch.no_grad():
        attached.parameters[0].copy_(torch.randn(attached.parameters[0].shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    return attached


def with_peft(network, attached):
    """PEFT's layers on a copy of the network with the adapters of `attached`."""
    theirs = inject_adapter_in_model(LoraConfig(r=attached.rank, lora_alpha=attached.alpha, target_modules=TARGETS),
                                     copy.deepcopy(network))
    parameters = dict(theirs.named_parameters())
    for name, adapter in attached.adapters().items():
        parameters[f"{name}.lora_A.default.weight"].data.copy_(adapter.tensors["down"])
        parameters[f"{name}.lora_B.default.weight"].data.copy_(adapter.tensors["up"])
    return theirs, parameters


def gradients(attached):
    return {f"{name}.lora_{letter}.default.weight": value for name, down, up in attached.factors(attached.parameters[0].grad)
            for letter, value in (("A", down), ("B", up))}


@pytest.mark.parametrize(("rank", "merged"), [(4, True), (4, False), (24, True)], ids=["merged", "separate", "dense gradient"])
def test_prediction_and_gradients_are_those_of_peft(network, rank, merged):
    attached = stirred(network, rank)
    for _, _, processor in attached.processors:
        assert processor.merged
        processor.merged = merged
    theirs, parameters = with_peft(network, attached)
    before = network(*given()).sample
    mine, other = attached.unet(*given()).sample, theirs(*given()).sample
    assert (mine - before).abs().max() > 1e-2
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    for prediction in (mine, other):
        prediction.square().sum().backward()
    found = gradients(attached)
    assert len(found) == sum(parameter.requires_grad for parameter in parameters.values()) > 0
    for name, gradient in found.items():
        assert (gradient - parameters[name].grad).norm() <= 1e-4 * parameters[name].grad.norm(), name


def test_bf16_base_stays_close_to_fp32(network):
    attached = stirred(network)
    exact = attached.unet(*given()).sample
    exact.square().sum().backward()
    low = attach(copy.deepcopy(network).bfloat16(), attached.rank, attached.alpha, seed=5)
    with torch.no_grad():
        low.parameters[0].copy_(attached.parameters[0])
    prediction = low.unet(*given(torch.bfloat16)).sample
    prediction.float().square().sum().backward()
    assert low.parameters[0].grad.dtype == low.parameters[0].dtype == torch.float32
    assert (prediction.float() - exact).norm() < 0.03 * exact.norm()
    assert (low.parameters[0].grad - attached.parameters[0].grad).norm() < 0.1 * attached.parameters[0].grad.norm()


def test_a_new_adapter_changes_nothing_and_detaching_restores_everything(network):
    unet = copy.deepcopy(network)
    before, kept = unet(*given()).sample, {name: value.clone() for name, value in unet.state_dict().items()}
    modules = [type(module) for module in unet.modules()]
    processors = [type(processor) for processor in unet.attn_processors.values()]
    attached = attach(unet, 4, 4.0, seed=1)
    torch.testing.assert_close(unet(*given()).sample, before, rtol=1e-4, atol=1e-5)
    attached.detach()
    assert torch.equal(unet(*given()).sample, before)
    assert [type(module) for module in unet.modules()] == modules
    assert [type(processor) for processor in unet.attn_processors.values()] == processors
    assert unet.state_dict().keys() == kept.keys() and all(torch.equal(unet.state_dict()[name], kept[name]) for name in kept)
    assert not unet._forward_pre_hooks
    storages = {value.untyped_storage().data_ptr() for value in unet.state_dict().values()}
    assert len(storages) == len(kept)


def test_same_seed_same_adapters_in_pefts_range(network):
    first, again, other = (attach(copy.deepcopy(network), 4, 4.0, seed).parameters[0] for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    attached = attach(copy.deepcopy(network), 64, 4.0, 7)
    for adapter in attached.adapters().values():
        down, bound = adapter.tensors["down"], adapter.tensors["down"].shape[1] ** -0.5
        assert 0.95 * bound < down.abs().max() <= bound          # kaiming uniform with a = sqrt(5) is +-1/sqrt(in)
        assert not adapter.tensors["up"].any()


def test_adapters_are_copies_of_the_one_flat_parameter(network):
    attached = stirred(network)
    adapters = attached.adapters()
    assert len(adapters) == sum(name.endswith(tuple(TARGETS)) for name, _ in network.named_modules())
    values = [value for adapter in adapters.values() for value in adapter.tensors.values()]
    assert torch.equal(torch.cat([value.flatten() for value in values]).sort()[0], attached.parameters[0].detach().sort()[0])
    values[0].zero_()
    assert attached.adapters().keys() == adapters.keys() and any(
        not torch.equal(fresh.tensors["down"], adapters[name].tensors["down"]) for name, fresh in attached.adapters().items())


def test_moving_the_network_after_attaching_is_noticed(network):
    attached = stirred(network)
    expected = attached.unet(*given()).sample
    attached.unet.double().float()
    torch.testing.assert_close(attached.unet(*given()).sample, expected, rtol=1e-4, atol=1e-5)


def test_a_network_without_attention_is_refused():
    with pytest.raises(ValueError, match="no attention"):
        attach(torch.nn.Linear(2, 2), 4, 4.0, 1)
