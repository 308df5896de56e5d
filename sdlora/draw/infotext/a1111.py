"""Settings of a picture <-> the text that A1111, Forge and Civitai read ("infotext").

Knows nothing about files, models or the shelf. Grammar: modules/infotext_utils.py, modules/extra_networks.py and
extensions-builtin/Lora/extra_networks_lora.py of stable-diffusion-webui 1.10. Text from outside is bounded: every pattern here
reads it in linear time.
"""

import json
import re
from typing import Any
from urllib.parse import quote, unquote

from sdlora import storage
from sdlora.config import format_value
from sdlora.draw import samplers
from sdlora.draw.infotext.values import MAX_CHARACTERS, MAX_LORAS, Settings, as_dict, as_hash, dicts_in, lora, number

MAX_PROMPT = 20_000
KEY = r"\w[\w \-/]{1,60}:"
PAIR = re.compile(rf'\s{{0,9}}({KEY})[ \t]{{0,9}}("(?:\\.|[^\\"])+"|[^,\n]*(?:\n(?!\s{{0,9}}{KEY})[^,\n]*)*)(?:,|\n|$)', re.S)
STEPS = re.compile(r"(?:^|[\s,.])Steps: ?\d{1,4}(?=\s*(?:,|\n|$))")  # within a line: how Civitai and chats flatten an infotext
UNSET = ("None", "null", "undefined", "unknown")  # what programs write where a setting is not set
TAG = re.compile(r"<(?:lora|lyco):([^<>]{1,2000})>", re.IGNORECASE)
JSON_PAIRS = ("Hashes", "Civitai resources", "Civitai metadata")
JSON_PAIR = re.compile(rf"(?:^|[,\n]\s{{0,9}})({'|'.join(JSON_PAIRS)}):\s{{0,9}}(?=[\[{{])")
NEGATIVE = "Negative prompt:"
NAMES = {"Steps": "steps", "Sampler": "sampler", "CFG scale": "guidance", "Seed": "seed", "Model hash": "model_hash",
         "Model": "model", "Denoising strength": "init_strength", "Lora method": "method", "Lora switch every": "switch_every",
         "Version": "version"}
FIRST = tuple(f"{name.lower()}: " for name in (*NAMES, "Sampler", "Schedule type", "Size", "RNG"))
DRAW_THINGS = {"Guidance Scale", "Seed Mode"}
NUMBERS = {"steps": int, "seed": int, "guidance": float, "init_strength": float, "switch_every": int}
SCHEDULES = (*samplers.SCHEDULES, *samplers.OTHER_SCHEDULES.values())
SCHEDULE = ("Schedule type", "Scheduler", "Schedule", "Sampler sigma")
OWN_SCHEDULE = ("DPM", "Euler", "Heun", "LMS")  # samplers for which A1111 asks for a schedule


