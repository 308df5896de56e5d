"""Programs that write their settings as one flat JSON object -> settings under the keys of pipeline.Picture.

Knows nothing about files. Sources: Fooocus modules/meta_parser.py, RuinedFooocus, SwarmUI docs/Image Metadata Format.md,
NovelAI's Comment, Easy Diffusion's and TensorArt's chunks, Draw Things' XMP, diffusers demos of the Hub. They differ in the
names of a dozen fields, so one table of names reads them all; what is special to one of them is in `PROGRAMS`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sdlora.draw import samplers
from sdlora.draw.infotext.a1111 import take_tags
from sdlora.draw.infotext.values import (
    MAX_LORAS,
    UNSET,
    Settings,
    as_dict,
    as_hash,
    as_list,
    as_number,
    as_text,
    file_name,
    is_number,
    lora,
    others,
)

Fields = dict[str, Any]  # a JSON object as a program wrote it
KEYS = {  # ours: theirs, the first that is there wins
    "prompt": ("prompt", "Prompt", "positive_prompt", "positivePrompt", "PositivePrompt", "positive", "c"),
    "negative": ("negative_prompt", "negativeprompt", "negativePrompt", "NegativePrompt", "Negative", "Negative Prompt",
                 "negative", "uc"),
    "seed": ("seed", "Seed"),
    "steps": ("steps", "Steps", "num_inference_steps"),
    "guidance": ("guidance_scale", "cfg_scale", "cfgscale", "cfgScale", "CfgScale", "cfg", "scale", "Guidance Scale"),
    "width": ("width", "Width"), "height": ("height", "Height"),
    "init_strength": ("initimagecreativity",),
}
WHOLE = {"seed", "steps", "width", "height"}
SAMPLER = ("sampler_name", "ksamplerName", "samplerName", "sampler", "Sampler")
SCHEDULE = ("scheduler", "schedule", "noise_schedule", "schedulerName", "Scheduler")
MODEL = ("base_model", "base_model_name", "use_stable_diffusion_model", "model", "Model", "ModelName", "baseModel",
         "Base Model")
SIZE = ("resolution", "size", "Resolution")
NOT_OURS = {  # settings that act on a picture and that sdlora does not have: named, not used
    "styles": "styles", "performance": "performance", "refiner_model": "refiner", "refinermodel": "refiner",
    "refinerupscale": "upscaling", "use_upscaler": "upscaling", "use_upscale": "upscaling", "clip_skip": "clip skip",
    "clipSkip": "clip skip", "vae": "VAE", "use_vae_model": "VAE", "use_controlnet_model": "ControlNet",
    "controlnetmodel": "ControlNet", "Styles": "styles", "Performance": "performance", "cfg_rescale": "CFG rescale",
    "variationseed": "variation seed", "sharpness": "sharpness"}
SYNTAX = re.compile(r"<[a-z]{3,20}(?:\[[^\]<>]{0,200}\])?(?::[^<>]{0,1000})?>")  # docs/Features/Prompt Syntax.md
SECTION = re.compile(r"<(?:segment|object|region|refiner|base|video|videoswap|extend|clear)\b[^>]{0,200}>")


def from_flat(fields: Fields) -> Settings | None:
    """Return the settings in a JSON object of one of these programs; None where it has no prompt or fewer than two numbers.

    The program is in "version", where it is known. LoRAs are names and strengths.
    """
    program, read = next(((title, read) for title, is_written_by, read in PROGRAMS if is_written_by(fields)), ("", unchanged))
    fields = read(fields)
    found = {key: value for key, names in KEYS.items() if (value := first_set(fields, names)) is not None}
    if not isinstance(found.get("prompt"), str):
        return None
    found = {key: value if key in ("prompt", "negative") else as_number(value, int if key in WHOLE else float)
             for key, value in found.items()}
    found |= size_of(first_set(fields, SIZE)) if not {"width", "height"} <= found.keys() else {}
    sampler, schedule = as_text(first_set(fields, SAMPLER)), as_text(first_set(fields, SCHEDULE))
    if sampler or schedule:
        found["sampler"] = samplers.title(sampler or schedule, schedule if sampler else "")
    if len({"seed", "steps", "guidance", "sampler"} & {key for key, value in found.items() if value is not None}) < 2:
        return None
    if model := file_name(first_set(fields, MODEL)):
        found["model"] = model
    prompt, tags = take_tags(as_text(found["prompt"]), strict=False)
    loras = loras_of(fields)
    loras += [tag for tag in tags if file_name(tag["name"]) not in {one["name"] for one in loras}]
    found |= {"prompt": prompt, "negative": as_text(found.get("negative")), "loras": loras}
    other = others(fields, NOT_OURS) | fields.get("other", {})
    found = {key: value for key, value in found.items() if value is not None}
    return found | ({"other": other} if other else {}) | ({"version": program} if program else {})


def unchanged(fields: Fields) -> Fields:
    return fields


def swarm(fields: Fields) -> Fields:
    """Read `sui_image_params`; what follows a section mark (`<segment:face>`) is another prompt, for a part of the picture."""
    params = fields["sui_image_params"]
    prompt, _, section = SECTION.sub("\0\\g<0>", as_text(params.get("prompt")), count=1).partition("\0")
    prompt = re.sub(r"\s*<break>\s*", " BREAK ", prompt)
    unknown = [syntax for syntax in SYNTAX.findall(prompt) if not syntax.startswith("<lora:")]
    for syntax in unknown:
        prompt = prompt.replace(syntax, "")
    other = {"prompt section": section, "prompt syntax": " ".join(unknown)}
    hashes = {file_name(model.get("name")): as_text(model.get("hash")).removeprefix("0x")
              for model in map(as_dict, as_list(fields.get("sui_models")))}  # of the tensors, as A1111's of LoRAs
    return params | {"prompt": re.sub(r" {2,}", " ", prompt).strip(), "hashes": hashes,
                     "other": {key: text for key, text in other.items() if text}}


def novelai(fields: Fields) -> Fields:
    """Write NovelAI's braces and `1.2::words::` in our grammar; version 4's prompts for single characters follow, one a line."""
    negated: list[str] = []

    def whole_prompt(key: str, base: object) -> str:
        caption = as_dict(as_dict(fields.get(key)).get("caption"))
        characters = [as_text(one.get("char_caption")) for one in map(as_dict, as_list(caption.get("char_captions")))]
        return "\n".join(filter(None, (novelai_weights(text, negated) for text in [as_text(base), *characters])))

    from_picture = fields.get("request_type") == "Img2ImgRequest" or ("noise" in fields and "request_type" not in fields)
    strength = {"initimagecreativity": fields["strength"]} if from_picture and "strength" in fields else {}
    texts = {"prompt": whole_prompt("v4_prompt", fields.get("prompt")),
             "uc": whole_prompt("v4_negative_prompt", fields.get("uc"))}
    return fields | strength | texts | ({"other": {"weights below 0": "; ".join(negated)}} if negated else {})


def novelai_weights(text: str, negated: list[str]) -> str:
    """Return a prompt of NovelAI in our grammar.

    `{word}` is x 1.05 and `[word]` / 1.05 there, `1.2::words::` a number, and round brackets are plain characters. Words with
    a number below 0, which sdlora does not have, are added to `negated`.
    """
    def weighted(inside: str, weight: float) -> str:
        if weight < 0:
            negated.append(f"{inside.strip()} ({weight:g})")
        return f"({inside}:{min(weight, 10):.3g})" if weight >= 0 else ""

    text = re.sub(r"([()])", r"\\\1", text)
    text = re.sub(r"(?<![\w.])(-?\d{1,3}(?:\.\d{0,4})?|-?\.\d{1,4})::(.{0,2000}?)(?:::|$)",
                  lambda found: weighted(found[2], float(found[1])), text, flags=re.S)
    for opening, closing, factor in ((r"\{", r"\}", 1.05), (r"\[", r"\]", 1 / 1.05)):
        pattern = rf"({opening}{{1,12}})([^{{}}\[\]]{{1,2000}}?)({closing}{{1,12}})"
        before = None
        while before != text:
            before = text
            text = re.sub(pattern, lambda part, factor=factor: weighted(part[2], factor ** min(len(part[1]), len(part[3]))), text)
    return re.sub(r"(, ?){2,}", ", ", text).strip(", ") if negated else text


def draw_things(fields: Fields) -> Fields:
    strength = fields.get("strength", 0)
    return fields | ({"initimagecreativity": strength} if is_number(strength) and 0 < strength < 1 else {})


def easy_diffusion(fields: Fields) -> Fields:
    from_picture = "init_image" in fields and "prompt_strength" in fields
    return fields | ({"initimagecreativity": fields["prompt_strength"]} if from_picture else {})


def tensor_art(fields: Fields) -> Fields:
    """Read settings whose model is an object; a seed of -1 was random and is not written."""
    base = fields.get("baseModel")
    seed = {} if as_number(fields.get("seed"), int) == -1 else {"seed": fields.get("seed")}
    model = {"model": base.get("modelFileName")} if isinstance(base, dict) else {}
    return {key: value for key, value in fields.items() if key not in ("baseModel", "seed")} | seed | model


Program = tuple[str, Callable[[Fields], bool], Callable[[Fields], Fields]]
PROGRAMS: tuple[Program, ...] = (
    ("SwarmUI", lambda fields: isinstance(fields.get("sui_image_params"), dict), swarm),
    ("NovelAI", lambda fields: "uc" in fields and bool({"scale", "noise_schedule", "v4_prompt"} & fields.keys())
     and "c" not in fields, novelai),
    ("Draw Things", lambda fields: "c" in fields and "sampler" in fields, draw_things),
    ("RuinedFooocus", lambda fields: fields.get("software") == "RuinedFooocus" or "base_model_name" in fields, unchanged),
    ("Fooocus", lambda fields: bool({"metadata_scheme", "full_prompt", "base_model", "performance", "Performance"}
                                    & fields.keys()) or "styles" in fields and "resolution" in fields, unchanged),
    ("Easy Diffusion", lambda fields: "use_stable_diffusion_model" in fields, easy_diffusion),
    ("TensorArt", lambda fields: "ksamplerName" in fields or "sdVae" in fields, tensor_art),
)


def loras_of(fields: Fields) -> list[Settings]:
    """Return the LoRAs under any of the names these programs have for them; those named twice are one."""
    listed = [*names_with_weights(fields, "loras", "loraweights"), *names_with_weights(fields, "use_lora_model", "lora_alpha"),
              *names_with_weights(fields, "lora", ""), *fooocus_loras(fields)]
    listed += [(model.get("modelFileName") or model.get("label"), model.get("weight", 1.0))
               for model in map(as_dict, as_list(fields.get("models"))) if str(model.get("type")).upper() == "LORA"]
    text_strengths = [as_number(value, float) for value in as_list(fields.get("loratencweights"))]
    hashes = as_dict(fields.get("hashes"))
    found: dict[str, Settings] = {}
    for place, (name, strength, *rest) in enumerate(listed[:MAX_LORAS]):
        name = file_name(name)
        if name and name not in found:
            hash_ = as_hash(as_text(rest[0] if rest else hashes.get(name)))
            text_strength = text_strengths[place] if place < len(text_strengths) else None
            found[name] = lora(name, as_number(strength, float), text_strength, hash_)
    return list(found.values())


def names_with_weights(fields: Fields, key: str, weights_key: str) -> Iterable[tuple]:
    """Yield (name, weight[, hash]) of a field.

    It is ["a", "b"] with ["0.8", "1"] beside it, [["a", 0.8, "hash"]], [{"name": "a", "weight": 0.8}], or "a,b" with "0.8,1".
    """
    names, weights = as_list(fields.get(key)), as_list(fields.get(weights_key))
    for place, one in enumerate(names):
        if isinstance(one, str):
            yield one, weights[place] if place < len(weights) else 1.0
        elif isinstance(one, dict):
            about = next((one[name] for name in ("name", "model", "lora", "lora_name", "file") if one.get(name)), "")
            yield about, next((one[name] for name in ("weight", "strength", "model_weight") if name in one), 1.0)
        elif isinstance(one, list):
            texts = [part for part in one if isinstance(part, str)]
            strengths = [part for part in one if is_number(part)]
            if texts and strengths:
                yield texts[0], strengths[0], *texts[1:2]


def fooocus_loras(fields: Fields) -> Iterable[tuple]:
    """Yield (name, weight) of {"lora_combined_1": "name : 0.5"}, at first "LoRA 1", later "True : name : 0.5"."""
    for key, value in fields.items():
        if key.startswith(("lora_combined_", "LoRA ")) and isinstance(value, str):
            parts = value.split(" : ")
            if len(parts) > 1 and parts[0] != "False":
                yield parts[-2], parts[-1]


def first_set(fields: Fields, names: Sequence[str]) -> Any:
    """Return the first of these that is set; "" where one of them is an empty text, None where there is none."""
    for name in names:
        if fields.get(name) is not None and str(fields[name]).strip().lower() not in UNSET:
            return fields[name]
    return "" if any(isinstance(fields.get(name), str) for name in names) else None


def size_of(text: object) -> dict[str, int]:
    """Read "(896, 1152)", [896, 1152], "1024 x 1024", "512x768" or "896×1152 ∣ 7:9"."""
    text = "x".join(map(str, text[:2])) if isinstance(text, list) else text
    found = re.match(r"\D{0,2}(\d{1,5})\s{0,3}[,x×*]\s{0,3}(\d{1,5})", as_text(text))
    return {"width": int(found[1]), "height": int(found[2])} if found else {}
