"""Grids on the page: pictures that differ in one thing or two, side by side, and all of them on one sheet.

Knows nothing about drawing: draw/grid.py makes the cells, the drawing process draws them and puts the sheet together.
"""

import html
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import gradio as gr

from sdlora.base import catalog
from sdlora.config import DrawConfig, LoraChoice, make
from sdlora.draw import grid
from sdlora.draw.grid import Axis, Cell
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs import run as runs
from sdlora.jobs.worker import ensure_worker
from sdlora.library import search
from sdlora.library.lora_tags import find_named, with_tags
from sdlora.ui import drawing, gallery_words, history, words
from sdlora.ui.gallery import blend
from sdlora.ui.runs.strip import choosable, download_copy, point_file
from sdlora.ui.theme import shown, widget
from sdlora.ui.validation import QUIET, guarded, one_of, text

CELL = 192
NONE = ""
MOST_TEXT = 2000


@dataclass(frozen=True)
class Grid:
    """`sides`: kind and values of the columns, then of the rows."""

    sides: list
    strip: gr.Button
    pairs: gr.Button
    draw: gr.Button
    drawing: drawing.Drawing
    table: gr.HTML
    sheet: gr.DownloadButton


def layout() -> Grid:
    gr.Markdown(gallery_words.GRID_LEAD, elem_classes="quiet")
    kinds = [(title, key) for key, title in gallery_words.AXES.items()]
    sides = []
    for key, label, kind in (("x", gallery_words.GRID_X, "strength"), ("y", gallery_words.GRID_Y, NONE)):
        with gr.Row(elem_classes="grid-side"):
            choices = kinds if key == "x" else [(gallery_words.GRID_NONE, NONE), *kinds]
            sides.append(gr.Dropdown(choices, value=kind, label=label, scale=2, min_width=170, elem_id=f"grid-{key}"))
            info = {"label": gallery_words.GRID_VALUES, "info": gallery_words.GRID_VALUES_INFO, "max_length": MOST_TEXT}
            values = gallery_words.AXIS_BEGIN.get(kind, "")
            sides.append(gr.Textbox(values, scale=5, min_width=220, elem_id=f"grid-{key}-values", **info))
    with gr.Row():
        draw = gr.Button(gallery_words.GRID_DRAW, variant="primary", scale=0, min_width=150, elem_id="grid-draw")
        strip = gr.Button(gallery_words.GRID_STRIP, scale=0, min_width=150, elem_id="grid-strip")
        pairs = gr.Button(gallery_words.GRID_PAIRS, scale=0, min_width=170, elem_id="grid-pairs")
    made = drawing.layout("grid")
    table = widget("strip", elem_id="grid-table")
    sheet = gr.DownloadButton(gallery_words.GRID_SHEET, visible=False, scale=0, elem_id="grid-sheet")
    return Grid(sides, strip, pairs, draw, made, table, sheet)


def connect(act: Grid, form: blend.Form, kept: gr.HTML) -> None:
    """A grid draws with the settings of `form`; its sheet goes into the history `kept`."""
    shown_ = [*act.drawing.shown, act.table]
    act.draw.click(guarded(draw), [*act.sides, *form.fields], shown_, **QUIET)
    act.strip.click(guarded(draw_strip), form.fields, shown_, **QUIET)
    act.pairs.click(guarded(draw_pairs), form.fields, shown_, **QUIET)
    for kind, values in (act.sides[:2], act.sides[2:]):
        kind.input(guarded(begin_values), kind, values, **QUIET)
    drawing.connect(act.drawing, finished, [act.table, act.sheet, kept])


def begin_values(kind: object) -> str:
    """Values to begin with when a kind is chosen."""
    kind = one_of(kind, [NONE, *gallery_words.AXES])
    if kind == "lora":
        return " | ".join(entry.name for entry in search.list_loras(limit=3))
    if kind == "point":
        return next((run.name for run in runs.list_runs() if choosable(run)), "")
    return gallery_words.AXIS_BEGIN.get(kind, "")


def axis(kind: object, values: object) -> Axis | None:
    """One side as the form says it. Raises UserError."""
    kind, values = one_of(kind, [NONE, *gallery_words.AXES]), text(values, MOST_TEXT)
    if kind == NONE:
        return None
    parsed = grid.parse(f"{kind}={values}")
    if kind == "lora":
        return grid.lora_axis(kind, grid.tried(parsed.values, style))
    if kind == "point":
        return grid.lora_axis(kind, grid.tried(parsed.values, points))
    return parsed


def style(name: str) -> list[tuple[str, LoraChoice | None]]:
    """A name on the shelf, or the word for none -> [(label, choice)]."""
    if name.strip().lower() in gallery_words.NO_STYLE:
        return [(words.BASE_ALONE, None)]
    entry = find_named(name)
    return [(entry.name, LoraChoice(file=str(entry.path)))]


