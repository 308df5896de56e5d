"""`sdlora grid`: pictures that differ in one thing or two, each by itself and all on one sheet. Knows nothing about denoising."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdlora.base import catalog
from sdlora.cli.common import BaseOption, JsonLinesOption, check_pictures
from sdlora.cli.draw import (
    Device,
    Guidance,
    Init,
    Mask,
    Method,
    Negative,
    Sampler,
    Size,
    Steps,
    Strength,
    SwitchEvery,
    bars_while_drawing,
    counted,
    failure,
    logged,
    named_file,
    parse_lora,
    parse_size,
    print_line,
    print_notes,
)
from sdlora.config import DrawConfig, LoraChoice, make
from sdlora.draw import grid, samplers
from sdlora.errors import DiskFull, UserError
from sdlora.jobs.execute import MISTAKE
from sdlora.storage import confine, data_folder
from sdlora.train.checkpoint_files import LORA, checkpoint_folder, checkpoint_steps

if TYPE_CHECKING:
    from sdlora.draw.pipeline import Picture, Preview

DEFAULT_AXIS = "strength=0-1 (+0.25)"
NO_LORA = ("none", "base", "")
MAX_LABELS = 6  # labels of cells in one sentence


def register(app: typer.Typer) -> None:
    app.command("grid")(draw_grid)


def draw_grid(
    prompt: Annotated[str, typer.Argument(help="What to draw; <lora:name:0.8> names a style of the shelf")],
    x: Annotated[str, typer.Option("--x", metavar="AXIS=VALUES", help="What the columns vary, such as strength=0,0.5,1")] = "",
    y: Annotated[str, typer.Option("--y", metavar="AXIS=VALUES", help="What the rows vary, such as seed=1-4")] = "",
    pairs: Annotated[bool, typer.Option("--pairs", help="Columns: the base alone, and with the LoRAs")] = False,
    base: BaseOption = "mini",
    lora: Annotated[list[str] | None, typer.Option(metavar="FILE[:STRENGTH]", help="A LoRA; may be given again")] = None,
    method: Method = "sum",
    switch_every: SwitchEvery = 5,
    init: Init = None,
    mask: Mask = None,
    strength: Strength = 0.6,
    negative: Negative = "",
    sampler: Sampler = "",
    size: Size = "",
    seed: Annotated[int, typer.Option(help="Seed of every picture")] = 1,
    steps: Steps = 20,
    guidance: Guidance = 5.0,
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the sheet")] = Path(),
    device: Device = "auto",
    as_json: JsonLinesOption = False,
) -> None:
    """Draw a grid: OUT/rr-cc.png for row r, column c, and all of them with labels on OUT/grid.png.

    Axes: strength text blocks start end (of all LoRAs, or of the second: strength2), lora (files or names, none), point (RUN or
    RUN:STEP), prompt, replace (the first value in the prompt gives way to the others), negative, seed, steps, guidance, sampler,
    method, denoise. Ranges: 1-4, 0-1 (+0.25), 10-30 [3]. Without axes: the strength from 0 to 1.
    """
    from sdlora.library.lora_tags import with_tags

    width, height = parse_size(size)
    config = make(DrawConfig, {
        "prompts": (prompt,), "negative": negative, "base": base, "loras": [parse_lora(text) for text in lora or []],
        "method": method, "switch_every": switch_every, "sampler": sampler, "init": named_file(init), "mask": named_file(mask),
        "init_strength": strength, "seed": seed, "steps": steps, "guidance": guidance, "width": width, "height": height,
        "device": device})
    if sampler:
        samplers.official(sampler)  # a misspelt name is reported before the base is loaded
    if pairs and x:
        raise UserError("--pairs are the columns already.", "Leave out --x, or give it as --y.")
    columns = grid.pairs_axis(with_tags(config)) if pairs else axis(x or DEFAULT_AXIS)
    rows = axis(y) if y else None
    cells = grid.cells(config, columns, rows, with_tags, catalog.read_family(catalog.resolve(base)).key)
    good = [(cell, cell.config) for cell in cells if cell.config]
    print_notes([config for _, config in good])
    check_pictures(out, ["grid.png", *(f"{cell.name}.png" for cell, _ in good)], [init, mask])
    problems = print_problems([(cell, cell.problem) for cell in cells if cell.problem], as_json)
    failed = draw_cells(good, problems, (columns, rows), out, as_json)
    if failed:
        raise typer.Exit(MISTAKE)


def axis(text: str) -> grid.Axis:
    """Read an axis, with the files that its values of lora or point name. Raises UserError."""
    parsed = grid.parse(text)
    if parsed.kind == "lora":
        return grid.lora_axis("lora", grid.tried(parsed.values, chosen))
    if parsed.kind == "point":
        return grid.lora_axis("point", grid.tried(parsed.values, points))
    return parsed


def chosen(text: str) -> list[tuple[str, LoraChoice | None]]:
    """`FILE`, `FILE:0.8` and what else --lora takes, the name of a style on the shelf, or "none" -> [(label, choice)]."""
    from sdlora.library.lora_tags import find_named

    if text.lower() in NO_LORA:
        return [("base alone", None)]
    if re.search(r"\.safetensors\b", text):
        choice = make(LoraChoice, parse_lora(text))
        return [(Path(choice.file).stem + text.rpartition(".safetensors")[2], choice)]
    entry = find_named(text)
    return [(entry.name, make(LoraChoice, {"file": str(entry.path)}))]


def points(text: str) -> list[tuple[str, LoraChoice | None]]:
    """`RUN` (all its checkpoints) or `RUN:STEP` -> [(label, choice)]; a run is its folder or its id; "none" is the base."""
    if text.lower() in NO_LORA:
        return [("base alone", None)]
    run, colon, step = text.rpartition(":")
    run, step = (run, step) if colon and step.isdecimal() else (text, "")
    folder = Path(run).expanduser()
    folder = folder if (folder / "checkpoints").is_dir() else confine(data_folder("runs"), run)
    there = checkpoint_steps(folder)
    wanted = [int(step)] if step else there
    if not wanted or not set(wanted) <= set(there):
        raise UserError(f"{run} has no checkpoint{f' at step {step}' if step else ''}.",
                        f"It has: {', '.join(map(str, there))}." if there else "Give the folder of a run, or its id.")
    return [(f"step {number}", make(LoraChoice, {"file": str(checkpoint_folder(folder, number) / LORA)})) for number in wanted]


def print_problems(bad: list[tuple[grid.Cell, UserError]], as_json: bool) -> dict[tuple[int, int], str]:
    """Print, before anything is drawn, which cells cannot be drawn and why; return {place: why} for the sheet."""
    for cell, problem in bad if as_json else ():
        typer.echo(json.dumps(failure(place_of(cell), problem), ensure_ascii=False))
    for why in dict.fromkeys(str(problem) for _, problem in bad):
        labels = [cell.label for cell, problem in bad if str(problem) == why]
        more = f" and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
        typer.echo(f"{', '.join(labels[:MAX_LABELS])}{more} cannot be drawn. {why}", err=True)
    return {(cell.column, cell.row): problem.message for cell, problem in bad}


def place_of(cell: grid.Cell) -> dict[str, Any]:
    return {"column": cell.column, "row": cell.row, "label": cell.label}


def draw_cells(cells: list[tuple[grid.Cell, DrawConfig]], problems: dict[tuple[int, int], str],
               axes: tuple[grid.Axis, grid.Axis | None], out: Path, as_json: bool) -> int:
    """Draw the cells with one loaded base, print a line for each as it is written, and write the sheet of them all.

    problems: {place: why} of the cells that cannot be drawn. Returns how many were not drawn.
    """
    from sdlora.base.load import load_base
    from sdlora.draw import pipeline, sheet
    from sdlora.draw.infotext.picture import write_picture

    began = time.monotonic()
    first = cells[0][1]
    base = load_base(first.base, first.device)
    drawn: dict[tuple[int, int], Path | str] = dict(problems)
    settings, errors = [], []
    with bars_while_drawing(as_json) as progress:
        bar = progress.add_task(f"Drawing {counted(len(cells), 'picture')}", total=len(cells))
        for done, (cell, config) in enumerate(cells):
            try:
                made = last_of(pipeline.draw(base, config), lambda share, done=done: progress.update(bar, completed=done + share))
                path = drawn[cell.column, cell.row] = write_picture(out / f"{cell.name}.png", made.image, made.settings)
                settings.append(made.settings)
                print_line({"event": "picture", **place_of(cell), "file": str(path.resolve()), **made.settings},
                           f"{path}  {cell.label}", progress, as_json)
            except DiskFull:
                raise
            except Exception as error:  # noqa: BLE001  one bad cell costs one cell
                errors.append(logged(error))
                drawn[cell.column, cell.row] = errors[-1].message
                text = f"{cell.label} could not be drawn. {errors[-1]}"
                print_line(failure(place_of(cell), errors[-1]), text, progress, as_json)
    if not settings:
        raise errors[0]
    columns, rows = (side.labels if side else ("",) for side in axes)
    title = "" if any(side and side.kind in ("prompt", "replace") for side in axes) else first.prompts[0]
    path = write_picture(out / "grid.png", sheet.sheet(drawn, columns, rows, title), grid.sheet_settings(settings, *axes))
    if boxes := sheet.unreadable([*columns, *rows, title]):
        typer.echo(f"On the sheet these characters are boxes, for no font here has them: {' '.join(boxes)}", err=True)
    seconds = round(time.monotonic() - began, 2)
    failed = len(errors) + len(problems)
    done = {"event": "done", "pictures": len(settings), "failed": failed, "sheet": str(path.resolve()), "seconds": seconds}
    not_drawn = f", {failed} could not be drawn: the sheet says why" if failed else ""
    typer.echo(json.dumps(done) if as_json else f"{path}: {counted(len(settings), 'picture')} in {seconds:.1f} s{not_drawn}")
    return failed


def last_of(events: "Iterator[Preview | Picture]", show: Callable[[float], object]) -> "Picture":
    """Return the one picture of a cell; before, call show(share of its steps that are done)."""
    from sdlora.draw.pipeline import Picture

    for event in events:
        if isinstance(event, Picture):
            return event
        show(event.step / event.steps)
    raise AssertionError("a drawing ends with its picture")
