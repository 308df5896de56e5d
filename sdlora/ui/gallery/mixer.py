"""The mixing desk: one row per chosen style file, how the rows get on with each other, the blend as a file of its own.

Knows nothing about drawing. The rows live in the browser as the widget's value: ids and numbers, checked here each time.
"""

from dataclasses import dataclass

import gradio as gr

from sdlora.config import LoraChoice, make
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs.questions import Answer
from sdlora.library import edit, search
from sdlora.lora.formats.metadata import marked
from sdlora.lora.math.blocks import PRESETS
from sdlora.storage import confine, write_atomic
from sdlora.ui import gallery_words, styles, words
from sdlora.ui.gallery import shelf
from sdlora.ui.gallery.rpc import Question, server_functions
from sdlora.ui.theme import widget
from sdlora.ui.validation import an_id, fields, number, one_of, text

MOST_ROWS = 32
LONGEST = 0.5  # the push that fills its bar
ALIKE = 0.3  # the cosine from which two styles have something to do with each other: lora/overlap.py measured it
RECENT = 60  # pictures among which a cover is looked for


@dataclass(frozen=True)
class Row:
    """One row that is switched on."""

    entry: search.LoraEntry
    choice: LoraChoice


def layout() -> gr.HTML:
    calls, events = "element, props, trigger, server", ("saved", "word", "kept")
    asked = {"server_functions": server_functions(QUESTIONS), "events": events}
    return widget("mixing", calls, value=[], elem_id="desk", data=data_of({}), **asked)


def data_of(cards: dict[str, dict]) -> dict:
    """What gallery.js draws of the desk beside its value; `cards`: as the shelf's, by style id."""
    ways = [(title, way) for way, title in gallery_words.SAVE_WAYS.items()]
    return {"words": gallery_words.DESK, "none": gallery_words.DESK_EMPTY, "blocks": list(PRESETS), "ways": ways, "cards": cards}


def rows_of(value: object) -> list[Row]:
    """The rows that are switched on, in their order. Raises UserError."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MOST_ROWS:
        raise UserError(words.NOT_UNDERSTOOD)
    return [row_of(fields(each)) for each in value if fields(each).get("on") is True]


def row_of(row: dict) -> Row:
    entry = search.find(an_id(row.get("id"), "style"))
    of_text = row.get("text")
    start, end = (number(row.get(key), 0, 1, gallery_words.DESK[key]) for key in ("start", "end"))
    if start > end:
        raise UserError(gallery_words.ENDS_BEFORE.format(name=entry.name))
    return Row(
        entry,
        make(
            LoraChoice,
            {
                "file": str(entry.path),
                "strength": number(row.get("strength"), -4, 4, words.STRENGTH),
                "text_strength": None if of_text is None else number(of_text, -4, 4, gallery_words.DESK["text"]),
                "blocks": text(row.get("blocks"), 400),
                "start": start,
                "end": end,
            },
        ),
    )


def row_for(entry: search.LoraEntry, **settings: object) -> dict:
    """A row as the browser keeps it."""
    return {"on": True, "strength": 1.0, "text": None, "start": 0.0, "end": 1.0, "blocks": "", **settings, "id": entry.id}


def kept_rows(event: gr.EventData) -> list:
    """What the browser remembers of the desk for the next time the page is loaded."""
    rows = fields(event._data).get("rows")
    return rows if isinstance(rows, list) and len(rows) <= MOST_ROWS else []


def reopened(remembered: object) -> gr.HTML:
    """The desk as it was when the page was left; rows of styles that are gone are left out."""
    rows = []
    for each in remembered if isinstance(remembered, list) else []:
        try:
            row = row_of(fields(each))
        except UserError:
            continue
        told = row.choice.model_dump(include={"strength", "blocks", "start", "end"})
        rows.append(row_for(row.entry, **told, on=each.get("on") is True, text=row.choice.text_strength))
    return filled(rows)


def filled(rows: list[dict]) -> gr.HTML:
    """The desk with these rows and nothing else."""
    entries = [search.find(row["id"]) for row in rows]
    return gr.HTML(value=rows, data=data_of({card["id"]: card for card in shelf.cards_of(entries)}))


def base_spec(rows: list[Row]) -> str:
    """The base that the first row was made on."""
    return styles.find(f"lora:{rows[0].entry.id}").base if rows else "mini"


def base_of_file(file: str) -> str:
    """The base that a file was made on; the embedded one where nobody knows."""
    entry = search.by_file(file)
    return styles.find(f"lora:{entry.id}").base if entry else "mini"


def with_word(prompt: object, event: gr.EventData) -> str:
    """The prompt with the trigger word that an event names; one that is in it already stays alone."""
    said, word = text(prompt), text(fields(event._data).get("text"), 200)
    return said if word in said else ", ".join(part for part in (word, said) if part)


def acting(method: object) -> gr.HTML:
    """Tell the desk how its rows act together: what it says of them depends on that."""
    return gr.HTML(data={**data_of({}), "method": one_of(method, gallery_words.METHODS)})


def weigh(data: object) -> dict:
    """{"rows", "method"} -> the payload of the question how they get on."""
    rows = rows_of(fields(data).get("rows"))
    if not rows:
        raise UserError(gallery_words.DESK_EMPTY)
    return {
        "base": base_spec(rows),
        "together": one_of(fields(data).get("method"), gallery_words.METHODS) == "sum",
        "ids": [row.entry.id for row in rows],
        "loras": [row.choice.model_dump(mode="json") for row in rows],
    }


def weighed(answer: Answer) -> dict:
    """What the desk shows of the measurement: a push per row, sentences, strengths to take over."""
    found = answer.result
    rows, together = dict(zip(found["ids"], found["rows"], strict=True)), found["together"]
    names = [search.find(style).name for style in rows]
    told = {
        "pushes": {style: pushed(row["push"]) for style, row in rows.items()},
        "lines": [gallery_words.TOGETHER.format(push=f"{found['push']:.0%}")] if together and len(rows) > 1 else [],
    }
    for pair in found["pairs"]:
        said = gallery_words.PULLS[pair["cosine"] > 0]
        if abs(pair["cosine"]) >= ALIKE:
            share = f"{abs(pair['cosine']):.0%}"
            told["lines"].append(said.format(one=names[pair["one"]], other=names[pair["other"]], share=share))
    if found["warning"]:
        several = gallery_words.BURNS if together else gallery_words.BURNS_IN_TURN
        told["warning"] = (several if len(rows) > 1 else gallery_words.BURNS_ALONE).format(times=f"{found['stretch']:.1f}")
        told["suggested"] = taken_over(rows, "suggested")
    if len(rows) > 1:
        told["balanced"] = taken_over(rows, "balanced")
    return told


def taken_over(rows: dict[str, dict], which: str) -> dict[str, dict]:
    """The measured strengths "suggested" or "balanced" as settings of the desk's rows, by style id."""
    return {style: {"strength": row[which], "text": row[f"{which}_text"]} for style, row in rows.items()}


