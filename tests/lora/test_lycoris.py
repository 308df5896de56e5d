"""Files that lycoris-lora itself saves of a real UNet: with the change we read, each layer answers as lycoris' own does.

Its layers in use are the judge, not its merge: that one (4.1.3) scales LoHa and LoKr twice.
"""

import logging

import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris

from sdlora.lora.formats import reading
from sdlora.lora.math.delta import bias_delta, delta
from tests.lora.nets import shuffled, tiny_text, tiny_unet

ALGORITHMS = {
    "lora": ("lora", {}), "convolutions through a core": ("lora", {"use_tucker": True}), "DoRA": ("lora", {"dora_wd": True}),
    "DoRA by inputs": ("lora", {"dora_wd": True, "wd_on_output": False}), "LoHa": ("loha", {}),
    "LoHa with cores": ("loha", {"use_tucker": True}), "LoHa with DoRA": ("loha", {"dora_wd": True}), "LoKr": ("lokr", {}),
    "LoKr in factors": ("lokr", {"decompose_both": True, "factor": 4, "linear_dim": 1}),
    "LoKr with cores": ("lokr", {"use_tucker": True, "factor": 4, "linear_dim": 1}),
    "LoKr whole": ("lokr", {"full_matrix": True}), "LoKr with DoRA": ("lokr", {"dora_wd": True}),
    "OFT": ("diag-oft", {"constraint": 0.0}), "OFT with a limit": ("diag-oft", {"constraint": 0.001, "rescaled": True}),
    "BOFT": ("boft", {"rescaled": True}), "GLoRA": ("glora", {}), "full": ("full", {}), "IA3": ("ia3", {"preset": "ia3"}),
    "norms": ("lora", {"train_norm": True})}


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    yield
    LycorisNetwork.LORA_PREFIX = "lycoris"


def trained(network):
    """Apply, and give values to all parameters."""
    network.apply_to()
    shuffled(network.parameters())
    return network


def saved(tmp_path, network, dtype=None):
    path = tmp_path / "a.safetensors"
    network.save_weights(str(path), dtype, {})
    return path


def answers(module, adapter):
    """What a pristine layer says with our change on it, and the input it was asked with."""
    size = {torch.nn.Linear: lambda m: (5, m.in_features), torch.nn.Conv2d: lambda m: (2, m.in_channels, 6, 6),
            torch.nn.LayerNorm: lambda m: (5, m.normalized_shape[0]), torch.nn.GroupNorm: lambda m: (2, m.num_channels, 4, 4)}
    asked = torch.randn(size[type(module)](module), generator=torch.Generator().manual_seed(2))
    changed = {"weight": module.weight + delta(adapter, module.weight)}
    if "diff_b" in adapter.tensors:
        changed["bias"] = module.bias + bias_delta(adapter)
    return torch.func.functional_call(module, changed, asked), asked


@pytest.fixture(scope="module")
def pristine():
    return tiny_unet()


@pytest.mark.parametrize(("name", "prefix"), [*((name, "lycoris") for name in ALGORITHMS), ("LoKr", "lora_unet")])
def test_each_layer_answers_as_lycoris_does(tmp_path, pristine, name, prefix):
    algorithm, options = ALGORITHMS[name]
    unet = tiny_unet()
    LycorisNetwork.LORA_PREFIX = prefix
    names = {f"{prefix}_{path.replace('.', '_')}": path for path, _ in unet.named_modules()}
    network = trained(create_lycoris(unet, 1.0, **{"linear_dim": 2, "linear_alpha": 3, "algo": algorithm} | options))
    found = reading.read(saved(tmp_path, network))
    assert found.dialect == {"lycoris": "simpletuner", "lora_unet": "kohya"}[prefix] and found.family in ("mini", "")
    assert {names[lora.lora_name] for lora in network.loras} == set(found.adapters) and len(found.adapters) >= 4
    for lora in network.loras:
        path = names[lora.lora_name]
        ours, asked = answers(pristine.get_submodule(path), found.adapters[path])
        torch.testing.assert_close(ours, lora(asked), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_read_as_they_are(tmp_path, dtype):
    unet = tiny_unet()
    network = trained(create_lycoris(unet, 1.0, linear_dim=2, linear_alpha=1, algo="lokr"))
    adapters = reading.read(saved(tmp_path, network, dtype)).adapters
    names = {f"lycoris_{path.replace('.', '_')}": path for path, _ in unet.named_modules()}
    for lora in network.loras:
        weight = unet.get_submodule(names[lora.lora_name]).weight
        expected = lora.get_weight(weight.shape).detach()
        error = (delta(adapters[names[lora.lora_name]], weight) - expected).norm() / expected.norm()
        assert error < (2e-3 if dtype == torch.float16 else 2e-2)


def test_a_text_encoder_without_its_outer_level_is_found(tmp_path):
    """transformers lost `text_model.` in 5.6, so a LoRA trained on its network has names without it."""
    network = trained(create_lycoris(tiny_text(), 1.0, linear_dim=2, linear_alpha=1, algo="lora", preset="full"))
    found = reading.read(saved(tmp_path, network))
    assert "te1:text_model.encoder.layers.0.self_attn.q_proj" in found.adapters and len(found.adapters) == len(network.loras)
