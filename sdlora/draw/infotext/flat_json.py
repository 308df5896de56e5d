"""Programs that write their settings as one flat JSON object -> settings under the keys of pipeline.Picture.

Knows nothing about files. Sources: Fooocus modules/meta_parser.py, RuinedFooocus, SwarmUI docs/Image Metadata Format.md,
NovelAI's Comment, Easy Diffusion's and TensorArt's chunks, Draw Things' XMP, diffusers demos of the Hub. They differ in the
names of a dozen fields, so one table of names reads them all; what they alone have is told apart by `FLAVOURS`.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import PureWindowsPath

from sdlora.draw import samplers
from sdlora.draw.infotext.a1111 import MAX_LETTERS, MAX_TAGS, number, take_tags

NOTHING = {"", "none", "null", "undefined", "unknown"}  # what programs write where a setting is not set
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
NOT_OURS = {  # their settings that act on a picture and that sdlora has not: named, not used
    "styles": "styles", "performance": "performance", "refiner_model": "refiner", "refinermodel": "refiner",
    "refinerupscale": "upscaling", "use_upscaler": "upscaling", "use_upscale": "upscaling", "clip_skip": "clip skip",
    "clipSkip": "clip skip", "vae": "VAE", "use_vae_model": "VAE", "use_controlnet_model": "ControlNet",
    "controlnetmodel": "ControlNet", "Styles": "styles", "Performance": "performance", "cfg_rescale": "CFG rescale",
    "variationseed": "variation seed", "sharpness": "sharpness"}
SYNTAX = re.compile(r"<[a-z]{3,20}(?:\[[^\]<>]{0,200}\])?(?::[^<>]{0,1000})?>")  # docs/Features/Prompt Syntax.md
SECTION = re.compile(r"<(?:segment|object|region|refiner|base|video|videoswap|extend|clear)\b[^>]{0,200}>")


def from_flat(told: dict[str, object]) -> dict[str, object] | None:
    """The settings in a JSON object of one of these programs; None where it tells no prompt or fewer than two numbers.

    The program is found["version"], where it is known. LoRAs are names and strengths.
    """
    program, read = next(((title, read) for title, mark, read in FLAVOURS if mark(told)), ("", plain))
    told = read(told)
    found = {key: value for key, names in KEYS.items() if (value := first(told, names)) is not None}
    if not isinstance(found.get("prompt"), str):
        return None
    found = {key: value if key in ("prompt", "negative") else as_number(value, int if key in WHOLE else float)
             for key, value in found.items()}
    found |= size_of(first(told, SIZE)) if not {"width", "height"} <= found.keys() else {}
    sampler, schedule = words(first(told, SAMPLER)), words(first(told, SCHEDULE))
    if sampler or schedule:
        found["sampler"] = samplers.title(sampler or schedule, schedule if sampler else "")
    if len({"seed", "steps", "guidance", "sampler"} & {key for key, value in found.items() if value is not None}) < 2:
        return None
    if model := file_name(first(told, MODEL)):
        found["model"] = model
    prompt, tags = take_tags(words(found["prompt"]), strict=False)
    loras = loras_of(told)
    loras += [tag for tag in tags if file_name(tag["name"]) not in {lora["name"] for lora in loras}]
    found |= {"prompt": prompt, "negative": words(found.get("negative")), "loras": loras}
    other = {title: brief(told[key]) for key, title in NOT_OURS.items() if brief(told.get(key))} | told.get("other", {})
    found = {key: value for key, value in found.items() if value is not None}
    return found | ({"other": other} if other else {}) | ({"version": program} if program else {})


def plain(told: dict[str, object]) -> dict[str, object]:
    return told


def swarm(told: dict[str, object]) -> dict[str, object]:
    """`sui_image_params`; the words after a section mark (`<segment:face>`) are another prompt, for a part of the picture."""
    params = told["sui_image_params"]
    prompt, mark, section = SECTION.sub("\0\\g<0>", words(params.get("prompt")), count=1).partition("\0")
    prompt = re.sub(r"\s*<break>\s*", " BREAK ", prompt)
    unknown = [found for found in SYNTAX.findall(prompt) if not found.startswith("<lora:")]
    for found in unknown:
        prompt = prompt.replace(found, "")
    other = {"prompt section": section} | {"prompt syntax": " ".join(unknown)}
    hashes = {file_name(one.get("name")): words(one.get("hash")).removeprefix("0x") for one in as_list(told.get("sui_models"))
              if isinstance(one, dict)}  # of the tensors, as A1111's of LoRAs
    return params | {"prompt": re.sub(r" {2,}", " ", prompt).strip(), "hashes": hashes,
                     "other": {key: text for key, text in other.items() if text}}


def novelai(told: dict[str, object]) -> dict[str, object]:
    """NovelAI's braces and `1.2::words::` as ours; the prompts of its version 4 for single characters follow, one a line."""
    avoided: list[str] = []

    def whole(key: str, base: object) -> str:
        caption = told.get(key)
        caption = caption.get("caption") if isinstance(caption, dict) else None
        listed = caption.get("char_captions") if isinstance(caption, dict) else None
        characters = [words(one.get("char_caption")) for one in as_list(listed) if isinstance(one, dict)]
        return "\n".join(filter(None, (novelai_weights(text, avoided) for text in [words(base), *characters])))

    drawn_over = told.get("request_type") == "Img2ImgRequest" or ("noise" in told and "request_type" not in told)
    strength = {"initimagecreativity": told["strength"]} if drawn_over and "strength" in told else {}
    texts = {"prompt": whole("v4_prompt", told.get("prompt")), "uc": whole("v4_negative_prompt", told.get("uc"))}
    return told | strength | texts | ({"other": {"weights below 0": "; ".join(avoided)}} if avoided else {})


