"""What a file is that is no LoRA of Stable Diffusion: told by name and refused. Knows nothing about tensors' values."""

import re
from collections.abc import Iterable

from sdlora.errors import UserError
from sdlora.lora.dialects import Spelled
from sdlora.lora.leaves import leaf_of

# Searched in module names as they are and with "." written as "_", so that one pattern serves kohya, PEFT, diffusers and
# ComfyUI; the first that matches any name of a file wins. After diffusers' loaders/lora_conversion_utils.py, musubi-tuner and
# the models' own code.
MODELS = tuple((re.compile(pattern), title) for pattern, title in (
    (r"motion_modules", "AnimateDiff (a motion LoRA)"),
    (r"lora_prior_|lora_decoder_|down_blocks_\d+_\d+_(attention|mapper)", "Stable Cascade or another model with a prior"),
    (r"double_stream_modulation|single_stream_modulation|to_qkv_mlp_proj", "Flux.2"),
    (r"(content_)?mode_blocks_", "Flux.3"),
    (r"distilled_guidance_layer", "Chroma"),
    (r"double_stream_blocks|single_stream_blocks", "HiDream"),
    (r"double_blocks_(19|[2-9]\d)_|single_blocks_(3[89]|[4-9]\d)_|_mod_linear|txt_in_individual_token_refiner",
     "Hunyuan Video or Hunyuan Image"),
    (r"double_blocks_|single_blocks_", "Flux or Hunyuan"),
    (r"joint_transformer_blocks", "AuraFlow"),
    (r"context_embedder_token_refiner", "Hunyuan Video or Hunyuan Image"),
    (r"single_transformer_blocks_", "Flux"),
    (r"transformer_blocks_\d+_(img_mlp|txt_mlp|img_mod|txt_mod)", "Qwen-Image"),
    (r"joint_blocks|lora_sd3|lora_te3|text_encoder_3_", "Stable Diffusion 3"),
    (r"(?<!single_)transformer_blocks_(3[89]|[45]\d)_attn_(to|add)_", "Qwen-Image or Hunyuan Video 1.5"),  # SD 3.5 has 38 blocks
    (r"transformer_blocks_\d+_(ff_context|norm1_context)", "Stable Diffusion 3 or Flux"),
    (r"transformer_blocks_\d+_attn_(add_[qkv]_proj|to_add_out)", "Qwen-Image, Stable Diffusion 3 or Flux"),
    (r"txtfusion|text_fusion_|blocks_\d+_attn_(w[qkvo]|gate)\b|transformer_blocks_\d+_(attn_to_gate|ff_gate)", "Krea 2"),
    (r"llm_adapter_|text_conditioner_", "Anima"),
    (r"blocks_\d+_((self|cross)_attn_(q|k|v|output)_proj|adaln_modulation_|mlp_layer[12])", "Anima or Cosmos"),
    (r"blocks_\d+_((self|cross)_attn_([qkvo]|k_img|v_img)\b|ffn_)", "Wan"),
    (r"(^|\.)blocks\.\d+\.attn[12]\.(to_|add_)|lora_unet_blocks_\d+_attn[12]_to_", "Wan"),
    (r"(noise|context)_refiner_|layers_\d+_attention_(to_[qkv]|to_out|qkv|out|o)\b|layers_\d+_adaLN_modulation",
     "Z-Image, Lumina or Ideogram"),
    (r"layers_\d+_feed_forward_(w[123]|linear_[123])\b(?!.*base_model)", "Z-Image, Lumina or Ideogram"),
    (r"blocks_\d+_attn_(qkv|out)_proj|blocks_\d+_mlp_fc[12]", "MiniMax"),
    (r"blocks_\d+_attn[12]_(Wqkv|q_proj|kv_proj|out_proj)", "Hunyuan-DiT"),
    (r"transformer_blocks_\d+_audio_|patchify_proj|audio_to_video_attn", "LTX Video"),
    (r"conv_inverted|linear_attn_", "Sana"),
    (r"caption_projection_|adaln_single_", "PixArt or LTX Video"),
    (r"transformer_h_\d+_|\bh_\d+_(attn_c_|mlp_c_|self_attention)", "a language model (GPT-2 or a relative)"),
    (r"gpt_neox_|\bwte\b|embed_in", "a language model (GPT-NeoX)"),
    (r"distilbert_|transformer_layer_\d+_(attention_[qkv]_lin|ffn_lin)", "a language model (DistilBERT)"),
    (r"(bert|roberta|electra|deberta|albert)\w*_encoder_|encoder_layer_\d+_attention_(self|output)_",
     "a language model (BERT or a relative)"),
    (r"(encoder|decoder)_block_\d+_layer_\d+_", "a language model (T5)"),
    (r"(visual|text)_transformer_blocks_", "Kandinsky 5"),
    (r"vision_(tower|model)_|visual_|\bvit_|vit_encoder_", "a model that reads pictures"),
    (r"model_(encoder|decoder)_layers_\d+_(self_attn|encoder_attn)_", "a speech or translation model"),
    (r"layers_\d+_(self_attn_([qkvo]_proj|qkv_proj)|mlp_(gate|up|down|gate_up)_proj|block_sparse_moe)",
     "a language model (Llama, Mistral, Qwen or a relative)"),
    (r"layers_\d+_(mixer|ssm)_", "a language model (Mamba)"),
    (r"transformer_blocks_\d+_attn_to_", "Qwen-Image, SD 3, Flux or another model with a transformer"),
    (r"transformer_blocks_\d+_attn[12]_to_", "a model with a transformer (CogVideoX, PixArt, LTX Video or the like)"),
))
NO_LORA = (
    (("ip_adapter.", "image_proj."), "an IP-Adapter"),
    (("control_model.", "controlnet_", "input_hint_block"), "a ControlNet"),
    (("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner."), "a whole base model"),
    (("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"), "a whole UNet"),
    (("encoder.down", "decoder.up", "decoder.mid", "post_quant_conv"), "a VAE"),
    (("text_model.",), "a whole text encoder"),
    (("emb_params", "string_to_param", "clip_l", "clip_g", "<"), "a textual inversion embedding"))
