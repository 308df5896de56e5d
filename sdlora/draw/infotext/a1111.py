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
from sdlora.draw import samplers

MAX_LETTERS = 200_000
MAX_PROMPT = 20_000
MAX_TAGS = 64
KEY = r"\w[\w \-/]{1,60}:"
PAIR = re.compile(rf'\s{{0,9}}({KEY})[ \t]{{0,9}}("(?:\\.|[^\\"])+"|[^,\n]*(?:\n(?!\s{{0,9}}{KEY})[^,\n]*)*)(?:,|\n|$)', re.S)
STEPS = re.compile(r"(?:^|[\s,.])Steps: ?\d{1,4}(?=\s*(?:,|\n|$))")  # within a line: how Civitai and chats flatten an infotext
NOTHING = ("None", "null", "undefined", "unknown")  # what programs write where a setting is not set
TAG = re.compile(r"<(?:lora|lyco):([^<>]{1,2000})>", re.IGNORECASE)
BARE_NAMES = ("Hashes", "Civitai resources", "Civitai metadata")
BARE = re.compile(rf"(?:^|[,\n]\s{{0,9}})({'|'.join(BARE_NAMES)}):\s{{0,9}}(?=[\[{{])")
NEGATIVE = "Negative prompt:"
NAMES = {"Steps": "steps", "Sampler": "sampler", "CFG scale": "guidance", "Seed": "seed", "Model hash": "model_hash",
         "Model": "model", "Denoising strength": "init_strength", "Lora method": "method", "Lora switch every": "switch_every",
         "Version": "version"}
FIRST = tuple(f"{name.lower()}: " for name in (*NAMES, "Sampler", "Schedule type", "Size", "RNG"))
DRAW_THINGS = {"Guidance Scale", "Seed Mode"}
NUMBERS = {"steps": int, "seed": int, "guidance": float, "init_strength": float, "switch_every": int}
SCHEDULES = ("Karras", "Exponential", "Polyexponential", "SGM Uniform", "Beta", "Simple", "KL Optimal", "Align Your Steps")
SCHEDULE = ("Schedule type", "Scheduler", "Schedule", "Sampler sigma")
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
    sdlora has no name for are under "other". Never raises: a text without pairs gives nothing but "prompt", "negative", "loras".
    """
    lines, pairs, bare = split(text[:MAX_LETTERS].replace("\r\n", "\n"))
    if DRAW_THINGS <= pairs.keys():
        lines, pairs = draw_things(lines, pairs)
    prompt, negative = [], []
    for place, line in enumerate(map(str.strip, lines)):
        if line.startswith(NEGATIVE) or (place and line.lower().startswith(NEGATIVE.lower())):  # ours are tamed in the first line
            negative.append(line[len(NEGATIVE):].strip())
        else:
            (negative if negative else prompt).append(line)
    words, loras = take_tags(told(pairs.pop("Raw prompt", None)) or told("\n".join(prompt)), strict=False)  # "Raw": Fooocus
    found: dict[str, object] = {"prompt": words, "loras": loras,
                                "negative": told(pairs.pop("Raw negative prompt", None)) or told("\n".join(negative).strip())}
    add_weights(loras, pairs)
    add_resources(found, pairs, bare)
    add_told(loras, pairs)
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
    return found | ({"other": pairs} if pairs else {})


def draw_things(lines: list[str], pairs: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """What Draw Things writes for people, in A1111's words: a line that begins with "-" is the negative prompt."""
    minus = next((place for place, line in enumerate(lines) if line.startswith("-")), len(lines))
    lines = [f"{NEGATIVE} {line[1:]}" if place == minus else line for place, line in enumerate(lines)]
    pairs = dict(pairs) | {"CFG scale": pairs["Guidance Scale"]}
    strength, named = pairs.pop("Strength", "1"), (key for key in list(pairs) if re.fullmatch(r"LoRA \d{1,2} Model", key))
    if (number(strength, float) or 1) < 1:
        pairs["Denoising strength"] = strength
    loras = [(pairs.pop(key).removesuffix(".ckpt"), pairs.pop(key.replace("Model", "Weight"), "1")) for key in named]
    if loras:
        pairs["Lora weights"] = ", ".join(f"{name}: {weight}" for name, weight in loras)
    pairs.pop("Guidance Scale")
    return lines, pairs


def told(text: str | None) -> str:
    """What was written, "" for the words of programs that had nothing to write."""
    return "" if text is None or text.strip() in NOTHING else text


