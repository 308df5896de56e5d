"""Asking for pictures and watching them come: progress, preview, cancel. Used by the act that tries and by the gallery.

Knows nothing about what is drawn with what: the caller brings the settings and says what to do with the pictures.
"""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from sdlora.draw import grammar
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs.drawings import DrawView
from sdlora.jobs.table import Table
from sdlora.ui import words
from sdlora.ui.theme import shown, widget
from sdlora.ui.validation import QUIET, TICK, an_id, guarded, silent

PREVIEW_SIDE = 384
MOST_BAD = 6


@dataclass(frozen=True)
class Drawing:
    """`job`: id of the draw in progress or None."""

    job: gr.State
    progress: gr.HTML
    cancel: gr.Button

    @property
    def shown(self) -> list:
        return [self.job, self.progress, self.cancel]


def layout(name: str) -> Drawing:
    progress = widget("progress", elem_id=f"{name}-progress", events=("tick",))
    cancel = gr.Button(words.CANCEL, visible=False, size="sm", scale=0, min_width=130)
    return Drawing(gr.State(None), progress, cancel)


def connect(drawing: Drawing, finished: Callable[[DrawView], tuple], outputs: list) -> None:
    """Look when page.js learns from `moving` that the drawing has ended.

    finished: turns its pictures into updates for `outputs`.
    """

    def look(job: object) -> tuple:
        if not job:
            return (*idle(), *[gr.skip() for _ in outputs])
        view = draws.view_draw(an_id(job, "drawing"))
        if view.state in ("queued", "running"):
            return (*busy(view), *[gr.skip() for _ in outputs])
        if view.state == "failed":
            return (
                *idle({"state": "failed", "title": words.DRAW_FAILED, "note": f"{view.problem} {view.hint}".strip()}),
                *[gr.skip() for _ in outputs],
            )
        return (*idle(told_cells(view.bad)), *finished(view))

    drawing.progress.tick(silent(look), drawing.job, [*drawing.shown, *outputs], **TICK)
    drawing.cancel.click(guarded(cancel), drawing.job, None, **QUIET)


def told_cells(bad: Sequence[tuple[str, str]]) -> dict:
    """What is said of the cells of a grid that cannot be drawn: (name, why) each."""
    if not bad:
        return {}
    places = [words.BAD_CELL.format(row=int(item[:2]) + 1, column=int(item[3:]) + 1, why=why) for item, why in bad]
    return {"state": "failed", "title": words.BAD_CELLS.format(count=len(places)), "note": " ".join(places[:MOST_BAD])}


def begin(job: str) -> tuple:
    """Updates for `Drawing.shown` right after a draw was queued; what in its prompts does not act is told."""
    items = [config for _, config in draws.items_of(draws.draw_folder(job))]
    for note in grammar.notes(*dict.fromkeys(text for config in items for text in (*config.prompts, config.negative))):
        gr.Info(html.escape(note))
    return again(job)


def again(job: str) -> tuple:
    """Updates for `Drawing.shown` when a page comes back to a draw."""
    return busy(draws.view_draw(job))


def idle(told: dict | None = None) -> tuple:
    return None, gr.HTML(data=told or {}), gr.Button(visible=False)


def busy(view: DrawView) -> tuple:
    return view.id, gr.HTML(data=told(view)), gr.Button(visible=True)


def moving(job: str) -> dict | None:
    """What page.js draws by itself while something is drawn; None when that has ended."""
    try:
        view = draws.view_draw(an_id(job, "drawing"))
    except UserError:
        return None
    return told(view) if view.state in ("queued", "running") else None


def told(view: DrawView) -> dict:
    """What the progress widget says of a drawing; `draw` makes page.js follow it."""
    share = (view.done + (view.step / view.steps if view.steps else 0)) / max(view.total, 1)
    return {
        "draw": view.id,
        "state": view.state,
        "title": words.DRAWING if view.state == "running" else words.WAITING,
        "bar": True,
        "left": words.PICTURE_OF.format(number=min(view.done + 1, view.total), total=view.total) if view.total > 1 else "",
        "percent": round(100 * share, 1),
        "src": shown(view.preview, PREVIEW_SIDE) if view.preview else "",
        "alt": words.PREVIEW,
    }


def cancel(job: object) -> None:
    draws.cancel_draw(an_id(job, "drawing"))


def unfinished(fits: Callable[[Path], bool]) -> str | None:
    """The newest draw that still waits or draws and whose folder fits: what a reload comes back to."""
    for job in reversed(Table().jobs("draw", "queued", "running")):
        if fits(draws.draw_folder(job.target)):
            return job.target
    return None


def labelled(labels: tuple[str, ...]) -> Callable[[Path], bool]:
    """Whether the parts of a draw carry these labels."""
    return lambda folder: {label for label, _ in draws.items_of(folder)} == set(labels)
