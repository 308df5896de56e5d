"""What a LoRA file says about itself, for every program that may open it, and the two small files beside it.

Knows nothing about tensors. Never says captions, paths or user names: a file is made to be given away.
"""

import base64
import io
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sdlora import __version__, storage
from sdlora.config import TrainConfig
from sdlora.lora.formats.header import digests, header
from sdlora.lora.formats.privacy import private as private
from sdlora.lora.formats.privacy import stripped as stripped

if TYPE_CHECKING:
    from PIL import Image

BASE_VERSIONS = {"mini": "sdlora_mini", "sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
ARCHITECTURES = {"mini": "sdlora-mini/lora", "sd1": "stable-diffusion-v1/lora", "sd2": "stable-diffusion-v2-512/lora",
                 "sdxl": "stable-diffusion-xl-v1-base/lora"}
IMPLEMENTATIONS = {"sdxl": "https://github.com/Stability-AI/generative-models"}
A1111_VERSIONS = {"sd_v1": "SD1", "sd_v2": "SD2", "sd_v2_v": "SD2", "sdxl_base_v1-0": "SDXL"}
PRIVATE = {"default_caption", "sample_prompts", "base", "device"}  # captions, a path, the artist's machine
FIELDS = {"author": "modelspec.author", "licence": "modelspec.license", "consent": "sdlora_consent", "note": "sdlora_note"}
THUMBNAIL_PX = 256
PNG = b"\x89PNG\r\n\x1a\n"
MARK = b"sdlora"


@dataclass(frozen=True)
class BaseFacts:
    """The base a LoRA was made for. identity: sha256 of its weights; resolution in px."""
    family: str
    title: str
    identity: str
    prediction_type: str
    resolution: int


@dataclass(frozen=True)
class Making:
    """One training as far as it may be told. created: ISO 8601 time of its start; captions_digest: sha256 over all captions."""
    pictures: int
    captions_digest: str
    step: int
    loss: float | None
    run: str
    created: str


def build(config: TrainConfig, base: BaseFacts, making: Making, thumbnail: "Image.Image | None" = None) -> dict[str, str]:
    """All metadata of a file but its hashes (lora.file.write adds those): ss_*, modelspec.* 1.0.1 and sdlora_*."""
    told = kohya(config, base, making) | modelspec(config, base, making)
    settings = {key: value for key, value in config.model_dump(mode="json").items() if key not in PRIVATE}
    told |= {
        "sdlora_version": __version__,
        "sdlora_settings": json.dumps(settings, ensure_ascii=False, sort_keys=True),
        "sdlora_base_family": base.family,
        "sdlora_base_identity": base.identity,
        "sdlora_base_title": base.title,
        "sdlora_trigger": config.trigger,
        "sdlora_captions_digest": making.captions_digest,
        "sdlora_run": making.run,
    }
    if thumbnail is not None:
        told["modelspec.thumbnail"] = data_url(thumbnail)
    return {key: value for key, value in told.items() if value != ""}


def kohya(config: TrainConfig, base: BaseFacts, making: Making) -> dict[str, str]:
    """The ss_* keys that kohya's tools demand and that other programs show."""
    version = BASE_VERSIONS[base.family]
    velocity = "_v" if base.family == "sd2" and base.prediction_type == "v_prediction" else ""
    resolution = config.resolution or base.resolution
    values = {
        "v2": base.family == "sd2", "base_model_version": version + velocity, "network_module": "networks.lora",
        "network_dim": config.rank, "network_alpha": config.alpha or float(config.rank), "network_args": "{}",
        "output_name": storage.clean_text(config.name, 80), "sd_model_name": base.title, "clip_skip": None,
        "resolution": f"({resolution}, {resolution})", "num_train_images": making.pictures, "num_reg_images": 0,
        "steps": making.step, "max_train_steps": config.steps, "learning_rate": config.learning_rate,
        "unet_lr": config.learning_rate, "text_encoder_lr": None, "batch_size_per_device": config.batch_size,
        "total_batch_size": config.batch_size, "lr_scheduler": config.schedule, "lr_warmup_steps": config.warmup_steps,
        "optimizer": "AdamW", "seed": config.seed, "caption_dropout_rate": config.caption_dropout,
        "min_snr_gamma": config.min_snr_gamma, "max_grad_norm": config.clip_norm, "cache_latents": True,
        "training_started_at": datetime.fromisoformat(making.created).timestamp(),
        "training_comment": f"made with sdlora {__version__}",
    }
    return {f"ss_{key}": str(value) for key, value in values.items()}


def modelspec(config: TrainConfig, base: BaseFacts, making: Making) -> dict[str, str]:
    """Stability AI's Model Metadata Standard 1.0.1 for a LoRA."""
    resolution = config.resolution or base.resolution
    architecture = ARCHITECTURES[base.family]
    if base.family == "sd2" and base.prediction_type == "v_prediction":
        architecture = "stable-diffusion-v2-768-v/lora"
    values = {
        "sai_model_spec": "1.0.1", "architecture": architecture,
        "implementation": IMPLEMENTATIONS.get(base.family, "diffusers"), "implementation_version": f"sdlora {__version__}",
        "title": storage.clean_text(config.name, 80), "resolution": f"{resolution}x{resolution}", "date": making.created,
        "description": f"A style taught with {making.pictures} pictures in {making.step} steps.",
        "prediction_type": "v" if base.prediction_type == "v_prediction" else "epsilon", "tags": "style",
        "trigger_phrase": config.trigger, "usage_hint": f"Write {config.trigger} in the prompt." if config.trigger else "",
    }
    return {f"modelspec.{key}": value for key, value in values.items()}


def completed(told: Mapping[str, str], family: str, ranks: Sequence[int], alphas: Sequence[float]) -> dict[str, str]:
    """`told` with its ranks put right, and the few keys that other programs cannot do without where they are missing.

    A1111 takes a file for SD 1.x and hides it, when ss_base_model_version does not say otherwise.
    """
    least = {"ss_v2": str(family == "sd2"), "ss_base_model_version": BASE_VERSIONS.get(family, ""),
             "ss_network_module": "networks.lora", "ss_network_args": "{}", "modelspec.sai_model_spec": "1.0.1",
             "modelspec.architecture": ARCHITECTURES.get(family, "")}
    whole = least | dict(told) | numbers(ranks, alphas)
    return {key: value for key, value in whole.items() if value and key != "lora_adapter_metadata"}


def derived(told: Mapping[str, str], *, title: str, ranks: Sequence[int], alphas: Sequence[float],
            recipe: dict) -> dict[str, str]:
    """Metadata of a LoRA made from one other: all that was told, with what has changed put right and `recipe` kept.

    ranks, alphas: of all modules; "Dynamic" where they differ, as kohya's tools write it.
    """
    kept = {key: value for key, value in told.items() if key != "lora_adapter_metadata"}  # PEFT's ranks and alphas, now others
    return {"ss_network_module": "networks.lora", "ss_network_args": "{}"} | kept | numbers(ranks, alphas) | origin(title, recipe)


def merged(sources: Sequence[Mapping[str, str]], family: str, *, title: str, ranks: Sequence[int], alphas: Sequence[float],
           recipe: dict) -> dict[str, str]:
    """Metadata of a LoRA made from several, or from none: the minimum that kohya's tools demand, modelspec and the recipe.

    sources: their metadata. Of an unknown `family` ("") it says no more than is known.
    """
    version = next((told["ss_base_model_version"] for told in sources if told.get("ss_base_model_version")), None)
    triggers = dict.fromkeys(filter(None, (trigger_of(told) for told in sources)))
    titles = [told.get("modelspec.title") or told.get("ss_output_name") or "" for told in sources]
    made = {"ss_v2": str(family == "sd2"), "ss_base_model_version": version or BASE_VERSIONS.get(family, ""),
            "ss_network_module": "networks.lora", "ss_network_args": "{}",
            "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": ARCHITECTURES.get(family, ""),
            "modelspec.implementation": IMPLEMENTATIONS.get(family, "diffusers"),
            "modelspec.trigger_phrase": ", ".join(triggers), "sdlora_trigger": ", ".join(triggers), "sdlora_base_family": family,
            "modelspec.merged_from": ", ".join(filter(None, (name.replace(",", " ") for name in titles)))}
    for key in ("sdlora_base_identity", "sdlora_base_title"):
        values = {told[key] for told in sources if told.get(key)}
        made[key] = values.pop() if len(values) == 1 else ""
    made |= numbers(ranks, alphas) | origin(title, recipe)
    return {key: value for key, value in made.items() if value != ""}


def trigger_of(told: Mapping[str, str]) -> str:
    """The trigger word by ours or by ModelSpec's key, or ""."""
    return told.get("sdlora_trigger") or told.get("modelspec.trigger_phrase", "")


def numbers(ranks: Sequence[int], alphas: Sequence[float]) -> dict[str, str]:
    """kohya's rank and alpha: one number, or Dynamic."""
    return {"ss_network_dim": str(ranks[0]) if len(set(ranks)) == 1 else "Dynamic",
            "ss_network_alpha": f"{alphas[0]:g}" if len(set(alphas)) == 1 else "Dynamic"}


def origin(title: str, recipe: dict) -> dict[str, str]:
    """Name, time and recipe of a file made from others."""
    return {"ss_output_name": title, "modelspec.title": title, "modelspec.implementation_version": f"sdlora {__version__}",
            "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"), "sdlora_version": __version__,
            "sdlora_recipe": json.dumps(recipe, ensure_ascii=False, sort_keys=True)}


