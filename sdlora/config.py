"""Every setting, once: the same frozen model is preset, job spec, form, command-line option and metadata.

Knows nothing about torch, pictures or files other than presets. Settings written as text are read in parsing.py.
"""

import difflib
import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text, shipped

Model = TypeVar("Model", bound=BaseModel)
MAX_PRESET_BYTES = 64 * 1024
MAX_STEPS = 20_000
MAX_SHOWN = 60  # characters of a wrong value in a message
LIMITS = ("ge", "gt", "le", "multiple_of", "min_length", "max_length")
Device = Literal["auto", "cuda", "mps", "cpu"]
OTHER_NAMES = {  # what kohya's scripts, diffusers' and other trainers call it
    "max_train_steps": "steps", "network_dim": "rank", "lora_rank": "rank", "dim": "rank", "r": "rank",
    "network_alpha": "alpha", "lora_alpha": "alpha", "lr": "learning_rate", "unet_lr": "learning_rate",
    "train_batch_size": "batch_size", "lr_scheduler": "schedule", "lr_scheduler_type": "schedule",
    "lr_warmup_steps": "warmup_steps", "adam_weight_decay": "weight_decay", "max_grad_norm": "clip_norm",
    "caption_dropout_rate": "caption_dropout", "snr_gamma": "min_snr_gamma", "output_name": "name", "trigger_word": "trigger",
    "pretrained_model_name_or_path": "base", "save_every_n_steps": "save_every", "checkpointing_steps": "save_every",
    "sample_every_n_steps": "sample_every", "validation_steps": "sample_every", "validation_prompt": "sample_prompts",
    "num_inference_steps": "sample_steps", "guidance_scale": "sample_guidance", "save_precision": "file_dtype",
    "cfg_scale": "guidance"}


class TrainConfig(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True):
    """All that decides a training run, apart from the pictures. The sentence under a field is its help text."""

    name: str = Field("My style", min_length=1, max_length=MAX_NAME)
    """Name of the LoRA and of its file."""
    trigger: str = Field("", max_length=60)
    """Trigger word, put in front of every caption. A made-up word keeps the style apart from what the base knows."""
    base: str = Field("mini", min_length=1)
    """Base model. The LoRA fits every model of the same family, and works best with this one."""
    preset: str = Field("normal")
    """Preset that these settings started from: a record, it changes nothing."""
    steps: int = Field(1200, ge=1, le=MAX_STEPS)
    """Training steps. More come closer to the pictures and take longer; too many copy them."""
    rank: int = Field(16, ge=1, le=128)
    """Network rank: how much the LoRA can hold. Higher keeps more detail, makes a larger file and overfits sooner."""
    alpha: float | None = Field(None, gt=0, le=1024)
    """Network alpha: the LoRA acts with alpha / rank. Lower learns more slowly and steadily; none: equal to the rank."""
    learning_rate: float = Field(1e-4, gt=0, le=0.1)
    """How far a step moves the LoRA. Higher learns faster and may ruin the style; lower needs more steps."""
    batch_size: int = Field(1, ge=1, le=64)
    """Pictures per step. More make learning steadier and take more memory and time."""
    resolution: int | None = Field(None, ge=64, le=2048, multiple_of=8)
    """Side of the training pictures in px. Larger shows finer detail, takes more memory and time; none: the base's own size."""
    seed: int = Field(1, ge=0, le=2**32 - 1)
    """Seed of all that is random in training. The same seed, pictures and settings give the same file."""
    save_every: int = Field(100, ge=1, le=MAX_STEPS)
    """Steps between checkpoints. Fewer lose less when the computer stops and leave more to choose from, but fill the disk."""
    sample_every: int = Field(100, ge=1, le=MAX_STEPS)
    """Steps between sample pictures, at most 8 times a run. Fewer show the style arrive more closely and take longer."""
    schedule: Literal["cosine", "constant"] = Field("cosine")
    """Learning rate after the warm-up: cosine falls to zero and ends calmly, constant learns more in few steps."""
    warmup_steps: int = Field(20, ge=0, le=5_000)
    """Steps until the full learning rate is reached, at most a tenth of the run. More start more gently and learn less."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    """AdamW's pull of the LoRA towards zero. Higher overfits less and gives a weaker style."""
    clip_norm: float = Field(1.0, gt=0, le=1000)
    """Longest gradient that is used in full. Lower protects from single bad steps and learns more slowly."""
    caption_dropout: float = Field(0.1, ge=0, le=0.9)
    """Share of pictures shown without their caption. Higher lets the style act without words, and words steer it less."""
    min_snr_gamma: float | None = Field(None, gt=0, le=100)
    """Min-SNR weighting (5 is usual): lower evens out how much clear and noisy pictures count; none: off."""
    default_caption: str = Field("", max_length=2000)
    """Caption of pictures that have none. What it names can be left out of a prompt later, what it does not becomes style."""
    sample_prompts: tuple[str, ...] = Field((), max_length=8)
    """Prompts of the sample pictures; empty: made from the captions. More show more of the style and take longer."""
    sample_steps: int = Field(20, ge=1, le=150)
    """Denoising steps of a sample picture. More are cleaner and take longer."""
    sample_guidance: float = Field(5.0, ge=1, le=30)
    """CFG scale of sample pictures. Higher follows the prompt more closely and overdraws colour and contrast."""
    file_dtype: Literal["fp16", "bf16", "fp32"] = Field("fp16")
    """Number format in the file. fp16 and bf16 make it half as large as fp32, which rounds nothing."""
    device: Device = Field("auto")
    """Where to compute. auto takes a graphics card where one works, else the processor, which is slower."""


