"""LoRAs of other models are told by name, whatever program wrote them. The names are those of real files."""

import pytest

from sdlora.errors import UserError
from sdlora.lora import foreign
from sdlora.lora.dialects import spell

KOHYA, PEFT = (".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight")
FILES = [
    ("lora_unet_double_blocks_0_img_attn_proj", KOHYA, "Flux"),
    ("transformer.single_transformer_blocks.0.attn.to_q", PEFT, "Flux"),
    ("lora_transformer_single_transformer_blocks_7_proj_mlp", KOHYA, "Flux"),
    ("lora_unet_double_blocks_19_img_mod_linear", KOHYA, "Hunyuan"),
    ("transformer.context_embedder.token_refiner.refiner_blocks.0.attn.to_q", PEFT, "Hunyuan"),
    ("transformer.single_transformer_blocks.3.attn.to_qkv_mlp_proj", PEFT, r"Flux\.2"),
    ("diffusion_model.distilled_guidance_layer.layers.0.in_layer", PEFT, "Chroma"),
    ("lora_unet_joint_blocks_0_context_block_attn_qkv", KOHYA, "Stable Diffusion 3"),
    ("transformer.transformer_blocks.0.attn.add_k_proj", PEFT, "Stable Diffusion 3"),
    ("lora_unet_transformer_blocks_0_img_mlp_net_0_proj", KOHYA, "Qwen-Image"),
    ("transformer.transformer_blocks.11.img_mod.1", PEFT, "Qwen-Image"),
    ("lora_unet_blocks_0_self_attn_q", KOHYA, "Wan"),
    ("diffusion_model.blocks.0.cross_attn.k_img", PEFT, "Wan"),
    ("blocks.0.ffn.2", (".lora_A.default.weight", ".lora_B.default.weight"), "Wan"),
    ("transformer.blocks.12.attn2.to_k", PEFT, "Wan"),
    ("lora_unet_blocks_3_self_attn_q_proj", KOHYA, "Anima"),
    ("diffusion_model.llm_adapter.blocks.0.cross_attn.q_proj", PEFT, "Anima"),
    ("lora_unet_llm_adapter_blocks_0_mlp_0", KOHYA, "Anima"),
    ("diffusion_model.blocks.0.attn.wq", PEFT, "Krea"),
    ("base_model.model.txtfusion.refiner_blocks.0.attn.wo", PEFT, "Krea"),
    ("transformer.transformer_blocks.3.attn.to_gate", PEFT, "Krea"),
    ("lora_unet_layers_0_attention_qkv", KOHYA, "Z-Image"),
    ("diffusion_model.noise_refiner.0.attention.to_out.0", PEFT, "Z-Image"),
    ("lora_unet_blocks_0_attn1_Wqkv", KOHYA, "Hunyuan"),
    ("transformer.transformer_blocks.0.attn1.to_q", PEFT, "transformer"),
    ("base_model.model.transformer.h.0.attn.c_attn", PEFT, "GPT-2"),
    ("base_model.model.distilbert.transformer.layer.0.attention.q_lin", PEFT, "DistilBERT"),
    ("base_model.model.model.layers.0.self_attn.q_proj", PEFT, "Llama"),
    ("base_model.model.model.layers.31.mlp.gate_proj", PEFT, "Llama"),
    ("model.layers.0.self_attn.qkv_proj", PEFT, "language model"),
    ("base_model.model.bert.encoder.layer.0.attention.self.query", PEFT, "BERT"),
    ("base_model.model.encoder.block.0.layer.0.SelfAttention.q", PEFT, "T5"),
    ("base_model.model.gpt_neox.layers.0.attention.query_key_value", PEFT, "NeoX"),
    ("lora_prior_unet_down_blocks_0_1_attention_to_q", KOHYA, "Cascade"),
    ("down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q", PEFT, "AnimateDiff"),
]
UNKNOWN = [("lora_unet_towers_0_mixer_gate", KOHYA), ("base_model.model.net.stem.lin", PEFT), ("my.own.layer", KOHYA)]


@pytest.mark.parametrize(("module", "leaves", "says"), FILES, ids=[module for module, _, _ in FILES])
def test_the_model_is_named(module, leaves, says):
    names = [module + leaf for leaf in leaves]
    with pytest.raises(UserError, match=rf"is a LoRA for .*{says}"):
        foreign.refuse("x.safetensors", names, spell(names))


@pytest.mark.parametrize(("module", "leaves"), UNKNOWN)
def test_a_lora_of_an_unknown_model_is_a_lora_all_the_same(module, leaves):
    names = [module + leaf for leaf in leaves]
    with pytest.raises(UserError, match="a LoRA for a model that sdlora does not know"):
        foreign.refuse("x.safetensors", names, spell(names))


def test_modules_of_stable_diffusion_are_nobody_elses():
    names = [f"{module}{leaf}" for module in (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "diffusion_model.input_blocks.1.1.proj_in")
        for leaf in KOHYA]
    foreign.refuse("x.safetensors", names, spell(names))


@pytest.mark.parametrize(("module", "title"), [
    ("transformer_blocks.59.attn.add_q_proj", "Qwen-Image or Hunyuan Video 1.5"),
    ("transformer_blocks.4.attn.to_q", "Qwen-Image, SD 3"),
    ("transformer_blocks.7.attn.to_add_out", "Qwen-Image, Stable Diffusion 3 or Flux"),
    ("visual_transformer_blocks.0.cross_attention.to_query", "Kandinsky 5")])
def test_names_that_several_models_have_are_given_to_none_alone(module, title):
    for name in (f"transformer.{module}", f"base_model.model.{module}", module):
        names = [name + leaf for leaf in PEFT]
        with pytest.raises(UserError, match=f"a LoRA for {title}"):
            foreign.refuse("a.safetensors", names, spell(names))


def test_a_whole_model_is_not_called_a_lora_because_its_norms_have_scales():
    names = ["double_blocks.0.img_attn.norm.key_norm.scale", "double_blocks.0.img_attn.qkv.weight"]
    with pytest.raises(UserError, match="a whole model or a part of one .Flux or Hunyuan., not a LoRA"):
        foreign.refuse("a.safetensors", names, spell(names))
