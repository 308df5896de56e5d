"""A grid of pictures that differ in one or two settings: its axes, its cells, the order of drawing, the infotext of its sheet.

Knows nothing about torch, the shelf or layout: axes over LoRAs are given files, and `sheet.py` puts the pictures together.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from sdlora.config import DrawConfig, LoraChoice, format_value, make
from sdlora.draw import grammar, samplers
from sdlora.errors import UserError
from sdlora.lora.math import blocks
from sdlora.parsing import split_list
from sdlora.storage import clean_text

MAX_VALUES, MAX_CELLS = 64, 400
# What an axis may vary, in the order in which it is applied: (type of its values, the name A1111's X/Y/Z plot has for it or ours)
KINDS: dict[str, tuple[type, str]] = {
    "pairs": (str, "Base and LoRA"), "lora": (str, "LoRA"), "point": (str, "Checkpoint"), "strength": (float, "LoRA strength"),
    "text": (float, "LoRA text strength"), "blocks": (str, "LoRA blocks"), "start": (float, "LoRA start"),
    "end": (float, "LoRA end"), "method": (str, "LoRA method"), "prompt": (str, "Prompt"), "negative": (str, "Negative prompt"),
    "replace": (str, "Prompt S/R"), "seed": (int, "Seed"), "steps": (int, "Steps"), "guidance": (float, "CFG Scale"),
    "sampler": (str, "Sampler"), "denoise": (float, "Denoising"),
}
NAMES = {kind.removesuffix("s"): kind for kind in KINDS if kind != "pairs"} | {
    "cfg": "guidance", "sr": "replace", "weight": "strength", "denoising": "denoise"}
OF_PICTURE = {"method": "method", "negative": "negative", "seed": "seed", "steps": "steps", "guidance": "guidance",
              "sampler": "sampler", "denoise": "init_strength"}
OF_LORA = {"strength": "strength", "text": "text_strength", "blocks": "blocks", "start": "start", "end": "end"}
OF_WORDS = ("prompt", "negative", "replace")
NUMBER_LABELS = {"text": "text strength", "denoise": "denoising"}  # before a number on the sheet, where it is not the kind
NUMBER = r"([+-]?\d{1,10}(?:\.\d{1,10})?)"
RANGE = re.compile(rf"{NUMBER}\s*-\s*{NUMBER}\s*(?:\({NUMBER}\)|\[(\d{{1,3}})\])?")


@dataclass(frozen=True)
class BadValue:
    """A value of an axis as it was written, and why nothing can be drawn with it. Only its cells are not drawn."""
    text: str
    why: UserError


@dataclass(frozen=True)
class Axis:
    """One side of a grid. values: of the type of `kind`, in order, or BadValue; labels: as the sheet shows them.

    which: for the settings of a LoRA, its number from 1; 0: all of them. Values of "lora" and "point" are LoraChoice or None.
    """
    kind: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    which: int = 0


Choice = tuple[str, LoraChoice | BadValue | None]


@dataclass(frozen=True)
class Cell:
    """One picture of a grid: its place, counted from 0, its label, and how it is drawn (one prompt, one picture).

    problem: why it cannot be drawn; it has no config then.
    """
    column: int
    row: int
    label: str
    config: DrawConfig | None
    problem: UserError | None = None

    @property
    def name(self) -> str:
        """Return a name for its file or its part of a job: "01-03" is row 1, column 3."""
        return f"{self.row:02d}-{self.column:02d}"


def parse(text: str) -> Axis:
    """Read an axis: `strength=0,0.5,1`, `seed=1-4`, `strength2=0-1 (+0.25)`, `steps=10-30 [3]`, `prompt=a house|a boat`.

    Ranges as in A1111's X/Y/Z plot. Texts are split by `texts`. Values of lora and point stay texts: `lora_axis` makes
    the axis of them. Raises UserError, for values only where none of them can be used.
    """
    head, _, tail = text.partition("=")
    named = re.fullmatch(r"\s*([a-z]+?)s?([1-9]\d?)?\s*=", f"{head.lower()}=") if "=" in text else None
    kind, which = (NAMES.get(named[1], ""), int(named[2] or 0)) if named else ("", 0)
    if not kind or (which and kind not in OF_LORA):
        raise UserError(f"{clean_text(text, 60)!r} is no axis of a grid.",
                        f"Write it as strength=0,0.5,1 or seed=1-4. There are: {', '.join(dict.fromkeys(NAMES.values()))}.")
    values: list[Any] = texts(tail) if KINDS[kind][0] is str else numbers(kind, tail)
    check_values(kind, values)
    return Axis(kind, tuple(values), tuple(label(kind, value, which) for value in values), which)


def check_values(kind: str, values: Sequence[object]) -> None:
    """Raise UserError when there are too many values, or none that can be used."""
    if len(values) > MAX_VALUES:
        raise UserError(f"The axis {kind} has more than {MAX_VALUES} values.", "Leave some out, or draw several grids.")
    bad = [value.why for value in values if isinstance(value, BadValue)]
    if bad and len(bad) == len(values):
        raise bad[0]


def texts(tail: str) -> list[str]:
    """Split `a|b, c` into ["a", "b, c"], as also `a,"b, c"`, which A1111 reads so. Text in brackets is not split."""
    parts = split_list(tail, "|")
    if len(parts) > 1:
        return parts
    return [part[1:-1].replace('""', '"') if re.fullmatch(r'"(?:[^"]|"")*"', part) else part for part in split_list(tail, ",")]


def numbers(kind: str, tail: str) -> list[int | float | BadValue]:
    """Return the numbers of `1,2-4,0-1 (+0.25),0-1 [5]`, in that order. Decimals are exact: 0.1 + 0.2 is 0.3."""
    found: list[int | float | BadValue] = []
    for part in filter(None, map(str.strip, tail.split(","))):
        between = RANGE.fullmatch(part)
        if between:
            found += spread(kind, *between.groups())
        elif re.fullmatch(NUMBER, part):
            found.append(typed(kind, Decimal(part)))
        else:
            found.append(bad_value(part, f"{part[:40]!r} is no number for the {kind} of a grid.", number_example(kind)))
        if len(found) > MAX_VALUES:
            break
    if not found:
        raise UserError(f"The axis {kind} has no values.", number_example(kind))
    return found


def bad_value(text: str, message: str, hint: str) -> BadValue:
    return BadValue(clean_text(text, 60), UserError(message, hint))


def typed(kind: str, value: Decimal) -> int | float | BadValue:
    """Return a number in the type of `kind`."""
    if KINDS[kind][0] is int and value != int(value):
        return bad_value(format(value, "f"), f"{kind} takes whole numbers.", number_example(kind))
    return KINDS[kind][0](value)


def number_example(kind: str) -> str:
    """Return a hint: an axis of this kind with valid numbers."""
    if kind in ("start", "end", "denoise"):
        return f"Write it as {kind}=0.5,1 or {kind}=0.5-1 (+0.25)."
    return f"Write it as {kind}=1,2 or {kind}=1-4."


def spread(kind: str, first: str, last: str, step: str | None, count: str | None) -> list[int | float | BadValue]:
    """Return the numbers from first to last, both included, in steps of `step` (1 unless given) or in `count` even steps.

    They are cut at MAX_VALUES + 1.
    """
    begin, end, most = Decimal(first), Decimal(last), MAX_VALUES + 1
    if count:
        places = [begin + (end - begin) * at / max(int(count) - 1, 1) for at in range(min(int(count), most))]
        places = [place.to_integral_value() if KINDS[kind][0] is int else round(place, 6).normalize() for place in places]
    else:
        by = Decimal(step or 1)
        steps = (end - begin) / by if by else -1
        places = [begin + by * at for at in range(min(int(steps) + 1, most))] if steps >= 0 else []
    if not places:
        return [bad_value(f"{first}-{last}", f"The range {first}-{last} has no values.",
                      "Write it as 0-1 (+0.25), or 1-0 (-0.25) downward.")]
    return [typed(kind, place) for place in places]


def text_of(value: Any) -> str:
    """Return a value as it is written, a number without exponent."""
    return value.text if isinstance(value, BadValue) else format_value(value)


def label(kind: str, value: object, which: int = 0) -> str:
    """Return what the sheet calls a value: numbers with the name of the setting, texts as they are."""
    of = f"LoRA {which} " if which else ""
    if KINDS[kind][0] is not str:
        return f"{of}{NUMBER_LABELS.get(kind, kind)} {text_of(value)}"
    return of + clean_text(str(value), 300) or {"blocks": "all blocks", "sampler": "the base's sampler"}.get(kind, "(nothing)")


def pairs_axis(config: DrawConfig) -> Axis:
    """Return the axis of base-vs-LoRA pairs: without the LoRAs of `config`, and with them. Raises UserError when it has none."""
    if not config.loras:
        raise UserError("There is no LoRA to compare the base with.", "Give one with --lora FILE.")
    names = " + ".join(Path(choice.file).stem for choice in config.loras)
    return Axis("pairs", (False, True), ("base alone", clean_text(f"with {names}", 300)))


def tried(values: Sequence[str], choices_of: Callable[[str], Sequence[Choice]]) -> list[Choice]:
    """Return choices_of() each value, for lora_axis; BadValue where that raises UserError."""
    found: list[Choice] = []
    for value in values:
        try:
            found += choices_of(value)
        except UserError as error:
            found.append((value, BadValue(value, error)))
    return found


def lora_axis(kind: str, choices: Sequence[Choice]) -> Axis:
    """Return an axis over LoRA files or checkpoints ("lora" or "point"); choices: (label, file, or None for no LoRA).

    Files that share a label get the name of the file as label, and those that share that their folder too.
    """
    check_values(kind, [choice for _, choice in choices])
    labels = [name for name, _ in choices]
    for depth in (1, 2):
        labels = [Path(*Path(choice.file).with_suffix("").parts[-depth:]).as_posix()
                  if isinstance(choice, LoraChoice) and same_label(labels, name, choices, choice) else name
                  for name, (_, choice) in zip(labels, choices, strict=True)]
    return Axis(kind, tuple(choice for _, choice in choices), tuple(clean_text(name, 300) for name in labels))


def same_label(labels: Sequence[str], label: str, choices: Sequence[Choice], choice: LoraChoice) -> bool:
    """Return whether another file has this label too."""
    return any(other == label and (not isinstance(theirs, LoraChoice) or theirs.file != choice.file)
               for other, (_, theirs) in zip(labels, choices, strict=True))


def cells(config: DrawConfig, x: Axis, y: Axis | None = None,
          resolve: Callable[[DrawConfig], DrawConfig] = lambda config: config, family: str = "") -> list[Cell]:
    """Return the cells of a grid: those that cannot be drawn, then the others in an order that makes drawing cheap (`in_order`).

    config: what all have in common, with one prompt. resolve() turns the tags of a prompt into LoRAs: after the axes that change
    its text, before those that change its LoRAs. family: of the base, to check block weights; "": they are not checked.
    A value out of range, a missing LoRA, a text to replace that does not occur: such a cell has a problem. Raises
    UserError for more than MAX_CELLS cells, and the problem of the first where none can be drawn.
    """
    if len(config.prompts) != 1 or config.count != 1:
        raise UserError("A grid has one prompt and one picture a cell.", 'Vary the prompt with "prompt=a house|a boat".')
    rows = y.values if y else (None,)
    if len(x.values) * len(rows) > MAX_CELLS:
        raise UserError(f"A grid of {len(x.values)} x {len(rows)} is too large (at most {MAX_CELLS} pictures).",
                        "Leave some values out, or draw several grids.")
    made = []
    for row in range(len(rows)):
        for column in range(len(x.values)):
            sides = [(x, column), *([(y, row)] if y else [])]
            name = " · ".join(axis.labels[at] for axis, at in sides)
            try:
                made.append(Cell(column, row, name, cell_config(config, sides, resolve, family)))
            except UserError as error:
                made.append(Cell(column, row, name, None, error))
    problems = [cell.problem for cell in made if cell.problem]
    if len(problems) == len(made):
        raise problems[0]
    return [cell for cell in made if cell.problem] + in_order([cell for cell in made if cell.config])


def cell_config(config: DrawConfig, sides: Sequence[tuple[Axis, int]], resolve: Callable[[DrawConfig], DrawConfig],
            family: str) -> DrawConfig:
    """Return the settings of one cell. sides: its axes and which of their values. Raises UserError where it cannot be drawn."""
    sides = sorted(sides, key=lambda side: (side[0].kind not in OF_WORDS, list(KINDS).index(side[0].kind)))
    of_words = [side for side in sides if side[0].kind in OF_WORDS]
    values = config.model_dump()
    for axis, at in of_words:
        values |= changed_fields(values, axis, axis.values[at])
    values = resolve(make(DrawConfig, values)).model_dump()
    for axis, at in sides[len(of_words):]:
        values |= changed_fields(values, axis, axis.values[at])
    made = make(DrawConfig, values)
    for problem in filter(None, map(grammar.problem, (*made.prompts, made.negative))):
        raise problem
    for choice in made.loras if family else ():
        blocks.parse(choice.blocks, family)
    return made


def changed_fields(values: dict[str, Any], axis: Axis, value: Any) -> dict[str, Any]:
    """Return the fields of a DrawConfig that a value of an axis changes."""
    if isinstance(value, BadValue):
        raise value.why
    loras = list(values["loras"])
    if axis.kind in OF_PICTURE:
        return {OF_PICTURE[axis.kind]: samplers.official(str(value)) if axis.kind == "sampler" and value else value}
    if axis.kind == "prompt":
        return {"prompts": (value,)}
    if axis.kind == "replace":
        return replaced(values, str(axis.values[0]), str(value))
    if axis.kind == "pairs":
        return {"loras": loras if value else []}
    if axis.kind in ("lora", "point"):
        return {"loras": [*loras, *([value.model_dump()] if value else [])]}
    if not 0 <= axis.which <= len(loras) or not loras:
        raise UserError(f"The axis {axis.kind}{axis.which or ''} needs LoRA {axis.which or 1}, and {len(loras)} are chosen.",
                        "Give LoRAs with --lora FILE.")
    changes = {OF_LORA[axis.kind]: value, **({"text_strength": None} if axis.kind == "strength" else {})}
    return {"loras": [lora | changes if axis.which in (0, number) else lora for number, lora in enumerate(loras, start=1)]}


def replaced(values: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Return prompts with `old` replaced (Prompt S/R): the first value of the axis is replaced by the others."""
    prompt, negative = values["prompts"][0], values["negative"]
    if not old or (old not in prompt and old not in negative):
        raise UserError(f"{clean_text(old, 60)!r} is not in the prompt.",
                        "The first value of replace= is the text that the others replace.")
    return {"prompts": (prompt.replace(old, new),), "negative": negative.replace(old, new)}


