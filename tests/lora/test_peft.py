"""Folders that PEFT itself saves of a real UNet (D6, D7): the weight change we read is the one it merges."""

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftModel, get_peft_model

from sdlora.errors import UserError
from sdlora.lora.formats import reading
from sdlora.lora.math.delta import bias_delta, delta
from tests.lora.nets import shuffled, tiny_text, tiny_unet

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
ATTENTION = ["to_q", "to_k", "to_out.0", "ff.net.0.proj"]
CONVOLUTIONS = ["conv1", "conv_shortcut", "time_emb_proj", *ATTENTION]
CONFIGS = {
    "LoRA": LoraConfig(r=3, lora_alpha=5, target_modules=CONVOLUTIONS),
    "rsLoRA": LoraConfig(r=3, lora_alpha=5, target_modules=ATTENTION, use_rslora=True),
    "LoRA with patterns": LoraConfig(
        r=3, lora_alpha=5, target_modules=CONVOLUTIONS, rank_pattern={"to_k": 2, r"mid_block.*to_q": 4},
        alpha_pattern={"attn1.to_q": 7, r".*\.attn[12]\.to_(k|q)": 2, "^down_blocks.0.resnets.0.conv1": 9, "conv1": 1}),
    "LoRA with a bias": LoraConfig(r=3, lora_alpha=5, target_modules=["to_out.0", "conv1"], lora_bias=True),
    "DoRA": LoraConfig(r=3, lora_alpha=5, target_modules=CONVOLUTIONS, use_dora=True),
    "LoHa": LoHaConfig(r=3, alpha=5, target_modules=CONVOLUTIONS, alpha_pattern={"to_k": 1}),
    "LoHa with cores": LoHaConfig(r=3, alpha=5, target_modules=["conv1"], use_effective_conv2d=True),
    "LoKr": LoKrConfig(r=2, alpha=5, target_modules=CONVOLUTIONS, rank_pattern={"to_k": 1}),
    "LoKr in factors": LoKrConfig(r=1, alpha=5, target_modules=CONVOLUTIONS, decompose_both=True, decompose_factor=4),
    "LoKr whole": LoKrConfig(r=64, alpha=16, target_modules=ATTENTION),
    "LoKr with cores": LoKrConfig(r=1, alpha=5, target_modules=["conv1"], use_effective_conv2d=True),
    "OFT": OFTConfig(r=0, oft_block_size=4, target_modules=ATTENTION),
    "OFT solved for": OFTConfig(r=0, oft_block_size=4, target_modules=CONVOLUTIONS, use_cayley_neumann=False),
    "OFT of three terms": OFTConfig(r=0, oft_block_size=4, target_modules=ATTENTION, num_cayley_neumann_terms=3),
    "OFT of one block for all": OFTConfig(r=0, oft_block_size=4, target_modules=ATTENTION, block_share=True),
    "IA3": IA3Config(target_modules=["to_k", "ff.net.2"], feedforward_modules=["ff.net.2"])}


@pytest.fixture(scope="module")
def pristine():
    return tiny_unet()


def saved(folder, config):
    """PEFT's own reading of what it saved. (It sorts patterns at saving: a reread model may differ from the first.)"""
    model = get_peft_model(tiny_unet(), config)
    shuffled(parameter for name, parameter in model.named_parameters() if parameter.requires_grad)
    model.save_pretrained(folder)
    return PeftModel.from_pretrained(tiny_unet(), folder)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_change_is_what_peft_merges(tmp_path, pristine, name):
    model = saved(tmp_path, CONFIGS[name])
    found = reading.read(tmp_path / "adapter_model.safetensors")
    targeted = set(model.base_model.targeted_module_names)
    assert set(found.adapters) == targeted and len(targeted) > 3
    assert found.dialect == "diffusers" and not found.problems
    merged = dict(model.merge_and_unload().named_modules())
    for path, adapter in found.adapters.items():
        module = pristine.get_submodule(path)
        torch.testing.assert_close(module.weight + delta(adapter, module.weight), merged[path].weight, rtol=1e-4, atol=1e-5)
        if name == "LoRA with a bias":
            torch.testing.assert_close(module.bias + bias_delta(adapter), merged[path].bias)


def test_an_adapter_of_another_name_and_a_text_encoder_alone(tmp_path):
    model = get_peft_model(tiny_text(), LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]), adapter_name="style")
    shuffled(parameter for parameter in model.parameters() if parameter.requires_grad)
    model.save_pretrained(tmp_path)
    found = reading.read(tmp_path / "style" / "adapter_model.safetensors")
    assert list(found.adapters) == ["te1:text_model.encoder.layers.0.self_attn.q_proj"]
    assert found.adapters["te1:text_model.encoder.layers.0.self_attn.q_proj"].alpha == 4.0


def test_without_its_configuration_the_scale_is_one_and_said(tmp_path):
    saved(tmp_path, CONFIGS["LoRA"])
    (tmp_path / "adapter_config.json").unlink()
    found = reading.read(tmp_path / "adapter_model.safetensors")
    assert {adapter.scale for adapter in found.adapters.values()} == {1.0}
    assert any("adapter_config.json" in problem for problem in found.problems)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(.*)*x", r"(\w+)\1", "(?=x)x", "(", "x*" + "y" * 300, "a*b*c*d*"])
def test_a_pattern_made_to_run_for_hours_is_refused(tmp_path, pattern):
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["to_q"])
    config.alpha_pattern = {}
    saved(tmp_path, config)
    told = (tmp_path / "adapter_config.json").read_text()
    escaped = pattern.replace("\\", "\\\\")
    (tmp_path / "adapter_config.json").write_text(told.replace('"alpha_pattern": {}', f'"alpha_pattern": {{"{escaped}": 1}}'))
    with pytest.raises(UserError, match="pattern"):
        reading.read(tmp_path / "adapter_model.safetensors")
