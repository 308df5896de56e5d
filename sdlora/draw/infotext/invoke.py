"""What InvokeAI wrote into its pictures -> settings under the keys of pipeline.Picture.

Knows nothing about files. Read: `invokeai_metadata` (3.0 and later, JSON), `sd-metadata` (2.x, JSON) and `Dream` (2.x, a
command line). LoRAs have names only: its hashes are BLAKE3 of whole files, which no other program uses.
"""

import re
from typing import Any

from sdlora.draw import samplers
from sdlora.draw.infotext.values import (
    MAX_CHARACTERS,
    MAX_LORAS,
    Settings,
    as_dict,
    as_text,
    dicts_in,
    is_number,
    json_object,
    lora,
    number,
    others,
)

FIELDS = {"width": ("width", int), "height": ("height", int), "seed": ("seed", int), "cfg_scale": ("guidance", float),
          "steps": ("steps", int), "strength": ("init_strength", float)}
WITH_LORA = re.compile(r"\s?withLora\(([^,()]{1,200})(?:,\s?(-?[\d.]{1,8}))?\)")
GROUP = re.compile(r"(\([^()]{1,1000})\)(\d(?:\.\d{1,4})?|\+{1,9}|-{1,9})(?!\w)")
WORD = re.compile(r"(?<![\w-])(\w[\w'-]{0,60}?)(\+{1,9}|-{1,9})(?=[\s,.;)]|$)")
NOT_OURS = {"clip_skip": "clip skip", "cfg_rescale_multiplier": "CFG rescale", "seamless_x": "seamless", "seamless_y": "seamless",
            "vae": "VAE", "refiner_model": "refiner", "controlnets": "ControlNet", "ipAdapters": "IP adapter",
            "t2iAdapters": "T2I adapter", "ref_images": "reference images", "regions": "regions", "hrf_enabled": "second pass"}
FLAGS = {"s": ("steps", int), "S": ("seed", int), "W": ("width", int), "H": ("height", int), "C": ("guidance", float)}


def from_invoke(texts: dict[str, str]) -> Settings | None:
    """Return the settings in the texts of a PNG by InvokeAI; None where it did not write them or they are damaged."""
    if "invokeai_metadata" in texts:
        fields = json_object(texts["invokeai_metadata"])
        return without_compel(from_metadata(fields)) if fields else None
    if "sd-metadata" in texts:
        fields = json_object(texts["sd-metadata"])
        return without_compel(from_sd_metadata(fields)) if isinstance(fields.get("image"), dict) else None
    return without_compel(from_dream(texts["Dream"])) if "Dream" in texts else None


def without_compel(found: Settings) -> Settings:
    """Write compel's grammar in ours: `word++` and `(some words)1.3` are weights, `withLora(ink,0.8)` is a LoRA of 2.3."""
    def weight(mark: str) -> str:
        return mark if mark[0].isdigit() else f"{(1.1 if mark[0] == '+' else 0.9) ** len(mark):.3g}"

    for key in ("prompt", "negative"):
        text = found[key]
        found["loras"] += [lora(name.strip(), number(strength, float)) for name, strength in WITH_LORA.findall(text)]
        text = WITH_LORA.sub("", text)
        text = GROUP.sub(lambda part: f"{part[1]}:{weight(part[2])})", text)
        text = WORD.sub(lambda part: f"({part[1]}:{weight(part[2])})", text)
        if syntax := re.findall(r"\)\.(blend|and|swap)\(", text):
            found["other"] = found.get("other", {}) | {f"InvokeAI's grammar in the {key}": ", ".join(dict.fromkeys(syntax))}
        found[key] = text.strip() if text != found[key] else text
    return found


def from_metadata(fields: dict[str, Any]) -> Settings:
    """Read the core metadata of InvokeAI 3 to 6 (app/invocations/metadata.py)."""
    loras = [found for found in map(lora_of, dicts_in(fields.get("loras"))[:MAX_LORAS]) if found]
    found = {"prompt": as_text(fields.get("positive_prompt")), "negative": as_text(fields.get("negative_prompt")),
             **numbers(fields), "loras": loras}
    if isinstance(fields.get("scheduler"), str):
        found["sampler"] = samplers.title(fields["scheduler"])
    name = name_of(fields.get("model")) if isinstance(fields.get("model"), dict) else fields.get("model")
    if isinstance(name, str):
        found["model"] = name
    if isinstance(fields.get("app_version"), str):
        found["version"] = f"InvokeAI {fields['app_version'][:40]}"
    other = others(fields, NOT_OURS)
    return found | ({"other": other} if other else {})


def lora_of(fields: dict[str, Any]) -> Settings | None:
    """Read {"model": {"name"}, "weight"} of 4 and later, {"lora": {"model_name"}, "weight"} of 3; None for anything else."""
    name, strength = name_of(fields.get("model") or fields.get("lora")), fields.get("weight", 0.75)  # its initial weight
    return lora(name, float(strength)) if isinstance(name, str) and name.strip() and is_number(strength) else None


def name_of(model: object) -> object:
    """Return the name of {"name"} of 4 and later, {"model_name"} of 3."""
    return as_dict(model).get("name") or as_dict(model).get("model_name")


def from_sd_metadata(fields: dict[str, Any]) -> Settings:
    """Read the "image" of sd-metadata: one prompt or weighted ones, the negative in square brackets."""
    image = fields["image"]
    prompt = image.get("prompt")
    if isinstance(prompt, list):
        prompt = next((part.get("prompt") for part in prompt if isinstance(part, dict)), "")
    found = bracketed(as_text(prompt)) | numbers(image) | {"loras": []}
    if isinstance(image.get("sampler"), str):
        found["sampler"] = samplers.title(image["sampler"])
    if isinstance(fields.get("model_weights"), str):
        found["model"] = fields["model_weights"]
    return found


def from_dream(text: str) -> Settings:
    """Read `"a cat [dog]" -s 50 -S 123 -W512 -H512 -C 7.5 -A k_lms`."""
    prompt, _, line = text[:MAX_CHARACTERS].strip().rpartition('"')
    found = bracketed(as_text(prompt.removeprefix('"'))) | {"loras": []}
    for flag, value in re.findall(r"-([sSWHCA]) ?([\w.]{1,20})", line):
        if flag == "A":
            found["sampler"] = samplers.title(value)
        elif (read := number(value, FLAGS[flag][1])) is not None:
            found[FLAGS[flag][0]] = read
    return found


def bracketed(prompt: str) -> Settings:
    """Return prompt and negative prompt: InvokeAI 2 had the latter in square brackets inside the former."""
    inside = re.findall(r"\[([^\[\]]{1,2000})\]", prompt)
    plain = re.sub(r"\[[^\[\]]{1,2000}\]", "", prompt)
    return {"prompt": re.sub(r" {2,}", " ", plain).strip(), "negative": ", ".join(part.strip() for part in inside)}


def numbers(fields: dict[str, Any]) -> Settings:
    """Return the finite numbers among FIELDS, under our names."""
    return {ours: kind(fields[theirs]) for theirs, (ours, kind) in FIELDS.items() if is_number(fields.get(theirs))}
