"""What act 3 and the gallery share: fields of settings, the comparison of two pictures, progress, preview, cancel.

Knows nothing about LoRAs: the caller queues the drawing and says what to do with the pictures.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from sdlora.dataset.picture import open_picture
from sdlora.draw import grammar
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs.drawings import DrawView
from sdlora.jobs.table import Table
from sdlora.ui import words
from sdlora.ui.theme import fitted, picture_url, widget
from sdlora.ui.validation import ACTION, TICK, Updates, an_id, guarded, silent

PREVIEW_SIDE = 384
COMPARED_SIDE = 768
MOST_BAD = 6
MOST_SEED = 2**32 - 1
RANDOM_SEED = "() => Math.floor(Math.random() * 1000000)"


@dataclass(frozen=True)
class Drawing:
    """`job`: id of the draw in progress or None."""

    job: gr.State
    progress: gr.HTML
    cancel: gr.Button

    @property
    def outputs(self) -> list:
        return [self.job, self.progress, self.cancel]


def layout(name: str) -> Drawing:
    progress = widget("progress", elem_id=f"{name}-progress", events=("tick",))
    cancel = gr.Button(words.CANCEL, visible=False, size="sm", scale=0, min_width=130)
    return Drawing(gr.State(None), progress, cancel)


def seed_field(elem_id: str, button_id: str, info: str | None = None) -> gr.Number:
    """Return a field for the seed, with a button under it that fills in a random one."""
    seed = gr.Number(1, precision=0, minimum=0, maximum=MOST_SEED, label=words.SEED, info=info, elem_id=elem_id)
    gr.Button(words.RANDOM_SEED, size="sm", scale=0, elem_id=button_id).click(None, None, seed, js=RANDOM_SEED)
    return seed


def negative_field() -> gr.Textbox:
    return gr.Textbox(label=words.NEGATIVE, info=words.NEGATIVE_INFO, max_length=2000)


def steps_field() -> gr.Slider:
    return gr.Slider(1, 60, value=20, step=1, label=words.STEPS, info=words.STEPS_INFO)


def guidance_field() -> gr.Slider:
    return gr.Slider(1, 15, value=5, step=0.5, label=words.CFG, info=words.CFG_INFO)


def comparison(label: str, **settings: Any) -> gr.ImageSlider:
    """Return the two pictures with a divider between them."""
    return gr.ImageSlider(label=label, type="pil", interactive=False, max_height=620, **settings)


def pair(left: Path, right: Path) -> tuple:
    """Return the value of `comparison` for two picture files."""
    return tuple(fitted(open_picture(path), COMPARED_SIDE) for path in (left, right))


def connect(drawing: Drawing, finished: Callable[[DrawView], tuple], outputs: list) -> None:
    """Update the page when page.js learns from `progress_of` that the drawing has ended.

    finished: turns its pictures into updates for `outputs`.
    """

    def tick(job: Any) -> tuple:
        unchanged = [gr.skip() for _ in outputs]
        if not job:
            return *idle(), *unchanged
        view = draws.view_draw(an_id(job, "drawing"))
        if view.state in ("queued", "running"):
            return *busy(view), *unchanged
        if view.state == "failed":
            note = f"{view.problem} {view.hint}".strip()
            return *idle({"state": "failed", "title": words.DRAW_FAILED, "note": note}), *unchanged
        return *idle(bad_cells(view.bad)), *finished(view)

    drawing.progress.tick(silent(tick), drawing.job, [*drawing.outputs, *outputs], **TICK)
    drawing.cancel.click(guarded(cancel), drawing.job, None, **ACTION)


def bad_cells(bad: Sequence[tuple[str, str]]) -> dict:
    """Return what the progress widget shows of the cells of a grid that cannot be drawn: (name, why) each."""
    if not bad:
        return {}
    places = [words.BAD_CELL.format(row=int(item[:2]) + 1, column=int(item[3:]) + 1, why=why) for item, why in bad]
    return {"state": "failed", "title": words.BAD_CELLS.format(count=len(places)), "note": " ".join(places[:MOST_BAD])}


def show_new(job: str) -> tuple:
    """Return updates for `Drawing.outputs` right after a draw was queued; report what in its prompts has no effect."""
    items = [config for _, config in draws.items_of(draws.draw_folder(job))]
    for note in grammar.notes(*dict.fromkeys(text for config in items for text in (*config.prompts, config.negative))):
        gr.Info(html.escape(note))
    return show(job)


def show(job: str) -> tuple:
    """Return updates for `Drawing.outputs` when a page comes back to a draw."""
    return busy(draws.view_draw(job))


def idle(notice: dict | None = None) -> tuple:
    return None, gr.HTML(data=notice or {}), gr.Button(visible=False)


def busy(view: DrawView) -> tuple:
    return view.id, gr.HTML(data=progress(view)), gr.Button(visible=True)


def progress_of(job: str) -> dict | None:
    """Return what page.js draws by itself while something is drawn; None when that has ended."""
    try:
        view = draws.view_draw(an_id(job, "drawing"))
    except UserError:
        return None
    return progress(view) if view.state in ("queued", "running") else None


def progress(view: DrawView) -> dict:
    """Return what the progress widget shows of a draw; `draw` makes page.js follow it."""
    share = (view.done + (view.step / view.steps if view.steps else 0)) / max(view.total, 1)
    return {
        "draw": view.id,
        "state": view.state,
        "title": words.DRAWING if view.state == "running" else words.WAITING,
        "bar": True,
        "left": words.PICTURE_OF.format(number=min(view.done + 1, view.total), total=view.total) if view.total > 1 else "",
        "percent": round(100 * share, 1),
        "src": picture_url(view.preview, PREVIEW_SIDE) if view.preview else "",
        "alt": words.PREVIEW,
    }


def cancel(job: Any) -> None:
    draws.cancel_draw(an_id(job, "drawing"))


def resume(fits: Callable[[Path], bool]) -> Updates:
    """Return updates for `Drawing.outputs` when a page loads: the newest draw under way whose folder fits is followed again."""
    for job in reversed(Table().jobs("draw", "queued", "running")):
        if fits(draws.draw_folder(job.target)):
            return show(job.target)
    return gr.skip()


def labelled(*labels: str) -> Callable[[Path], bool]:
    """Return a function that says whether the items of a draw's folder carry these labels."""
    return lambda folder: {label for label, _ in draws.items_of(folder)} == set(labels)
