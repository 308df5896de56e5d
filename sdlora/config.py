"""Every setting, once: the frozen model is preset, job spec, form, command-line flag and metadata alike.

Knows nothing about torch, pictures or files other than presets.
"""

import difflib
import re
import tomllib
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from sdlora.errors import UserError
from sdlora.storage import clean_text, shipped

Model = TypeVar("Model", bound=BaseModel)
MAX_PRESET_BYTES = 64 * 1024
SHOWN = 60  # letters of a wrong value
LIMITS = ("ge", "gt", "le", "multiple_of", "min_length", "max_length")
Device = Literal["auto", "cuda", "mps", "cpu"]
THEIR_NAMES = {  # what kohya's scripts, diffusers' and other trainers call it
    "max_train_steps": "steps", "network_dim": "rank", "lora_rank": "rank", "dim": "rank", "r": "rank",
    "network_alpha": "alpha", "lora_alpha": "alpha", "lr": "learning_rate", "unet_lr": "learning_rate",
    "train_batch_size": "batch_size", "lr_scheduler": "schedule", "lr_scheduler_type": "schedule",
    "lr_warmup_steps": "warmup_steps", "adam_weight_decay": "weight_decay", "max_grad_norm": "clip_norm",
    "caption_dropout_rate": "caption_dropout", "snr_gamma": "min_snr_gamma", "output_name": "name", "trigger_word": "trigger",
    "pretrained_model_name_or_path": "base", "save_every_n_steps": "save_every", "checkpointing_steps": "save_every",
    "sample_every_n_steps": "sample_every", "validation_steps": "sample_every", "validation_prompt": "sample_prompts",
    "num_inference_steps": "sample_steps", "guidance_scale": "sample_guidance", "save_precision": "file_dtype",
    "cfg_scale": "guidance"}
BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}
PIECE = re.compile(  # a part in quotes, an escaped letter, a bracket, a separator, other letters
    r'(?<![^|,])\s*"(?:[^"]|"")*"(?=\s*(?:[|,]|$))|\\.|(?P<open>[(\[{]|<(?=[A-Za-z_]))|(?P<close>[)\]}>])|[|,]|[^|,\\()\[\]{}<>]+|.',
    re.DOTALL)
