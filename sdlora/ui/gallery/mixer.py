"""The mixer: one row per chosen LoRA, how they interfere with each other, the blend as a file of its own.

The rows live in the browser as the widget's value: ids and numbers, checked here each time.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from sdlora.config import LoraChoice, make
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs import questions
from sdlora.library import edit, search
from sdlora.lora.formats.metadata import mark_cover
from sdlora.lora.math.blocks import PRESETS
from sdlora.storage import confine, write_atomic
from sdlora.ui import loras, words
from sdlora.ui.gallery import shelf
from sdlora.ui.rpc import Question, server_functions
from sdlora.ui.theme import widget
from sdlora.ui.validation import an_id, event_value, mapping, number, one_of, text

MOST_ROWS = 32
FULL_BAR = 0.5  # the relative change that fills its bar
ALIKE = 0.3  # the cosine worth a sentence: two styles had 0.05 to 0.15, trainings of one style 0.55 to 0.64
RECENT = 60  # pictures among which a cover is looked for


@dataclass(frozen=True)
class Row:
    """One row that is switched on."""

    entry: search.LoraEntry
    choice: LoraChoice


def layout() -> gr.HTML:
    calls, events = "element, props, trigger, server", ("saved", "word", "kept")
    functions = server_functions(QUESTIONS)
    return widget("mixer", calls, value=[], elem_id="mixer", data=data_of({}), server_functions=functions, events=events)


def data_of(cards: dict[str, dict]) -> dict:
    """Return what gallery.js draws of the mixer beside its value; `cards`: as the shelf's, by id."""
    ways = [(title, way) for way, title in words.SAVE_WAYS.items()]
    return {"words": words.MIXER, "none": words.MIXER_EMPTY, "blocks": list(PRESETS), "ways": ways, "cards": cards}


def rows_of(value: Any) -> list[Row]:
    """Return the rows that are switched on, in their order. Raise UserError."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MOST_ROWS:
        raise UserError(words.NOT_UNDERSTOOD)
    return [row_of(mapping(each)) for each in value if mapping(each).get("on") is True]


def row_of(row: dict) -> Row:
    entry = search.find(an_id(row.get("id"), "LoRA"))
    strength, text_strength = row.get("strength"), row.get("text")
    start, end = (number(row.get(key), 0, 1, words.MIXER[key]) for key in ("start", "end"))
    if start > end:
        raise UserError(words.ENDS_BEFORE.format(name=entry.name))
    settings = {
        "file": str(entry.path),
        "strength": number(strength, -4, 4, words.STRENGTH),
        "text_strength": None if text_strength is None else number(text_strength, -4, 4, words.MIXER["text"]),
        "blocks": text(row.get("blocks"), 400),
        "start": start,
        "end": end,
    }
    return Row(entry, make(LoraChoice, settings))


def row_for(entry: search.LoraEntry, **settings: Any) -> dict:
    """Return a row as the browser keeps it."""
    return {"on": True, "strength": 1.0, "text": None, "start": 0.0, "end": 1.0, "blocks": "", **settings, "id": entry.id}


def row_of_choice(choice: LoraChoice) -> dict | None:
    """Return the row of a LoRA, None when its file does not lie on the shelf."""
    entry = search.by_file(choice.file)
    settings = choice.model_dump(exclude={"file", "text_strength"})
    return row_for(entry, **settings, text=choice.text_strength) if entry else None


def remembered_rows(event: gr.EventData) -> list:
    """Return what the browser remembers of the mixer for the next time the page is loaded."""
    rows = event_value(event, "rows")
    return rows if isinstance(rows, list) and len(rows) <= MOST_ROWS else []


def restore(remembered: Any) -> gr.HTML:
    """Return the mixer as it was when the page was left; rows of LoRAs that are gone are left out."""
    rows = []
    for each in remembered if isinstance(remembered, list) else []:
        try:
            row = row_of(mapping(each))
        except UserError:
            continue
        settings = row.choice.model_dump(include={"strength", "blocks", "start", "end"})
        rows.append(row_for(row.entry, **settings, on=each.get("on") is True, text=row.choice.text_strength))
    return show_rows(rows)


def show_rows(rows: list[dict]) -> gr.HTML:
    """Return the mixer with these rows and nothing else."""
    entries = [search.find(row["id"]) for row in rows]
    return gr.HTML(value=rows, data=data_of({card["id"]: card for card in shelf.cards_of(entries)}))


def base_spec(rows: list[Row]) -> str:
    """Return the base model that the first row was made on."""
    return loras.find(f"lora:{rows[0].entry.id}").base if rows else "mini"


def base_of_file(file: str) -> str:
    """Return the base model that a file was made on; the embedded one where nobody knows."""
    entry = search.by_file(file)
    return loras.find(f"lora:{entry.id}").base if entry else "mini"


def add_word(prompt: Any, event: gr.EventData) -> str:
    """Return the prompt with the trigger word that an event names; one that is in it already is not added."""
    written, word = text(prompt), text(event_value(event, "text"), 200)
    return written if word in written else ", ".join(part for part in (word, written) if part)


def show_method(method: Any) -> gr.HTML:
    """Return the mixer with another way to combine its rows; the measurement it shows depends on it."""
    return gr.HTML(data={**data_of({}), "method": one_of(method, words.METHODS)})


def interference_payload(data: Any) -> dict:
    """Return the payload of the question how the LoRAs interfere, from {"rows", "method"}."""
    form = mapping(data)
    rows = rows_of(form.get("rows"))
    if not rows:
        raise UserError(words.MIXER_EMPTY)
    return {
        "base": base_spec(rows),
        "together": one_of(form.get("method"), words.METHODS) == "sum",
        "ids": [row.entry.id for row in rows],
        "loras": [row.choice.model_dump(mode="json") for row in rows],
    }


def interference_data(answer: questions.Answer) -> dict:
    """Return what the mixer shows of the measurement: a change per row, sentences, strengths to take over."""
    found = answer.result
    rows, together = dict(zip(found["ids"], found["rows"], strict=True)), found["together"]
    names = [search.find(lora).name for lora in rows]
    lines = [words.TOGETHER.format(change=f"{found['push']:.0%}")] if together and len(rows) > 1 else []
    for pair in found["pairs"]:
        if abs(pair["cosine"]) >= ALIKE:
            share = f"{abs(pair['cosine']):.0%}"
            lines.append(words.PAIRS[pair["cosine"] > 0].format(one=names[pair["one"]], other=names[pair["other"]], share=share))
    shown: dict[str, Any] = {"changes": {lora: change_bar(row["push"]) for lora, row in rows.items()}, "lines": lines}
    if found["warning"]:
        several = words.TOO_STRONG if together else words.TOO_STRONG_IN_TURN
        shown["warning"] = (several if len(rows) > 1 else words.TOO_STRONG_ALONE).format(times=f"{found['stretch']:.1f}")
        shown["suggested"] = strengths(rows, "suggested")
    if len(rows) > 1:
        shown["balanced"] = strengths(rows, "balanced")
    return shown


def strengths(rows: dict[str, dict], which: str) -> dict[str, dict]:
    """Return the measured strengths "suggested" or "balanced" as settings of the mixer's rows, by id."""
    return {lora: {"strength": row[which], "text": row[f"{which}_text"]} for lora, row in rows.items()}


