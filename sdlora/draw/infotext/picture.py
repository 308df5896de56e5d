"""Settings in picture files: written for A1111's readers, read back from our pictures and other programs'.

Knows nothing about models or the shelf: LoRAs are names and hashes here; `library/lora_tags.py` finds their files.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ValidationError

from sdlora.config import DrawConfig, LoraChoice
from sdlora.draw import samplers
from sdlora.draw.infotext import image_text
from sdlora.draw.infotext.a1111 import from_text, to_text
from sdlora.draw.infotext.comfy import from_comfy
from sdlora.draw.infotext.comfy_graph import UnknownNode, is_graph
from sdlora.draw.infotext.comfy_workflow import to_graph
from sdlora.draw.infotext.flat_json import from_flat
from sdlora.draw.infotext.invoke import from_invoke
from sdlora.draw.infotext.values import Settings, json_object
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text

KEY, ALWAYS = "parameters", {"prompt", "negative", "loras"}
NUMBERS = {"steps", "guidance", "seed", "width", "height"}
FIELDS = ("negative", "steps", "sampler", "guidance", "seed", "width", "height", "method", "switch_every", "init_strength")
LORA_FIELDS = ("strength", "text_strength", "blocks", "start", "end")
KEPT_TEXT = "Choose a picture as it came from the program that drew it: chats and editors take the text out."
JSON_KEYS = (KEY, "comment", "generation_data", "Comment", "parameters-json")
CHUNKS = {"Comment", "workflow", "parameters", "invokeai_metadata", "generation_data"}
READ = {  # marks of programs that are read, for pictures where that fails
    "InvokeAI": r"^(invokeai_metadata|sd-metadata|Dream|invokeai_graph)$", "SwarmUI": "sui_image_params|swarm_version",
    "Fooocus": "[Ff]ooocus", "NovelAI": "NovelAI", "Draw Things": "Draw Things", "Easy Diffusion": "use_stable_diffusion_model",
    "TensorArt": "^generation_data$", "ComfyUI": r"^(prompt|workflow)$|class_type"}
REFUSED = {  # marks of programs and services that write no settings
    "Midjourney": r"[Mm]idjourney|Job ID: [0-9a-f]{8}-| --(?:v|ar|niji|stylize|chaos) \d",
    "Adobe Firefly": "Adobe Firefly", "Ideogram": "[Ii]deogram",
    "Leonardo.Ai": r"Leonardo\.?[Aa][Ii]", "ChatGPT or DALL-E": "DALL.E|ChatGPT|OpenAI",
    "Gemini or Imagen": "Made with Google AI", "Grok": r"^Signature: [\w+/=]{20}|xAI Grok"}
GENERATED = "trainedAlgorithmicMedia"  # IPTC's digital source type, in XMP: all that Midjourney and others write
MAX_SEED = 2**32 - 1
SHEET = {"Script", "X Type", "X Values", "Y Type", "Y Values"}  # of a grid: about the sheet, not about a picture


def write_picture(path: Path, image: Image.Image, settings: Settings) -> Path:
    """Write `image` (.png, .jpg or .webp) with its settings (those of pipeline.Picture) inside. Raises UserError."""
    return image_text.write(path, image, KEY, to_text(settings))


def read_infotext(path: Path) -> Settings:
    """Return the settings in a picture of ours or of one of the programs in READ, as `a1111.from_text` gives them.

    Raises UserError when it is no picture, has none, or they cannot be read: then with the name of the program.
    """
    texts = gathered(image_text.read(path))
    name = clean_text(Path(path).name, MAX_NAME)
    for read in (from_invoke, from_json, from_infotext, from_graph, from_chunks):
        try:
            found = read(texts)
        except UnknownNode as error:
            raise UserError(f"{name} was drawn in ComfyUI, but {error}.", "Copy what you need by hand in ComfyUI.") from error
        if found and (found["prompt"] or found.keys() & NUMBERS):
            return found
    parts = [part for key_and_text in texts.items() for part in key_and_text]
    program = next((title for title, mark in (READ | REFUSED).items() if any(re.search(mark, part) for part in parts)), "")
    if program in READ:
        raise UserError(f"{name} was drawn in {program}, but its settings could not be read.", KEPT_TEXT)
    service = "an AI service" if GENERATED in texts.get("xmp", "") else ""
    if program := program or texts.get("c2pa", "") or service:
        raise UserError(f"{name} was drawn by {program}, which writes no settings that sdlora could use.",
                        "Copy the prompt by hand.")
    if any(json_object(texts.get(key, "")) for key in JSON_KEYS):
        raise UserError(f"{name} carries settings of a program that sdlora does not know.", KEPT_TEXT)
    raise UserError(f"{name} does not say how it was drawn.", KEPT_TEXT)


def gathered(texts: dict[str, str]) -> dict[str, str]:
    """Return the texts of a picture under the keys of its program's PNGs, from wherever other formats hold them.

    Hidden in the pixels, in the EXIF comment (a JSON object of the chunks, or a graph), in the XMP packet (Draw Things).
    """
    inner = re.search(r"<exif:UserComment>.{0,200}?<rdf:li[^>]{0,100}>(.{1,100000}?)</rdf:li>", texts.get("xmp", ""), re.S)
    inner = inner or re.search(r"exif:UserComment=['\"]([^'\"]{1,100000})['\"]", texts.get("xmp", ""))
    found: dict[str, str] = {}
    for text in (html.unescape(inner[1]) if inner else "", texts.get("comment", ""), texts.get("stealth", "")):
        chunks = json_object(text)
        if is_graph(chunks):
            found.setdefault("prompt", text)
        elif CHUNKS & chunks.keys() or isinstance(chunks.get("prompt"), dict):
            found |= {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in chunks.items()
                      if key not in found}
        elif text.strip():
            found.setdefault(KEY, text)
    return found | texts


def from_json(texts: dict[str, str]) -> Settings | None:
    """Return the settings of a program that writes one JSON object."""
    for key in JSON_KEYS:
        fields = json_object(texts.get(key, ""))
        if "uc" in fields and "prompt" not in fields and "Description" in texts:
            fields["prompt"] = texts["Description"]  # NovelAI, first version
        if fields and (found := from_flat(fields)):
            return found
    return None


def from_infotext(texts: dict[str, str]) -> Settings | None:
    """Return the settings in A1111's infotext. One without a prompt, written by a node of ComfyUI, is left to its graph."""
    for key in (KEY, "comment", "Comment", "Description", "description"):
        found = from_text(texts.get(key, ""))
        if found.keys() > ALWAYS and (found["prompt"] or not json_object(texts.get("prompt", ""))):
            return found  # without pairs it is a comment of a camera or phone
    return None


