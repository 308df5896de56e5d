"""How a picture was drawn, inside the picture: written for A1111's readers, read back from ours and other programs'.

Knows nothing about models or the shelf: LoRAs are names and hashes here; `library/lora_tags.py` finds their files.
"""

import html
import json
import re
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from sdlora.config import DrawConfig, LoraChoice
from sdlora.draw import samplers
from sdlora.draw.infotext import image_text
from sdlora.draw.infotext.a1111 import from_text, to_text
from sdlora.draw.infotext.comfy import UnknownNode, from_comfy
from sdlora.draw.infotext.comfy_workflow import to_graph
from sdlora.draw.infotext.flat_json import from_flat, json_object
from sdlora.draw.infotext.invoke import from_invoke
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text

KEY, WORDS = "parameters", {"prompt", "negative", "loras"}
NUMBERS = {"steps", "guidance", "seed", "width", "height"}
FIELDS = ("negative", "steps", "sampler", "guidance", "seed", "width", "height", "method", "switch_every", "init_strength")
LORA_FIELDS = ("strength", "text_strength", "blocks", "start", "end")
FROM_WHERE = "Choose a picture as it came from the program that drew it: chats and editors take the text out."
NO_SETTINGS = "Copy the prompt by hand."
JSON_KEYS = (KEY, "comment", "generation_data", "Comment", "parameters-json")
CHUNKS = {"Comment", "workflow", "parameters", "invokeai_metadata", "generation_data"}
READ = {  # marks of programs that are read, for pictures where that fails
    "InvokeAI": r"^(invokeai_metadata|sd-metadata|Dream|invokeai_graph)$", "SwarmUI": "sui_image_params|swarm_version",
    "Fooocus": "[Ff]ooocus", "NovelAI": "NovelAI", "Draw Things": "Draw Things", "Easy Diffusion": "use_stable_diffusion_model",
    "TensorArt": "^generation_data$", "ComfyUI": r"^(prompt|workflow)$|class_type"}
REFUSED = {  # what pictures of other programs and services say of themselves
    "Midjourney": r"[Mm]idjourney|Job ID: [0-9a-f]{8}-| --(?:v|ar|niji|stylize|chaos) \d",
    "Adobe Firefly": "Adobe Firefly", "Ideogram": "[Ii]deogram",
    "Leonardo.Ai": r"Leonardo\.?[Aa][Ii]", "ChatGPT or DALL-E": "DALL.E|ChatGPT|OpenAI",
    "Gemini or Imagen": "Made with Google AI", "Grok": r"^Signature: [\w+/=]{20}|xAI Grok"}
GENERATED = "trainedAlgorithmicMedia"  # IPTC's digital source type, in XMP: all that Midjourney and others say
MAX_SEED = 2**32 - 1
SHEET = {"Script", "X Type", "X Values", "Y Type", "Y Values"}  # of a grid: about the sheet, not about a picture


def write_picture(path: Path, image: Image.Image, settings: dict[str, object]) -> Path:
    """Write `image` (.png, .jpg or .webp) with its settings (those of pipeline.Picture) inside. Raises UserError."""
    return image_text.write(path, image, KEY, to_text(settings))


def read_infotext(path: Path) -> dict[str, object]:
    """The settings that a picture of ours or of one of the programs in READ carries, as `a1111.from_text` gives them.

    Raises UserError when it is no picture, carries none, or they cannot be read: then with the name of the program.
    """
    texts = gathered(image_text.read(path))
    name = clean_text(Path(path).name, MAX_NAME)
    for read in (from_invoke, from_json, from_words, from_graph, from_chunks):
        try:
            found = read(texts)
        except UnknownNode as error:
            raise UserError(f"{name} was drawn in ComfyUI, but {error}.", "Copy what you need by hand in ComfyUI.") from error
        if found and (found["prompt"] or found.keys() & NUMBERS):
            return found
    said = [part for text in texts.items() for part in text]
    program = next((title for title, mark in (READ | REFUSED).items() if any(re.search(mark, part) for part in said)), "")
    if program in READ:
        raise UserError(f"{name} was drawn in {program}, but its settings could not be read.", FROM_WHERE)
    service = "an AI service" if GENERATED in texts.get("xmp", "") else ""
    if program := program or texts.get("c2pa", "") or service:
        raise UserError(f"{name} was drawn by {program}, which tells no settings that sdlora could use.", NO_SETTINGS)
    if any(json_object(texts.get(key, "")) for key in JSON_KEYS):
        raise UserError(f"{name} carries settings of a program that sdlora does not know.", FROM_WHERE)
    raise UserError(f"{name} does not say how it was drawn.", FROM_WHERE)


