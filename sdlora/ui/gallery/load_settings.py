"""Use the settings of a picture, dropped from anywhere: its prompt, numbers and LoRAs fill the form and the mixer.

library/lora_tags.py reads the picture and finds the files on the shelf.
"""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.library import lora_tags, search
from sdlora.ui import history, words
from sdlora.ui.gallery import blend, mixer
from sdlora.ui.theme import widget
from sdlora.ui.validation import ACTION, guarded, uploads

FIELDS = ("seed", "negative", "sampler", "steps", "guidance", "width", "height", "method")


@dataclass(frozen=True)
class Loader:
    drop: gr.File
    notes: gr.HTML


def layout() -> Loader:
    with gr.Accordion(words.LOAD, open=False, elem_id="recall-box"):
        drop = gr.File(label=words.LOAD_DROP, file_types=["image"], type="filepath", height=124, elem_id="recall-drop")
    return Loader(drop, widget("notes", elem_id="recall-notes"))


def connect(act: Loader, form: blend.Form) -> None:
    fields = form.fields
    outputs = [fields.rows, fields.prompt, fields.switch_every, *(getattr(fields, name) for name in FIELDS), act.notes, act.drop]
    act.drop.upload(guarded(load_upload), act.drop, outputs, show_progress_on=act.drop, api_visibility="private")
    form.results.select(guarded(load_drawn), None, outputs, **ACTION)


def load_upload(file: Any) -> tuple:
    """Load the settings of an uploaded picture; one that is refused leaves the form as it is, and the drop free for the next."""
    try:
        return updates(uploads([file])[0])
    except UserError as error:
        gr.Warning(html.escape(str(error)))
        return *[gr.skip()] * (len(FIELDS) + 3), gr.HTML(data={"notes": []}), None


def load_drawn(event: gr.EventData) -> tuple:
    """Load the settings of a picture that was drawn here."""
    return updates(history.of_event(event).path)


def updates(picture: Path) -> tuple:
    """Return updates of mixer, prompt, switch_every, FIELDS, notes and the emptied drop. What the picture does not say stays."""
    found: dict[str, Any]
    found, sentences = lora_tags.settings_of(picture)
    rows = [row for row in map(row_of, found.get("loras", [])) if row]
    values = {name: found.get(name, gr.skip()) for name in FIELDS} | {"method": found.get("method", "sum")}
    return (
        mixer.show_rows(rows),
        found["prompts"][0] if "prompts" in found else gr.skip(),
        found.get("switch_every", gr.skip()),
        *(values[name] for name in FIELDS),
        gr.HTML(data={"notes": [words.LOADED.format(count=len(rows)), *sentences]}),
        None,
    )


def row_of(choice: LoraChoice) -> dict | None:
    """Return the mixer's row of a LoRA that lies on the shelf."""
    entry = search.by_file(choice.file)
    settings = choice.model_dump(exclude={"file", "text_strength"})
    return mixer.row_for(entry, **settings, text=choice.text_strength) if entry else None
