"""The gallery: a shelf of style files, several chosen with a strength each, drawn together.

Knows nothing about what is inside the files: library/index.py checks what is added, the drawing process reads it.
"""

import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from sdlora.config import DrawConfig, LoraChoice, make
from sdlora.errors import UserError
from sdlora.jobs import pictures as draws
from sdlora.jobs.worker import ensure_worker
from sdlora.library import index
from sdlora.ui import drawing, history, styles, words
from sdlora.ui.bases import base_choices, base_of
from sdlora.ui.guard import QUIET, an_id, fields, guarded, number, text, uploads, whole
from sdlora.ui.look import shown, widget
from sdlora.ui.strip import download_copy

COVER = 256
LABELS = ("blend",)


@dataclass(frozen=True)
class Gallery:
    """`fields` in the order that `draw` takes them; the shelf's value is {style id: strength}."""

    shelf: gr.HTML
    upload: gr.File
    fetch: gr.DownloadButton
    prompt: gr.Textbox
    base: gr.Dropdown
    seed: gr.Number
    count: gr.Slider
    negative: gr.Textbox
    steps: gr.Slider
    guidance: gr.Slider
    draw: gr.Button
    drawing: drawing.Drawing
    results: gr.HTML
    zip: gr.DownloadButton

    @property
    def fields(self) -> list:
        return [self.shelf, self.prompt, self.base, self.seed, self.count, self.negative, self.steps, self.guidance]


def layout() -> Gallery:
    with gr.Column(elem_classes="act"):
        gr.Markdown(f"## {words.TAB_GALLERY}\n\n{words.GALLERY_LEAD}")
        shelf = widget("shelf", value={}, elem_id="shelf")
        fetch = gr.DownloadButton(words.DOWNLOAD, elem_id="shelf-fetch", elem_classes="unseen")
        upload = gr.File(
            label=words.UPLOAD_STYLE,
            file_types=[".safetensors"],
            file_count="multiple",
            type="filepath",
            height=136,
            elem_id="shelf-upload",
        )
    with gr.Column(elem_classes="act"):
        gr.Markdown(f"## {words.GALLERY_DRAW}")
        with gr.Row():
            with gr.Column(scale=4, min_width=280):
                prompt = gr.Textbox(label=words.PROMPT, lines=3, max_length=2000, elem_id="gallery-prompt")
                count = gr.Slider(1, 8, value=2, step=1, label=words.COUNT_PICTURES, elem_id="gallery-count")
                seed = gr.Number(1, precision=0, minimum=0, maximum=2**32 - 1, label=words.SEED, elem_id="gallery-seed")
                base = gr.Dropdown([(words.BASE_AUTO, ""), *base_choices()], value="", label=words.BASE)
                with gr.Accordion(words.MORE, open=False):
                    negative = gr.Textbox(label=words.KEEP_OUT, info=words.KEEP_OUT_INFO, max_length=2000)
                    steps = gr.Slider(1, 60, value=20, step=1, label=words.STEPS)
                    guidance = gr.Slider(1, 15, value=5, step=0.5, label=words.GUIDANCE, info=words.GUIDANCE_INFO)
                button = gr.Button(words.DRAW, variant="primary", size="lg", elem_id="gallery-draw")
            with gr.Column(scale=6, min_width=300):
                made = drawing.layout("gallery")
                results = history.layout("gallery-results")
                pack = gr.DownloadButton(words.DOWNLOAD_ALL, visible=False, scale=0, elem_id="gallery-zip")
    return Gallery(shelf, upload, fetch, prompt, base, seed, count, negative, steps, guidance, button, made, results, pack)


def connect(act: Gallery, kept: gr.HTML) -> None:
    """`kept` is the history of all drawn pictures."""
    act.draw.click(guarded(draw), act.fields, act.drawing.shown, **QUIET)
    act.prompt.submit(guarded(draw), act.fields, act.drawing.shown, **QUIET)
    drawing.connect(act.drawing, finished, [act.results, act.zip, kept])
    act.upload.upload(guarded(add), act.upload, [act.shelf, act.upload], show_progress_on=act.upload, api_visibility="private")
    act.shelf.delete(guarded(remove), act.shelf, act.shelf, **QUIET)
    act.shelf.select(guarded(fetch), None, act.fetch, **QUIET).success(None, js=CLICK)
    act.results.delete(guarded(forget), None, act.results, **QUIET)


