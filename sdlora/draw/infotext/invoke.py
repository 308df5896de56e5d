"""What InvokeAI wrote into its pictures -> settings under the keys of pipeline.Picture.

Knows nothing about files. Read: `invokeai_metadata` (3.0 and later, JSON), `sd-metadata` (2.x, JSON) and `Dream` (2.x, a
command line). Names only: its hashes are BLAKE3 of whole files, which no other program uses.
"""

import re

from sdlora.draw import samplers
from sdlora.draw.infotext.a1111 import MAX_LETTERS, MAX_TAGS, number
from sdlora.draw.infotext.flat_json import brief, is_number, json_object, words

FIELDS = {"width": ("width", int), "height": ("height", int), "seed": ("seed", int), "cfg_scale": ("guidance", float),
          "steps": ("steps", int), "strength": ("init_strength", float)}
WITH_LORA = re.compile(r"\s?withLora\(([^,()]{1,200})(?:,\s?(-?[\d.]{1,8}))?\)")
GROUP = re.compile(r"(\([^()]{1,1000})\)(\d(?:\.\d{1,4})?|\+{1,9}|-{1,9})(?!\w)")
WORD = re.compile(r"(?<![\w-])(\w[\w'-]{0,60}?)(\+{1,9}|-{1,9})(?=[\s,.;)]|$)")
NOT_OURS = {"clip_skip": "clip skip", "cfg_rescale_multiplier": "CFG rescale", "seamless_x": "seamless", "seamless_y": "seamless",
            "vae": "VAE", "refiner_model": "refiner", "controlnets": "ControlNet", "ipAdapters": "IP adapter",
            "t2iAdapters": "T2I adapter", "ref_images": "reference images", "regions": "regions", "hrf_enabled": "second pass"}
FLAGS = {"s": ("steps", int), "S": ("seed", int), "W": ("width", int), "H": ("height", int), "C": ("guidance", float)}


def from_invoke(texts: dict[str, str]) -> dict[str, object] | None:
    """The settings in the texts of a PNG by InvokeAI; None where it did not write them or they are damaged."""
    if "invokeai_metadata" in texts:
        told = json_object(texts["invokeai_metadata"])
        return in_our_words(from_metadata(told)) if told else None
    if "sd-metadata" in texts:
        told = json_object(texts["sd-metadata"])
        image = told.get("image")
        return in_our_words(from_sd_metadata(image, told)) if isinstance(image, dict) else None
    return in_our_words(from_dream(texts["Dream"])) if "Dream" in texts else None


def in_our_words(found: dict[str, object]) -> dict[str, object]:
    """Prompts in compel's grammar as ours: `word++` and `(some words)1.3` are weights, `withLora(ink,0.8)` is a LoRA of 2.3."""
    def weighted(mark: str) -> str:
        return mark if mark[0].isdigit() else f"{(1.1 if mark[0] == '+' else 0.9) ** len(mark):.3g}"

    for key in ("prompt", "negative"):
        text = found[key]
        for name, strength in WITH_LORA.findall(text):
            read = number(strength, float) if strength else 1.0
            found["loras"].append({"name": name.strip(), "strength": 1.0 if read is None else read, "hash": ""})
        text = WITH_LORA.sub("", text)
        text = GROUP.sub(lambda part: f"{part[1]}:{weighted(part[2])})", text)
        text = WORD.sub(lambda part: f"({part[1]}:{weighted(part[2])})", text)
        if syntax := re.findall(r"\)\.(blend|and|swap)\(", text):
            found["other"] = found.get("other", {}) | {f"InvokeAI's grammar in the {key}": ", ".join(dict.fromkeys(syntax))}
        found[key] = text.strip() if text != found[key] else text
    return found


def from_metadata(told: dict[str, object]) -> dict[str, object]:
    """Core metadata of InvokeAI 3 to 6 (app/invocations/metadata.py)."""
    found: dict[str, object] = {"prompt": words(told.get("positive_prompt")), "negative": words(told.get("negative_prompt"))}
    found |= numbers(told)
    if isinstance(told.get("scheduler"), str):
        found["sampler"] = samplers.title(told["scheduler"])
    listed = told.get("loras")
    found["loras"] = [lora for lora in map(lora_of, listed[:MAX_TAGS] if isinstance(listed, list) else []) if lora]
    model = told.get("model")
    name = (model.get("name") or model.get("model_name")) if isinstance(model, dict) else model
    if isinstance(name, str):
        found["model"] = name
    if isinstance(told.get("app_version"), str):
        found["version"] = f"InvokeAI {told['app_version'][:40]}"
    other = {title: brief(told[key]) for key, title in NOT_OURS.items() if brief(told.get(key))}
    return found | ({"other": other} if other else {})


def lora_of(entry: object) -> dict[str, object] | None:
    """{"model": {"name"}, "weight"} of 4 and later, {"lora": {"model_name"}, "weight"} of 3; None for anything else."""
    if not isinstance(entry, dict):
        return None
    about = entry.get("model") or entry.get("lora")
    name = (about.get("name") or about.get("model_name")) if isinstance(about, dict) else None
    strength = entry.get("weight", 0.75)  # its own initial weight
    if not isinstance(name, str) or not name.strip() or not is_number(strength):
        return None
    return {"name": name, "strength": float(strength), "hash": ""}


def from_sd_metadata(image: dict[str, object], told: dict[str, object]) -> dict[str, object]:
    """The "image" of sd-metadata: one prompt or weighted ones, the negative in square brackets."""
    prompt = image.get("prompt")
    if isinstance(prompt, list):
        prompt = next((part.get("prompt") for part in prompt if isinstance(part, dict)), "")
    found = in_brackets(words(prompt)) | numbers(image) | {"loras": []}
    if isinstance(image.get("sampler"), str):
        found["sampler"] = samplers.title(image["sampler"])
    if isinstance(told.get("model_weights"), str):
        found["model"] = told["model_weights"]
    return found


def from_dream(text: str) -> dict[str, object]:
    """`"a cat [dog]" -s 50 -S 123 -W512 -H512 -C 7.5 -A k_lms`."""
    prompt, _, line = text[:MAX_LETTERS].strip().rpartition('"')
    found = in_brackets(words(prompt.removeprefix('"'))) | {"loras": []}
    for flag, value in re.findall(r"-([sSWHCA]) ?([\w.]{1,20})", line):
        if flag == "A":
            found["sampler"] = samplers.title(value)
        elif (read := number(value, FLAGS[flag][1])) is not None:
            found[FLAGS[flag][0]] = read
    return found


def in_brackets(prompt: str) -> dict[str, object]:
    """InvokeAI 2 kept the negative prompt in square brackets inside the prompt."""
    inside = re.findall(r"\[([^\[\]]{1,2000})\]", prompt)
    plain = re.sub(r"\[[^\[\]]{1,2000}\]", "", prompt)
    return {"prompt": re.sub(r" {2,}", " ", plain).strip(), "negative": ", ".join(part.strip() for part in inside)}


def numbers(told: dict[str, object]) -> dict[str, object]:
    """The finite numbers among FIELDS, under our names."""
    return {ours: kind(told[theirs]) for theirs, (ours, kind) in FIELDS.items() if is_number(told.get(theirs))}
