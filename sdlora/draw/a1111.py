"""How a picture was drawn <-> the text that A1111, Forge and Civitai read ("infotext").

Knows nothing about files, models or the shelf. Grammar: modules/infotext_utils.py, modules/extra_networks.py and
extensions-builtin/Lora/extra_networks_lora.py of stable-diffusion-webui 1.10. Text from outside is bounded: every pattern here
reads it in linear time.
"""

import json
import math
import re
from decimal import Decimal
from urllib.parse import quote, unquote

from sdlora import storage

MAX_LETTERS = 200_000
MAX_PROMPT = 20_000
MAX_TAGS = 64
PAIR = re.compile(r'\s{0,9}(\w[\w \-/]{1,60}):\s{0,9}("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
TAG = re.compile(r"<(?:lora|lyco):([^>]{1,2000})>")
BARE_NAMES = ("Hashes", "Civitai resources", "Civitai metadata")
BARE = re.compile(rf"(?:^|, )({'|'.join(BARE_NAMES)}): (?=[\[{{])")
NEGATIVE = "Negative prompt:"
NAMES = {"Steps": "steps", "Sampler": "sampler", "CFG scale": "guidance", "Seed": "seed", "Model hash": "model_hash",
         "Model": "model", "Denoising strength": "init_strength", "Lora method": "method", "Lora switch every": "switch_every",
         "Version": "version"}
NUMBERS = {"steps": int, "seed": int, "guidance": float, "init_strength": float, "switch_every": int}
SCHEDULES = ("Karras", "Exponential", "Polyexponential", "SGM Uniform", "Beta", "Simple", "KL Optimal", "Align Your Steps")
KARRAS_BY_DEFAULT = ("DPM++ 2M", "DPM++ SDE", "DPM++ 2S a", "DPM2", "DPM2 a")  # modules/sd_samplers_kdiffusion.py
OWN_SCHEDULE = ("DPM", "Euler", "Heun", "LMS")  # samplers for which A1111 asks for a schedule


def to_text(settings: dict[str, object]) -> str:
    """Settings (the keys of pipeline.Picture) -> prompt with LoRA tags, negative prompt, and a line of pairs.

    Each of loras has name, hash and the fields of LoraChoice that differ from "strength for all, everywhere, all the time".
    Pairs of other programs are under "other". A line break or "Negative prompt:" at the start of a prompt would be read as
    the next part: both are tamed.
    """
    loras = with_aliases(settings.get("loras", []))
    prompt = storage.clean_text(str(settings["prompt"]), MAX_PROMPT)
    prompt = re.sub(f"^{NEGATIVE}", NEGATIVE.lower(), prompt)
    lines = [" ".join([prompt, *map(tag, loras)]).strip()]
    if negative := storage.clean_text(str(settings.get("negative", "")), MAX_PROMPT):
        lines.append(f"{NEGATIVE} {negative}")
    pairs = {name: settings[key] for name, key in NAMES.items() if settings.get(key) not in (None, "")}
    if "sampler" in settings:
        pairs |= sampler_pairs(str(settings["sampler"]))
    if settings.get("width") and settings.get("height"):
        pairs["RNG"] = "CPU"  # where our noise is made: with the same words A1111 makes the same
        pairs["Size"] = f"{settings['width']}x{settings['height']}"
    if len(loras) < 2 or pairs.get("Lora method") == "sum":
        pairs.pop("Lora method", None)
    if pairs.get("Lora method") != "switch":
        pairs.pop("Lora switch every", None)
    pairs |= lora_pairs(loras) | settings.get("other", {})
    version = {"Version": pairs.pop("Version")} if "Version" in pairs else {}  # A1111's place for it is the end
    lines.append(", ".join(f"{name}: {quoted(value)}" for name, value in (pairs | version).items()))
    return "\n".join(lines)


def with_aliases(loras: list[dict[str, object]]) -> list[dict[str, object]]:
    """The LoRAs under names without the letters that end a tag, an argument or a pair; two of one name are told apart."""
    named: dict[str, dict[str, object]] = {}
    for lora in loras:
        name = storage.clean_text(re.sub(r'[<>:,="\\]+', " ", str(lora["name"])), storage.MAX_NAME) or "lora"
        number, free = 1, name
        while free in named:
            number += 1
            free = f"{name} {number}"
        named[free] = lora | {"name": free}
    return list(named.values())


def tag(lora: dict[str, object]) -> str:
    """`<lora:name:0.8>`, or `<lora:name:text:unet>` where the text encoders have a strength of their own."""
    strength, text = lora["strength"], lora.get("text_strength")
    weights = decimal(strength) if text in (None, strength) else f"{decimal(text)}:{decimal(strength)}"
    return f"<lora:{lora['name']}:{weights}>"


def lora_pairs(loras: list[dict[str, object]]) -> dict[str, str]:
    """What a tag cannot say, one pair per matter: {"Lora hashes": "a: 6ce01..., b: ..."}, and so "Lora blocks", "Lora times"."""
    def listed(said: dict[str, str]) -> str:
        return ", ".join(f"{name}: {value}" for name, value in said.items())

    hashes = {lora["name"]: lora["hash"] for lora in loras if lora.get("hash")}
    blocks = {lora["name"]: quote(lora["blocks"], safe=".-+()").replace("%2C", ";") for lora in loras if lora.get("blocks")}
    times = {lora["name"]: f"{decimal(lora.get('start', 0))}-{decimal(lora.get('end', 1))}" for lora in loras
             if (lora.get("start", 0), lora.get("end", 1)) != (0, 1)}
    pairs = {"Lora hashes": listed(hashes), "Lora blocks": listed(blocks), "Lora times": listed(times)}
    return {key: value for key, value in pairs.items() if value}


def sampler_pairs(sampler: str) -> dict[str, str]:
    """"DPM++ 2M Karras" -> Sampler and Schedule type as A1111 1.9 and later name them."""
    for schedule in SCHEDULES:
        if sampler.endswith(f" {schedule}"):
            return {"Sampler": sampler.removesuffix(f" {schedule}"), "Schedule type": schedule}
    return {"Sampler": sampler, **({"Schedule type": "Uniform"} if sampler.startswith(OWN_SCHEDULE) else {})}


def decimal(value: object) -> str:
    """A number written so that it reads back the same, never with an exponent: 1.0 -> "1", 1e-05 -> "0.00001"."""
    text = format(Decimal(repr(value)), "f")
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


def quoted(value: object) -> str:
    """A value of a pair: in quotation marks where it would end early."""
    text = decimal(value) if isinstance(value, float) else storage.clean_text(str(value), MAX_PROMPT)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\\]', text) else text