def pushed(push: float) -> dict:
    """A push |dW| / |W| as words and as the length of its bar."""
    percent = round(min(100 * push / LONGEST, 100), 1)
    return {"text": gallery_words.PUSH.format(push=f"{push:.0%}"), "percent": percent, "strong": push > LONGEST}


def blended(data: object) -> dict:
    """{"rows", "method", "name", "way"} -> the payload of the question for the blend as a file.

    A way is how to write it and its rank. Whatever the method of drawing, a file can only add its parts up: `kept` says so.
    """
    asked = fields(data)
    rows, name = rows_of(asked.get("rows")), text(asked.get("name"), 80)
    if not rows:
        raise UserError(gallery_words.DESK_EMPTY)
    if not name:
        raise UserError(gallery_words.NAME_EMPTY)
    method, _, rank = one_of(asked.get("way"), gallery_words.SAVE_WAYS).partition(" ")
    choices = [row.choice.model_dump(mode="json") for row in rows]
    together = one_of(asked.get("method"), gallery_words.METHODS) == "sum"
    return {"base": base_spec(rows), "loras": choices, "name": name, "method": method, "rank": int(rank) if rank else None,
            "together": together}


def kept(answer: Answer) -> dict:
    """Put the written blend on the shelf, with a picture that was drawn with it as its cover; what the artist is told."""
    found = answer.result
    entry = edit.add(confine(answer.folder, str(found["file"])), found["name"])
    drawn = next((each.path for each in draws.list_pictures(RECENT) if each.settings.get("loras") == found["loras"]), None)
    if drawn and entry.thumbnail is None:
        write_atomic(entry.path.with_suffix(".png"), marked(drawn.read_bytes()))
    told = gallery_words.SAVED_BLEND.format(name=entry.name, energy=f"{found['energy']:.1%}")
    summed = [] if found["together"] else [gallery_words.SAVED_AS_SUM]
    return {"text": " ".join([told, *summed, *found["notes"]])}


QUESTIONS = {"interference": Question(weigh, weighed), "save": Question(blended, kept)}
