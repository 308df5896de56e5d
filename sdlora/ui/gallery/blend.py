"""The gallery's drawing form: what it says becomes settings and is drawn; the settings of a picture fill it, and the mixer.

A drawing may start from a picture: every upload is opened by dataset/picture.py and kept by us, the browser knows it by an id.
Knows nothing about the shelf or how rows are chosen: mixer.py brings them, and library/lora_tags.py finds the files that a
picture names.
"""

import base64
import binascii
import html
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from sdlora.config import DrawConfig, make
from sdlora.dataset.picture import open_picture
from sdlora.draw import samplers
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs.worker import ensure_worker
from sdlora.library import lora_tags
from sdlora.ui import drawing, history, words
from sdlora.ui.gallery import mixer
from sdlora.ui.studio.bases import base_choices, base_of
from sdlora.ui.theme import picture_url, widget
from sdlora.ui.validation import ACTION, EMPTIED, Updates, guarded, mapping, number, one_of, text, uploads, whole_number

LABELS = ("blend",)
COMPARED = ("alone", "blend")
LARGEST_INIT, SHOWN_INIT = 2048, 768
MASK = "data:image/png;base64,"
MASK_BYTES = 6_000_000
OF_A_PICTURE = ("seed", "negative", "sampler", "steps", "guidance", "width", "height", "method")  # fields it fills


class FormValues(NamedTuple):
    """What the browser sent, in the order of `Form.fields`; nothing of it is checked yet."""

    rows: Any
    prompt: Any
    count: Any
    seed: Any
    base: Any
    compare: Any
    method: Any
    switch_every: Any
    negative: Any
    sampler: Any
    steps: Any
    guidance: Any
    width: Any
    height: Any
    init: Any
    init_strength: Any


@dataclass(frozen=True)
class Form:
    """`fields` in the order of FormValues; `drop`: a picture whose settings fill them; `loaded`: which did."""

    fields: FormValues
    drop: gr.File
    loaded: gr.HTML
    init_upload: gr.File
    draw: gr.Button
    drawing: drawing.Drawing
    slider: gr.ImageSlider
    results: gr.HTML
    zip: gr.DownloadButton


def method_fields() -> tuple[gr.Dropdown, gr.Slider]:
    """Build the settings of how several LoRAs are combined, below the mixer."""
    with gr.Accordion(words.EXPERT, open=False, elem_id="mixer-expert"), gr.Row():
        choices = [(title, key) for key, title in words.METHODS.items()]
        method = gr.Dropdown(choices, value="sum", label=words.METHOD, info=words.METHOD_INFO, elem_id="method")
        switch_every = gr.Slider(1, 50, value=5, step=1, label=words.SWITCH_EVERY, info=words.SWITCH_EVERY_INFO)
    return method, switch_every


def layout(rows: gr.HTML, method: gr.Dropdown, switch_every: gr.Slider) -> Form:
    with gr.Accordion(words.LOAD, open=False, elem_id="load-box"):
        drop = gr.File(label=words.LOAD_DROP, file_types=["image"], type="filepath", height=124, elem_id="load-drop")
    loaded = widget("notes", elem_id="load-notes")
    with gr.Row():
        with gr.Column(scale=4, min_width=280):
            about: Any = {"label": words.PROMPT, "info": words.PROMPT_TAGS, "elem_id": "gallery-prompt"}
            prompt = gr.Textbox(lines=3, max_length=2000, **about)
            about = {"label": words.COUNT_PICTURES, "info": words.COUNT_PICTURES_INFO, "elem_id": "gallery-count"}
            count = gr.Slider(1, 8, value=2, step=1, **about)
            seed = drawing.seed_field("gallery-seed", "gallery-another")
            with_base = gr.Checkbox(True, label=words.COMPARE, elem_id="gallery-compare", container=False)
            base = gr.Dropdown([(words.BASE_AUTO, ""), *base_choices()], value="", label=words.BASE, elem_id="gallery-base")
            with gr.Accordion(words.MORE, open=False, elem_id="gallery-more"):
                negative = drawing.negative_field()
                names = [(words.SAMPLER_AUTO, ""), *((name, name) for name in samplers.NAMES)]
                sampler = gr.Dropdown(names, value="", label=words.SAMPLER)
                steps, guidance = drawing.steps_field(), drawing.guidance_field()
                with gr.Row():
                    size: Any = {"precision": 0, "step": 8, "min_width": 110, "info": words.SIZE_INFO}
                    width, height = gr.Number(0, label=words.WIDTH, **size), gr.Number(0, label=words.HEIGHT, **size)
            init_upload, init, init_strength = init_fields()
            button = gr.Button(words.DRAW, variant="primary", size="lg", elem_id="gallery-draw")
        with gr.Column(scale=6, min_width=300):
            made = drawing.layout("gallery")
            slider = drawing.comparison(words.COMPARED_BLEND, elem_id="gallery-compared", visible=False)
            results = history.layout("gallery-results", words.NOTHING_DRAWN)
            pack = gr.DownloadButton(words.DOWNLOAD_ALL, visible=False, scale=0, elem_id="gallery-zip")
    fields = FormValues(
        rows, prompt, count, seed, base, with_base, method, switch_every, negative, sampler, steps, guidance, width, height,
        init, init_strength,
    )
    return Form(fields, drop, loaded, init_upload, button, made, slider, results, pack)


