"""The strip of sample pictures, and the checkpoints behind its columns that can be tried and downloaded."""

from pathlib import Path
from typing import Any

from sdlora.jobs.run import RunView
from sdlora.train.checkpoint_files import export_checkpoint
from sdlora.ui import words
from sdlora.ui.theme import picture_url

CELL = 256


def usable_steps(run: RunView) -> set[int]:
    """Return the steps whose LoRA can be tried and downloaded."""
    return set(run.checkpoints) | ({run.step} if run.state == "done" and run.file else set())


def chosen_step(run: RunView, step: Any) -> int | None:
    """Return `step` when its checkpoint can be used, else the last that can; None when there is none yet."""
    steps = usable_steps(run)
    return step if type(step) is int and step in steps else max(steps, default=None)


def strip_key(run: RunView, step: int | None) -> list:
    """Return what decides how the strip looks, small enough to compare every second."""
    samples = [(sample.step, sample.prompt_index, sample.path) for sample in run.samples]
    return [run.id, run.state == "done", step, sorted(usable_steps(run)), samples]


def strip_data(run: RunView, chosen: int | None, *, live: bool = True) -> dict:
    """Return what page.js draws of the strip: a column per step with samples, a row per prompt.

    live: columns with a checkpoint can be chosen, and the strip follows its last column.
    """
    steps = sorted({sample.step for sample in run.samples})
    prompts = {sample.prompt_index: sample.prompt for sample in run.samples}
    cells = {(sample.prompt_index, sample.step): picture_url(run.folder / sample.path, CELL) for sample in run.samples}
    usable = usable_steps(run) if live else set()
    return {
        "run": run.id,
        "chosen": chosen,
        "title": words.STRIP,
        "corner": words.STRIP_CORNER,
        "choosable": live,
        "live": live,
        "columns": [
            {
                "step": step,
                "label": str(step) if step else words.STRIP_BASE,
                "chosen": step == chosen,
                "choosable": step in usable,
                "title": words.CHOOSE_CHECKPOINT.format(step=step),
            }
            for step in steps
        ],
        "rows": [
            {"prompt": prompt, "label": prompt, "cells": [cells.get((index, step), "") for step in steps]}
            for index, prompt in sorted(prompts.items())
        ],
    }


def checkpoint_file(run: RunView, step: int) -> Path:
    """Return the LoRA file of a checkpoint; that of the last one is the finished file while it is there."""
    if run.state == "done" and step == run.step and run.file and Path(run.file).is_file():
        return Path(run.file)
    return export_checkpoint(run.folder, step)
