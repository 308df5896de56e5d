"""Every setting, once: the frozen model is preset, job spec, form, command-line flag and metadata alike.

Knows nothing about torch, pictures or files other than presets.
"""

import difflib
import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from sdlora.errors import UserError
from sdlora.storage import shipped

Model = TypeVar("Model", bound=BaseModel)
MAX_PRESET_BYTES = 64 * 1024
Device = Literal["auto", "cuda", "mps", "cpu"]


class TrainConfig(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """All that decides a training run, apart from the pictures."""

    name: str = Field("My style", min_length=1, max_length=80, description="Name of the style and of its file")
    trigger: str = Field("", max_length=60, description="The word that calls your style in a prompt")
    base: str = Field("mini", min_length=1, description="The base model the style is taught to")
    preset: str = Field("normal", description="The preset these settings started from")
    steps: int = Field(1200, ge=1, le=20_000, description="Study rounds: how often the trainer looks at a few pictures")
    rank: int = Field(16, ge=1, le=128, description="How much detail the file can hold")
    alpha: float | None = Field(None, gt=0, le=1024, description="LoRA alpha; none: equal to the rank")
    learning_rate: float = Field(1e-4, gt=0, le=0.1, description="How boldly it learns")
    batch_size: int = Field(1, ge=1, le=64, description="Pictures looked at in one round")
    resolution: int | None = Field(None, ge=64, le=2048, multiple_of=8,
                                   description="Side of the training pictures in px; none: the size the base was made for")
    seed: int = Field(1, ge=0, le=2**32 - 1, description="Variation number of the training run")
    save_every: int = Field(100, ge=1, le=20_000, description="Rounds between saved points")
    sample_every: int = Field(100, ge=1, le=20_000, description="Rounds between sample pictures, at most 8 times a run")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="How the rate runs out after the warm-up")
    warmup_steps: int = Field(20, ge=0, le=5_000, description="Rounds until the full rate is reached")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW weight decay on the LoRA")
    clip_norm: float = Field(1.0, gt=0, le=1000, description="Longest gradient that is used in full")
    caption_dropout: float = Field(0.1, ge=0, le=0.9, description="Share of rounds that see no caption")
    min_snr_gamma: float | None = Field(None, gt=0, le=100, description="Min-SNR weighting (5 is usual); none: off")
    default_caption: str = Field("", max_length=2000, description="Caption of pictures that have none")
    sample_prompts: tuple[str, ...] = Field((), max_length=8, description="Sample prompts; empty: made from the captions")
    sample_steps: int = Field(20, ge=1, le=150, description="Denoising steps of a sample picture")
    sample_guidance: float = Field(5.0, ge=1, le=30, description="How closely sample pictures follow the prompt")
    file_dtype: Literal["fp16", "bf16", "fp32"] = Field("fp16", description="Number format inside the file")
    device: Device = Field("auto", description="Where to compute")