CHOOSE = "Choose a LoRA for Stable Diffusion 1.x, 2.x or XL."


def refuse(name: str, tensors: Iterable[str], names: Spelled) -> None:
    """Raises UserError for kinds that sdlora does not read, LoRAs of other models, and files that hold no LoRA at all."""
    if names.kinds:
        kinds = " and ".join(sorted(set(names.kinds.values())))
        raise UserError(f"{name} is of the kind {kinds}, which sdlora does not read.",
                        "Use another file of it, or convert it to a LoRA where it was made.")
    strangers = [leaf.module for key in names.unknown
                 if (leaf := leaf_of(key)) and leaf.module and leaf.part not in ("alpha", "scale", "rescale")]  # of norms too
    strangers += [path for path in names.modules if "motion_modules" in path]
    if strangers and not any(":" not in path and "motion_modules" not in path for path in names.modules):
        title = model_of(strangers)
        raise UserError(f"{name} is a LoRA for {title}, not for Stable Diffusion 1.x, 2.x or XL." if title else
                        f"{name} is a LoRA for a model that sdlora does not know: it changes {strangers[0][:80]!r}.", CHOOSE)
    if names.modules:
        return
    what = next((what for marks, what in NO_LORA if any(key.startswith(marks) for key in tensors)), None)
    other = None if what else model_of(key.removesuffix(".weight") for key in tensors)
    what = f"a whole model or a part of one ({other})" if other else what
    if what:
        raise UserError(f"{name} is {what}, not a LoRA that sdlora reads.", CHOOSE)
    example = next(iter(tensors))
    raise UserError(f"{name} holds no LoRA: none of its names is known (the first is {example[:80]!r}).", CHOOSE)


def model_of(modules: Iterable[str]) -> str | None:
    """The model whose modules these are (as their LoRA file names them), or None."""
    both = [form for module in modules for form in (module, module.replace(".", "_").replace("-", "_"))]
    return next((title for pattern, title in MODELS if any(pattern.search(form) for form in both)), None)