def from_text(text: str) -> dict[str, object]:
    """The settings in an infotext, ours or another program's, under the keys of pipeline.Picture; those not there are left out.

    loras: [{name, strength, hash ("" where not told), and text_strength, blocks, start, end where they differ}]. Pairs that
    sdlora has no name for are under "other". Never raises: a text without pairs is a prompt.
    """
    lines, pairs = split(text[:MAX_LETTERS])
    prompt, negative = [], []
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            negative.append(line.removeprefix(NEGATIVE).strip())
        else:
            (negative if negative else prompt).append(line)
    words, loras = take_tags("\n".join(prompt), strict=False)
    found: dict[str, object] = {"prompt": words, "negative": "\n".join(negative), "loras": loras}
    add_told(loras, pairs)
    if pairs.get("RNG") == "CPU":
        pairs.pop("RNG")
    sampler, schedule = pairs.pop("Sampler", ""), pairs.pop("Schedule type", "")
    if sampler:
        found["sampler"] = sampler_name(sampler, schedule)
    if size := re.fullmatch(r"(\d{1,5})x(\d{1,5})", pairs.get("Size", "")):
        found["width"], found["height"] = int(size[1]), int(size[2])
        pairs.pop("Size")
    if any(name.startswith("Hires") for name in pairs) and "Denoising strength" in pairs:
        pairs["Hires denoising strength"] = pairs.pop("Denoising strength")  # of the second pass, not of image-to-image
    for name, key in NAMES.items():
        if name in pairs and (value := number(pairs[name], NUMBERS[key]) if key in NUMBERS else pairs[name]) is not None:
            found[key] = value
            pairs.pop(name)
    return found | ({"other": pairs} if pairs else {})


def split(text: str) -> tuple[list[str], dict[str, str]]:
    """An infotext -> (its lines of words, its pairs). The pairs are the last line, if that has three of them.

    Dynamic prompts add "Template:" lines after it, Civitai's page and extension bare JSON among the pairs.
    """
    lines = text.strip().split("\n")
    steps = next((number for number, line in enumerate(lines) if line.startswith("Steps: ")), len(lines))
    end = next((number for number, line in enumerate(lines)
                if number > steps and line.startswith(("Template:", "Negative Template:"))), len(lines))
    lines = lines[:end]
    last, bare = bare_json(lines[-1])
    found = PAIR.findall(last)
    if len(found) < 3:
        return lines, {}
    pairs = {name: unquoted(value) for name, value in found}
    hashes = bare.get("Hashes")
    told = {name.removeprefix("lora:"): value for name, value in hashes.items() if name.startswith("lora:")
            and isinstance(value, str)} if isinstance(hashes, dict) else {}
    if told and "Lora hashes" not in pairs:
        pairs["Lora hashes"] = ", ".join(f"{name}: {value}" for name, value in told.items())
    resources = bare.get("Civitai resources")
    named = [str(one["modelName"]) for one in (resources if isinstance(resources, list) else [])
             if isinstance(one, dict) and one.get("type") == "lora" and one.get("modelName")]
    return lines[:-1], pairs | ({"Civitai LoRAs": ", ".join(named)} if named else {})