def points(name: str) -> list[tuple[str, LoraChoice]]:
    """The saved points of the newest run with this name."""
    run = next((run for run in runs.list_runs() if run.name.lower() == name.strip().lower() and choosable(run)), None)
    if run is None:
        raise UserError(gallery_words.NO_SUCH_RUN.format(name=name))
    files = {step: str(point_file(run, step)) for step in sorted(choosable(run))}
    return [(gallery_words.ROUND.format(step=step), LoraChoice(file=file)) for step, file in files.items()]


def draw(*values: object) -> tuple:
    """Queue the grid that the form describes. `values`: the four of the sides, then those of blend.Form."""
    x, y = axis(*values[:2]), axis(*values[2:4])
    if x is None:
        raise UserError(gallery_words.GRID_NO_X)
    return begin(blend.Asked(*values[4:]), lambda config: [x, *([y] if y else [])])


def draw_strip(*values: object) -> tuple:
    """Queue the strip of strengths."""
    return begin(blend.Asked(*values), lambda config: [grid.parse(f"strength={gallery_words.AXIS_BEGIN['strength']}")])


def draw_pairs(*values: object) -> tuple:
    """Queue base and blend beside each other, for several variations."""
    def axes(config: DrawConfig) -> list[Axis]:
        return [grid.pairs(config), grid.parse(f"seed={config.seed}-{min(config.seed + 3, blend.MOST_SEED)}")]

    return begin(blend.Asked(*values), axes)


def begin(asked: blend.Asked, axes_of: Callable[[DrawConfig], list[Axis]]) -> tuple:
    """Queue the cells as one job; updates of the drawing and of the empty table. Cells that cannot be drawn are told at once."""
    written = make(DrawConfig, blend.settings_of(asked) | {"count": 1})
    try:
        config = blend.with_styles(asked, written)
    except UserError:
        config = written  # an axis may change the words that name no style: each cell tells for itself
    axes = axes_of(config)
    written = written.model_copy(update={"base": config.base})
    family = catalog.read_family(catalog.resolve(config.base)).key
    cells = grid.cells(written, axes[0], *axes[1:] or [None], resolve=with_tags, family=family)
    bad = {cell.name: cell.problem for cell in cells if cell.problem}
    sheet = {"title": config.prompts[0], "axes": [asdict(replace(side, values=plain(side))) for side in axes],
             "bad": {name: (problem.message, problem.hint) for name, problem in bad.items()}}
    good = [cell for cell in cells if cell.config]
    job = draws.submit_draw([cell.config for cell in good], labels=[cell.name for cell in good], sheet=sheet)
    ensure_worker()
    if told := drawing.told_cells([(name, str(problem)) for name, problem in bad.items()]):
        gr.Warning(html.escape(f"{told['title']}. {told['note']}"))
    return *drawing.begin(job), gr.HTML(data=table_of(axes, {}, sheet["title"]))


def plain(side: Axis) -> tuple:
    """The values of an axis as JSON holds them; files are named by their labels."""
    return side.labels if grid.KINDS[side.kind][0] is str else tuple(map(grid.text_of, side.values))


def finished(view: draws.DrawView) -> tuple:
    """Updates of the table, the sheet's button and the history."""
    asked = draws.sheet_of(draws.draw_folder(view.id))
    axes = [Axis(**side) for side in asked["axes"]]
    cells = {picture.item: shown(picture.path, CELL) for picture in view.pictures if picture.item != draws.SHEET}
    sheet = next((picture.path for picture in view.pictures if picture.item == draws.SHEET), None)
    button = gr.DownloadButton(value=download_copy(sheet), visible=True) if sheet else gr.DownloadButton(visible=False)
    return gr.HTML(data=table_of(axes, cells, asked["title"])), button, history.update(again=True)


def table_of(axes: list[Axis], cells: dict[str, str], prompt: str) -> dict:
    """What page.js draws of a grid, with the same widget as the strip of samples."""
    columns, rows = axes[0].labels, axes[1].labels if axes[1:] else (prompt,)
    names = [[Cell(column, row, "", None).name for column in range(len(columns))] for row in range(len(rows))]
    return {
        "title": gallery_words.GRID_TITLE,
        "columns": [{"step": number, "label": label, "choosable": False} for number, label in enumerate(columns)],
        "rows": [
            {"prompt": label, "label": label, "cells": [cells.get(name, "") for name in line]}
            for label, line in zip(rows, names, strict=True)
        ],
    }


def resume() -> tuple:
    """Updates for `Drawing.shown` on load: a grid that was being drawn goes on being watched."""
    job = drawing.unfinished(lambda folder: draws.sheet_of(folder) is not None)
    return drawing.again(job) if job else gr.skip()