def novelai_weights(text: str, avoided: list[str]) -> str:
    """`{word}` is x 1.05 and `[word]` / 1.05 in NovelAI, `1.2::words::` a number, and round brackets are letters.

    Words with a number below 0, which sdlora has not, go to `avoided`.
    """
    def weighted(inside: str, weight: float) -> str:
        if weight < 0:
            avoided.append(f"{inside.strip()} ({weight:g})")
        return f"({inside}:{min(weight, 10):.3g})" if weight >= 0 else ""

    text = re.sub(r"([()])", r"\\\1", text)
    text = re.sub(r"(?<![\w.])(-?\d{1,3}(?:\.\d{0,4})?|-?\.\d{1,4})::(.{0,2000}?)(?:::|$)",
                  lambda found: weighted(found[2], float(found[1])), text, flags=re.S)
    for opening, closing, factor in ((r"\{", r"\}", 1.05), (r"\[", r"\]", 1 / 1.05)):
        pattern = rf"({opening}{{1,12}})([^{{}}\[\]]{{1,2000}}?)({closing}{{1,12}})"
        inner = None
        while inner != text:
            inner = text
            text = re.sub(pattern, lambda part, factor=factor: weighted(part[2], factor ** min(len(part[1]), len(part[3]))), text)
    return re.sub(r"(, ?){2,}", ", ", text).strip(", ") if avoided else text


def draw_things(told: dict[str, object]) -> dict[str, object]:
    strength = told.get("strength")
    return told | ({"initimagecreativity": strength} if is_number(strength) and 0 < strength < 1 else {})


def easy_diffusion(told: dict[str, object]) -> dict[str, object]:
    return told | ({"initimagecreativity": told["prompt_strength"]} if "init_image" in told and "prompt_strength" in told else {})


def tensor_art(told: dict[str, object]) -> dict[str, object]:
    """The model is an object; a seed of -1 was drawn by lot and is not told."""
    base = told.get("baseModel")
    seed = {} if as_number(told.get("seed"), int) == -1 else {"seed": told.get("seed")}
    named = {"model": base.get("modelFileName")} if isinstance(base, dict) else {}
    return {key: value for key, value in told.items() if key not in ("baseModel", "seed")} | seed | named


Flavour = tuple[str, Callable[[dict[str, object]], bool], Callable[[dict[str, object]], dict[str, object]]]
FLAVOURS: tuple[Flavour, ...] = (
    ("SwarmUI", lambda told: isinstance(told.get("sui_image_params"), dict), swarm),
    ("NovelAI", lambda told: "uc" in told and bool({"scale", "noise_schedule", "v4_prompt"} & told.keys()) and "c" not in told,
     novelai),
    ("Draw Things", lambda told: "c" in told and "sampler" in told, draw_things),
    ("RuinedFooocus", lambda told: told.get("software") == "RuinedFooocus" or "base_model_name" in told, plain),
    ("Fooocus", lambda told: bool({"metadata_scheme", "full_prompt", "base_model", "performance", "Performance"} & told.keys())
     or "styles" in told and "resolution" in told, plain),
    ("Easy Diffusion", lambda told: "use_stable_diffusion_model" in told, easy_diffusion),
    ("TensorArt", lambda told: "ksamplerName" in told or "sdVae" in told, tensor_art),
)


