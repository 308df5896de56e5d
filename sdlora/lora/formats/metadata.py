"""The metadata of a LoRA file, for every program that may open it, and the two small files beside it.

Knows nothing about tensors. Holds no captions, paths or user names: a file is made to be given away.
"""

import base64
import io
import json
import re
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

if TYPE_CHECKING:
    from PIL import Image

BASE_VERSIONS = {"mini": "sdlora_mini", "sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
ARCHITECTURES = {"mini": "sdlora-mini/lora", "sd1": "stable-diffusion-v1/lora", "sd2": "stable-diffusion-v2-512/lora",
                 "sdxl": "stable-diffusion-xl-v1-base/lora"}
IMPLEMENTATIONS = {"sdxl": "https://github.com/Stability-AI/generative-models"}
A1111_VERSIONS = {"sd_v1": "SD1", "sd_v2": "SD2", "sd_v2_v": "SD2", "sdxl_base_v1-0": "SDXL"}
PRIVATE_SETTINGS = {"default_caption", "sample_prompts", "base", "device"}  # captions, a path, the artist's machine
FIELDS = {  # what the artist writes for everybody: {field: key}
    "author": "modelspec.author", "licence": "modelspec.license", "consent": "sdlora_consent", "note": "sdlora_note"}
THUMBNAIL_PX = 256
PNG = b"\x89PNG\r\n\x1a\n"
MARK = b"sdlora"
PRIVATE_KEYS = (  # beginnings of keys, and what they give away
    ("ss_dataset_dirs", "names of the picture folders"), ("ss_reg_dataset_dirs", "names of the picture folders"),
    ("ss_datasets", "how the pictures were kept, with folder names and tags"), ("ss_tag_frequency", "words of the captions"),
    ("ss_bucket_info", "the sizes of the pictures"), ("ss_session_id", "a number that tells this training from others"),
    ("ss_training_started_at", "when the training began"), ("ss_training_finished_at", "when the training ended"),
    ("ss_sd_model_hash", "which file was trained on"), ("ss_training_comment", "a comment of the trainer"),
    ("ss_sample_prompts", "prompts"), ("ot_", "all settings of OneTrainer, with paths"),
    ("training_info", "settings of ai-toolkit"),
    ("sdlora_run", "the name of the training run"), ("sdlora_recipe", "the names of the LoRAs it was made from"),
    ("modelspec.merged_from", "the names of the LoRAs it was made from"))
PRIVATE_TEXT = (
    (re.compile(r"(?:^|[\s\"'=(\[,])(?:~|/(?:home|Users|root|mnt|media|content|workspace|var|tmp|data)/|[A-Za-z]:[\\/]|\\{2,}\w)"),
     "a path on somebody's computer"),
    (re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+\.\w{2,}"), "an e-mail address"),  # tried once a word: a long one takes no hours
    (re.compile(r"\bhf_\w{20,}|\bsk-\w{20,}|[?&](?:token|key|api_key)=\w+", re.IGNORECASE), "a key or token"))


@dataclass(frozen=True)
class BaseFacts:
    """The base a LoRA was made for. identity: sha256 of its weights; resolution in px."""
    family: str
    title: str
    identity: str
    prediction_type: str
    resolution: int


@dataclass(frozen=True)
class Training:
    """What is public about a training. created: ISO 8601 time of its start; captions_digest: sha256 over all captions.

    strength: the one to draw with.
    """
    pictures: int
    captions_digest: str
    step: int
    run: str
    created: str
    strength: float = 1.0


def build(config: TrainConfig, base: BaseFacts, training: Training, thumbnail: "Image.Image | None" = None) -> dict[str, str]:
    """Return all metadata of a file but its hashes, which writing.write adds: ss_*, modelspec.* 1.0.1 and sdlora_*."""
    metadata = kohya(config, base, training) | modelspec(config, base, training)
    settings = {key: value for key, value in config.model_dump(mode="json").items() if key not in PRIVATE_SETTINGS}
    metadata |= {
        "sdlora_version": __version__,
        "sdlora_settings": json.dumps(settings, ensure_ascii=False, sort_keys=True),
        "sdlora_base_family": base.family,
        "sdlora_base_identity": base.identity,
        "sdlora_base_title": base.title,
        "sdlora_trigger": config.trigger,
        "sdlora_captions_digest": training.captions_digest,
        "sdlora_run": training.run,
        "sdlora_strength": f"{training.strength:g}",
    }
    if thumbnail is not None:
        metadata["modelspec.thumbnail"] = data_url(thumbnail)
    return {key: value for key, value in metadata.items() if value != ""}


def kohya(config: TrainConfig, base: BaseFacts, training: Training) -> dict[str, str]:
    """Return the ss_* keys that kohya's tools demand and that other programs show."""
    version = BASE_VERSIONS[base.family]
    velocity = "_v" if base.family == "sd2" and base.prediction_type == "v_prediction" else ""
    resolution = config.resolution or base.resolution
    values = {
        "v2": base.family == "sd2", "base_model_version": version + velocity, "network_module": "networks.lora",
        "network_dim": config.rank, "network_alpha": config.alpha or float(config.rank), "network_args": "{}",
        "output_name": storage.clean_text(config.name, 80), "sd_model_name": base.title, "clip_skip": None,
        "resolution": f"({resolution}, {resolution})", "num_train_images": training.pictures, "num_reg_images": 0,
        "steps": training.step, "max_train_steps": config.steps, "learning_rate": config.learning_rate,
        "unet_lr": config.learning_rate, "text_encoder_lr": None, "batch_size_per_device": config.batch_size,
        "total_batch_size": config.batch_size, "lr_scheduler": config.schedule, "lr_warmup_steps": config.warmup_steps,
        "optimizer": "AdamW", "seed": config.seed, "caption_dropout_rate": config.caption_dropout,
        "min_snr_gamma": config.min_snr_gamma, "max_grad_norm": config.clip_norm, "cache_latents": True,
        "training_started_at": datetime.fromisoformat(training.created).timestamp(),
        "training_comment": f"made with sdlora {__version__}",
    }
    return {f"ss_{key}": str(value) for key, value in values.items()}


def modelspec(config: TrainConfig, base: BaseFacts, training: Training) -> dict[str, str]:
    """Return the keys of Stability AI's Model Metadata Standard 1.0.1 for a LoRA."""
    resolution = config.resolution or base.resolution
    architecture = ARCHITECTURES[base.family]
    if base.family == "sd2" and base.prediction_type == "v_prediction":
        architecture = "stable-diffusion-v2-768-v/lora"
    values = {
        "sai_model_spec": "1.0.1", "architecture": architecture,
        "implementation": IMPLEMENTATIONS.get(base.family, "diffusers"), "implementation_version": f"sdlora {__version__}",
        "title": storage.clean_text(config.name, 80), "resolution": f"{resolution}x{resolution}", "date": training.created,
        "description": f"A style taught with {training.pictures} pictures in {training.step} steps.",
        "prediction_type": "v" if base.prediction_type == "v_prediction" else "epsilon", "tags": "style",
        "trigger_phrase": config.trigger, "usage_hint": usage_hint(config.trigger, training.strength),
    }
    return {f"modelspec.{key}": value for key, value in values.items()}


def usage_hint(trigger: str, strength: float) -> str:
    """Return how to draw with a LoRA; "" when there is nothing to say."""
    hints = [f"Write {trigger} in the prompt."] if trigger else []
    return " ".join([*hints, f"Use it at strength {strength:g}."] if strength != 1 else hints)


def with_required(metadata: Mapping[str, str], family: str, ranks: Sequence[int],
                  alphas: Sequence[float]) -> dict[str, str]:
    """Return metadata with these ranks and alphas, and with the keys that other programs need.

    A1111 takes a file for SD 1.x and hides it, when ss_base_model_version does not say otherwise.
    """
    least = {"ss_v2": str(family == "sd2"), "ss_base_model_version": BASE_VERSIONS.get(family, ""),
             "ss_network_module": "networks.lora", "ss_network_args": "{}", "modelspec.sai_model_spec": "1.0.1",
             "modelspec.architecture": ARCHITECTURES.get(family, "")}
    whole = least | dict(metadata) | rank_keys(ranks, alphas)
    return {key: value for key, value in whole.items() if value and key != "lora_adapter_metadata"}


def derived(metadata: Mapping[str, str], *, title: str, ranks: Sequence[int], alphas: Sequence[float],
            recipe: dict) -> dict[str, str]:
    """Return the metadata of a LoRA made from one other: that of the source with title, ranks, alphas and recipe replaced."""
    kept = {key: value for key, value in metadata.items() if key != "lora_adapter_metadata"}  # PEFT's old ranks and alphas
    network = {"ss_network_module": "networks.lora", "ss_network_args": "{}"}
    return network | kept | rank_keys(ranks, alphas) | origin(title, recipe)


def merged(sources: Sequence[Mapping[str, str]], family: str, *, title: str, ranks: Sequence[int], alphas: Sequence[float],
           recipe: dict) -> dict[str, str]:
    """Return the metadata of a LoRA made from several or none: what kohya's tools demand, modelspec and the recipe.

    sources: their metadata. family: "" where it is unknown.
    """
    version = next((each["ss_base_model_version"] for each in sources if each.get("ss_base_model_version")), None)
    triggers = dict.fromkeys(filter(None, (trigger_of(each) for each in sources)))
    titles = [each.get("modelspec.title") or each.get("ss_output_name") or "" for each in sources]
    made = {"ss_v2": str(family == "sd2"), "ss_base_model_version": version or BASE_VERSIONS.get(family, ""),
            "ss_network_module": "networks.lora", "ss_network_args": "{}",
            "modelspec.sai_model_spec": "1.0.1", "modelspec.architecture": ARCHITECTURES.get(family, ""),
            "modelspec.implementation": IMPLEMENTATIONS.get(family, "diffusers"),
            "modelspec.trigger_phrase": ", ".join(triggers), "sdlora_trigger": ", ".join(triggers), "sdlora_base_family": family,
            "modelspec.merged_from": ", ".join(filter(None, (name.replace(",", " ") for name in titles)))}
    for key in ("sdlora_base_identity", "sdlora_base_title"):
        values = {each[key] for each in sources if each.get(key)}
        made[key] = values.pop() if len(values) == 1 else ""
    made |= rank_keys(ranks, alphas) | origin(title, recipe)
    return {key: value for key, value in made.items() if value != ""}


def trigger_of(metadata: Mapping[str, str]) -> str:
    """Return the trigger word by our key or ModelSpec's, or ""."""
    return metadata.get("sdlora_trigger") or metadata.get("modelspec.trigger_phrase", "")


def strength_of(metadata: Mapping[str, str]) -> float:
    """Return the recommended strength that a training wrote, or 1."""
    try:
        strength = float(metadata.get("sdlora_strength", "1"))
    except ValueError:
        return 1.0
    return strength if 0 < strength <= 4 else 1.0


def rank_keys(ranks: Sequence[int], alphas: Sequence[float]) -> dict[str, str]:
    """Return kohya's rank and alpha of all modules: one number, or "Dynamic" where they differ, as kohya's tools write it."""
    return {"ss_network_dim": str(ranks[0]) if len(set(ranks)) == 1 else "Dynamic",
            "ss_network_alpha": f"{alphas[0]:g}" if len(set(alphas)) == 1 else "Dynamic"}


def origin(title: str, recipe: dict) -> dict[str, str]:
    """Return the keys for name, time and recipe of a file made from others."""
    return {"ss_output_name": title, "modelspec.title": title, "modelspec.implementation_version": f"sdlora {__version__}",
            "modelspec.date": datetime.now(UTC).isoformat(timespec="seconds"), "sdlora_version": __version__,
            "sdlora_recipe": json.dumps(recipe, ensure_ascii=False, sort_keys=True)}


def with_fields(metadata: Mapping[str, str], **fields: str | None) -> dict[str, str]:
    """Return metadata with what the artist wrote into author, licence, consent or note; None leaves a field, "" removes it."""
    new = dict(metadata)
    for field, value in fields.items():
        if value is not None:
            new[FIELDS[field]] = storage.clean_text(value, 2000)
    return {key: value for key, value in new.items() if value != "" or key not in FIELDS.values()}


def file_hashes(path: Path) -> dict[str, str]:
    """Return the hashes by which Civitai and A1111 know a file: sha256 of all bytes, AutoV2 its first 10 characters, AutoV3 12
    of the tensors' sha256. Computed from the bytes, whatever the metadata says. Raises UserError and OSError.
    """
    found = digests(path, header(path).data_start)
    assert found is not None  # it is only with a `stop`
    tensors, whole = found
    return {"sha256": whole, "AutoV2": whole[:10], "AutoV3": tensors[:12]}


def data_url(picture: "Image.Image") -> str:
    """Return the middle square of a picture as a JPEG data URL, 256 x 256 px."""
    from PIL import Image, ImageOps

    small = ImageOps.fit(picture.convert("RGB"), (THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    kept = io.BytesIO()
    small.save(kept, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(kept.getvalue()).decode()


def write_sidecars(path: Path, picture: Path | None = None) -> list[Path]:
    """Write `name.json` (keys of A1111, read by Forge and InvokeAI too) and `name.png` beside a LoRA; return their paths.

    A file that sdlora did not write is never overwritten. Raises UserError when the disk refuses.
    """
    path, written = Path(path), []
    card = path.with_suffix(".json")
    if not card.exists() or our_json(card):
        written.append(storage.write_atomic(card, sidecar(header(path).metadata)))
    cover = path.with_suffix(".png")
    if picture is not None and (not cover.exists() or our_png(cover)):
        written.append(storage.write_atomic(cover, mark_cover(Path(picture).read_bytes())))
    return written


def sidecar(metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of name.json for a file with this metadata."""
    card = {"description": metadata.get("modelspec.description", ""),
            "sd version": A1111_VERSIONS.get(metadata.get("ss_base_model_version", ""), "Unknown"),
            "activation text": trigger_of(metadata), "preferred weight": strength_of(metadata), "negative text": "",
            "notes": metadata.get("sdlora_note") or metadata.get("ss_training_comment", ""),
            "sdlora": {"version": __version__, "name": metadata.get("ss_output_name", ""), "run": metadata.get("sdlora_run", ""),
                       "base": metadata.get("sdlora_base_title", "")}}
    return json.dumps(card, indent=2, ensure_ascii=False).encode()


def our_json(path: Path) -> bool:
    """Return whether a sidecar was written by sdlora (it has a key "sdlora") and not edited by the artist since."""
    try:
        with storage.open_regular(path) as file:
            kept = json.loads(file.read(1_000_000))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(kept, dict) and isinstance(kept.get("sdlora"), dict) and not kept["sdlora"].get("edited")


def our_png(path: Path) -> bool:
    """Return whether a cover was written by sdlora: its first chunk after the header is our mark."""
    try:
        with storage.open_regular(path) as file:
            start = file.read(128)
    except OSError:
        return False
    return start.startswith(PNG) and start[33 + 4:33 + 8] == b"tEXt" and start[33 + 8:].startswith(MARK + b"\0")


def mark_cover(png: bytes) -> bytes:
    """Return a PNG with our mark as a text chunk right after its header chunk, which ends at byte 33."""
    if not png.startswith(PNG) or png[12:16] != b"IHDR":
        raise ValueError("a cover must be a PNG")
    if png[33 + 8:].startswith(MARK + b"\0"):
        return png
    body = b"tEXt" + MARK + b"\0" + b"cover"
    return png[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + png[33:]


def private(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return {key: reason} of what should not be given away with a file: dataset, captions, paths, addresses."""
    found = {}
    for key, value in metadata.items():
        why = next((why for start, why in PRIVATE_KEYS if key.startswith(start)), None)
        why = why or next((why for pattern, why in PRIVATE_TEXT if pattern.search(value)), None)
        if why and key not in FIELDS.values() and not value.startswith("data:image/"):
            found[key] = why
    return found


def stripped(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata without what private() finds."""
    hidden = private(metadata)
    return {key: value for key, value in metadata.items() if key not in hidden}
