"""LoRAs and weights of other models, in the names that their trainers write: each is called what it is, or unknown."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdlora.errors import UserError
from sdlora.lora.formats import reading

PEFT, KOHYA = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")


def saved(folder, modules, leaves=PEFT, width=8, metadata=None):
    tensors = {}
    for module in modules:
        tensors |= {f"{module}.{leaves[0]}": np.zeros((1, width), np.float16),
                    f"{module}.{leaves[1]}": np.zeros((8, 1), np.float16)}
    save_file(tensors, folder / "a.safetensors", metadata)
    return folder / "a.safetensors"


def spellings(*dotted):
    """The three spellings of modules named as in diffusers or in the model's own source."""
    return [([f"lora_unet_{path.replace('.', '_')}" for path in dotted], KOHYA),
            ([f"base_model.model.{path}" for path in dotted], PEFT), ([f"transformer.{path}" for path in dotted], PEFT),
            ([f"diffusion_model.{path}" for path in dotted], KOHYA), ([*dotted], PEFT)]


DRAWING = [  # (what it is, width of its attention, modules)
    ("Wan", 5120, ["blocks.0.self_attn.q", "blocks.3.ffn.0"]), ("Wan", 1536, ["blocks.11.attn2.to_out.0"]),
    ("Wan", 5120, ["blocks.0.cross_attn.k_img"]), ("Qwen-Image", 3072, ["transformer_blocks.7.img_mlp.net.2"]),
    ("Qwen-Image", 3072, ["transformer_blocks.59.attn.add_q_proj"]), ("Z-Image", 3840, ["layers.4.attention.to_k"]),
    ("Z-Image", 3840, ["noise_refiner.1.attention.qkv"]), ("Lumina", 2304, ["layers.2.attention.qkv"]),
    ("Lumina", 2304, ["layers.2.attn.to_q", "layers.2.feed_forward.linear_1"]),
    ("Anima", 2048, ["llm_adapter.blocks.0.self_attn.q_proj", "blocks.1.mlp.layer1"]),
    ("Anima or Cosmos", 2048, ["blocks.1.cross_attn.output_proj"]), ("Cosmos", 4096, ["transformer_blocks.0.norm2.linear_1"]),
    ("Krea 2", 6144, ["blocks.5.attn.wq"]), ("Krea 2", 6144, ["txtfusion.refiner_blocks.0.mlp.down"]),
    ("Krea 2", 6144, ["transformer_blocks.2.attn.to_gate"]), ("HunyuanVideo", 3072, ["double_blocks.19.img_attn.qkv"]),
    ("HunyuanVideo", 3072, ["single_blocks.4.modulation.linear"]), ("HunyuanImage", 3584, ["double_blocks.3.txt_attn.proj"]),
    ("HunyuanDiT", 1408, ["blocks.0.attn1.Wqkv"]), ("Flux", 3072, ["double_blocks.2.txt_attn.proj"]),
    ("Flux", 3072, ["single_transformer_blocks.30.proj_mlp"]), ("Flux.2", 6144, ["double_blocks.2.img_attn.qkv"]),
    ("Flux.2", 6144, ["single_transformer_blocks.1.attn.to_qkv_mlp_proj"]),
    ("Chroma", 3072, ["distilled_guidance_layer.in_proj"]),
    ("Stable Diffusion 3", 1536, ["transformer_blocks.9.attn.to_k"]),
    ("Stable Diffusion 3", 2432, ["joint_blocks.1.x_block.attn.qkv"]),
    ("LTX-Video", 2048, ["transformer_blocks.0.attn2.to_v"]), ("LTX-2", 4096, ["transformer_blocks.0.audio_attn1.to_v"]),
    ("PixArt", 1152, ["transformer_blocks.0.attn1.to_q"]), ("AuraFlow", 3072, ["joint_transformer_blocks.1.attn.to_q"]),
    ("HiDream", 2560, ["double_stream_blocks.1.block.attn1.to_q"]), ("Sana", 2240, ["transformer_blocks.3.attn1.to_out.0"]),
    ("CogVideoX", 1920, ["transformer_blocks.3.attn1.to_k", "time_embedding.linear_1"]),
    ("Stable Cascade", 2048, ["down_blocks.0.11.attention.attn.to_q"]), ("Kandinsky 5", 8, ["visual_transformer_blocks.0.x"]),
    ("AnimateDiff", 320, ["down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q"])]
