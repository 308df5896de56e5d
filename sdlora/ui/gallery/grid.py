"""Grids on the page: pictures that differ in one thing or two, side by side, and all of them on one sheet.

draw/grid.py makes the cells; the drawing process draws them and puts the sheet together.
"""

import html
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

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
from sdlora.ui import drawing, history, words
from sdlora.ui.gallery import blend
from sdlora.ui.gallery.shelf import download_copy
from sdlora.ui.theme import picture_url, widget
from sdlora.ui.validation import ACTION, Updates, guarded, one_of, text

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
    gr.Markdown(words.GRID_LEAD, elem_classes="quiet")
    kinds = [(title, key) for key, title in words.AXES.items()]
    sides = []
    for key, label, kind in (("x", words.GRID_X, "strength"), ("y", words.GRID_Y, NONE)):
        with gr.Row(elem_classes="grid-side"):
            choices = kinds if key == "x" else [(words.GRID_NONE, NONE), *kinds]
            sides.append(gr.Dropdown(choices, value=kind, label=label, scale=2, min_width=170, elem_id=f"grid-{key}"))
            info: Any = {"label": words.GRID_VALUES, "info": words.GRID_VALUES_INFO, "max_length": MOST_TEXT}
            values = words.AXIS_BEGIN.get(kind, "")
            sides.append(gr.Textbox(values, scale=5, min_width=220, elem_id=f"grid-{key}-values", **info))
    with gr.Row():
        draw = gr.Button(words.GRID_DRAW, variant="primary", scale=0, min_width=150, elem_id="grid-draw")
        strip = gr.Button(words.GRID_STRIP, scale=0, min_width=150, elem_id="grid-strip")
        pairs = gr.Button(words.GRID_PAIRS, scale=0, min_width=170, elem_id="grid-pairs")
    made = drawing.layout("grid")
    table = widget("strip", elem_id="grid-table")
    sheet = gr.DownloadButton(words.GRID_SHEET, visible=False, scale=0, elem_id="grid-sheet")
    return Grid(sides, strip, pairs, draw, made, table, sheet)


def connect(act: Grid, form: blend.Form, drawn: gr.HTML) -> None:
    """Connect the button of a grid: it draws with the settings of `form`; its sheet goes into the history `drawn`."""
    outputs, fields = [*act.drawing.outputs, act.table], list(form.fields)
    act.draw.click(guarded(draw), [*act.sides, *fields], outputs, **ACTION)
    act.strip.click(guarded(draw_strip), fields, outputs, **ACTION)
    act.pairs.click(guarded(draw_pairs), fields, outputs, **ACTION)
    for kind, values in (act.sides[:2], act.sides[2:]):
        kind.input(guarded(first_values), kind, values, **ACTION)
    drawing.connect(act.drawing, finished, [act.table, act.sheet, drawn])


def first_values(kind: Any) -> str:
    """Return values to begin with when a kind is chosen."""
    kind = one_of(kind, [NONE, *words.AXES])
    if kind == "lora":
        return " | ".join(entry.name for entry in search.list_loras(limit=3))
    if kind == "point":
        return next((run.name for run in runs.list_runs() if run.usable_steps), "")
    return words.AXIS_BEGIN.get(kind, "")


def axis(kind: Any, values: Any) -> Axis | None:
    """Return one side as the form says it. Raise UserError."""
    kind, values = one_of(kind, [NONE, *words.AXES]), text(values, MOST_TEXT)
    if kind == NONE:
        return None
    parsed = grid.parse(f"{kind}={values}")
    choices = {"lora": shelf_lora, "point": checkpoints}.get(kind)
    return grid.lora_axis(kind, grid.tried(list(map(str, parsed.values)), choices)) if choices else parsed


def shelf_lora(name: str) -> list[grid.Choice]:
    """Return [(label, choice)] of a name on the shelf, or of a word for none."""
    if name.strip().lower() in words.NO_LORA:
        return [(words.BASE_ALONE, None)]
    entry = find_named(name)
    return [(entry.name, choice_of(entry.path))]


def checkpoints(name: str) -> list[grid.Choice]:
    """Return (label, choice) of each checkpoint of the newest run with this name."""
    run = next((run for run in runs.list_runs() if run.name.lower() == name.strip().lower() and run.usable_steps), None)
    if run is None:
        raise UserError(words.NO_SUCH_RUN.format(name=name))
    files = {step: runs.lora_file(run, step) for step in sorted(run.usable_steps)}
    return [(words.AT_STEP.format(step=step), choice_of(file)) for step, file in files.items()]


