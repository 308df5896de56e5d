"""Drawing from the desk: what the form says becomes settings, the base beside the blend at the same variation number.

Knows nothing about the shelf or how rows are chosen: `desk.py` brings them.
"""

import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from sdlora.config import DrawConfig, make
from sdlora.dataset.picture import open_picture
from sdlora.draw import samplers
from sdlora.jobs import drawings as draws
from sdlora.jobs.worker import ensure_worker
from sdlora.library.lora_tags import with_tags
from sdlora.ui import drawing, gallery_words, history, words
from sdlora.ui.gallery import init_image, mixer
from sdlora.ui.studio.bases import base_choices, base_of
from sdlora.ui.theme import fitted
from sdlora.ui.validation import number, one_of, text, whole

SIDE = 768
LABELS = ("blend",)
COMPARED = ("alone", "blend")
MOST_SEED = 2**32 - 1


class Asked(NamedTuple):
    """What the browser sent, in the order of `Form.fields`; nothing of it is checked yet."""

    desk: object
    prompt: object
    count: object
    seed: object
    base: object
    compare: object
    method: object
    every: object
    negative: object
    sampler: object
    steps: object
    guidance: object
    width: object
    height: object
    board: object
    init_strength: object


@dataclass(frozen=True)
class Form:
    fields: list
    prompt: gr.Textbox
    canvas: init_image.Canvas
    draw: gr.Button
    drawing: drawing.Drawing
    slider: gr.ImageSlider
    results: gr.HTML
    zip: gr.DownloadButton


def methods() -> tuple[gr.Dropdown, gr.Slider]:
    """How several style files act together, below the desk."""
    with gr.Accordion(words.EXPERT, open=False, elem_id="desk-expert"), gr.Row():
        choices = [(title, key) for key, title in gallery_words.METHODS.items()]
        method = gr.Dropdown(choices, value="sum", label=gallery_words.METHOD, info=gallery_words.METHOD_INFO, elem_id="method")
        every = gr.Slider(1, 50, value=5, step=1, label=gallery_words.SWITCH_EVERY, info=gallery_words.SWITCH_EVERY_INFO)
    return method, every


def layout(rows: gr.HTML, method: gr.Dropdown, every: gr.Slider) -> Form:
    with gr.Row():
        with gr.Column(scale=4, min_width=280):
            prompt = gr.Textbox(
                label=words.PROMPT, info=gallery_words.PROMPT_TAGS, lines=3, max_length=2000, elem_id="gallery-prompt"
            )
            count = gr.Slider(1, 8, value=2, step=1, label=words.COUNT_PICTURES, elem_id="gallery-count")
            seed = gr.Number(1, precision=0, minimum=0, maximum=MOST_SEED, label=words.SEED, elem_id="gallery-seed")
            another = gr.Button(words.ANOTHER, size="sm", scale=0, elem_id="gallery-another")
            compare = gr.Checkbox(True, label=gallery_words.COMPARE, elem_id="gallery-compare", container=False)
            base = gr.Dropdown([(words.BASE_AUTO, ""), *base_choices()], value="", label=words.BASE, elem_id="gallery-base")
            with gr.Accordion(words.MORE, open=False, elem_id="gallery-more"):
                negative = gr.Textbox(label=words.KEEP_OUT, info=words.KEEP_OUT_INFO, max_length=2000)
                names = [(gallery_words.SAMPLER_AUTO, ""), *((name, name) for name in samplers.NAMES)]
                sampler = gr.Dropdown(names, value="", label=gallery_words.SAMPLER)
                steps = gr.Slider(1, 60, value=20, step=1, label=words.STEPS)
                guidance = gr.Slider(1, 15, value=5, step=0.5, label=words.GUIDANCE, info=words.GUIDANCE_INFO)
                with gr.Row():
                    sizes = {"precision": 0, "step": 8, "min_width": 110, "info": gallery_words.SIZE_INFO}
                    width = gr.Number(0, label=gallery_words.WIDTH, **sizes)
                    height = gr.Number(0, label=gallery_words.HEIGHT, **sizes)
            board = init_image.layout()
            button = gr.Button(words.DRAW, variant="primary", size="lg", elem_id="gallery-draw")
        with gr.Column(scale=6, min_width=300):
            made = drawing.layout("gallery")
            look = {"interactive": False, "elem_id": "gallery-compared", "max_height": 620, "visible": False}
            slider = gr.ImageSlider(label=gallery_words.COMPARED_BLEND, type="pil", **look)
            results = history.layout("gallery-results", gallery_words.NOTHING_DRAWN)
            pack = gr.DownloadButton(words.DOWNLOAD_ALL, visible=False, scale=0, elem_id="gallery-zip")
    another.click(None, None, seed, js="() => Math.floor(Math.random() * 1000000)")
    fields = Asked(
        rows, prompt, count, seed, base, compare, method, every, negative, sampler, steps, guidance, width, height,
        board.board, board.strength,
    )  # fmt: skip
    return Form(list(fields), prompt, board, button, made, slider, results, pack)


