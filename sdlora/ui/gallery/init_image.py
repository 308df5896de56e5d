"""The picture a drawing begins from, and what of it is drawn anew: uploaded, painted over in the browser.

Knows nothing about drawing. Every upload is opened by dataset/picture.py and kept by us; the browser knows it by an id.
"""

import base64
import binascii
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from sdlora.dataset.picture import open_picture
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.ui import gallery_words, words
from sdlora.ui.theme import shown, widget
from sdlora.ui.validation import fields, guarded, uploads

LARGEST, SHOWN = 2048, 768
MASK = "data:image/png;base64,"
MASK_BYTES = 6_000_000


@dataclass(frozen=True)
class Canvas:
    upload: gr.File
    board: gr.HTML
    strength: gr.Slider


def layout() -> Canvas:
    with gr.Accordion(gallery_words.INIT, open=False, elem_id="init-box"):
        gr.Markdown(gallery_words.INIT_LEAD, elem_classes="quiet")
        upload = gr.File(label=gallery_words.INIT_DROP, file_types=["image"], type="filepath", height=124, elem_id="init-upload")
        board = widget("canvas", "element, props", value=None, elem_id="init-board", data={"words": gallery_words.CANVAS})
        told = {"label": gallery_words.INIT_STRENGTH, "info": gallery_words.INIT_STRENGTH_INFO}
        strength = gr.Slider(0.05, 1, value=0.6, step=0.05, **told)
    return Canvas(upload, board, strength)


def connect(canvas: Canvas) -> None:
    adding = {"show_progress_on": canvas.upload, "api_visibility": "private"}
    canvas.upload.upload(guarded(begin), canvas.upload, [canvas.board, canvas.upload], **adding)


def begin(file: object) -> tuple:
    """Keep an uploaded picture and put it on the board."""
    image = open_picture(uploads([file])[0])
    image.thumbnail((LARGEST, LARGEST))
    kept = draws.save_input(image)
    data = {"src": shown(draws.input_path(kept), SHOWN), "id": kept, "words": gallery_words.CANVAS}
    return gr.HTML(data=data, value={"id": kept, "mask": ""}), None


def inputs_of(value: object) -> dict[str, str]:
    """The board's value -> the fields `init` and `mask` of DrawConfig; {} when it is empty. Raises UserError."""
    if not value:
        return {}
    asked = fields(value)
    kept, mask = asked.get("id"), asked.get("mask")
    if not isinstance(kept, str) or not isinstance(mask, str) or len(mask) > MASK_BYTES:
        raise UserError(words.NOT_UNDERSTOOD)
    init = str(draws.input_path(kept))
    return {"init": init, "mask": str(draws.input_path(painted(mask)))} if mask else {"init": init}


def painted(mask: str) -> str:
    """Keep a mask that the browser sent as a data URL; its id."""
    try:
        content = base64.b64decode(mask.removeprefix(MASK), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(words.NOT_UNDERSTOOD) from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mask.png"
        file.write_bytes(content)
        return draws.save_input(open_picture(file).convert("L"))