def init_fields() -> tuple[gr.File, gr.HTML, gr.Slider]:
    """Build the part for a picture to start from: upload, the board that is painted on, denoising strength."""
    with gr.Accordion(words.INIT, open=False, elem_id="init-box"):
        gr.Markdown(words.INIT_LEAD, elem_classes="quiet")
        upload = gr.File(label=words.INIT_DROP, file_types=["image"], type="filepath", height=124, elem_id="init-upload")
        board = widget("inpaint", "element, props", value=None, elem_id="init-board", data={"words": words.INPAINT})
        about: Any = {"label": words.INIT_STRENGTH, "info": words.INIT_STRENGTH_INFO}
        strength = gr.Slider(0.05, 1, value=0.6, step=0.05, **about)
    return upload, board, strength


def connect(form: Form, drawn: gr.HTML) -> None:
    """Connect the form; `drawn` is the history of all drawn pictures."""
    fields = form.fields
    form.init_upload.upload(
        guarded(keep_init), form.init_upload, [fields.init, form.init_upload], show_progress_on=form.init_upload,
        api_visibility="private",
    ).then(outputs=form.init_upload, **EMPTIED)
    form.draw.click(guarded(draw), list(fields), form.drawing.outputs, **ACTION)
    fields.prompt.submit(guarded(draw), list(fields), form.drawing.outputs, **ACTION)
    drawing.connect(form.drawing, finished, [form.slider, form.results, form.zip, drawn])
    filled = [fields.rows, fields.prompt, fields.switch_every, *(getattr(fields, name) for name in OF_A_PICTURE), form.loaded]
    form.drop.upload(guarded(load_upload), form.drop, [*filled, form.drop], show_progress_on=form.drop, api_visibility="private")
    form.results.select(guarded(load_drawn), None, filled, **ACTION)
    form.results.delete(guarded(delete_result), None, form.results, **ACTION)


def load_upload(file: Any) -> tuple:
    """Fill the form with the settings of an uploaded picture; one that is refused leaves it as it is. Empty the drop."""
    try:
        return *filled(uploads([file])[0]), None
    except UserError as error:
        gr.Warning(html.escape(str(error)))
        return *[gr.skip()] * (len(OF_A_PICTURE) + 3), gr.HTML(data={"notes": []}), None


def load_drawn(event: gr.EventData) -> tuple:
    """Fill the form with the settings of a picture that was drawn here."""
    return filled(history.of_event(event).path)


def filled(picture: Path) -> tuple:
    """Return updates of mixer, prompt, switch_every, OF_A_PICTURE and notes. What the picture does not say stays."""
    found: dict[str, Any]
    found, sentences = lora_tags.settings_of(picture)
    rows = [row for row in map(mixer.row_of_choice, found.get("loras", [])) if row]
    values = {name: found.get(name, gr.skip()) for name in OF_A_PICTURE} | {"method": found.get("method", "sum")}
    return (
        mixer.show_rows(rows),
        found["prompts"][0] if "prompts" in found else gr.skip(),
        found.get("switch_every", gr.skip()),
        *values.values(),
        gr.HTML(data={"notes": [words.LOADED.format(count=len(rows)), *sentences]}),
    )


def delete_result(event: gr.EventData) -> gr.HTML:
    history.remove(event)
    return gr.HTML(data={"none": words.DELETED})


def keep_init(file: Any) -> tuple:
    """Keep an uploaded picture and put it on the board."""
    image = open_picture(uploads([file])[0])
    image.thumbnail((LARGEST_INIT, LARGEST_INIT))
    kept = draws.save_input(image)
    data = {"src": picture_url(draws.input_path(kept), SHOWN_INIT), "id": kept, "words": words.INPAINT}
    return gr.HTML(data=data, value={"id": kept, "mask": ""}), None