def settings_of(asked: Asked) -> dict:
    """What the form says, checked, as DrawConfig takes it: everything but what differs between pictures of one draw."""
    rows = mixer.rows_of(asked.desk)
    board = init_image.inputs_of(asked.board)
    return {
        "prompts": (text(asked.prompt),),
        "base": base_of(asked.base).spec if asked.base else mixer.base_spec(rows),
        "seed": whole(asked.seed, 0, MOST_SEED, words.SEED),
        "count": whole(asked.count, 1, 64, words.COUNT_PICTURES),
        "method": one_of(asked.method, gallery_words.METHODS),
        "switch_every": whole(asked.every, 1, 150, gallery_words.SWITCH_EVERY),
        "negative": text(asked.negative),
        "sampler": text(asked.sampler, 40),
        "steps": whole(asked.steps, 1, 150, words.STEPS),
        "guidance": number(asked.guidance, 1, 30, words.GUIDANCE),
        "width": whole(asked.width, 64, 2048, gallery_words.WIDTH) if asked.width else None,
        "height": whole(asked.height, 64, 2048, gallery_words.HEIGHT) if asked.height else None,
        "loras": tuple(row.choice for row in rows),
        **board,
        **({"init_strength": number(asked.init_strength, 0.01, 1, gallery_words.INIT_STRENGTH)} if board else {}),
    }


def config_of(asked: Asked, **changes: object) -> DrawConfig:
    """The form as a drawing: styles named in the prompt join those of the desk. Raises UserError."""
    return with_styles(asked, make(DrawConfig, settings_of(asked) | changes))


def with_styles(asked: Asked, written: DrawConfig) -> DrawConfig:
    """The drawing with the styles that its prompt names, and their base where no other is chosen. Raises UserError."""
    config = with_tags(written)
    if asked.base or mixer.rows_of(asked.desk) or not config.loras:
        return config
    return config.model_copy(update={"base": mixer.base_of_file(config.loras[0].file)})


def draw(*values: object) -> tuple:
    """Queue pictures with every row that is on; where wanted, those of the base alone before them."""
    asked = Asked(*values)
    config = config_of(asked)
    items = [config.model_copy(update={"loras": ()}), config] if asked.compare is True and config.loras else [config]
    job = draws.submit_draw(items, labels=COMPARED if len(items) == 2 else LABELS)
    ensure_worker()
    return drawing.begin(job)


def finished(view: draws.DrawView) -> tuple:
    """Updates of slider, results, zip and history."""
    pictures = [picture for picture in view.pictures if picture.item == "blend"]
    alone = next((picture for picture in view.pictures if picture.item == "alone"), None)
    if not pictures:
        return gr.skip(), gr.skip(), gr.skip(), history.update(again=True)
    pair = gr.ImageSlider(visible=alone is not None)
    if alone:
        pair = gr.ImageSlider(tuple(fitted(open_picture(each.path), SIDE) for each in (alone, pictures[0])), visible=True)
    return pair, history.update(pictures, again=True), packed(view.id, pictures), history.update(again=True)


def packed(name: str, pictures: list[draws.DrawnPicture]) -> gr.DownloadButton:
    """All these pictures in one zip."""
    folder = tempfile.mkdtemp(prefix="zip-", dir=os.environ.get("GRADIO_TEMP_DIR"))
    target = Path(folder) / f"sdlora-{name}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
        for at, picture in enumerate(pictures):
            file.write(picture.path, f"{at:02d}-{history.file_name(picture)}")
    return gr.DownloadButton(value=str(target), visible=len(pictures) > 1)


def resume() -> tuple:
    """Updates for `Drawing.shown` on load: what was being drawn goes on being watched."""
    job = drawing.unfinished(lambda folder: drawing.labelled(LABELS)(folder) or drawing.labelled(COMPARED)(folder))
    return drawing.again(job) if job else gr.skip()