def to_text(settings: Settings) -> str:
    """Return the prompt with LoRA tags, the negative prompt, and a line of pairs, from settings (the keys of pipeline.Picture).

    Each of loras has name, strength, hash and the fields of LoraChoice that differ from its defaults. Pairs of other programs
    are under "other". A line break or "Negative prompt:" at the start of a prompt would be read as the next part: they are
    replaced.
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


def with_aliases(loras: list[Settings]) -> list[Settings]:
    """Return the LoRAs under names without the characters that end a tag, an argument or a pair; equal names get numbers."""
    named: dict[str, Settings] = {}
    for each in loras:
        name = storage.clean_text(re.sub(r'[<>:,="\\]+', " ", str(each["name"])), storage.MAX_NAME) or "lora"
        count, free = 1, name
        while free in named:
            count += 1
            free = f"{name} {count}"
        named[free] = each | {"name": free}
    return list(named.values())


def tag(one: Settings) -> str:
    """Return `<lora:name:0.8>`, or `<lora:name:text:unet>` where the text encoders have a strength of their own."""
    strength, text = one["strength"], one.get("text_strength")
    weights = format_value(strength) if text in (None, strength) else f"{format_value(text)}:{format_value(strength)}"
    return f"<lora:{one['name']}:{weights}>"


def lora_pairs(loras: list[Settings]) -> dict[str, str]:
    """Return what a tag cannot hold: {"Lora hashes": "a: 6ce01..., b: ..."}, likewise "Lora blocks" and "Lora times"."""
    values = {
        "Lora hashes": {one["name"]: one["hash"] for one in loras if one.get("hash")},
        "Lora blocks": {one["name"]: quote(one["blocks"], safe=".-+()").replace("%2C", ";") for one in loras
                        if one.get("blocks")},
        "Lora times": {one["name"]: f"{format_value(one.get('start', 0))}-{format_value(one.get('end', 1))}" for one in loras
                       if (one.get("start", 0), one.get("end", 1)) != (0, 1)}}
    return {key: joined(by_name) for key, by_name in values.items() if by_name}


def joined(values: dict[str, str]) -> str:
    """Return "a: 1, b: 2" for {"a": "1", "b": "2"}."""
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def sampler_pairs(sampler: str) -> dict[str, str]:
    """Return Sampler and Schedule type as A1111 1.9 and later name them, for "DPM++ 2M Karras"."""
    for schedule in SCHEDULES:
        if sampler.endswith(f" {schedule}"):
            return {"Sampler": sampler.removesuffix(f" {schedule}"), "Schedule type": schedule}
    return {"Sampler": sampler, **({"Schedule type": "Uniform"} if sampler.startswith(OWN_SCHEDULE) else {})}


def quoted(value: object) -> str:
    """Return the value of a pair, in quotation marks where it would end early."""
    text = format_value(value) if isinstance(value, float) else storage.clean_text(str(value), MAX_PROMPT)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\\]', text) else text


def from_text(text: str) -> Settings:
    """Return the settings in an infotext, ours or another program's, under the keys of pipeline.Picture, as far as present.

    loras: [{name, strength, hash ("" where unknown), and text_strength, blocks, start, end where they differ}]. Pairs that
    sdlora has no name for are under "other". Never raises: a text without pairs gives only "prompt", "negative", "loras".
    """
    lines, pairs, bare = split(text[:MAX_CHARACTERS].replace("\r\n", "\n"))
    if DRAW_THINGS <= pairs.keys():
        lines, pairs = draw_things(lines, pairs)
    prompt, negative = [], []
    for place, line in enumerate(map(str.strip, lines)):
        # a first line of ours never begins with it: to_text writes it in lower case there
        if line.startswith(NEGATIVE) or (place and line.lower().startswith(NEGATIVE.lower())):
            negative.append(line[len(NEGATIVE):].strip())
        else:
            (negative if negative else prompt).append(line)
    raw, raw_negative = if_set(pairs.pop("Raw prompt", "")), if_set(pairs.pop("Raw negative prompt", ""))  # of Fooocus
    words, loras = take_tags(raw or if_set("\n".join(prompt)), strict=False)
    found: Settings = {"prompt": words, "loras": loras, "negative": raw_negative or if_set("\n".join(negative).strip())}
    add_weights(loras, pairs)
    add_resources(found, pairs, bare)
    move_to_loras(loras, pairs)
    return found | setting_pairs(pairs) | ({"other": pairs} if pairs else {})


def setting_pairs(pairs: dict[str, str]) -> Settings:
    """Take the pairs that sdlora has a name for out of `pairs`; return them under our names."""
    found: Settings = {}
    if pairs.get("RNG") == "CPU":
        pairs.pop("RNG")
    sampler = pairs.pop("Sampler", "")
    schedule = next((pairs.pop(name) for name in SCHEDULE if name in pairs), "")
    if sampler:
        found["sampler"] = samplers.title(sampler, schedule)
    if size := re.fullmatch(r"(\d{1,5}) ?[x×] ?(\d{1,5})", pairs.get("Size", "")):
        found["width"], found["height"] = int(size[1]), int(size[2])
        pairs.pop("Size")
    if any(name.startswith("Hires") for name in pairs) and "Denoising strength" in pairs:
        pairs["Hires denoising strength"] = pairs.pop("Denoising strength")  # of the second pass, not of image-to-image
    for name, key in NAMES.items():
        if name in pairs and (value := number(pairs[name], NUMBERS[key]) if key in NUMBERS else pairs[name]) is not None:
            found[key] = value
            pairs.pop(name)
    return found


def draw_things(lines: list[str], pairs: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return what Draw Things writes for people in A1111's words: a line that begins with "-" is the negative prompt."""
    minus = next((place for place, line in enumerate(lines) if line.startswith("-")), len(lines))
    lines = [f"{NEGATIVE} {line[1:]}" if place == minus else line for place, line in enumerate(lines)]
    pairs = dict(pairs) | {"CFG scale": pairs["Guidance Scale"]}
    strength, named = pairs.pop("Strength", "1"), (key for key in list(pairs) if re.fullmatch(r"LoRA \d{1,2} Model", key))
    if (number(strength, float) or 1) < 1:
        pairs["Denoising strength"] = strength
    loras = [(pairs.pop(key).removesuffix(".ckpt"), pairs.pop(key.replace("Model", "Weight"), "1")) for key in named]
    if loras:
        pairs["Lora weights"] = ", ".join(f"{name}: {strength}" for name, strength in loras)
    pairs.pop("Guidance Scale")
    return lines, pairs


