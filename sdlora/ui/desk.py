"""The mixing desk: one row per chosen style file, how the rows get on with each other, the blend as a file of its own.

Knows nothing about drawing. The rows live in the browser as the widget's value: ids and numbers, checked here each time.
"""

from dataclasses import dataclass

import gradio as gr

from sdlora.config import LoraChoice, make
from sdlora.errors import UserError
from sdlora.jobs import desk
from sdlora.library import index
from sdlora.lora.blocks import PRESETS
from sdlora.ui import shelf, styles, words
from sdlora.ui.asking import Question, asking
from sdlora.ui.guard import an_id, fields, number, text
from sdlora.ui.look import widget

MOST_ROWS = 32
STRONG = 0.5


@dataclass(frozen=True)
class Row:
    """One row that is switched on."""

    entry: index.LoraEntry
    choice: LoraChoice


def layout() -> gr.HTML:
    data = {"words": words.DESK, "none": words.DESK_EMPTY, "blocks": list(PRESETS), "cards": {}}
    calls = "element, props, trigger, server"
    return widget("mixing", calls, value=[], elem_id="desk", server_functions=asking(QUESTIONS), data=data)


def rows_of(value: object) -> list[Row]:
    """The rows that are switched on, in their order. Raises UserError."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MOST_ROWS:
        raise UserError(words.NOT_UNDERSTOOD)
    return [row_of(fields(each)) for each in value if fields(each).get("on") is True]


def row_of(row: dict) -> Row:
    entry = index.find(an_id(row.get("id"), "style"))
    of_text = row.get("text")
    start, end = (number(row.get(key), 0, 1, words.DESK[key]) for key in ("start", "end"))
    if start > end:
        raise UserError(words.ENDS_BEFORE.format(name=entry.name))
    return Row(
        entry,
        make(
            LoraChoice,
            {
                "file": str(entry.path),
                "strength": number(row.get("strength"), -4, 4, words.STRENGTH),
                "text_strength": None if of_text is None else number(of_text, -4, 4, words.DESK["text"]),
                "blocks": text(row.get("blocks"), 400),
                "start": start,
                "end": end,
            },
        ),
    )


def row_for(entry: index.LoraEntry, **settings: object) -> dict:
    """A row as the browser keeps it."""
    return {"id": entry.id, "on": True, "strength": 1.0, "text": None, "start": 0.0, "end": 1.0, "blocks": "", **settings}


def filled(rows: list[dict]) -> gr.HTML:
    """The desk with these rows and nothing else."""
    entries = [index.find(row["id"]) for row in rows]
    data = {"words": words.DESK, "none": words.DESK_EMPTY, "blocks": list(PRESETS)}
    return gr.HTML(value=rows, data=data | {"cards": {entry.id: shelf.card_of(entry) for entry in entries}})


def base_spec(rows: list[Row]) -> str:
    """The base that the first row was made on."""
    return styles.find(f"lora:{rows[0].entry.id}").base if rows else "mini"


def weigh(data: object) -> dict:
    """The rows -> the payload of the question how they get on."""
    rows = rows_of(data)
    if not rows:
        raise UserError(words.DESK_EMPTY)
    return {
        "base": base_spec(rows),
        "ids": [row.entry.id for row in rows],
        "loras": [row.choice.model_dump(mode="json") for row in rows],
    }


def weighed(answer: desk.Answer) -> dict:
    """What the desk shows of the measurement: a push per row, sentences, strengths to take over."""
    found = answer.result
    pushes = {
        row["id"]: {
            "text": f"{row['push']:.0%}",
            "percent": round(min(100 * row["push"] / STRONG, 100), 1),
            "strong": row["push"] > STRONG,
        }
        for row in found["rows"]
    }
    return {"pushes": pushes, **{key: found[key] for key in ("lines", "warning", "suggested", "balanced") if found.get(key)}}


QUESTIONS = {"interference": Question(weigh, weighed)}