def choice_of(file: Path) -> LoraChoice:
    return make(LoraChoice, {"file": str(file)})


def draw(*values: Any) -> tuple:
    """Queue the grid that the form describes. `values`: the four of the sides, then those of blend.Form."""
    x, y = axis(*values[:2]), axis(*values[2:4])
    if x is None:
        raise UserError(words.GRID_NO_X)
    return queue(blend.FormValues(*values[4:]), lambda config: [x, *([y] if y else [])])


def draw_strip(*values: Any) -> tuple:
    """Queue the strip of strengths."""
    return queue(blend.FormValues(*values), lambda config: [grid.parse(f"strength={words.AXIS_BEGIN['strength']}")])


def draw_pairs(*values: Any) -> tuple:
    """Queue base model and blend beside each other, for several seeds."""
    def axes(config: DrawConfig) -> list[Axis]:
        return [grid.pairs_axis(config), grid.parse(f"seed={config.seed}-{min(config.seed + 3, drawing.MOST_SEED)}")]

    return queue(blend.FormValues(*values), axes)


def queue(form: blend.FormValues, axes_of: Callable[[DrawConfig], list[Axis]]) -> tuple:
    """Queue the cells as one job; return updates of the drawing and of the empty table. Warn of cells that cannot be drawn."""
    written = make(DrawConfig, blend.settings_of(form) | {"count": 1})
    try:
        config = blend.with_prompt_loras(form, written)
    except UserError:
        config = written  # an axis may change the words that name no LoRA: each cell reports for itself
    axes = axes_of(config)
    written = written.model_copy(update={"base": config.base})
    family = catalog.read_family(catalog.resolve(config.base)).key
    cells = grid.cells(written, axes[0], *axes[1:] or [None], resolve=with_tags, family=family)
    bad = {cell.name: cell.problem for cell in cells if cell.problem}
    sheet = {"title": config.prompts[0], "axes": [asdict(replace(side, values=plain(side))) for side in axes],
             "bad": {name: (problem.message, problem.hint) for name, problem in bad.items()}}
    good = {cell.name: cell.config for cell in cells if cell.config}
    job = draws.submit_draw(list(good.values()), labels=list(good), sheet=sheet)
    ensure_worker()
    if notice := drawing.bad_cells([(name, str(problem)) for name, problem in bad.items()]):
        gr.Warning(html.escape(f"{notice['title']}. {notice['note']}"))
    return *drawing.show_new(job), gr.HTML(data=table_of(axes, {}, sheet["title"]))


def plain(side: Axis) -> tuple:
    """Return the values of an axis as JSON holds them; files are named by their labels."""
    return side.labels if grid.KINDS[side.kind][0] is str else tuple(map(grid.text_of, side.values))


def finished(view: draws.DrawView) -> tuple:
    """Return updates of the table, the sheet's button and the history."""
    about: Any = draws.sheet_of(draws.draw_folder(view.id))
    axes = [Axis(**side) for side in about["axes"]]
    cells = {picture.item: picture_url(picture.path, CELL) for picture in view.pictures if picture.item != draws.SHEET}
    sheet = next((picture.path for picture in view.pictures if picture.item == draws.SHEET), None)
    button = gr.DownloadButton(value=download_copy(sheet), visible=True) if sheet else gr.DownloadButton(visible=False)
    return gr.HTML(data=table_of(axes, cells, about["title"])), button, history.update(again=True)


def table_of(axes: list[Axis], cells: dict[str, str], prompt: str) -> dict:
    """Return what page.js draws of a grid, with the same widget as the strip of samples."""
    columns, rows = axes[0].labels, axes[1].labels if axes[1:] else (prompt,)
    names = [[Cell(column, row, "", None).name for column in range(len(columns))] for row in range(len(rows))]
    return {
        "title": words.GRID_TITLE,
        "columns": [{"step": number, "label": label, "choosable": False} for number, label in enumerate(columns)],
        "rows": [
            {"prompt": label, "label": label, "cells": [cells.get(name, "") for name in line]}
            for label, line in zip(rows, names, strict=True)
        ],
    }


def resume() -> Updates:
    """Return updates for `Drawing.outputs` on load: a grid that is being drawn is followed again."""
    return drawing.resume(lambda folder: draws.sheet_of(folder) is not None)