def from_graph(texts: dict[str, str]) -> Settings | None:
    """Return the settings in a graph of ComfyUI, or those that Civitai wrote beside it. Raises UnknownNode."""
    graph = json_object(texts.get("prompt", ""))
    if not is_graph(graph):
        graph = to_graph(json_object(texts.get("workflow", "")))
    if not graph:
        return None
    beside = json_object(str(graph.get("extraMetadata", texts.get("extraMetadata", ""))))
    try:
        return from_comfy(graph)
    except UnknownNode:
        if found := from_flat(beside):
            return found
        raise


def from_chunks(texts: dict[str, str]) -> Settings | None:
    """Return the settings of Easy Diffusion, which gives every setting a chunk of its own."""
    return from_flat(dict(texts)) if "use_stable_diffusion_model" in texts else None


def settings_from(found: Settings) -> Settings:
    """Return what `read_infotext` found as fields of DrawConfig, only those in range.

    "loras" are still {name, hash, strength, ...}: `lora_tags.find_loras` turns them into LoraChoice. "prompts" is present where
    the picture has a prompt, "base" for pictures drawn with the embedded base.
    """
    prompt = {"prompts": (found["prompt"],)} if found.get("prompt") else {}
    fields: Settings = {**prompt, **{key: found[key] for key in FIELDS if key in found}}
    if not prompt and not fields.get("negative"):
        fields.pop("negative", None)  # without a prompt an empty negative prompt says nothing
    fields = {key: value for key, value in fields.items() if fits(DrawConfig, {key: value})}
    if "sampler" in fields and fields["sampler"] not in samplers.NAMES:  # `not_taken` names what is left out
        fields["sampler"] = samplers.without_schedule(str(fields["sampler"]))[0]
        if not fields["sampler"]:
            fields.pop("sampler")
    if found.get("model") == "sdlora mini":
        fields["base"] = "mini"
    loras = []
    for lora in found.get("loras", []):
        taken = {key: lora[key] for key in LORA_FIELDS if key in lora and fits(LoraChoice, {"file": "-", key: lora[key]})}
        loras.append({"name": lora["name"], "hash": lora.get("hash", ""), **taken})
    return fields | {"loras": loras[:32]}


def not_taken(found: Settings) -> list[str]:
    """Return what `settings_from` leaves out: "Clip skip: 2", "seed: -1", "rank cut of woodcut (dyn=8)"."""
    taken = settings_from(found)
    left = [f"{key}: {found[key]}" for key in FIELDS if key in found and key not in taken]
    if isinstance(found.get("seed"), int) and found["seed"] > MAX_SEED:
        left[left.index(f"seed: {found['seed']}")] += f" (at most {MAX_SEED})"
    if "sampler" in taken and found["sampler"] != taken["sampler"]:
        left.append(f"schedule: {samplers.without_schedule(str(found['sampler']))[1]}")
    for lora, its_fields in zip(found.get("loras", []), taken["loras"], strict=False):
        left += [f"{key} of {lora['name']}: {lora[key]}" for key in LORA_FIELDS if key in lora and key not in its_fields]
        left += [f"rank cut of {lora['name']} (dyn={lora['dyn']})"] if "dyn" in lora else []
    left += [f"{key}: {value}" for key, value in found.get("other", {}).items() if key not in SHEET]
    if "init_strength" in taken:
        left.append("the picture it was drawn over")
    return [clean_text(phrase, 120) for phrase in left]


def fits(model: type, values: dict[str, Any]) -> bool:
    """Return whether these fields are in range."""
    try:
        model(**values)
    except ValidationError:
        return False
    return True
