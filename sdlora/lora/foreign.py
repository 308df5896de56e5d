"""What a file is that is no LoRA of Stable Diffusion: told by name and refused. Knows nothing about tensors' values."""

from collections.abc import Iterable

from sdlora.errors import UserError
from sdlora.lora.dialects import Spelled

OTHERS = (  # marks inside names, in this order -> what they give away, even where text-encoder modules were understood
    (("double_blocks", "single_blocks", "single_transformer_blocks"), "a LoRA for Flux"),
    (("joint_blocks", "lora_sd3", "lora_te3", "text_encoder_3."), "a LoRA for Stable Diffusion 3"),
    (("motion_modules",), "a motion LoRA for AnimateDiff"),
    (("lora_prior_", "lora_decoder_"), "a LoRA for another kind of model"),
    (("transformer.", "lora_transformer_", "lycoris_transformer_blocks", "transformer_blocks."),
     "a LoRA for SD 3, Flux or the like"))
NO_LORA = (
    (("ip_adapter.", "image_proj."), "an IP-Adapter"),
    (("control_model.", "controlnet_", "input_hint_block"), "a ControlNet"),
    (("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner."), "a whole base model"),
    (("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"), "a whole UNet"),
    (("encoder.down", "decoder.up", "decoder.mid", "post_quant_conv"), "a VAE"),
    (("text_model.",), "a whole text encoder"),
    (("emb_params", "string_to_param", "clip_l", "clip_g", "<"), "a textual inversion embedding"))
UNET_MARKS = ("lora_unet_", "oft_unet_", "lycoris_", "unet.", "diffusion_model.", "base_model.model.", "model.diffusion_model.")
CHOOSE = "Choose a LoRA for Stable Diffusion 1.x, 2.x or XL."


def refuse(name: str, tensors: Iterable[str], names: Spelled) -> None:
    """Raises UserError for kinds that sdlora does not read, LoRAs of other models, and files that hold no LoRA at all."""
    if names.kinds:
        kinds = " and ".join(sorted(set(names.kinds.values())))
        raise UserError(f"{name} is of the kind {kinds}, which sdlora does not read.",
                        "Use another file of it, or convert it to a LoRA where it was made.")
    other = next((what for marks, what in OTHERS for key in names.unknown if any(mark in key for mark in marks)), None)
    if other and not any(":" not in path for path in names.modules):
        raise UserError(f"{name} is {other}, not for Stable Diffusion 1.x, 2.x or XL.", CHOOSE)
    of_unet = [key for key in names.unknown if key.startswith(UNET_MARKS)]
    if names.modules and of_unet and all(":" in path for path in names.modules):
        raise UserError(f"{name} is a LoRA for another kind of model: it changes {of_unet[0][:80]!r}.", CHOOSE)
    if names.modules:
        return
    what = next((what for marks, what in NO_LORA if any(key.startswith(marks) for key in tensors)), None)
    if what:
        raise UserError(f"{name} is {what}, not a LoRA that sdlora reads.", CHOOSE)
    example = next(iter(tensors))
    raise UserError(f"{name} holds no LoRA: none of its names is known (the first is {example[:80]!r}).", CHOOSE)