def loras_of(told: dict[str, object]) -> list[dict[str, object]]:
    """The LoRAs under any of the names these programs have for them; those named twice are one."""
    listed = [*pairs_of(told, "loras", "loraweights"), *pairs_of(told, "use_lora_model", "lora_alpha"),
              *pairs_of(told, "lora", ""), *combined(told)]
    listed += [(one.get("modelFileName") or one.get("label"), one.get("weight", 1.0)) for one in as_list(told.get("models"))
               if isinstance(one, dict) and str(one.get("type")).upper() == "LORA"]
    text_strengths = [as_number(value, float) for value in as_list(told.get("loratencweights"))]
    hashes = told["hashes"] if isinstance(told.get("hashes"), dict) else {}
    found: dict[str, dict[str, object]] = {}
    for place, (name, strength, *rest) in enumerate(listed[:MAX_TAGS]):
        name, strength = file_name(name), as_number(strength, float)
        if not name or name in found:
            continue
        hashed = words(rest[0] if rest else hashes.get(name))
        found[name] = {"name": name, "strength": 1.0 if strength is None else strength,
                       "hash": hashed.lower() if re.fullmatch("[0-9a-fA-F]{6,64}", hashed) else ""}
        text = text_strengths[place] if place < len(text_strengths) else None
        if text is not None and text != found[name]["strength"]:
            found[name]["text_strength"] = text
    return list(found.values())


def pairs_of(told: dict[str, object], key: str, weights_key: str) -> Iterable[tuple]:
    """["a", "b"] with ["0.8", "1"] beside it, [["a", 0.8, "hash"]], [{"name": "a", "weight": 0.8}], or "a,b" with "0.8,1"."""
    names, weights = as_list(told.get(key)), as_list(told.get(weights_key))
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


def combined(told: dict[str, object]) -> Iterable[tuple]:
    """Fooocus: {"lora_combined_1": "name : 0.5"}, at first "LoRA 1", later "True : name : 0.5"."""
    for key, value in told.items():
        if key.startswith(("lora_combined_", "LoRA ")) and isinstance(value, str):
            parts = value.split(" : ")
            if len(parts) > 1 and parts[0] != "False":
                yield parts[-2], parts[-1]


def first(told: dict[str, object], names: Iterable[str]) -> object:
    """The first of these that is set."""
    return next((told[name] for name in names if told.get(name) is not None and str(told[name]).strip().lower() not in NOTHING),
                next(("" for name in names if isinstance(told.get(name), str)), None))


def size_of(text: object) -> dict[str, int]:
    """"(896, 1152)", [896, 1152], "1024 x 1024", "512x768" or "896×1152 ∣ 7:9"."""
    text = "x".join(map(str, text[:2])) if isinstance(text, list) else text
    found = re.match(r"\D{0,2}(\d{1,5})\s{0,3}[,x×*]\s{0,3}(\d{1,5})", words(text))
    return {"width": int(found[1]), "height": int(found[2])} if found else {}


def file_name(name: object) -> str:
    """"style/strong.safetensors" -> "strong", "urn:air:sd1:lora:civitai:12@34" -> "civitai 12@34"."""
    if words(name).startswith("urn:air:"):
        return " ".join(words(name).split(":")[-2:])[:100]
    stem = PureWindowsPath(words(name)[:1000]).name
    stem = re.sub(r"\.(safetensors|ckpt|pt|pth|bin|sft|gguf)$", "", stem, flags=re.I)
    return "" if stem.lower() in NOTHING else stem


def as_list(value: object) -> list:
    """A list as it is, the parts of "a, b" or "['a', 'b']", one thing alone; [] for nothing."""
    if isinstance(value, str):
        value = re.sub(r"^\s*\[(.*)\]\s*$", r"\1", value[:MAX_LETTERS], flags=re.S)
        value = [part for whole in value.split(",") if (part := whole.strip(" '\"\n"))]
    return value[:1000] if isinstance(value, list) else [] if value is None else [value]


def as_number(value: object, kind: type) -> int | float | None:
    """A finite number, also from "7.5"; whole ones keep all their digits. None for everything else."""
    if isinstance(value, str):
        value = number(value, int) if re.fullmatch(r"\s*-?\d{1,400}\s*", value) else number(value, float)
    if not is_number(value) or (kind is int and value != int(value)):
        return None
    return kind(value)


def is_number(value: object) -> bool:
    """A number that a float can hold: JSON has whole ones of any length, NaN and infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def words(text: object) -> str:
    """A text with its line ends as ours, "" for what is none or says "None"."""
    text = text[:MAX_LETTERS].replace("\r\n", "\n").strip() if isinstance(text, str) else ""
    return "" if text in ("None", "null", "undefined") else text


def brief(value: object) -> str:
    """A setting of theirs in a few words; "" where it is not set."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    unset = NOTHING | {"default (model)", "[]", "false"}
    return "" if value in (False, 0, [], {}, None) or text.strip().lower() in unset else text[:100]


def json_object(text: str) -> dict[str, object]:
    """The JSON object in `text`; {} where it is none."""
    try:
        told = json.loads(text.strip().strip("\0"), strict=False)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
