"""The text every picture carries: how it was drawn, in the grammar that A1111, Forge and Civitai read, and reading it back.

Knows nothing about models. Grammar: modules/infotext_utils.py of stable-diffusion-webui (parse_generation_parameters).
"""

import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlora import storage
from sdlora.errors import UserError

PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
TAG = re.compile(r"<lora:([^:<>]+):(-?[\d.]+)>")
MAX_TEXT_BYTES = 1 << 20
NAMES = {"Steps": "steps", "Sampler": "sampler", "CFG scale": "guidance", "Seed": "seed",
         "Model hash": "model_hash", "Model": "model", "Version": "version"}
NUMBERS = {"steps": int, "seed": int, "guidance": float}


def write_picture(path: Path, image: Image.Image, settings: dict[str, object]) -> Path:
    """Write `image` as a PNG with its settings (those of pipeline.Picture) as the text "parameters". Raises UserError."""
    info = PngInfo()
    info.add_itxt("parameters", to_text(settings))
    return storage.write_atomic(path, lambda temporary: image.save(temporary, "PNG", pnginfo=info))


def to_text(settings: dict[str, object]) -> str:
    """Settings -> prompt with LoRA tags, negative prompt, and a line of pairs.

    A line break or the words "Negative prompt:" at the start of a prompt would be read as the next part: both are tamed.
    """
    loras = [lora | {"name": alias(lora["name"])} for lora in settings.get("loras", [])]
    prompt = storage.clean_text(str(settings["prompt"]))
    prompt = re.sub("^Negative prompt:", "negative prompt:", prompt)
    lines = [" ".join([prompt, *(f"<lora:{lora['name']}:{lora['strength']:g}>" for lora in loras)]).strip()]
    if negative := storage.clean_text(str(settings.get("negative", ""))):
        lines.append(f"Negative prompt: {negative}")
    pairs = {name: settings[key] for name, key in NAMES.items() if key in settings}
    pairs["Size"] = f"{settings['width']}x{settings['height']}"
    if loras:
        pairs["Lora hashes"] = ", ".join(f"{lora['name']}: {lora['hash']}" for lora in loras)
    lines.append(", ".join(f"{name}: {quoted(value)}" for name, value in pairs.items()))
    return "\n".join(lines)


def alias(name: str) -> str:
    """A LoRA's name without the letters that end a tag, a pair or a hash."""
    return storage.clean_text(re.sub(r'[<>:,"\\]+', " ", name), storage.MAX_NAME) or "lora"


def quoted(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else storage.clean_text(str(value))
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\\]', text) else text


def from_text(text: str) -> dict[str, object]:
    """The settings in an infotext, ours or another program's, under the keys of pipeline.Picture; those not there are left out.

    Pairs that sdlora has no name for are under "other". Never raises: a text without pairs is a prompt.
    """
    lines = text.strip().split("\n")
    last = PAIR.findall(lines[-1])
    pairs = {name: unquoted(value) for name, value in last} if len(last) >= 3 else {}
    prompt, negative = [], []
    for line in lines[:-1] if pairs else lines:
        if line.startswith("Negative prompt:"):
            negative.append(line.removeprefix("Negative prompt:").strip())
        else:
            (negative if negative else prompt).append(line.strip())
    words = "\n".join(prompt)
    hashes = dict(re.findall(r"([^:,]+):\s*([0-9a-fA-F]+)", pairs.pop("Lora hashes", "")))
    hashes = {name.strip(): value for name, value in hashes.items()}
    plain = TAG.sub(lambda tag: "" if tag[1] in hashes else tag[0], words).strip()
    found = {"prompt": plain, "negative": "\n".join(negative)}
    found["loras"] = [{"name": name, "strength": float(strength), "hash": hashes[name]}
                      for name, strength in TAG.findall(words) if name in hashes and is_number(strength, float)]
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", pairs.pop("Size", ""))
    if size:
        found["width"], found["height"] = int(size[1]), int(size[2])
    for name, key in NAMES.items():
        if name in pairs and is_number(pairs[name], NUMBERS.get(key, str)):
            found[key] = NUMBERS.get(key, str)(pairs.pop(name))
    return found | ({"other": pairs} if pairs else {})


def is_number(text: str, kind: type) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:
        return value.strip()


def read_infotext(path: Path) -> dict[str, object]:
    """The settings a PNG carries. Raises UserError when it is no PNG or carries none."""
    try:
        text = next((text for key, text in texts(path) if key == "parameters"), None)
    except (OSError, ValueError, zlib.error) as error:
        raise UserError(f"{path.name} could not be read as a PNG picture ({error}).", "Choose a picture drawn here.") from error
    if text is None:
        raise UserError(f"{path.name} does not say how it was drawn.", "Choose a PNG straight from sdlora or A1111.")
    return from_text(text)


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """(keyword, text) of each tEXt and iTXt chunk (PNG specification 11.3.3); pixels are never decoded."""
    with path.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            raise ValueError("it does not begin like one")
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4]), head[4:]
            if kind not in (b"tEXt", b"iTXt") or length > MAX_TEXT_BYTES:
                file.seek(length + 4, 1)
                continue
            keyword, _, rest = file.read(length).partition(b"\0")
            file.seek(4, 1)
            if kind == b"iTXt":
                packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
                rest = zlib.decompressobj().decompress(rest, MAX_TEXT_BYTES) if packed else rest
            yield keyword.decode("latin-1"), rest.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")
