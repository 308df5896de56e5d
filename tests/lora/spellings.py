"""One LoRA in every spelling of the field, written by hand: {spelling: (tensors, metadata)}."""

import json
import re

import torch

from sdlora.lora.formats.dialects import to_ldm
from sdlora.lora.formats.module_tables import family_table

RANK, ALPHA = 4, 2.0
OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def halves(family, paths, rank=RANK):
    """{path: (down, up)} with widths of the family."""
    generator, made = torch.Generator().manual_seed(7), {}
    for path in paths:
        out, width, *kernel = family_table(family)[path]
        ones = [1] * len(kernel)
        made[path] = tuple(torch.randn(shape, generator=generator) / 8 for shape in ((rank, width, *kernel), (out, rank, *ones)))
    return made


def kohya(pairs, named, alpha=ALPHA, leaves=("lora_down.weight", "lora_up.weight", "alpha")):
    tensors = {}
    for path, (down, up) in pairs.items():
        tensors |= {named(path) + leaves[0]: down, named(path) + leaves[1]: up}
        if len(leaves) > 2:
            tensors[named(path) + leaves[2]] = torch.tensor(alpha)
    return tensors


def flat(path, text="lora_te", sgm=False, unet="lora_unet"):
    part, colon, rest = path.rpartition(":")
    prefix = (text if part == "te1" else "lora_te2") if colon else unet
    return f"{prefix}_{(to_ldm(rest) if sgm and not colon else rest).replace('.', '_')}"


def dotted(path, unet="unet.", te1="text_encoder.", te2="text_encoder_2."):
    part, colon, rest = path.rpartition(":")
    return ({"te1": te1, "te2": te2}[part] if colon else unet) + rest


def processors(path, prefix):
    """D1 and D2: only attention has names there."""
    path = dotted(path, prefix)
    owner, _, last = path.removesuffix(".0").rpartition(".")
    return f"{owner}.{OLD_TEXT[last]}_lora." if "self_attn" in path else f"{owner}.processor.{last}_lora."


def told(pairs, prefixes):
    """The header in which diffusers keeps alpha. (PEFT matches the ends of names, and newer CLIP lost `text_model.`.)"""
    targets = [path.rpartition(":")[2].removeprefix("text_model.") for path in pairs]
    fields = {"r": RANK, "lora_alpha": ALPHA, "target_modules": targets, "use_rslora": False, "use_dora": False}
    return {"format": "pt", "lora_adapter_metadata": json.dumps({prefix + key: value for prefix in prefixes
                                                                 for key, value in fields.items()})}


def comfyui(path, clip="clip_l"):
    part, colon, rest = path.rpartition(":")
    if colon:
        return f"text_encoders.{clip if part == 'te1' else 'clip_g'}.transformer.{rest}."
    return f"diffusion_model.{to_ldm(rest)}."


def every_spelling(pairs, family):
    """{spelling: (tensors, metadata, the scale it tells, the pairs it holds)} of one LoRA."""
    peft, lora, linear = ("lora_A.weight", "lora_B.weight"), ("lora.down.weight", "lora.up.weight"), \
        ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")
    named, bare = ("lora_A.style.weight", "lora_B.style.weight"), ("lora_down.weight", "lora_up.weight")
    old, mended = ("down.weight", "up.weight"), ("lora_down_weight", "lora_up_weight", "alpha")
    plain, text = ({path: pair for path, pair in pairs.items() if (":" in path) is of_text} for of_text in (False, True))
    attention = {path: pair for path, pair in pairs.items() if ".attn" in path or "self_attn" in path}
    only_unet = {path: pair for path, pair in attention.items() if ":" not in path}
    te1 = "lora_te1" if family == "sdxl" else "lora_te"
    whole, alone, none, half = told(pairs, ("unet.", "text_encoder.", "text_encoder_2.")), told(pairs, ("",)), {}, ALPHA / RANK

    def twice(path):
        name = flat(path, te1)
        return f"{re.match('[a-z]+_(unet|te[12]?)_', name)[0]}{name}."

    made = {
        "kohya": (kohya(pairs, lambda p: flat(p, te1) + "."), none, half, pairs),
        "kohya, lora_te1": (kohya(pairs, lambda p: flat(p, "lora_te1") + "."), none, half, pairs),
        "kohya, leaves with underscores": (kohya(pairs, lambda p: flat(p, te1) + "_", leaves=mended), none, half, pairs),
        "kohya, prefix twice": (kohya(pairs, twice), none, half, pairs),
        "SimpleTuner": (kohya(plain, lambda p: flat(p, unet="lycoris") + "."), none, half, plain),
        "D1": (kohya(only_unet, lambda p: processors(p, ""), leaves=old), none, 1.0, only_unet),
        "D2": (kohya(attention, lambda p: processors(p, "unet."), leaves=old), none, 1.0, attention),
        "D3": (kohya(plain, lambda p: dotted(p) + ".", leaves=lora) | kohya(text, lambda p: dotted(p) + ".", leaves=linear),
               none, 1.0, pairs),
        "D4": (kohya(pairs, lambda p: dotted(p) + ".", leaves=peft), none, 1.0, pairs),
        "D4 with its header": (kohya(pairs, lambda p: dotted(p) + ".", leaves=peft), whole, half, pairs),
        "D4, flat CLIP": (kohya(pairs, lambda p: dotted(p).replace("encoder.text_model.", "encoder.") + ".", leaves=peft),
                          whole, half, pairs),
        "D4, adapter named": (kohya(pairs, lambda p: dotted(p) + ".", leaves=named), whole, half, pairs),
        "D4, prefix twice": (kohya(pairs, lambda p: dotted(p, "unet.unet.", "text_encoder.text_encoder.") + ".", leaves=peft),
                             whole, half, pairs),
        "D5": (kohya(plain, lambda p: p + ".", leaves=peft), alone, half, plain),
        "D6": (kohya(plain, lambda p: f"base_model.model.{p}.", leaves=peft), alone, half, plain),
        "D6, wrapper twice": (kohya(plain, lambda p: f"base_model.model.base_model.model.{p}.", leaves=peft), alone, half, plain),
        "D6 in a pipeline": (kohya(pairs, lambda p: f"base_model.model.{dotted(p)}.", leaves=peft), whole, half, pairs),
        "dotted kohya leaves": (kohya(pairs, lambda p: dotted(p) + "."), none, half, pairs),
    }
    if family != "mini":                                       # two layers a block: these have sgm names
        sgm = kohya(pairs, lambda p: flat(p, te1, sgm=True) + ".")
        both = {key: torch.zeros_like(value) for key, value in sgm.items() if key.startswith("lora_unet")} | made["kohya"][0]
        made |= {
            "kohya, sgm": (sgm, none, half, pairs), "kohya, both": (both, none, half, pairs),
            "ComfyUI": (kohya(pairs, comfyui, leaves=bare), none, 1.0, pairs),
            "ComfyUI, clip_h": (kohya(pairs, lambda p: comfyui(p, "clip_h"), leaves=bare), none, 1.0, pairs),
            "bare sgm": (kohya(plain, lambda p: to_ldm(p) + "."), none, half, plain),
            "PEFT in ComfyUI": (kohya(pairs, comfyui, leaves=peft), none, 1.0, pairs)}
    return made
