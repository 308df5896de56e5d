"""What InvokeAI wrote into its pictures -> settings under the keys of pipeline.Picture.

Knows nothing about files. Read: `invokeai_metadata` (3.0 and later, JSON), `sd-metadata` (2.x, JSON) and `Dream` (2.x, a
command line). Names only: its hashes are BLAKE3 of whole files, which no other program uses.
"""

import json
import re
import sys

from sdlora.draw.a1111 import MAX_LETTERS, MAX_TAGS, number

# invokeai/backend/stable_diffusion/schedulers/schedulers.py and ldm/invoke/args.py of 2.3 -> the names artists know
SAMPLERS = {
    "ddim": "DDIM", "ddpm": "DDPM", "deis": "DEIS", "lms": "LMS", "pndm": "PLMS", "plms": "PLMS", "heun": "Heun",
    "euler": "Euler", "euler_a": "Euler a", "kdpm_2": "DPM2", "kdpm_2_a": "DPM2 a", "dpm_2": "DPM2", "dpm_2_a": "DPM2 a",
    "dpmpp_2s": "DPM++ 2S", "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE", "dpmpp_3m": "DPM++ 3M",
    "dpmpp_sde": "DPM++ SDE", "unipc": "UniPC", "lcm": "LCM", "tcd": "TCD", "dpmpp_2": "DPM++ 2M",
}
FIELDS = {"width": ("width", int), "height": ("height", int), "seed": ("seed", int), "cfg_scale": ("guidance", float),
          "steps": ("steps", int), "strength": ("init_strength", float)}
FLAGS = {"s": ("steps", int), "S": ("seed", int), "W": ("width", int), "H": ("height", int), "C": ("guidance", float)}


def from_invoke(texts: dict[str, str]) -> dict[str, object] | None:
    """The settings in the texts of a PNG by InvokeAI; None where it did not write them or they are damaged."""
    if "invokeai_metadata" in texts:
        told = json_object(texts["invokeai_metadata"])
        return from_metadata(told) if told else None
    if "sd-metadata" in texts:
        told = json_object(texts["sd-metadata"])
        image = told.get("image")
        return from_sd_metadata(image, told) if isinstance(image, dict) else None
    return from_dream(texts["Dream"]) if "Dream" in texts else None


def from_metadata(told: dict[str, object]) -> dict[str, object]:
    """Core metadata of InvokeAI 3 to 6 (app/invocations/metadata.py)."""
    found: dict[str, object] = {"prompt": words(told.get("positive_prompt")), "negative": words(told.get("negative_prompt"))}
    found |= numbers(told)
    if isinstance(told.get("scheduler"), str):
        found["sampler"] = sampler_name(told["scheduler"])
    listed = told.get("loras")
    found["loras"] = [lora for lora in map(lora_of, listed[:MAX_TAGS] if isinstance(listed, list) else []) if lora]
    model = told.get("model")
    name = (model.get("name") or model.get("model_name")) if isinstance(model, dict) else model
    if isinstance(name, str):
        found["model"] = name
    if isinstance(told.get("app_version"), str):
        found["version"] = f"InvokeAI {told['app_version'][:40]}"
    return found


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
        found["sampler"] = sampler_name(image["sampler"])
    if isinstance(told.get("model_weights"), str):
        found["model"] = told["model_weights"]
    return found


def from_dream(text: str) -> dict[str, object]:
    """`"a cat [dog]" -s 50 -S 123 -W512 -H512 -C 7.5 -A k_lms`."""
    prompt, _, line = text[:MAX_LETTERS].strip().rpartition('"')
    found = in_brackets(words(prompt.removeprefix('"'))) | {"loras": []}
    for flag, value in re.findall(r"-([sSWHCA]) ?([\w.]{1,20})", line):
        if flag == "A":
            found["sampler"] = sampler_name(value)
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


def is_number(value: object) -> bool:
    """A number that a float can hold: JSON has whole ones of any length, NaN and infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def sampler_name(scheduler: str) -> str:
    """"dpmpp_2m_k" -> "DPM++ 2M Karras"; "k_euler_a" of version 2 -> "Euler a"; unknown names as they are."""
    plain = scheduler.strip()[:40].removeprefix("k_")
    karras = plain.endswith("_k")
    name = SAMPLERS.get(plain.removesuffix("_k"))
    return (f"{name} Karras" if karras else name) if name else scheduler[:40]


def words(text: object) -> str:
    return text[:MAX_LETTERS].strip() if isinstance(text, str) else ""


def json_object(text: str) -> dict[str, object]:
    """The JSON object in `text`; {} where it is none."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