class LoraChoice(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True):
    """One LoRA of a blend: its file, how strongly it acts, where in the network and when while drawing."""

    file: str = Field(min_length=1)
    """Path of the LoRA file, or its name on the shelf."""
    strength: float = Field(1.0, ge=-4, le=4)
    """Weight of its changes to the UNet: 1 is as trained, 0 is off."""
    text_strength: float | None = Field(None, ge=-4, le=4)
    """Weight of its changes to the text encoders; none: as strength."""
    blocks: str = Field("", max_length=2000)
    """A block preset by name, or one number per block; empty: all 1."""
    start: float = Field(0.0, ge=0, le=1)
    """Share of the denoising after which it begins to act. Later leaves the composition to the base."""
    end: float = Field(1.0, ge=0, le=1)
    """Share of the denoising after which it no longer acts. Earlier leaves the detail to the base."""


class DrawConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True):
    """All that decides a picture. Picture j of every prompt uses seed + j."""

    prompts: tuple[str, ...] = Field(("",), min_length=1, max_length=1000)
    """What to draw."""
    negative: str = Field("", max_length=2000)
    """Negative prompt: what to keep out."""
    base: str = Field("mini", min_length=1)
    """Base model."""
    loras: tuple[LoraChoice, ...] = Field((), max_length=32)
    """LoRAs to draw with."""
    method: Literal["sum", "switch", "composite", "style-subject"] = Field("sum")
    """How several LoRAs act together: added up, in turns, each with a prediction of its own, or by block."""
    switch_every: int = Field(5, ge=1, le=150)
    """Denoising steps until the next LoRA takes over (method switch)."""
    sampler: str = Field("", max_length=40)
    """Sampler by its usual name; empty: the base's own."""
    init: str = Field("")
    """Picture to begin from (image-to-image); empty: pure noise."""
    mask: str = Field("")
    """Picture that is white where `init` is redrawn (inpainting)."""
    init_strength: float = Field(0.6, gt=0, le=1)
    """Denoising strength: the share of the steps that run on `init`. Higher keeps less of it."""
    seed: int = Field(1, ge=0, le=2**32 - 1)
    """Seed of the noise. The same seed and settings give the same picture."""
    count: int = Field(1, ge=1, le=64)
    """Pictures per prompt."""
    steps: int = Field(20, ge=1, le=150)
    """Denoising steps. More are cleaner and take longer."""
    guidance: float = Field(5.0, ge=1, le=30)
    """CFG scale. Higher follows the prompt more closely and overdraws colour and contrast."""
    width: int | None = Field(None, ge=64, le=2048, multiple_of=8)
    """Width in px; none: the base's own size."""
    height: int | None = Field(None, ge=64, le=2048, multiple_of=8)
    """Height in px; none: the base's own size."""
    device: Device = Field("auto")
    """Where to compute."""