def change_bar(change: float) -> dict:
    """Return the relative change |dW| / |W| as text and as the length of its bar."""
    percent = round(min(100 * change / FULL_BAR, 100), 1)
    return {"text": words.CHANGE.format(change=f"{change:.0%}"), "percent": percent, "strong": change > FULL_BAR}


def save_payload(data: Any) -> dict:
    """Return the payload of the question for the blend as a file, from {"rows", "method", "name", "way"}.

    A way is how to write it and its rank. Whatever the method of drawing, a file can only be a sum: `add_saved` says so.
    """
    form = mapping(data)
    rows, name = rows_of(form.get("rows")), text(form.get("name"), 80)
    if not rows:
        raise UserError(words.MIXER_EMPTY)
    if not name:
        raise UserError(words.NAME_EMPTY)
    method, _, rank = one_of(form.get("way"), words.SAVE_WAYS).partition(" ")
    return {
        "base": base_spec(rows),
        "loras": [row.choice.model_dump(mode="json") for row in rows],
        "name": name,
        "method": method,
        "rank": int(rank) if rank else None,
        "together": one_of(form.get("method"), words.METHODS) == "sum",
    }


def add_saved(answer: questions.Answer) -> dict:
    """Put the written blend on the shelf, with a picture that was drawn with it as its cover; return the sentence about it."""
    found = answer.result
    entry = edit.add(confine(answer.folder, str(found["file"])), found["name"])
    drawn = next((each.path for each in draws.list_pictures(RECENT) if each.settings.get("loras") == found["loras"]), None)
    if drawn and entry.thumbnail is None:
        write_atomic(entry.path.with_suffix(".png"), mark_cover(drawn.read_bytes()))
    saved = words.SAVED_BLEND.format(name=entry.name, energy=f"{found['energy']:.1%}")
    summed = [] if found["together"] else [words.SAVED_AS_SUM]
    return {"text": " ".join([saved, *summed, *found["notes"]])}


QUESTIONS = {"interference": Question(interference_payload, interference_data), "save": Question(save_payload, add_saved)}
