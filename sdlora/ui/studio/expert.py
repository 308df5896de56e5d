"""The folded Expert section: one field per setting of TrainConfig, with its range and help. Knows nothing about runs.

An empty field means "what the preset says", and its placeholder shows what that is.
"""

import typing

import gradio as gr
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from sdlora.config import TrainConfig, format_value
from sdlora.errors import UserError
from sdlora.parsing import parse_sets
from sdlora.ui import words
from sdlora.ui.validation import text

ELSEWHERE = {"name", "trigger", "base", "preset", "default_caption"}
SETTINGS = {key: field for key, field in TrainConfig.model_fields.items() if key not in ELSEWHERE}


def layout() -> tuple[gr.Accordion, list[gr.components.Component]]:
    """The section, and its fields in the order of SETTINGS."""
    made = []
    with gr.Accordion(words.EXPERT, open=False, elem_id="expert") as section:
        gr.Markdown(words.EXPERT_LEAD, elem_classes="quiet")
        with gr.Row():
            for key, field in SETTINGS.items():
                made.append(control(key, field))
    return section, made


def control(key: str, field: FieldInfo) -> gr.components.Component:
    """A menu for a choice, else a line of text: numbers too, so that empty can mean the preset's."""
    info = " ".join(part for part in (str(field.description), limits(field)) if part)
    if typing.get_origin(field.annotation) is typing.Literal:
        return gr.Dropdown(
            [(words.AS_PRESET, ""), *typing.get_args(field.annotation)],
            value="",
            label=key,
            info=info,
            min_width=240,
            elem_id=f"expert-{key}",
        )
    return gr.Textbox(label=key, info=info, max_length=4000, min_width=240, elem_id=f"expert-{key}")


def limits(field: FieldInfo) -> str:
    """The range of a number in words: "1 to 128", "above 0, at most 0.1"."""
    known = {type(rule): rule for rule in field.metadata}
    low = f"{known[Ge].ge:g}" if Ge in known else f"above {known[Gt].gt:g}" if Gt in known else ""
    high = f"{known[Le].le:,}" if Le in known else f"below {known[Lt].lt:g}" if Lt in known else ""
    if "tuple" in str(field.annotation):
        return words.SEPARATED
    return f"({low} to {high})" if low and high else ""


def read(values: tuple) -> dict[str, object]:
    """{key: value} of the fields that were filled in, typed; raises UserError with a sentence about the first wrong one."""
    if len(values) != len(SETTINGS):
        raise UserError(words.NOT_UNDERSTOOD)
    filled = {key: text(value, 4000) for key, value in zip(SETTINGS, values, strict=True)}
    return parse_sets([f"{key}={value}" for key, value in filled.items() if value])


def hints(config: TrainConfig) -> list:
    """Updates that show in each empty field what the preset says."""
    return [hint(key, config) for key in SETTINGS]


def hint(key: str, config: TrainConfig) -> object:
    if typing.get_origin(SETTINGS[key].annotation) is typing.Literal:
        return gr.skip()
    value = getattr(config, key)
    return gr.Textbox(placeholder=written(value))


def written(value: object) -> str:
    """A setting as an artist would type it."""
    if isinstance(value, tuple):
        return " | ".join(value) or words.FROM_CAPTIONS
    return words.NONE if value is None else format_value(value)


def filled(config: TrainConfig) -> list[str]:
    """Every field with the value of a run, for "train again with these settings"."""
    return ["" if value in ((), None) else written(value) for value in (getattr(config, key) for key in SETTINGS)]
