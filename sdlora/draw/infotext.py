"""How a picture was drawn, inside the picture: written for A1111's readers, read back from ours, A1111's and InvokeAI's.

Knows nothing about models or the shelf: LoRAs are names and hashes here; `library/tags.py` finds their files.
"""

from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from sdlora.config import DrawConfig, LoraChoice
from sdlora.draw import embedded, samplers
from sdlora.draw.a1111 import from_text, to_text
from sdlora.draw.invoke import from_invoke
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text

KEY, WORDS = "parameters", {"prompt", "negative", "loras"}
FIELDS = ("negative", "steps", "sampler", "guidance", "seed", "width", "height", "method", "switch_every", "init_strength")
LORA_FIELDS = ("strength", "text_strength", "blocks", "start", "end")
SHEET = {"Script", "X Type", "X Values", "Y Type", "Y Values"}  # of a grid: about the sheet, not about a picture


def write_picture(path: Path, image: Image.Image, settings: dict[str, object]) -> Path:
    """Write `image` (.png, .jpg or .webp) with its settings (those of pipeline.Picture) inside. Raises UserError."""
    return embedded.write(path, image, KEY, to_text(settings))


def read_infotext(path: Path) -> dict[str, object]:
    """The settings that a PNG, JPEG or WebP of ours, A1111, Forge or InvokeAI carries, as `a1111.from_text` gives them.

    Raises UserError when it is no such picture, is damaged or carries none.
    """
    texts = embedded.read(path)
    found = from_text(texts[KEY]) if texts.get(KEY, "").strip() else from_invoke(texts)
    if found is None and "comment" in texts:
        found = from_text(texts["comment"])
        found = found if found.keys() > WORDS else None  # cameras and phones write comments too
    if found is not None:
        return found
    name = clean_text(Path(path).name, MAX_NAME)
    if "prompt" in texts or "workflow" in texts:
        raise UserError(f"{name} carries a graph of ComfyUI, which sdlora does not read.",
                        "In ComfyUI, save it with a node that writes A1111's parameters.")
    raise UserError(f"{name} does not say how it was drawn.",
                    "Choose a picture straight from sdlora, A1111, Forge or InvokeAI: chats and editors take the text out.")


def settings_from(found: dict[str, object]) -> dict[str, object]:
    """What `read_infotext` found as fields of DrawConfig, only those in range.

    "loras" are still {name, hash, strength, ...}: `library.tags.placed` turns them into LoraChoice. "base" is there for
    pictures drawn with the embedded base.
    """
    wanted: dict[str, object] = {"prompts": (found.get("prompt", ""),), **{key: found[key] for key in FIELDS if key in found}}
    fields = {key: value for key, value in wanted.items() if fits(DrawConfig, {key: value})}
    if "sampler" in fields:
        try:
            fields["sampler"] = samplers.official(str(fields["sampler"]))
        except UserError:  # `not_taken` names it
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