def in_order(made: Sequence[Cell]) -> list[Cell]:
    """Sort the cells by blend and then by prompts: each blend is merged once, and each text encoded once for it.

    It is only the order of drawing: no picture depends on it.
    """
    blends: dict[str, int] = {}
    texts: dict[str, int] = {}

    def place(cell: Cell) -> tuple[int, int, int, int]:
        config = cell.config.model_dump(mode="json") if cell.config else {}
        blend = json.dumps([config.get(key) for key in ("loras", "method", "switch_every")])
        text = json.dumps([config.get(key) for key in ("prompts", "negative")])
        return blends.setdefault(blend, len(blends)), texts.setdefault(text, len(texts)), cell.row, cell.column

    return sorted(made, key=place)


def sheet_settings(drawn: Sequence[dict[str, Any]], x: Axis, y: Axis | None = None) -> dict[str, Any]:
    """Return the settings of the sheet: all that those of the cells (of pipeline.Picture) have in common, and its axes.

    The axes are written as by A1111's X/Y/Z plot, which reads them where it knows the kind. LoRAs are those of any cell.
    """
    common = {key: value for key, value in drawn[0].items() if all(other.get(key) == value for other in drawn)}
    loras = {(lora["name"], lora.get("hash")): lora for settings in drawn for lora in settings.get("loras", [])}
    axes = {"Script": "X/Y/Z plot"}
    for name, axis in (("X", x), ("Y", y)):
        if axis:
            values = axis.labels if KINDS[axis.kind][0] is str else [text_of(value) for value in axis.values]
            axes[f"{name} Type"] = KINDS[axis.kind][1] + (f" {axis.which}" if axis.which else "")
            axes[f"{name} Values"] = ", ".join(json.dumps(part, ensure_ascii=False) if "," in part else part for part in values)
    return {"prompt": drawn[0]["prompt"]} | common | {"loras": list(loras.values()), "other": axes}
