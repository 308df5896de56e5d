"""The strip of samples and the saved points behind its columns: what can be chosen, tried and downloaded.

Knows nothing about buttons or timers.
"""

import os
import shutil
import tempfile
from pathlib import Path

from sdlora.jobs.run import RunView
from sdlora.train.checkpoint_files import export_checkpoint
from sdlora.ui import words
from sdlora.ui.theme import shown

CELL = 256


def choosable(view: RunView) -> set[int]:
    """Steps whose style can be tried and downloaded."""
    return set(view.checkpoints) | ({view.step} if view.state == "done" and view.file else set())


def chosen_step(view: RunView, point: object) -> int | None:
    """The step that was chosen when it can be, else the last; None when there is none yet."""
    steps = choosable(view)
    return point if type(point) is int and point in steps else max(steps, default=None)


def strip_facts(view: RunView, step: int | None) -> list:
    """What decides how the strip looks, small enough to compare every second."""
    return [
        view.id,
        view.state == "done",
        step,
        sorted(choosable(view)),
        [(s.step, s.prompt_index, s.path) for s in view.samples],
    ]


def strip_of(view: RunView, chosen: int | None) -> dict:
    """The strip: a column per point with samples, a row per prompt."""
    steps = sorted({sample.step for sample in view.samples})
    prompts = {sample.prompt_index: sample.prompt for sample in view.samples}
    cells = {(sample.prompt_index, sample.step): shown(view.folder / sample.path, CELL) for sample in view.samples}
    can = choosable(view)
    return {
        "run": view.id,
        "chosen": chosen,
        "title": words.STRIP,
        "corner": words.CORNER,
        "choosable": True,
        "live": True,
        "columns": [
            {
                "step": step,
                "label": words.BEFORE if step == 0 else words.AFTER.format(step=step),
                "chosen": step == chosen,
                "choosable": step in can,
                "title": words.CHOOSE_POINT.format(step=step),
            }
            for step in steps
        ],
        "rows": [
            {"prompt": prompt, "label": prompt, "cells": [cells.get((index, step), "") for step in steps]}
            for index, prompt in sorted(prompts.items())
        ],
    }


def point_file(view: RunView, step: int) -> Path:
    """The LoRA file of a saved point; that of the last one is the finished file while it is there."""
    if view.state == "done" and step == view.step and view.file and Path(view.file).is_file():
        return Path(view.file)
    return export_checkpoint(view.folder, step)


def download_copy(file: Path) -> str:
    """A copy in our scratch folder, under the artist's file name: files of the data folder are never served."""
    folder = Path(tempfile.mkdtemp(prefix="download-", dir=os.environ.get("GRADIO_TEMP_DIR")))
    return str(shutil.copy(file, folder / file.name))