CLICK = """() => setTimeout(() => {
    const button = document.querySelector('#shelf-fetch');
    (button.querySelector('a, button') || button).click();
}, 150)"""


def shelf_data() -> dict:
    """What page.js draws of the shelf."""
    said = {"strength": words.STRENGTH, "download": words.DOWNLOAD, "remove": words.REMOVE, "sure": words.SURE_STYLE}
    cards = [
        {
            "id": entry.id,
            "title": entry.name,
            "trigger": entry.trigger,
            "line": words.SHELF_LINE.format(family=words.FAMILIES.get(entry.family, entry.family), size=entry.file_bytes / 1e6),
            "src": shown(entry.thumbnail, COVER) if entry.thumbnail else "",
            "problem": entry.problem,
        }
        for entry in index.list_loras()
    ]
    return {"cards": cards, "words": said, "none": words.NO_STYLES}


def show(chosen: object = None) -> gr.HTML:
    """The shelf as it is now, keeping of the choice what is still there."""
    data = shelf_data()
    there = {card["id"] for card in data["cards"]}
    kept = {key: value for key, value in chosen.items() if key in there} if isinstance(chosen, dict) else {}
    return gr.HTML(data=data, value=kept)


def choices_of(chosen: object) -> list[tuple[index.LoraEntry, float]]:
    """The ticked styles with their strengths; raises UserError."""
    if not isinstance(chosen, dict) or len(chosen) > 32:
        raise UserError(words.NOT_UNDERSTOOD)
    return [(index.find(an_id(key, "style")), number(value, -4, 4, words.STRENGTH)) for key, value in chosen.items()]


def draw(chosen: object, prompt: object, base: object, *settings: object) -> tuple:
    """Queue pictures with all ticked styles at once; with none ticked, of the base alone.

    `settings`: seed, count, negative prompt, steps, guidance.
    """
    seed, count, negative, steps, guidance = settings
    picked = choices_of(chosen)
    spec = base_of(base).spec if base else styles.find(f"lora:{picked[0][0].id}").base if picked else "mini"
    config = make(
        DrawConfig,
        {
            "prompts": (text(prompt),),
            "base": spec,
            "seed": whole(seed, 0, 2**32 - 1, words.SEED),
            "count": whole(count, 1, 64, words.COUNT_PICTURES),
            "negative": text(negative),
            "steps": whole(steps, 1, 150, words.STEPS),
            "guidance": number(guidance, 1, 30, words.GUIDANCE),
            "loras": tuple(LoraChoice(file=str(entry.path), strength=strength) for entry, strength in picked),
        },
    )
    job = draws.submit_draw([config], labels=LABELS)
    ensure_worker()
    return drawing.begin(job)


def finished(view: draws.DrawView) -> tuple:
    """The drawn pictures, and all of them in one zip."""
    pictures = list(view.pictures)
    if not pictures:
        return gr.skip(), gr.skip(), gr.skip()
    packed = Path(tempfile.mkdtemp(prefix="zip-", dir=os.environ.get("GRADIO_TEMP_DIR"))) / f"sdlora-{view.id}.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
        for number_, picture in enumerate(pictures):
            file.write(picture.path, f"{number_:02d}-{history.file_name(picture)}")
    return history.update(pictures), gr.DownloadButton(value=str(packed), visible=len(pictures) > 1), history.update(again=True)


def add(files: object) -> tuple:
    """Put files on the shelf; each is read and checked first."""
    for file in uploads(files) if files else []:
        index.add(file, file.stem)
    return show(), None


def remove(chosen: object, event: gr.EventData) -> gr.HTML:
    index.delete(an_id(fields(event._data).get("id"), "style"))
    return show(chosen)


def fetch(event: gr.EventData) -> gr.DownloadButton:
    """A copy of a style file for the browser; page.js presses the button when it is there."""
    return gr.DownloadButton(value=download_copy(index.find(an_id(fields(event._data).get("id"), "style")).path))


def forget(event: gr.EventData) -> gr.HTML:
    history.remove(event)
    return gr.HTML(data={"none": words.DELETED})


def resume_drawing() -> tuple:
    job = drawing.unfinished(set(LABELS))
    return drawing.begin(job) if job else drawing.idle()