def gathered(texts: dict[str, str]) -> dict[str, str]:
    """The texts of a picture under the keys its program has in a PNG, from wherever another format made it put them.

    Hidden in the pixels, in the EXIF comment (a JSON object of the chunks, or a graph), in the XMP packet (Draw Things).
    """
    inner = re.search(r"<exif:UserComment>.{0,200}?<rdf:li[^>]{0,100}>(.{1,100000}?)</rdf:li>", texts.get("xmp", ""), re.S)
    inner = inner or re.search(r"exif:UserComment=['\"]([^'\"]{1,100000})['\"]", texts.get("xmp", ""))
    outside = [html.unescape(inner[1])] if inner else []
    found: dict[str, str] = {}
    for text in (*outside, texts.get("comment", ""), texts.get("stealth", "")):
        chunks = json_object(text)
        if is_graph(chunks):
            found.setdefault("prompt", text)
        elif CHUNKS & chunks.keys() or isinstance(chunks.get("prompt"), dict):
            found |= {str(key): value if isinstance(value, str) else json.dumps(value) for key, value in chunks.items()
                      if key not in found}
        elif text.strip():
            found.setdefault(KEY, text)
    return found | texts


def is_graph(told: dict[str, object]) -> bool:
    """Whether a JSON object is a graph that ComfyUI queues."""
    return any(isinstance(node, dict) and "class_type" in node for node in told.values())


def from_json(texts: dict[str, str]) -> dict[str, object] | None:
    """The settings of a program that writes one JSON object."""
    for key in JSON_KEYS:
        told = json_object(texts.get(key, ""))
        if "uc" in told and "prompt" not in told and "Description" in texts:
            told["prompt"] = texts["Description"]  # NovelAI, first version
        if told and (found := from_flat(told)):
            return found
    return None


def from_words(texts: dict[str, str]) -> dict[str, object] | None:
    """The settings in A1111's words. Those of a node that knew no prompt are left to the graph beside it."""
    for key in (KEY, "comment", "Comment", "Description", "description"):
        found = from_text(texts.get(key, ""))
        if found.keys() > WORDS and (found["prompt"] or not json_object(texts.get("prompt", ""))):
            return found  # cameras and phones write comments too: without pairs they say nothing
    return None


def from_graph(texts: dict[str, str]) -> dict[str, object] | None:
    """The settings in a graph of ComfyUI; of one that Civitai queued, what it says beside the graph. Raises UnknownNode."""
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


def from_chunks(texts: dict[str, str]) -> dict[str, object] | None:
    """Easy Diffusion gives every setting a chunk of its own."""
    return from_flat(dict(texts)) if "use_stable_diffusion_model" in texts else None


def settings_from(found: dict[str, object]) -> dict[str, object]:
    """What `read_infotext` found as fields of DrawConfig, only those in range.

    "loras" are still {name, hash, strength, ...}: `lora_tags.find_loras` turns them into LoraChoice. "prompts" is there where the
    picture tells a prompt, "base" for pictures drawn with the embedded base.
    """
    prompt = {"prompts": (found["prompt"],)} if found.get("prompt") else {}
    wanted: dict[str, object] = {**prompt, **{key: found[key] for key in FIELDS if key in found}}
    if not prompt and not wanted.get("negative"):
        wanted.pop("negative", None)  # words that are not told are no empty words
    fields = {key: value for key, value in wanted.items() if fits(DrawConfig, {key: value})}
    if "sampler" in fields and fields["sampler"] not in samplers.NAMES:  # `not_taken` names what is left out
        fields["sampler"] = samplers.without_schedule(str(fields["sampler"]))[0]
        if not fields["sampler"]:
            fields.pop("sampler")
    if found.get("model") == "sdlora mini":
        fields["base"] = "mini"
    loras = []
    for lora in found.get("loras", []):
        kept = {key: lora[key] for key in LORA_FIELDS if key in lora and fits(LoraChoice, {"file": "-", key: lora[key]})}
        loras.append({"name": lora["name"], "hash": lora.get("hash", ""), **kept})
    return fields | {"loras": loras[:32]}


def not_taken(found: dict[str, object]) -> list[str]:
    """What `settings_from` leaves out, one short phrase each: "Clip skip: 2", "seed: -1", "rank cut of woodcut (dyn=8)"."""
    taken = settings_from(found)
    left = [f"{key}: {found[key]}" for key in FIELDS if key in found and key not in taken]
    if isinstance(found.get("seed"), int) and found["seed"] > MAX_SEED:
        left[left.index(f"seed: {found['seed']}")] += f" (at most {MAX_SEED})"
    if "sampler" in taken and found["sampler"] != taken["sampler"]:
        left.append(f"schedule: {samplers.without_schedule(str(found['sampler']))[1]}")
    for lora, kept in zip(found.get("loras", []), taken["loras"], strict=False):
        left += [f"{key} of {lora['name']}: {lora[key]}" for key in LORA_FIELDS if key in lora and key not in kept]
        left += [f"rank cut of {lora['name']} (dyn={lora['dyn']})"] if "dyn" in lora else []
    left += [f"{key}: {value}" for key, value in found.get("other", {}).items() if key not in SHEET]
    if "init_strength" in taken:
        left.append("the picture it was drawn over")
    return [clean_text(phrase, 120) for phrase in left]


def fits(model: type, values: dict[str, object]) -> bool:
    """Whether these fields are in range."""
    try:
        model(**values)
    except ValidationError:
        return False
    return True