@dataclass(frozen=True)
class Preset:
    """One file of presets/: what the artist reads, and one table of numbers per base family."""
    key: str
    title: str
    sentence: str
    order: int
    families: dict[str, dict[str, Any]]


PRESET_ONLY = {"steps_per_picture", "steps_min", "steps_max"}


def read_preset(path: Path) -> Preset:
    """Read one preset; a key that TrainConfig does not know is refused, with the nearest one it does know."""
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_PRESET_BYTES:
            raise UserError(f"The preset {path.name} is larger than {MAX_PRESET_BYTES >> 10} KB.",
                            "A preset is a few lines of numbers.")
        values = tomllib.loads(raw.decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"The preset {path.name} could not be read ({error}).", "Fix or remove the file.") from error
    families = {name: table for name, table in values.items() if isinstance(table, dict)}
    for family, table in families.items():
        for key in table:
            if key not in TrainConfig.model_fields and key not in PRESET_ONLY:
                raise UserError(f"The preset {path.name} has an unknown setting {key!r} under [{family}].", nearest_setting(key))
        wrong = next((key for key in sorted(PRESET_ONLY) if type(table.get(key)) is not int or table[key] < 1), None)
        if wrong:
            raise UserError(f"The preset {path.name} has no whole number {wrong} under [{family}].", "Add it to the file.")
    order = values.get("order", 100)
    if type(order) is not int:
        raise UserError(f"The preset {path.name} has an order that is no whole number.", "Fix the file.")
    return Preset(path.stem, str(values.get("title", path.stem)), str(values.get("sentence", "")), order, families)


def presets() -> dict[str, Preset]:
    """Return all presets that ship, in the order they ask for. Adding a preset is adding a file."""
    found = [read_preset(path) for path in shipped("presets").glob("*.toml")]
    return {preset.key: preset for preset in sorted(found, key=lambda p: (p.order, p.key))}


