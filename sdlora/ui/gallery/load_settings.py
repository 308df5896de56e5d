"""Use the settings of a picture: dropped from anywhere, its prompt, numbers and styles fill the form and the desk.

Knows nothing about how a picture carries them: library/lora_tags.py reads it and finds the files on the shelf.
"""

import html
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.library import lora_tags, search
from sdlora.ui import gallery_words, history
from sdlora.ui.gallery import blend, mixer
from sdlora.ui.theme import widget
from sdlora.ui.validation import QUIET, guarded, uploads

FIELDS = ("seed", "negative", "sampler", "steps", "guidance", "width", "height", "method")


@dataclass(frozen=True)
class Recall:
    drop: gr.File
    notes: gr.HTML


def layout() -> Recall:
    with gr.Accordion(gallery_words.RECALL, open=False, elem_id="recall-box"):
        drop = gr.File(label=gallery_words.RECALL_DROP, file_types=["image"], type="filepath", height=124, elem_id="recall-drop")
    return Recall(drop, widget("notes", elem_id="recall-notes"))


def connect(act: Recall, form: blend.Form, rows: gr.HTML) -> None:
    asked = blend.Asked(*form.fields)
    outputs = [rows, asked.prompt, asked.every, *(getattr(asked, name) for name in FIELDS), act.notes, act.drop]
    told = {"show_progress_on": act.drop, "api_visibility": "private"}
    act.drop.upload(guarded(recall), act.drop, outputs, **told)
    form.results.select(guarded(recall_drawn), None, outputs, **QUIET)


def recall(file: object) -> tuple:
    """The settings of an uploaded picture; one that is refused leaves the form as it is, and the drop free for the next."""
    try:
        return taken(uploads([file])[0])
    except UserError as error:
        gr.Warning(html.escape(str(error)))
        return *[gr.skip()] * (len(FIELDS) + 3), gr.HTML(data={"notes": []}), None


def recall_drawn(event: gr.EventData) -> tuple:
    """The settings of a picture that was drawn here."""
    return taken(history.of_event(event).path)


def taken(picture: Path) -> tuple:
    """Updates of desk, prompt, turns, the fields, the notes, and the emptied drop. What the picture does not tell stays."""
    fields, sentences = lora_tags.settings_of(picture)
    rows = [row for row in map(row_of, fields.get("loras", [])) if row]
    values = {name: fields.get(name, gr.skip()) for name in FIELDS} | {"method": fields.get("method", "sum")}
    prompt = fields["prompts"][0] if "prompts" in fields else gr.skip()
    told = {"notes": [gallery_words.RECALLED.format(count=len(rows)), *sentences]}
    every = fields.get("switch_every", gr.skip())
    return mixer.filled(rows), prompt, every, *(values[name] for name in FIELDS), gr.HTML(data=told), None


def row_of(choice: LoraChoice) -> dict | None:
    """The row of a style that lies on the shelf."""
    entry = search.by_file(choice.file)
    settings = choice.model_dump(exclude={"file", "text_strength"})
    return mixer.row_for(entry, **settings, text=choice.text_strength) if entry else None
