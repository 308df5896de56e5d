"""Files that are no LoRA of Stable Diffusion: recognized by their tensor names and refused by name."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from sdlora.errors import UserError
from sdlora.lora.formats.dialects import FileNames
from sdlora.lora.formats.header import Header
from sdlora.lora.formats.kinds import split_suffix
from sdlora.storage import clean_text

UNKNOWN = "a model that sdlora does not know"
FLUX, ZIMAGE, NEXT = "Flux or a model built like it", "Z-Image or a model built like it", "a model like Z-Image or Lumina"
SIX, CROSS = "a model like SD 3, Flux or Qwen-Image", "a model like PixArt, LTX-Video or Sana"
WRAPPERS = re.compile(r"(lora_unet_|lora_transformer_|lycoris_|(model\.)?diffusion_model[._]|base_model\.(model\.)?|"
                      r"transformer\.|unet\.|module\.)+")
# Patterns of module paths by which a model is recognized, with "_" for "." so that the spellings of kohya, PEFT and diffusers
# are one. Taken from the networks of diffusers and transformers and from the models' own sources. The first that occurs decides.
MODELS = tuple((re.compile(rf"(?:^|_)(?:{marks})"), title) for marks, title in (
    (r"(txtfusion|text_fusion)_|blocks_\d+_attn_(wq|wk|wv|wo|gate)$|transformer_blocks_\d+_(attn_to_gate|ff_(gate|up|down))",
     "Krea 2"),
    (r"llm_adapter_", "Anima"),
    (r"blocks_\d+_((self|cross)_attn_(q|k|v|output)_proj|mlp_layer\d|adaln_modulation)", "Anima or Cosmos"),
    (r"blocks_block\d+_blocks_|transformer_blocks_\d+_norm\d_linear_\d|layers_\d+_(self_attn_add_|mlp_moe_gen_)",
     "Cosmos"),
    (r"blocks_\d+_(attn\d_(Wqkv|q_proj|kv_proj|out_proj)|default_modulation|skip_linear)", "HunyuanDiT"),
    (r"\A(vace_)?blocks_\d+_((self|cross)_attn_(q|k|v|o|k_img|v_img)$|ffn_(\d|net)|attn\d_)|\Acondition_embedder_\w+_",
     "Wan"),
    (r"(visual|text)_transformer_blocks_", "Kandinsky 5"),
    (r"transformer_blocks_\d+_(audio_|video_to_audio_)|av_cross_attn_|av_ca_", "LTX-2"),
    (r"transformer_blocks_\d+_(img|txt)_(mod|mlp)_", "Qwen-Image"),
    (r"(double|single)_stream_blocks_", "HiDream"),
    (r"(individual_)?token_refiner_|byt5_in_|(img|txt)_(mlp_fc\d|mod_linear)|single_blocks_\d+_modulation_linear",
     "HunyuanVideo or HunyuanImage"),
    (r"distilled_guidance_layer_", "Chroma"),
    (r"(double|single)_stream_modulation_|blocks_\d+_(attn_to_qkv_mlp_proj|ff(_context)?_linear_(in|out))|time_guidance_embed_",
     "Flux.2"),
    (r"joint_transformer_blocks_|(double|single)_layers_\d+_", "AuraFlow"),
    (r"joint_blocks_|lora_(sd3|te3)_|text_encoder_3_", "Stable Diffusion 3"),
    (r"(prior|decoder)_unet_|(lora_)?(prior|decoder)_(down|up)_blocks_|(down|up)_blocks_\d+_\d+_(attention|channelwise|kv_mapper)",
     "Stable Cascade"),
    (r"(layers|refiner)_\d+_attention_to_", ZIMAGE),
    (r"(layers|refiner)_\d+_(attn_to_|feed_forward_linear_\d)|time_caption_embed_", "Lumina or OmniGen"),
    (r"(layers|refiner)_\d+_(attention_(qkv|out)$|feed_forward_w\d|adaLN_modulation)", NEXT),
    (r"(double|single)_blocks_|single_transformer_blocks_", FLUX),
    (r"layer_\d+_(attention_(q|k|v|out)_lin|ffn_lin)", "the language model DistilBERT"),
    (r"(gpt_neox_|gpt_bigcode_|h_\d+_(attn|mlp|self_attention|crossattention)_)|blocks_\d+_(attn_Wqkv|ffn_(up|down)_proj)",
     "a language model such as GPT-2"),
    (r"layers_\d+_mixer_", "a language model such as Mamba"),
    (r"(encoder|decoder)_block_\d+_layer_\d+_", "a language model such as T5"),
    (r"(vit|dinov\d\w*|beit|deit|swin\w*|vision_model|vision_tower)_", "a model that looks at pictures"),
    (r"model_(encoder|decoder)_layers_\d+_", "a speech or language model such as Whisper"),
    (r"layers_\d+_(self_attn_(q|k|v|o|qkv|out)_proj|mlp_|linear_attn_|block_sparse_moe_)|lm_head|embed_tokens",
     "a language model such as Llama, Mistral or Qwen"),
    (r"(encoder_layers?|albert_layers)_\d+_|(bert|roberta)_", "a language model such as BERT"),
    (r"transformer_blocks_\d+_attn\d_|caption_projection_|adaln_single_", CROSS),
    (r"transformer_blocks_\d+_(attn|ff|norm1)_", SIX),
))
UNETS = (  # the same in paths that look like those of Stable Diffusion's UNet
    (re.compile(r"motion_modules|temporal_transformer_blocks|temp_attentions"), "a video model such as AnimateDiff"),
    (re.compile(r"(down|up)_blocks_\d+_\d+_(attention|channelwise|kv_mapper)"), "Stable Cascade"))
ALIKE = {  # {title: (width of the attention's inputs, the least number that its last double block has, what it then is)}
    FLUX: ((3072, 19, "HunyuanVideo"), (3072, 0, "Flux or a model built like it (Chroma, HunyuanVideo)"),
           (3584, 0, "HunyuanImage"), (6144, 0, "Flux.2")),
    SIX: ((1536, 0, "Stable Diffusion 3"), (2432, 0, "Stable Diffusion 3"), (3072, 20, "Qwen-Image"),
          (3072, 0, "Flux or Qwen-Image"), (3584, 0, "HunyuanImage"), (2048, 0, "HunyuanVideo 1.5"),
          (6144, 0, "Flux.2 or Krea 2")),
    CROSS: ((1152, 0, "PixArt"), (2048, 0, "LTX-Video"), (4096, 0, "LTX-2, Cosmos or CogView 4"), (2240, 0, "Sana"),
            (1920, 0, "CogVideoX"), (2560, 0, "CogView 3")),
    NEXT: ((3840, 0, "Z-Image"), (2304, 0, "Lumina"), (4608, 0, "Ideogram 4")),
    ZIMAGE: ((3840, 0, "Z-Image"), (4608, 0, "Ideogram 4"))}
PAIR = re.compile(r"lora\d?[._]?(a|b|up|down|mid|linear)(?![a-z])", re.IGNORECASE)
BASE = "a whole base model"
NO_LORA = (
    (("ip_adapter.", "image_proj."), "an IP-Adapter"),
    (("control_model.", "controlnet_", "input_hint_block", "lllite_", "lora_controlnet"), "a ControlNet"),
    (("adapter.body.", "body.0.in_conv", "adapter.conv_in"), "a T2I-Adapter"),
    (("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner."), BASE),
    (("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"), "a whole UNet"),
    (("encoder.down", "encoder.conv", "decoder.up", "decoder.mid", "decoder.conv", "post_quant_conv"), "a VAE"),
    (("text_model.",), "a whole text encoder"),
    (("emb_params", "string_to_param", "clip_l", "clip_g", "<"), "a textual inversion embedding"))
UNET_MARKS = ("lora_unet_", "oft_unet_", "lycoris_", "unet.", "diffusion_model.", "base_model.model.", "model.diffusion_model.",
              "transformer.", "lora_transformer_")
TEXT_MARKS = ("lora_te", "text_encoder", "text_encoders.")
BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
EMBEDDED = (768, 1024, 1280)  # widths of the tokens of CLIP-L, OpenCLIP-H and OpenCLIP-G
CHOOSE = "Choose a LoRA for Stable Diffusion 1.x, 2.x or XL."
AS_BASE = "Choose it as the base (--base), and a smaller file as the LoRA. To make a LoRA of it: sdlora extract."


def refuse(name: str, found: Header, names: FileNames) -> None:
    """Raise UserError for kinds that sdlora does not read, LoRAs of other models, and files that hold no LoRA at all."""
    if names.kinds:
        kinds = " and ".join(sorted(set(names.kinds.values())))
        raise UserError(f"{name} is of the kind {kinds}, which sdlora does not read.",
                        "Use another file of it, or convert it to a LoRA where it was made.")
    paths = [path.replace(".", "_") for path in (*names.modules, *names.unknown)]
    other = next((title for path in paths for mark, title in UNETS if mark.search(path)), "")
    if other:
        raise UserError(f"{name} is a LoRA for {other}, not for Stable Diffusion 1.x, 2.x or XL.", CHOOSE)
    pairs = [key for key in names.unknown if is_pair(key)]
    no_unet = not any(path.startswith(BLOCKS) for path in names.modules)
    only_text = all(key.startswith(TEXT_MARKS) for key in pairs)
    main = pairs if only_text else [key for key in pairs if not key.startswith(TEXT_MARKS)]  # not T5 beside PixArt
    title = model_of(main, found) if pairs and no_unet else ""
    of_unet = not only_text and (title or any(key.startswith(UNET_MARKS) for key in pairs))
    if pairs and no_unet and (not names.modules or of_unet):
        title = title or f"{UNKNOWN}{claimed_base(found.metadata)}"
        raise UserError(f"{name} is a LoRA for {title}, not for Stable Diffusion 1.x, 2.x or XL: it changes {pairs[0][:80]!r}.",
                        CHOOSE)
    if names.modules:
        return
    what = next((what for marks, what in NO_LORA if any(key.startswith(marks) for key in found.tensors)), None)
    what = what or embedding(found)
    title = model_of(found.tensors, found) if what in (None, BASE) else ""
    what = f"a whole model ({title})" if title else what
    if what:
        raise UserError(f"{name} is {what}, not a LoRA that sdlora reads.", AS_BASE if what == BASE else CHOOSE)
    example = next(iter(found.tensors))
    raise UserError(f"{name} holds no LoRA: none of its names is known (the first is {example[:80]!r}).", CHOOSE)


def embedding(found: Header) -> str | None:
    """Return what a file is whose only tensor has rows as wide as the tokens of a text encoder; None for others."""
    (name, (_, shape)), *more = found.tensors.items()
    is_one = not more and "." not in name and len(shape) == 2 and shape[0] <= 128 and shape[1] in EMBEDDED
    return "a textual inversion embedding" if is_one else None


def is_pair(key: str) -> bool:
    """Return whether a tensor is a part of a LoRA of any kind, by the end of its name alone."""
    split = split_suffix(key)
    return PAIR.search(key) is not None or split is not None and split.part not in ("alpha", "scale", "rescale")


def model_of(keys: Iterable[str], found: Header) -> str:
    """Return the model whose modules have such names, or "". Widths and numbers of blocks decide between models built alike."""
    paths = {key: path_of(key) for key in keys}
    title = next((title for mark, title in MODELS if any(mark.search(path) for path in paths.values())), "")
    widths = Counter(found.tensors[key][1][1] for key, path in paths.items() if re.search(r"(attn|attention)\d?_", path)
                     and len(found.tensors[key][1]) == 2 and re.search(r"(down|_A)\b", key))
    width = widths.most_common(1)[0][0] if widths else 0
    blocks = [int(match[1]) for path in paths.values()
              if (match := re.search(r"(?:double_blocks|(?<!single_)transformer_blocks)_(\d{1,4})_", path))]
    last = max(blocks, default=0)
    return next((what for side, least, what in ALIKE.get(title, ()) if side == width and last >= least), title)


def path_of(key: str) -> str:
    """Return the path of a tensor's module with "_" for ".", without the prefix of its spelling."""
    split = split_suffix(key)
    path = split.module if split else key.removesuffix(".weight").removesuffix(".bias")
    return WRAPPERS.sub("", path, count=1).replace(".", "_") if WRAPPERS.match(path) else path.replace(".", "_")


def claimed_base(metadata: Mapping[str, str]) -> str:
    """Return the base that the metadata names, in brackets; "" for none and for Stable Diffusion."""
    named = clean_text(metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version", ""), 40)
    return f" (it says {named})" if named and not named.startswith(("sd", "stable-diffusion")) else ""