READING = [
    ("GPT-2", ["transformer.h.0.attn.c_attn", "transformer.h.11.mlp.c_proj"]), ("GPT-2", ["gpt_neox.layers.2.attention.dense"]),
    ("DistilBERT", ["distilbert.transformer.layer.5.attention.q_lin"]), ("Llama", ["model.layers.31.self_attn.q_proj"]),
    ("Mistral", ["model.layers.0.mlp.gate_proj"]), ("Qwen", ["model.language_model.layers.0.self_attn.o_proj"]),
    ("BERT", ["bert.encoder.layer.0.attention.self.query"]), ("T5", ["encoder.block.3.layer.0.SelfAttention.v"]),
    ("Whisper", ["model.decoder.layers.0.encoder_attn.v_proj"]),
    ("looks at pictures", ["vit.encoder.layer.0.attention.attention.key"]),
    ("Mamba", ["backbone.layers.1.mixer.in_proj"])]


@pytest.mark.parametrize(("title", "width", "modules"), DRAWING, ids=[f"{row[0]} {row[2][0]}" for row in DRAWING])
def test_a_lora_of_another_model_that_draws_is_named_in_every_spelling(tmp_path, title, width, modules):
    for names, leaves in spellings(*modules):
        with pytest.raises(UserError, match=rf"a LoRA for .*{title}.*not for Stable Diffusion 1.x") as caught:
            reading.read(saved(tmp_path, names, leaves, width))
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("title", "modules"), READING, ids=[row[1][0] for row in READING])
def test_a_lora_of_a_language_model_is_never_called_one_that_draws(tmp_path, title, modules):
    for prefix in ("base_model.model.", ""):
        with pytest.raises(UserError, match=f"a LoRA for .*{title}"):
            reading.read(saved(tmp_path, [prefix + path for path in modules]))


def test_what_nobody_knows_is_said_to_be_unknown_with_what_the_file_claims(tmp_path):
    for names, leaves in spellings("stages.0.mixers.1.dense"):
        with pytest.raises(UserError, match="a LoRA for a model that sdlora does not know, not for"):
            reading.read(saved(tmp_path, names, leaves))
    with pytest.raises(UserError, match=r"does not know \(it says painter-9/lora\)"):
        reading.read(saved(tmp_path, names, leaves, metadata={"modelspec.architecture": "painter-9/lora"}))
    with pytest.raises(UserError, match="a model that sdlora does not know"):
        reading.read(saved(tmp_path, ["stages.0.mixers.1.dense"], ("hada_w1_a", "hada_w1_b")))


def test_whole_models_are_no_lora(tmp_path):
    for names, says in ((["double_blocks.0.img_attn.qkv.weight", "double_blocks.0.img_attn.norm.key_norm.scale"], "model .Flux"),
                        (["model.diffusion_model.blocks.0.self_attn.q.weight"], "model .Wan"),
                        (["model.diffusion_model.input_blocks.0.0.weight"], "base model, not a LoRA.*--base.*sdlora extract"),
                        (["model.layers.0.self_attn.q_proj.weight"], "model .a language model such as Llama")):
        save_file({name: np.zeros((8, 8), np.float16) for name in names}, tmp_path / "a.safetensors")
        with pytest.raises(UserError, match=f"is a whole {says}"):
            reading.read(tmp_path / "a.safetensors")