def if_set(text: str) -> str:
    """Return the text; "" for what programs write where nothing is set."""
    return "" if text.strip() in UNSET else text


def split(text: str) -> tuple[list[str], dict[str, str], Settings]:
    """Split an infotext into its lines of words, its pairs, and the bare JSON among these.

    The pairs begin at the last line that starts with "Steps:" and may have line breaks between and within them; without one
    they are the last line, if that begins with one of ours and has three. A text that was flattened to one line is split at
    "Steps:" too. Dynamic prompts add "Template:" lines at the end, Civitai's page and extension bare JSON among the pairs.
    """
    lines = text.strip().split("\n")
    begins = [number for number, line in enumerate(lines) if line.startswith("Steps: ")]
    end = next((number for number, line in enumerate(lines) if begins and number > begins[0]
                and line.startswith(("Template:", "Negative Template:"))), len(lines))
    lines = lines[:end]
    begin = max((number for number in begins if number < end), default=len(lines) - 1)
    if lines[begin].lower().startswith(FIRST):
        pairs, bare = pairs_of("\n".join(lines[begin:]))
        if len(pairs) >= 3 or STEPS.match(lines[begin]):
            return lines[:begin], set_pairs(pairs), bare
    flat = "\n".join(lines)
    if found := list(STEPS.finditer(flat)):
        head, tail = flat[:found[-1].start() + 1].strip(" ,\n"), flat[found[-1].start():].lstrip(" ,.\n")
        pairs, bare = pairs_of(tail)
        if len(pairs) >= 3:
            words, mark, negative = head.rpartition(NEGATIVE)
            return ([words, mark + negative] if mark else [head]), set_pairs(pairs), bare
    return lines, {}, {}


def pairs_of(text: str) -> tuple[dict[str, str], Settings]:
    """Return the pairs of "Steps: 20, Seed: 5, ..." under A1111's spelling of their names, and the bare JSON among them."""
    text, bare = bare_json(text)
    named: list[tuple[str, str]] = [(key.removesuffix(":"), value) for key, value in PAIR.findall(text)]
    spelt: dict[str, str] = {name.lower(): name for name in (*NAMES, "Sampler", "Schedule type", "Size")}
    return {spelt.get(key.lower(), key): unquoted(value) for key, value in named}, bare


def set_pairs(pairs: dict[str, str]) -> dict[str, str]:
    """Return the pairs that are set."""
    return {name: value for name, value in pairs.items() if if_set(value)}


def add_weights(loras: list[Settings], pairs: dict[str, str]) -> None:
    """Add the LoRAs that Fooocus puts into `Lora weights: "name: 0.7"`; they are not in its prompt."""
    known = {one["name"] for one in loras}
    loras += [lora(name, strength) for name, value in listed(pairs.pop("Lora weights", "")).items()
              if name not in known and (strength := number(value, float)) is not None][:MAX_LORAS]


def add_resources(found: Settings, pairs: dict[str, str], bare: dict[str, Any]) -> None:
    """Add what Civitai writes as JSON: hashes of LoRAs, and the models that its own generator used, by name or `urn:air:`."""
    known = {name.removeprefix("lora:"): value for name, value in as_dict(bare.get("Hashes")).items()
             if name.lower().startswith("lora:") and isinstance(value, str)}
    if known and "Lora hashes" not in pairs:
        pairs["Lora hashes"] = joined(known)
    used = dicts_in(bare.get("Civitai resources"))[:MAX_LORAS]
    loras = [lora(resource_name(one), number(str(one.get("weight", one.get("strength", 1))), float)) for one in used
             if resource_kind(one) in ("lora", "locon", "dora", "lycoris")]
    if not found["loras"]:
        found["loras"] += loras
    elif loras:
        pairs["Civitai LoRAs"] = ", ".join(one["name"] for one in loras)
    if model := next((one for one in used if resource_kind(one) == "checkpoint"), None):
        pairs.setdefault("Model", resource_name(model))
    if embeddings := [resource_name(one) for one in used if resource_kind(one) in ("embed", "embedding", "textualinversion")]:
        pairs["Civitai embeddings"] = ", ".join(embeddings)