def from_preset(key: str, family: str, pictures: int, **settings: Any) -> TrainConfig:
    """Return the settings of preset `key` for a base family ("mini", "sd1", "sd2", "sdxl") and a number of pictures.

    steps = clamp(steps_per_picture x pictures, steps_min, steps_max); `settings` win over the preset.
    Unless set, save_every and sample_every divide the run into 8 parts. Raises UserError.
    """
    known = presets()
    if key not in known:
        raise UserError(f"There is no preset {key!r}.", f"Choose one of: {', '.join(known)}.")
    table = dict(known[key].families.get(family) or {})
    if not table:
        raise UserError(f"The preset {key!r} has no numbers for {family} bases.", "Choose another preset.")
    per_picture, low, high = (int(table.pop(name)) for name in ("steps_per_picture", "steps_min", "steps_max"))
    table["steps"] = max(low, min(high, per_picture * pictures))
    merged = {**table, "preset": key, **settings}
    eighth = max(1, -(-int(merged["steps"]) // 8))
    return make(TrainConfig, {"save_every": eighth, "sample_every": eighth, **merged})


def make(model: type[Model], values: dict[str, Any]) -> Model:
    """Validate `values`. Raises UserError about the first wrong one: "rank must be a whole number from 1 to 128, got 500."."""
    try:
        return model(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        *outer, key = [part for part in first["loc"] if isinstance(part, str)]  # "strength" of ("loras", 0, "strength")
        fields = (LoraChoice if outer else model).model_fields
        if first["type"] == "extra_forbidden":
            raise UserError(f"There is no setting {key!r}.", nearest_setting(key, fields)) from error
        if first["type"] == "missing":
            raise UserError(f"{key} is missing.", "Add it and try again.") from error
        got: Any = first["input"]
        if first["type"] in ("too_long", "too_short"):
            got = len(got)
        shown = f"{len(got)} characters" if first["type"].startswith("string_too_") else clean_text(repr(got), MAX_SHOWN)
        close = difflib.get_close_matches(str(got)[:MAX_SHOWN].lower(), choices(fields[key]), n=1)
        raise UserError(f"{key} must be {allowed_values(fields[key])}, got {shown}.",
                        f"Did you mean {close[0]}?" if close else "Change it and try again.") from error


def value_type(field: FieldInfo) -> Any:
    """Return the class of a setting's values but None: int, float, str or tuple. A choice of words is str."""
    options = get_args(field.annotation) if isinstance(field.annotation, UnionType) else [field.annotation]
    first = next(option for option in options if option is not NoneType)
    return str if get_origin(first) is Literal else get_origin(first) or first


def may_be_none(field: FieldInfo) -> bool:
    return NoneType in get_args(field.annotation)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words of which a setting takes one; none for a setting that takes anything else."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def limits(field: FieldInfo) -> dict[str, Any]:
    """Return the limits of a setting by pydantic's names, as {"ge": 1, "le": 128}."""
    return {name: getattr(rule, name) for rule in field.metadata for name in LIMITS if hasattr(rule, name)}


def allowed_values(field: FieldInfo) -> str:
    """Say what a setting takes: "a whole number from 1 to 128", "a number above 0, at most 0.1", "fp16, bf16 or fp32"."""
    if words := choices(field):
        return f"{', '.join(words[:-1])} or {words[-1]}"
    limit, kind = limits(field), value_type(field)
    if kind is tuple:
        return f"a list of {allowed_length(limit, 'LoRA' if LoraChoice in get_args(field.annotation) else 'text')}"
    if kind is str:
        return f"text of {allowed_length(limit, 'character')}" if limit else "text"
    noun = f"a multiple of {limit['multiple_of']}" if "multiple_of" in limit else "a whole number" if kind is int else "a number"
    low = f" from {format_value(limit['ge'])} to" if "ge" in limit else f" above {format_value(limit['gt'])}, at most"
    return f"{noun}{low} {format_value(limit['le'])}{', or none' if may_be_none(field) else ''}"


def allowed_length(limit: dict[str, int], noun: str) -> str:
    """Say how long something may be: "1 to 80 characters", "at most 8 texts"."""
    least, most = limit.get("min_length", 0), limit.get("max_length")
    if not most:
        return f"at least {least} {noun}{'s' * (least != 1)}"
    return f"{least} to {most} {noun}s" if least else f"at most {most} {noun}s"


def format_value(value: object) -> str:
    """Return a value as one types it: 0.0001, not 1e-04; 1, not 1.0. It reads back the same."""
    if not isinstance(value, Decimal | float):
        return str(value)
    text = format(Decimal(str(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def nearest_setting(key: str, fields: dict[str, FieldInfo] = TrainConfig.model_fields) -> str:
    """Return a hint that names the setting `key` probably stands for, also by the names of other trainers."""
    plain_key = re.sub(r"[\W_]+", "_", key).strip("_").lower()
    known = OTHER_NAMES.get(plain_key)
    close = [known] if known in fields else difflib.get_close_matches(plain_key, fields, n=1)
    return f"Did you mean {close[0]}?" if close else f"The settings are: {', '.join(fields)}."
