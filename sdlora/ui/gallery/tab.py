"""The gallery tab: the shelf, the mixing desk, and drawing with what is on it, put together.

Knows nothing about single parts: each brings its own layout and handlers.
"""

from dataclasses import dataclass

import gradio as gr

from sdlora.ui import drawing, gallery_words, history, words
from sdlora.ui.gallery import blend, grid, init_image, load_settings, mixer, shelf
from sdlora.ui.validation import QUIET, guarded


@dataclass(frozen=True)
class Gallery:
    shelf: shelf.Shelf
    desk: gr.HTML
    method: gr.Dropdown
    form: blend.Form
    grid: grid.Grid
    recall: load_settings.Recall


def layout() -> Gallery:
    with gr.Column(elem_classes="act"):
        gr.Markdown(f"## {words.TAB_GALLERY}\n\n{gallery_words.GALLERY_LEAD}")
        cards = shelf.layout()
    with gr.Column(elem_classes="act", elem_id="act-desk"):
        gr.Markdown(f"## {gallery_words.DESK_TITLE}\n\n{gallery_words.DESK_LEAD}")
        rows = mixer.layout()
        method, every = blend.methods()
    with gr.Column(elem_classes="act", elem_id="act-blend"):
        gr.Markdown(f"## {gallery_words.GALLERY_DRAW}")
        again = load_settings.layout()
        form = blend.layout(rows, method, every)
    with gr.Column(elem_classes="act", elem_id="act-grid"):
        gr.Markdown(f"## {gallery_words.GRID}")
        cells = grid.layout()
    return Gallery(cards, rows, method, form, cells, again)


def connect(act: Gallery, kept: gr.HTML) -> None:
    """`kept` is the history of all drawn pictures."""
    form = act.form
    shelf.connect(act.shelf)
    init_image.connect(form.canvas)
    form.draw.click(guarded(blend.draw), form.fields, form.drawing.shown, **QUIET)
    form.prompt.submit(guarded(blend.draw), form.fields, form.drawing.shown, **QUIET)
    drawing.connect(form.drawing, blend.finished, [form.slider, form.results, form.zip, kept])
    act.desk.saved(guarded(shelf.show), act.shelf.looking, act.shelf.cards, **QUIET)
    act.desk.saved(guarded(shelf.show_places), act.shelf.place, act.shelf.place, **QUIET)
    act.method.change(guarded(mixer.acting), act.method, act.desk, **QUIET)
    act.desk.word(guarded(mixer.with_word), form.prompt, form.prompt, **QUIET)
    grid.connect(act.grid, form, kept)
    load_settings.connect(act.recall, form, act.desk)
    form.results.delete(guarded(forget), None, form.results, **QUIET)


def forget(event: gr.EventData) -> gr.HTML:
    history.remove(event)
    return gr.HTML(data={"none": words.DELETED})