class LoraChoice(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """One LoRA of a blend: its file, how strongly it acts, where in the network and when while drawing."""

    file: str = Field(min_length=1)
    strength: float = Field(1.0, ge=-4, le=4, description="Of its changes to the UNet")
    text_strength: float | None = Field(None, ge=-4, le=4, description="Of its changes to the text encoders; none: as strength")
    blocks: str = Field("", max_length=2000, description="A block preset by name, or one number per block; empty: all 1")
    start: float = Field(0.0, ge=0, le=1, description="Share of the denoising after which it begins to act")
    end: float = Field(1.0, ge=0, le=1, description="Share of the denoising after which it no longer acts")


class DrawConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """All that decides a picture. Image j of every prompt uses seed + j."""

    prompts: tuple[str, ...] = Field(("",), min_length=1, max_length=1000, description="What to draw")
    negative: str = Field("", max_length=2000, description="What to keep out")
    base: str = Field("mini", min_length=1, description="The base model")
    loras: tuple[LoraChoice, ...] = Field((), max_length=32)
    method: Literal["sum", "switch", "composite", "style-subject"] = Field("sum", description="How several LoRAs act together")
    switch_every: int = Field(5, ge=1, le=150, description="Denoising steps until the next LoRA takes over (switch)")
    sampler: str = Field("", max_length=40, description="A sampler by its usual name; empty: the base's own")
    init: str = Field("", description="A picture to begin from (image-to-image); empty: pure noise")
    mask: str = Field("", description="A picture that is white where `init` is drawn anew (inpainting)")
    init_strength: float = Field(0.6, gt=0, le=1, description="How far `init` is changed: the share of the steps that run")
    seed: int = Field(1, ge=0, le=2**32 - 1, description="Variation number")
    count: int = Field(1, ge=1, le=64, description="Pictures per prompt")
    steps: int = Field(20, ge=1, le=150, description="Denoising steps")
    guidance: float = Field(5.0, ge=1, le=30, description="How closely the prompt is followed")
    width: int | None = Field(None, ge=64, le=2048, multiple_of=8, description="px; none: the base's own size")
    height: int | None = Field(None, ge=64, le=2048, multiple_of=8, description="px; none: the base's own size")
    device: Device = Field("auto", description="Where to compute")


@dataclass(frozen=True)
class Preset:
    """One file of presets/: what the artist reads, and one table of numbers per base family."""
    key: str
    title: str
    sentence: str
    order: int
    families: dict[str, dict[str, object]]


PRESET_ONLY = {"steps_per_picture", "steps_min", "steps_max"}


def read_preset(path: Path) -> Preset:
    """Read one preset; a key that TrainConfig does not know is refused, with the nearest one it does know."""
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_PRESET_BYTES:
            raise UserError(f"The preset {path.name} is larger than 64 KB.", "A preset is a few lines of numbers.")
        values = tomllib.loads(raw.decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"The preset {path.name} could not be read ({error}).", "Mend or remove the file.") from error
    families = {name: table for name, table in values.items() if isinstance(table, dict)}
    for family, table in families.items():
        for key in table:
            if key not in TrainConfig.model_fields and key not in PRESET_ONLY:
                raise UserError(f"The preset {path.name} has an unknown setting {key!r} under [{family}].", nearest(key))
        wrong = next((key for key in sorted(PRESET_ONLY) if type(table.get(key)) is not int or table[key] < 1), None)
        if wrong:
            raise UserError(f"The preset {path.name} has no whole number {wrong} under [{family}].", "Add it to the file.")
    order = values.get("order", 100)
    if type(order) is not int:
        raise UserError(f"The preset {path.name} has an order that is no whole number.", "Mend the file.")
    return Preset(path.stem, str(values.get("title", path.stem)), str(values.get("sentence", "")), order, families)


def presets() -> dict[str, Preset]:
    """All presets that ship, in the order they ask for. Adding a preset is adding a file."""
    found = [read_preset(path) for path in shipped("presets").glob("*.toml")]
    return {preset.key: preset for preset in sorted(found, key=lambda p: (p.order, p.key))}


def from_preset(key: str, family: str, pictures: int, **settings: object) -> TrainConfig:
    """The settings of preset `key` for a base family ("mini", "sd1", "sd2", "sdxl") and a number of pictures.

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


def parse_sets(pairs: list[str]) -> dict[str, object]:
    """`["rank=8", "min_snr_gamma=none"]` -> `{"rank": 8, "min_snr_gamma": None}`, typed by TrainConfig's fields."""
    values: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if key not in TrainConfig.model_fields:
            raise UserError(f"There is no setting {key!r}.", nearest(key))
        if not equals:
            raise UserError(f"--set {pair} has no value.", f"Write it as --set {written(key, text)}.")
        values[key] = typed(key, text.strip())
    return values


def typed(key: str, text: str) -> object:
    """The value of setting `key` written as text; raises UserError when it is no such value."""
    kind = str(TrainConfig.model_fields[key].annotation)
    if "None" in kind and text.lower() in ("none", "off", ""):
        return None
    if "tuple" in kind:
        return tuple(part.strip() for part in text.split("|") if part.strip())
    for number, name in ((int, "int"), (float, "float")):
        if name in kind:
            try:
                return number(text)
            except ValueError as error:
                kind_word = "a whole number" if number is int else "a number"
                raise UserError(f"{key} must be {kind_word}, got {text!r}.", f"Write it as {written(key, text)}.") from error
    return text


def written(key: str, text: str) -> str:
    """How setting `key` is written, with the value that `text` probably means, else with its default: "learning_rate=0.0001"."""
    fields = TrainConfig.model_fields
    number = re.search(r"int|float", str(fields[key].annotation))
    meant = [value for value in meanings(text, whole=bool(number) and number[0] == "int") if number and fits(key, value)]
    usual = {"name": "My style", "trigger": "mystyle", "default_caption": "a drawing", "sample_prompts": "a house | a boat"}
    default = fields[key].default
    likely = [plain(value) for value in meant] or [usual.get(key) or ("none" if default is None else plain(default))]
    return " or ".join(f"{key}={value}" for value in dict.fromkeys(likely))


def meanings(text: str, *, whole: bool) -> list[Decimal]:
    """The numbers that a text may mean where the point is a comma, thousands are parted, or a percent sign or a unit follows."""
    number = re.fullmatch(r"\s*([+-]?[\d.,'’\s_]*\d(?:e[+-]?\d{1,3})?)\s*(%?)[\s\w]{0,10}", text.casefold())
    if not number:
        return []
    digits = re.sub(r"['’\s_]", "", number[1])
    head, mark, tail = digits.rpartition(max(".,", key=digits.rfind))  # the last one is the point
    spellings = [re.sub("[.,]", "", head) + mark.replace(",", ".") + tail]
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}((,\d{3})+|(\.\d{3})+)", digits):
        spellings = [re.sub("[.,]", "", digits), *([] if whole else spellings)]
    found = []
    for spelling in spellings:
        with suppress(InvalidOperation):
            found.append(Decimal(spelling) / (100 if number[2] else 1))
    return found


def fits(key: str, value: Decimal) -> bool:
    """Whether a setting takes this number."""
    whole = "int" in str(TrainConfig.model_fields[key].annotation)
    try:
        return not (whole and value % 1) and bool(TrainConfig(**{key: int(value) if whole else float(value)}))
    except (ValidationError, ArithmeticError):
        return False


def plain(value: object) -> str:
    """A value as one types it: 0.0001, not 1e-04."""
    if not isinstance(value, Decimal | float):
        return str(value)
    text = format(Decimal(str(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def make(model: type[Model], values: dict[str, object]) -> Model:
    """Validate `values`; the first thing wrong becomes a sentence such as "rank must be at most 128, got 500."."""
    try:
        return model(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        key = next(part for part in reversed(first["loc"]) if isinstance(part, str))  # "strength" of ("loras", 0, "strength")
        if first["type"] == "extra_forbidden":
            raise UserError(f"There is no setting {key!r}.", nearest(key)) from error
        said = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise UserError(f"{key} must be {said}, got {first['input']!r}.", "Change it and try again.") from error


def nearest(key: str) -> str:
    """A hint naming the setting that `key` was probably meant to be."""
    close = difflib.get_close_matches(key, TrainConfig.model_fields, n=1)
    return f"Did you mean {close[0]}?" if close else f"The settings are: {', '.join(TrainConfig.model_fields)}."