def resource_kind(resource: Settings) -> str:
    """Return "lora", also for {"air": "urn:air:sd1:lora:civitai:1115064@1253021"}."""
    found = re.match(r"urn:air:[^:]{1,40}:([^:]{1,40}):", str(resource.get("air", "")))
    return str(resource.get("type") or (found[1] if found else "")).lower()


def resource_name(resource: Settings) -> str:
    """Return the model's title; where Civitai writes only its number, "civitai 1115064@1253021"."""
    version = str(resource.get("air", "")).rpartition(":")[2] or resource.get("modelVersionId", "")
    return storage.clean_text(str(resource.get("modelName") or f"civitai {version}"), storage.MAX_NAME)


def bare_json(line: str) -> tuple[str, dict[str, Any]]:
    """Return the line without the JSON that Civitai writes into it unquoted, and that: `Hashes: {"lora:name": "12ab"}`."""
    values: dict[str, Any] = {}
    while (found := JSON_PAIR.search(line)) and len(values) < len(JSON_PAIRS):
        try:
            values[found[1]], end = json.JSONDecoder().raw_decode(line, found.end())
        except (ValueError, RecursionError):
            break
        line = line[:found.start()] + line[end:]
    return line.removeprefix(", "), values


def take_tags(prompt: str, *, strict: bool) -> tuple[str, list[Settings]]:
    """Return the prompt without its `<lora:...>` and `<lyco:...>` tags, and the LoRAs in them (see read_tag), in their order.

    strict: a wrong tag raises ValueError; else it stays among the words.
    """
    loras: list[Settings] = []

    def take(found: re.Match[str]) -> str:
        try:
            if len(loras) >= MAX_LORAS:
                raise ValueError(f"there are more than {MAX_LORAS} LoRAs")
            loras.append(read_tag(found[1]))
        except ValueError:
            if strict:
                raise
            return found[0]
        return ""

    words = TAG.sub(take, prompt)
    tidy = "\n".join(re.sub(r" {2,}", " ", line).strip() for line in words.split("\n"))
    return (tidy.strip() if loras else prompt.strip()), loras


def read_tag(inside: str) -> Settings:
    """Read "name:te:unet:dyn" with named te= unet= dyn= lbw= -> {name, strength, hash: ""} and what differs. Raises ValueError.

    dyn (rank cut at load) is kept under its name. lbw: block weights of the extension sd-webui-lora-block-weight.
    """
    parts = [part.strip() for part in inside.split(":")]
    named = dict(part.split("=", 1) for part in parts if "=" in part)
    plain = [part for part in parts if "=" not in part]
    if not plain or not plain[0]:
        raise ValueError("a tag has no name")
    text = weight(named.get("te", plain[1] if len(plain) > 1 else "1"))
    unet = weight(named["unet"] if "unet" in named else plain[2] if len(plain) > 2 else format_value(text))
    found = lora(plain[0], unet, text)
    if "lbw" in named:
        found["blocks"] = named["lbw"]
    if "dyn" in named or len(plain) > 3:
        found["dyn"] = named.get("dyn", plain[3] if len(plain) > 3 else "")
    return found


def weight(text: str) -> float:
    value = number(text, float)
    if value is None:
        raise ValueError(f"{text[:20]!r} is not a strength")
    return value


def move_to_loras(loras: list[Settings], pairs: dict[str, str]) -> None:
    """Move what the pairs say of single LoRAs to these; A1111 leaves ":" and "," out of a name there."""
    hashes, blocks, times = (listed(pairs.pop(f"Lora {key}", "")) for key in ("hashes", "blocks", "times"))
    names = [str(one["name"]).replace(",", "").replace(":", "") for one in loras]
    for one, name in zip(loras, names, strict=True):
        one["hash"] = as_hash(hashes.get(name))
        if name in blocks:
            one["blocks"] = unquote(blocks[name].replace(";", ","))
        start, dash, end = times.get(name, "").partition("-")
        when = number(start, float), number(end, float)
        if dash and None not in when:
            one["start"], one["end"] = when
    if rest := {name: value for name, value in hashes.items() if name not in names}:
        pairs["Lora hashes"] = joined(rest)  # of LoRAs that are named nowhere else


def listed(text: str) -> dict[str, str]:
    """Return {"a": "1", "b": "2"} for "a: 1, b: 2"."""
    halves = (part.rpartition(":") for part in text.split(","))
    return {name.strip(): value.strip() for name, colon, value in halves if colon}


def unquoted(value: str) -> str:
    try:
        text = value.strip()
        return str(json.loads(text, strict=False)) if text.startswith('"') else re.sub(r"\s*\n\s*", " ", text)
    except ValueError:
        return value.strip()