def init_settings(value: Any) -> dict[str, str]:
    """Return the fields `init` and `mask` of DrawConfig for the board's value; {} when it is empty. Raise UserError."""
    if not value:
        return {}
    kept, mask = mapping(value).get("id"), value.get("mask")
    if not isinstance(kept, str) or not isinstance(mask, str) or len(mask) > MASK_BYTES:
        raise UserError(words.NOT_UNDERSTOOD)
    init = str(draws.input_path(kept))
    return {"init": init, "mask": str(draws.input_path(keep_mask(mask)))} if mask else {"init": init}


def keep_mask(mask: str) -> str:
    """Keep a mask that the browser sent as a data URL; return its id."""
    try:
        content = base64.b64decode(mask.removeprefix(MASK), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(words.NOT_UNDERSTOOD) from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mask.png"
        file.write_bytes(content)
        return draws.save_input(open_picture(file).convert("L"))


def settings_of(form: FormValues) -> dict[str, object]:
    """Return what the form says, checked, as DrawConfig takes it: all but what differs between pictures of one draw."""
    rows = mixer.rows_of(form.rows)
    init = init_settings(form.init)
    return {
        "prompts": (text(form.prompt),),
        "base": base_of(form.base).spec if form.base else mixer.base_spec(rows),
        "seed": whole_number(form.seed, 0, drawing.MOST_SEED, words.SEED),
        "count": whole_number(form.count, 1, 64, words.COUNT_PICTURES),
        "method": one_of(form.method, words.METHODS),
        "switch_every": whole_number(form.switch_every, 1, 150, words.SWITCH_EVERY),
        "negative": text(form.negative),
        "sampler": text(form.sampler, 40),
        "steps": whole_number(form.steps, 1, 150, words.STEPS),
        "guidance": number(form.guidance, 1, 30, words.CFG),
        "width": whole_number(form.width, 64, 2048, words.WIDTH) if form.width else None,
        "height": whole_number(form.height, 64, 2048, words.HEIGHT) if form.height else None,
        "loras": tuple(row.choice for row in rows),
        **init,
        **({"init_strength": number(form.init_strength, 0.01, 1, words.INIT_STRENGTH)} if init else {}),
    }


def with_prompt_loras(form: FormValues, written: DrawConfig) -> DrawConfig:
    """Add the LoRAs that the prompt names, and their base model where no other is chosen. Raise UserError."""
    config = lora_tags.with_tags(written)
    if form.base or mixer.rows_of(form.rows) or not config.loras:
        return config
    return config.model_copy(update={"base": mixer.base_of_file(config.loras[0].file)})


def draw(*values: Any) -> tuple:
    """Queue pictures with every row that is on; where wanted, those of the base model alone before them."""
    form = FormValues(*values)
    config = with_prompt_loras(form, make(DrawConfig, settings_of(form)))
    items = [config.model_copy(update={"loras": ()}), config] if form.compare is True and config.loras else [config]
    job = draws.submit_draw(items, labels=COMPARED if len(items) == 2 else LABELS)
    ensure_worker()
    return drawing.show_new(job)


def finished(view: draws.DrawView) -> tuple:
    """Return updates of slider, results, zip and history."""
    pictures = [picture for picture in view.pictures if picture.item == "blend"]
    alone = next((picture for picture in view.pictures if picture.item == "alone"), None)
    if not pictures:
        return gr.skip(), gr.skip(), gr.skip(), history.update(again=True)
    pair = gr.ImageSlider(visible=alone is not None)
    if alone:
        both = drawing.pair(alone.path, pictures[0].path)
        pair = gr.ImageSlider(both, visible=True)  # pyright: ignore[reportArgumentType] Gradio's hint leaves out pictures
    return pair, history.update(pictures, again=True), packed(view.id, pictures), history.update(again=True)


def packed(name: str, pictures: list[draws.DrawnPicture]) -> gr.DownloadButton:
    """Return the button that downloads all these pictures in one zip."""
    folder = tempfile.mkdtemp(prefix="zip-", dir=os.environ.get("GRADIO_TEMP_DIR"))
    target = Path(folder) / f"sdlora-{name}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as file:
        for at, picture in enumerate(pictures):
            file.write(picture.path, f"{at:02d}-{history.file_name(picture)}")
    return gr.DownloadButton(value=str(target), visible=len(pictures) > 1)


def resume() -> Updates:
    """Return updates for `Drawing.outputs` on load: what is being drawn is followed again."""
    return drawing.resume(lambda folder: drawing.labelled(*LABELS)(folder) or drawing.labelled(*COMPARED)(folder))