def split(text: str) -> tuple[list[str], dict[str, str], dict[str, object]]:
    """An infotext -> (its lines of words, its pairs, the bare JSON among these).

    The pairs begin at the last line that starts with "Steps:" and may have line breaks between and within them; without one
    they are the last line, if that begins with one of ours and has three. A text that was flattened to one line is parted at
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
            return lines[:begin], set_ones(pairs), bare
    flat = "\n".join(lines)
    if found := list(STEPS.finditer(flat)):
        head, tail = flat[:found[-1].start() + 1].strip(" ,\n"), flat[found[-1].start():].lstrip(" ,.\n")
        pairs, bare = pairs_of(tail)
        if len(pairs) >= 3:
            words, mark, negative = head.rpartition(NEGATIVE)
            return ([words, mark + negative] if mark else [head]), set_ones(pairs), bare
    return lines, {}, {}


def pairs_of(text: str) -> tuple[dict[str, str], dict[str, object]]:
    """"Steps: 20, Seed: 5, ..." -> (its pairs under A1111's spelling of their names, the bare JSON among them)."""
    text, bare = bare_json(text)
    spelt = {name.lower(): name for name in (*NAMES, "Sampler", "Schedule type", "Size")}
    return {spelt.get(key[:-1].lower(), key[:-1]): unquoted(value) for key, value in PAIR.findall(text)}, bare


def set_ones(pairs: dict[str, str]) -> dict[str, str]:
    """The pairs with a value."""
    return {name: value for name, value in pairs.items() if told(value)}


def add_weights(loras: list[dict[str, object]], pairs: dict[str, str]) -> None:
    """Fooocus puts its LoRAs, which are not in the prompt, into `Lora weights: "name: 0.7"`."""
    known = {lora["name"] for lora in loras}
    loras += [{"name": name, "strength": strength, "hash": ""} for name, value in listed(pairs.pop("Lora weights", "")).items()
              if name not in known and (strength := number(value, float)) is not None][:MAX_TAGS]


def add_resources(found: dict[str, object], pairs: dict[str, str], bare: dict[str, object]) -> None:
    """What Civitai says in JSON: hashes of LoRAs, and the models that its own generator used, by name or `urn:air:`."""
    hashes = bare.get("Hashes")
    known = {name.removeprefix("lora:"): value for name, value in hashes.items() if name.lower().startswith("lora:")
             and isinstance(value, str)} if isinstance(hashes, dict) else {}
    if known and "Lora hashes" not in pairs:
        pairs["Lora hashes"] = ", ".join(f"{name}: {value}" for name, value in known.items())
    resources = bare.get("Civitai resources")
    used = [one for one in (resources if isinstance(resources, list) else [])[:MAX_TAGS] if isinstance(one, dict)]
    loras = [{"name": resource_name(one), "strength": weight_of(one), "hash": ""} for one in used
             if resource_kind(one) in ("lora", "locon", "dora", "lycoris")]
    if not found["loras"]:
        found["loras"] += loras
    elif loras:
        pairs["Civitai LoRAs"] = ", ".join(lora["name"] for lora in loras)
    if model := next((one for one in used if resource_kind(one) == "checkpoint"), None):
        pairs.setdefault("Model", resource_name(model))
    if embeddings := [resource_name(one) for one in used if resource_kind(one) in ("embed", "embedding", "textualinversion")]:
        pairs["Civitai embeddings"] = ", ".join(embeddings)


def resource_kind(resource: dict[str, object]) -> str:
    """"lora", also of {"air": "urn:air:sd1:lora:civitai:1115064@1253021"}."""
    found = re.match(r"urn:air:[^:]{1,40}:([^:]{1,40}):", str(resource.get("air", "")))
    return str(resource.get("type") or (found[1] if found else "")).lower()


def resource_name(resource: dict[str, object]) -> str:
    """The model's title; where Civitai tells only its number, that: "civitai 1115064@1253021"."""
    number = str(resource.get("air", "")).rpartition(":")[2] or resource.get("modelVersionId", "")
    return storage.clean_text(str(resource.get("modelName") or f"civitai {number}"), storage.MAX_NAME)


def weight_of(resource: dict[str, object]) -> float:
    value = number(str(resource.get("weight", resource.get("strength", 1))), float)
    return 1.0 if value is None else value


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
    named = {str(lora["name"]).replace(",", "").replace(":", "") for lora in loras}
    if rest := [f"{name}: {value}" for name, value in hashes.items() if name not in named]:
        pairs["Lora hashes"] = ", ".join(rest)  # of LoRAs that nothing else tells of


def listed(text: str) -> dict[str, str]:
    """"a: 1, b: 2" -> {"a": "1", "b": "2"}."""
    halves = (part.rpartition(":") for part in text.split(","))
    return {name.strip(): value.strip() for name, colon, value in halves if colon}


def number(text: str, kind: type) -> int | float | None:
    """A finite number, None for everything else; 20.0 is a whole one."""
    try:
        value = kind(re.sub(r"\.0{1,9}$", "", text))
        return value if math.isfinite(value) else None
    except (ValueError, OverflowError):  # hundreds of digits are a whole number, but none that a float can be
        return None


def unquoted(value: str) -> str:
    try:
        text = value.strip()
        return str(json.loads(text, strict=False)) if text.startswith('"') else re.sub(r"\s*\n\s*", " ", text)
    except ValueError:
        return value.strip()