def filled(told: Mapping[str, str], **fields: str | None) -> dict[str, str]:
    """`told` with what the artist wrote into author, licence, consent or note; None leaves a field, "" empties it."""
    new = dict(told)
    for field, value in fields.items():
        if value is not None:
            new[FIELDS[field]] = storage.clean_text(value, 2000)
    return {key: value for key, value in new.items() if value != "" or key not in FIELDS.values()}


def file_hashes(path: Path) -> dict[str, str]:
    """The names a file has out there: sha256 (of all bytes), AutoV2 (its first 10), AutoV3 (12 of the tensors' sha256).

    Made from the bytes, whatever the file says of itself. Raises UserError and OSError.
    """
    tensors, whole = digests(path, header(path).data_start)
    return {"sha256": whole, "AutoV2": whole[:10], "AutoV3": tensors[:12]}


def data_url(picture: "Image.Image") -> str:
    """A picture as a small JPEG data URL, 256 x 256 px: its middle square."""
    from PIL import Image, ImageOps

    small = ImageOps.fit(picture.convert("RGB"), (THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    small.save(kept, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(kept.getvalue()).decode()


def write_sidecars(path: Path, picture: Path | None = None) -> list[Path]:
    """`name.json` (keys of A1111, read by Forge and InvokeAI too) and `name.png` beside a LoRA; returns what was written.

    A file that sdlora did not write is never overwritten. Raises UserError when the disk refuses.
    """
    path, written = Path(path), []
    told = header(path).metadata
    card = path.with_suffix(".json")
    if not card.exists() or our_json(card):
        written.append(storage.write_atomic(card, sidecar(told)))
    cover = path.with_suffix(".png")
    if picture is not None and (not cover.exists() or our_png(cover)):
        written.append(storage.write_atomic(cover, marked(Path(picture).read_bytes())))
    return written


def sidecar(told: dict[str, str]) -> bytes:
    """The bytes of name.json."""
    return json.dumps(a1111_card(told), indent=2, ensure_ascii=False).encode()


def a1111_card(told: dict[str, str]) -> dict[str, object]:
    """The sidecar's content from a file's own metadata."""
    return {"description": told.get("modelspec.description", ""),
            "sd version": A1111_VERSIONS.get(told.get("ss_base_model_version", ""), "Unknown"),
            "activation text": trigger_of(told), "preferred weight": 1, "negative text": "",
            "notes": told.get("sdlora_note") or told.get("ss_training_comment", ""),
            "sdlora": {"version": __version__, "name": told.get("ss_output_name", ""), "run": told.get("sdlora_run", ""),
                       "base": told.get("sdlora_base_title", "")}}


def our_json(path: Path) -> bool:
    """Whether a sidecar was written by sdlora, which then says so under "sdlora", and not edited by the artist since."""
    try:
        with storage.open_regular(path) as file:
            kept = json.loads(file.read(1_000_000))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(kept, dict) and isinstance(kept.get("sdlora"), dict) and not kept["sdlora"].get("edited")


def our_png(path: Path) -> bool:
    """Whether a cover was written by sdlora: its first chunk after the header is our mark."""
    try:
        with storage.open_regular(path) as file:
            start = file.read(128)
    except OSError:
        return False
    return start.startswith(PNG) and start[33 + 4:33 + 8] == b"tEXt" and start[33 + 8:].startswith(MARK + b"\0")


def marked(png: bytes) -> bytes:
    """The bytes of a PNG with our mark as a text chunk right after its header chunk (which ends at byte 33)."""
    if not png.startswith(PNG) or png[12:16] != b"IHDR":
        raise ValueError("a cover must be a PNG")
    if png[33 + 8:].startswith(MARK + b"\0"):
        return png
    body = b"tEXt" + MARK + b"\0" + b"cover"
    return png[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + png[33:]