NUMERAL = re.compile(  # 1,5e-4  5 x 10^-5  1/1000  10 %  2.5k  500 steps
    r"(?:(?P<digits>[+-]?[\d.,'_ ]*\d[.,]?)(?:e(?P<e>[+-]?\d{1,3})|\s*[*x×·]\s*10(?P<times>(?:\^|\*\*|(?=[+-]))[+-]?\d{1,3}))?"
    r"|10(?P<power>(?:\^|\*\*)[+-]?\d{1,3}))\s*(?:/\s*(?P<below>[1-9]\d{0,9}))?\s*(?P<unit>%?[A-Za-z ]{0,20})", re.IGNORECASE)
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([,. '_])\d{3}(?:\1\d{3})*(?:(?!\1)[.,]\d+)?")
UNITS = {"%": Decimal("0.01"), "percent": Decimal("0.01"), "k": 1000, "thousand": 1000, "M": 10**6, "million": 10**6,
         **dict.fromkeys(["f", "px", "pixel", "pixels", "step", "steps", "round", "rounds", "picture", "pictures"], 1)}


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
            raise UserError(f"--set {pair} has no value.", f"Write it as --set {key}={example(key)}.")
        values[key] = typed(key, text.strip())
    return values


def typed(key: str, text: str) -> object:
    """The value of setting `key` written as text; raises UserError when it is no such value."""
    kind = str(TrainConfig.model_fields[key].annotation)
    if "None" in kind and text.lower() in ("none", "off", ""):
        return None
    if "tuple" in kind:
        return tuple(filter(None, parted(text, "|")))
    for number, name in ((int, "int"), (float, "float")):
        if name in kind:
            try:
                return number(text)
            except ValueError as error:
                takes = allowed(TrainConfig.model_fields[key])
                raise UserError(f"{key} must be {takes}, got {clean_text(repr(text), SHOWN)}.", hint(key, text)) from error
    return text


def parted(text: str, separator: str) -> list[str]:
    """The parts between separators, | or a comma; one in brackets or quotes is none: "a [b|c] | d" has two parts."""
    cuts: list[int] = []
    opened: list[tuple[str, int]] = []  # brackets, each with the number of cuts before it
    for found in PIECE.finditer(text):
        if found[0] == separator:
            cuts.append(found.start())
        elif found["open"]:
            opened.append((found[0], len(cuts)))
        elif found["close"] and any(bracket == BRACKETS[found[0]] for bracket, _ in opened):
            while (last := opened.pop())[0] != BRACKETS[found[0]]:
                pass
            del cuts[last[1]:]
    return [text[begin + 1:end].strip() for begin, end in pairwise([-1, *cuts, len(text)])]


def hint(key: str, text: str) -> str:
    """How a number is written that `text` probably means and setting `key` takes, else an example that is called one."""
    meant = [value for value in meanings(text) if fits(key, value)]
    if "int" in str(TrainConfig.model_fields[key].annotation):
        meant = meant[:1]  # "1.000" rounds are a thousand
    if not meant:
        return f"For example: {key}={example(key)}."
    return f"Write it as {' or '.join(f'{key}={plain(value)}' for value in dict.fromkeys(meant))}."


def example(key: str) -> str:
    """A value of a setting as text: its default, where that says how it is written."""
    usual = {"name": "My style", "trigger": "mystyle", "default_caption": "a drawing", "sample_prompts": "a house | a boat"}
    default = TrainConfig.model_fields[key].default
    return usual.get(key) or ("none" if default is None else plain(default))


def meanings(text: str) -> list[Decimal]:
    """The numbers that a text may mean where Python reads none: a decimal comma, parted thousands, powers, fractions, units."""
    text = re.sub("[⁺⁻]?[⁰¹²³⁴-⁹]+", r"^\g<0>", text)
    text = unicodedata.normalize("NFKC", text).translate({ord("−"): "-", ord("–"): "-", ord("’"): "'"})
    found = NUMERAL.fullmatch(text.strip())
    words = found["unit"].replace("%", "% ").split() if found else []
    factors = [UNITS.get(word) or UNITS.get(word.lower() if len(word) > 1 or word in "KF" else "") for word in words]
    if not found or None in factors:
        return []
    digits = found["digits"] or "1"
    grouped = GROUPED.fullmatch(digits)
    spellings = [digits.replace(grouped[1], "")] if grouped else []
    if re.fullmatch(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)", digits):
        spellings.append(digits)
    power = int((found["e"] or found["times"] or found["power"] or "0").lstrip("^*"))
    values = [Decimal(spelling.replace(",", ".")).scaleb(power) * prod(factors) for spelling in spellings]
    return [Decimal(f"{value / int(found['below']):.6g}") for value in values] if found["below"] else values


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
    """Validate `values`; the first thing wrong becomes a sentence like "rank must be a whole number from 1 to 128, got 500."."""
    try:
        return model(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        *outer, key = [part for part in first["loc"] if isinstance(part, str)]  # "strength" of ("loras", 0, "strength")
        inner = LoraChoice if outer else model
        if first["type"] == "extra_forbidden":
            raise UserError(f"There is no setting {key!r}.", nearest(key, inner)) from error
        if first["type"] == "missing":
            raise UserError(f"{key} is missing.", "Add it and try again.") from error
        got = first["input"]
        if first["type"] in ("too_long", "too_short"):
            got = len(got)
        said = f"{len(got)} letters" if first["type"].startswith("string_too_") else clean_text(repr(got), SHOWN)
        close = difflib.get_close_matches(str(got)[:SHOWN].lower(), choices(inner.model_fields[key]), n=1)
        raise UserError(f"{key} must be {allowed(inner.model_fields[key])}, got {said}.",
                        f"Did you mean {close[0]}?" if close else "Change it and try again.") from error


def choices(field: FieldInfo) -> tuple[str, ...]:
    """The words of which a setting takes one; none for a setting that takes anything else."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def allowed(field: FieldInfo) -> str:
    """What a setting takes: "a whole number from 1 to 128", "a number above 0, at most 0.1", "fp16, bf16 or fp32"."""
    if words := choices(field):
        return f"{', '.join(words[:-1])} or {words[-1]}"
    limits = {name: getattr(rule, name) for rule in field.metadata for name in LIMITS if hasattr(rule, name)}
    kind = str(field.annotation)
    if "tuple" in kind:
        return f"a list of {amount(limits, 'LoRA' if 'LoraChoice' in kind else 'text')}"
    if "str" in kind:
        return f"text of {amount(limits, 'letter')}" if limits else "text"
    said = "a whole number" if "int" in kind else "a number"
    if "multiple_of" in limits:
        said = f"a multiple of {limits['multiple_of']}"
    said += f" from {plain(limits['ge'])} to" if "ge" in limits else f" above {plain(limits['gt'])}, at most"
    return f"{said} {plain(limits['le'])}{', or none' if 'None' in kind else ''}"


def amount(limits: dict[str, int], noun: str) -> str:
    """How long something may be: "1 to 80 letters", "at most 8 texts"."""
    least, most = limits.get("min_length", 0), limits.get("max_length")
    if not most:
        return f"at least {least} {noun}{'s' * (least != 1)}"
    return f"{least} to {most} {noun}s" if least else f"at most {most} {noun}s"


def nearest(key: str, model: type[BaseModel] = TrainConfig) -> str:
    """A hint naming the setting that `key` was probably meant to be, also as other trainers call it."""
    plain_key = re.sub(r"[\W_]+", "_", key).strip("_").lower()
    theirs = THEIR_NAMES.get(plain_key)
    close = [theirs] if theirs in model.model_fields else difflib.get_close_matches(plain_key, model.model_fields, n=1)
    return f"Did you mean {close[0]}?" if close else f"The settings are: {', '.join(model.model_fields)}."