def bare_json(line: str) -> tuple[str, dict[str, object]]:
    """The line without the JSON that Civitai writes into it as it is, and what that says: `Hashes: {"lora:name": "12ab"}`."""
    told: dict[str, object] = {}
    while (found := BARE.search(line)) and len(told) < len(BARE_NAMES):
        try:
            told[found[1]], end = json.JSONDecoder().raw_decode(line, found.end())
        except (ValueError, RecursionError):
            break
        line = line[:found.start()] + line[end:]
    return line.removeprefix(", "), told


def take_tags(prompt: str, *, strict: bool) -> tuple[str, list[dict[str, object]]]:
    """The prompt without its `<lora:...>` and `<lyco:...>` tags, and what they say, as LoraChoice has it, in their order.

    strict: a tag that says nonsense raises ValueError; else it stays among the words.
    """
    loras: list[dict[str, object]] = []

    def take(found: re.Match[str]) -> str:
        try:
            if len(loras) >= MAX_TAGS:
                raise ValueError(f"there are more than {MAX_TAGS} LoRAs")
            loras.append(read_tag(found[1]))
        except ValueError:
            if strict:
                raise
            return found[0]
        return ""

    words = TAG.sub(take, prompt)
    tidy = "\n".join(re.sub(r" {2,}", " ", line).strip() for line in words.split("\n"))
    return (tidy.strip() if loras else prompt.strip()), loras


def read_tag(inside: str) -> dict[str, object]:
    """"name:te:unet:dyn" with named te= unet= dyn= lbw= -> {name, strength, hash: ""} and what else it says. Raises ValueError.

    dyn (rank cut at load) is kept under its name. lbw: block weights of the extension sd-webui-lora-block-weight.
    """
    parts = [part.strip() for part in inside.split(":")]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    plain = [part for part in parts if "=" not in part]
    if not plain or not plain[0]:
        raise ValueError("a tag has no name")
    text = weight(named.get("te", plain[1] if len(plain) > 1 else "1"))
    unet = weight(named["unet"] if "unet" in named else plain[2] if len(plain) > 2 else decimal(text))
    told: dict[str, object] = {"name": plain[0], "strength": unet, "hash": ""}
    if text != unet:
        told["text_strength"] = text
    if "lbw" in named:
        told["blocks"] = named["lbw"]
    if "dyn" in named or len(plain) > 3:
        told["dyn"] = named.get("dyn", plain[3] if len(plain) > 3 else "")
    return told


def weight(text: str) -> float:
    value = number(text, float)
    if value is None:
        raise ValueError(f"{text[:20]!r} is not a strength")
    return value


def add_told(loras: list[dict[str, object]], pairs: dict[str, str]) -> None:
    """Move what the pairs say of single LoRAs to these; A1111 leaves ":" and "," out of a name there."""
    hashes, blocks, times = (listed(pairs.pop(f"Lora {matter}", "")) for matter in ("hashes", "blocks", "times"))
    for lora in loras:
        name = str(lora["name"]).replace(",", "").replace(":", "")
        lora["hash"] = hashes.get(name, "").lower() if re.fullmatch(r"[0-9a-fA-F]{6,64}", hashes.get(name, "")) else ""
        if name in blocks:
            lora["blocks"] = unquote(blocks[name].replace(";", ","))
        start, dash, end = times.get(name, "").partition("-")
        when = number(start, float), number(end, float)
        if dash and None not in when:
            lora["start"], lora["end"] = when


def listed(text: str) -> dict[str, str]:
    """"a: 1, b: 2" -> {"a": "1", "b": "2"}."""
    halves = (part.rpartition(":") for part in text.split(","))
    return {name.strip(): value.strip() for name, colon, value in halves if colon}


def sampler_name(sampler: str, schedule: str) -> str:
    """A1111's sampler and schedule type -> one name as artists say it: "DPM++ 2M Karras"."""
    if schedule == "Automatic" and sampler in KARRAS_BY_DEFAULT:
        schedule = "Karras"
    return f"{sampler} {schedule}" if schedule in SCHEDULES and not sampler.endswith(schedule) else sampler


def number(text: str, kind: type) -> int | float | None:
    """A finite number, None for everything else."""
    try:
        value = kind(text)
        return value if math.isfinite(value) else None
    except (ValueError, OverflowError):  # hundreds of digits are a whole number, but none that a float can be
        return None


def unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value.strip()