OF_KOHYA, OF_PEFT = (".lora_down.weight", ".lora_up.weight"), (".lora_A.weight", ".lora_B.weight")
FILES = [
    ("lora_unet_double_blocks_0_img_attn_proj", OF_KOHYA, "Flux"),
    ("transformer.single_transformer_blocks.0.attn.to_q", OF_PEFT, "Flux"),
    ("lora_transformer_single_transformer_blocks_7_proj_mlp", OF_KOHYA, "Flux"),
    ("lora_unet_double_blocks_19_img_mod_linear", OF_KOHYA, "Hunyuan"),
    ("transformer.context_embedder.token_refiner.refiner_blocks.0.attn.to_q", OF_PEFT, "Hunyuan"),
    ("transformer.single_transformer_blocks.3.attn.to_qkv_mlp_proj", OF_PEFT, r"Flux\.2"),
    ("diffusion_model.distilled_guidance_layer.layers.0.in_layer", OF_PEFT, "Chroma"),
    ("lora_unet_joint_blocks_0_context_block_attn_qkv", OF_KOHYA, "Stable Diffusion 3"),
    ("transformer.transformer_blocks.0.attn.add_k_proj", OF_PEFT, "SD 3"),
    ("lora_unet_transformer_blocks_0_img_mlp_net_0_proj", OF_KOHYA, "Qwen-Image"),
    ("transformer.transformer_blocks.11.img_mod.1", OF_PEFT, "Qwen-Image"),
    ("lora_unet_blocks_0_self_attn_q", OF_KOHYA, "Wan"),
    ("diffusion_model.blocks.0.cross_attn.k_img", OF_PEFT, "Wan"),
    ("blocks.0.ffn.2", (".lora_A.default.weight", ".lora_B.default.weight"), "Wan"),
    ("transformer.blocks.12.attn2.to_k", OF_PEFT, "Wan"),
    ("lora_unet_blocks_3_self_attn_q_proj", OF_KOHYA, "Anima"),
    ("diffusion_model.llm_adapter.blocks.0.cross_attn.q_proj", OF_PEFT, "Anima"),
    ("lora_unet_llm_adapter_blocks_0_mlp_0", OF_KOHYA, "Anima"),
    ("diffusion_model.blocks.0.attn.wq", OF_PEFT, "Krea"),
    ("base_model.model.txtfusion.refiner_blocks.0.attn.wo", OF_PEFT, "Krea"),
    ("transformer.transformer_blocks.3.attn.to_gate", OF_PEFT, "Krea"),
    ("lora_unet_layers_0_attention_qkv", OF_KOHYA, "Z-Image"),
    ("diffusion_model.noise_refiner.0.attention.to_out.0", OF_PEFT, "Z-Image"),
    ("lora_unet_blocks_0_attn1_Wqkv", OF_KOHYA, "Hunyuan"),
    ("transformer.transformer_blocks.0.attn1.to_q", OF_PEFT, "transformer"),
    ("base_model.model.transformer.h.0.attn.c_attn", OF_PEFT, "GPT-2"),
    ("base_model.model.distilbert.transformer.layer.0.attention.q_lin", OF_PEFT, "DistilBERT"),
    ("base_model.model.model.layers.0.self_attn.q_proj", OF_PEFT, "Llama"),
    ("base_model.model.model.layers.31.mlp.gate_proj", OF_PEFT, "Llama"),
    ("model.layers.0.self_attn.qkv_proj", OF_PEFT, "language model"),
    ("base_model.model.bert.encoder.layer.0.attention.self.query", OF_PEFT, "BERT"),
    ("base_model.model.encoder.block.0.layer.0.SelfAttention.q", OF_PEFT, "T5"),
    ("base_model.model.gpt_neox.layers.0.attention.query_key_value", OF_PEFT, "GPT-2"),
    ("lora_prior_unet_down_blocks_0_1_attention_to_q", OF_KOHYA, "Cascade"),
    ("down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q", OF_PEFT, "AnimateDiff"),
]
UNKNOWN = [("lora_unet_towers_0_mixer_gate", OF_KOHYA), ("base_model.model.net.stem.lin", OF_PEFT), ("my.own.layer", OF_KOHYA)]


@pytest.mark.parametrize(("module", "leaves", "says"), FILES, ids=[module for module, _, _ in FILES])
def test_one_module_names_the_model(tmp_path, module, leaves, says):
    save_file({module + leaf: np.ones((4, 4), np.float16) for leaf in leaves}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=rf"is a LoRA for .*{says}"):
        reading.read(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("module", "leaves"), UNKNOWN)
def test_one_module_of_an_unknown_model_is_a_lora_all_the_same(tmp_path, module, leaves):
    save_file({module + leaf: np.ones((4, 4), np.float16) for leaf in leaves}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="a LoRA for a model that sdlora does not know"):
        reading.read(tmp_path / "x.safetensors")


def test_the_language_model_beside_a_model_that_draws_does_not_name_the_file(tmp_path):
    for text, own in (("text_encoder.encoder.block.0.layer.0.SelfAttention.q", "transformer.transformer_blocks.0.attn1.to_q"),
                      ("lora_te_encoder_block_0_layer_0_SelfAttention_q", "lora_unet_transformer_blocks_0_attn1_to_q"),
                      ("text_encoder.model.layers.0.self_attn.q_proj", "transformer.transformer_blocks.0.attn1.to_q")):
        with pytest.raises(UserError, match="a LoRA for PixArt"):
            reading.read(saved(tmp_path, [text, own], KOHYA, 1152))


@pytest.mark.parametrize(("names", "says"), [
    (["lllite_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.conditioning1.0.weight"], "a ControlNet"),
    (["lora_controlnet", "input_blocks.1.1.proj_in.up"], "a ControlNet"), (["adapter.body.0.in_conv.weight"], "a T2I-Adapter"),
    (["encoder.conv1.weight", "decoder.head.0.gamma"], "a VAE"), (["decoder.conv_in.weight"], "a VAE")])
def test_other_files_of_a_picture_studio_are_called_what_they_are(tmp_path, names, says):
    save_file({name: np.zeros((8, 8), np.float16) for name in names}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=rf"is {says}, not a LoRA"):
        reading.read(tmp_path / "a.safetensors")


def test_an_embedding_may_have_any_name(tmp_path):
    save_file({"my cat": np.zeros((4, 768), np.float16)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="is a textual inversion embedding"):
        reading.read(tmp_path / "a.safetensors")
    for tensors in ({"head.weight": np.zeros((4, 768))}, {"cat": np.zeros((4, 700))},
                    {"a": np.zeros((4, 768)), "b": np.zeros((4, 768))}):
        save_file(tensors, tmp_path / "a.safetensors")
        with pytest.raises(UserError, match="holds no LoRA"):
            reading.read(tmp_path / "a.safetensors")
