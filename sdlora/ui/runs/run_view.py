"""Act 2, the live view: the state of the run, the strip of sample pictures, pause and stop, the chosen checkpoint.

Knows nothing about training: everything is read from the run folder, so a reload or a second tab shows the same.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr
import pandas as pd

from sdlora.dataset import sets
from sdlora.errors import UserError
from sdlora.jobs import run as runs
from sdlora.jobs.run import RunView
from sdlora.jobs.table import Table
from sdlora.jobs.worker import ensure_worker, keep_worker
from sdlora.train import verdict
from sdlora.train.checkpoint_files import checkpoint_bytes
from sdlora.ui import polling, words
from sdlora.ui.theme import picture_url, widget
from sdlora.ui.validation import ACTION, TICK, Updates, an_id, event_value, guarded, silent, whole_number

ACTIVE = ("running", "queued")
CELL = 256


class TabState:
    """What one tab shows: the run, the chosen step (None for the last), and what the browser has been sent of it.

    Events of a tab are handled at the same time. Each holds the lock while it reads and changes this, so that a slow tick
    never answers, after a choice, with what was chosen before.
    """

    def __init__(self) -> None:
        self.run: str | None = None
        self.step: int | None = None
        self.sent: dict = {}
        self.lock = Lock()

    def __deepcopy__(self, memo: dict) -> "TabState":
        return TabState()


@contextmanager
def locked(tab: Any) -> Iterator[None]:
    """Hold the lock of a tab; raise UserError for what is no tab."""
    if not isinstance(tab, TabState):
        raise UserError(words.NOT_UNDERSTOOD)
    with tab.lock:
        yield


@dataclass(frozen=True)
class LiveView:
    """The parts of the live view. `tab`: a `TabState`; `finished`: id of the last run that was seen to end well."""

    tab: gr.State
    finished: gr.Textbox
    pill: gr.HTML
    progress: gr.HTML
    strip: gr.HTML
    pause: gr.Button
    stop: gr.Button
    resume: gr.Button
    checkpoint: gr.Row
    try_it: gr.Button
    download: gr.Button
    losses: gr.Accordion
    plot: gr.LinePlot

    @property
    def outputs(self) -> list:
        """What `updates` updates: all but `tab`."""
        return list(vars(self).values())[1:]


def layout(pill: gr.HTML) -> LiveView:
    """Build the live view, inside act 2; `pill` is its short form at the top of the page."""
    progress = widget("progress", elem_id="progress", events=("tick",))
    with gr.Row(elem_id="controls"):
        pause = gr.Button(words.PAUSE, visible=False, scale=0, min_width=110)
        stop = gr.Button(words.STOP, visible=False, scale=0, min_width=140)
        resume = gr.Button(words.RESUME, variant="primary", visible=False, scale=0, min_width=110)
    samples = widget("strip", elem_id="strip")
    with gr.Row(visible=False, elem_id="checkpoint-row") as checkpoint:
        try_it = gr.Button(words.TRY_LAST, variant="primary", scale=0, min_width=190, elem_id="try-checkpoint")
        download = gr.Button(words.DOWNLOAD_LAST, scale=0, min_width=300, elem_id="download-checkpoint")
    with gr.Accordion(words.LOSS, open=False, visible=False) as losses:
        plot = gr.LinePlot(x="step", y="loss", color="curve", height=220, show_label=False)
    # a hidden text box: a State has no event for a change that a tick made
    finished = gr.Textbox(visible="hidden", elem_id="finished")
    state = gr.State(TabState())
    return LiveView(state, finished, pill, progress, samples, pause, stop, resume, checkpoint, try_it, download, losses, plot)


def connect(view: LiveView) -> None:
    """Update the view when page.js learns from `live_progress` that more than the progress changed, and at each button."""
    view.progress.tick(silent(tick), view.tab, view.outputs, **TICK)
    for button, command in ((view.pause, runs.pause), (view.stop, runs.stop), (view.resume, resume)):
        button.click(guarded(handler_of(command)), view.tab, view.outputs, **ACTION)
    view.strip.select(guarded(choose), view.tab, view.outputs, **ACTION)


def handler_of(command: Callable[[str], Any]) -> Callable[[TabState], Updates]:
    """Return the handler of a button that gives the run on show this command."""

    def handler(tab: TabState) -> Updates:
        with locked(tab):
            command(an_id(tab.run, "run"))
            return updates(tab, current(tab.run))

    return handler


def resume(run_id: str) -> None:
    runs.resume_run(run_id)
    ensure_worker()


def choose(tab: TabState, event: gr.EventData) -> Updates:
    """Choose the checkpoint of a column of the strip."""
    step = whole_number(event_value(event, "step"), 0, 10**9, words.CHECKPOINT)
    with locked(tab):
        tab.step = step
        return updates(tab, current(tab.run))


def show(tab: TabState, run_id: str) -> Updates:
    """Show another run, at its last checkpoint."""
    with locked(tab):
        tab.run, tab.step, tab.sent = run_id, None, {}
        return updates(tab, current(run_id))


def tick(tab: TabState, event: gr.EventData) -> Updates:
    """Show what changed by itself. The event says what the browser shows: an answer may have been lost, or drawn too late."""
    shows = [event_value(event, "stamp"), event_value(event, "step")]
    with locked(tab):
        if shows != browser_state(tab.sent):
            tab.sent = {}
        return updates(tab, recent(tab.run))


def load(tab: TabState) -> Updates:
    """Return updates for `LiveView.outputs` of a page that loads."""
    with locked(tab):
        return updates(tab, recent(tab.run))


def browser_state(sent: dict) -> list:
    """Return the stamp of the progress and the chosen step of the strip in a browser that has drawn `sent`."""
    return [sent["progress"]["stamp"], sent["strip"][2]] if sent else [None, None]


def current(run_id: Any) -> RunView | None:
    """Return the run to show: the one the page has, else one that runs or waits, else the newest."""
    run = None
    if run_id:
        try:
            run = runs.view(an_id(run_id, "run"))
        except UserError:
            pass
    if run and run.state in (*ACTIVE, "stopped"):
        return run
    active = Table().jobs("train", *ACTIVE)
    if active and run is None:
        return runs.view(active[0].target)
    return run if run_id else next(iter(runs.list_runs()), None)


def recent(run_id: Any) -> RunView | None:
    """Return `current` as it was at most half a second ago, for all tabs that show this run."""
    return polling.shared_list(("run", run_id if type(run_id) is str else ""), lambda: current(run_id), 0.5, of_shelf=False)


def live_progress(run_id: str) -> dict:
    """Return what page.js draws by itself every second: the progress of the run that a tab shows, and its short form.

    run_id: "" for none. A worker that cannot be started is reported beside it: the run continues in a process of its own.
    """
    trouble = ""
    try:
        keep_worker()
    except UserError as error:
        trouble = words.NO_WORKER.format(why=error)
    try:
        run = recent(run_id)
    except UserError:
        run = None
    shown = progress(run) if run else {}
    if shown and trouble:
        shown["note"] = f"{shown['note']} {trouble}".strip()
    return {"progress": shown, "pill": pill_data(shown) if shown else {}}


def updates(tab: TabState, run: RunView | None) -> Updates:
    """Return updates for `LiveView.outputs`; everything that the browser has already is skipped."""
    if run is None:
        gone, tab.run, tab.sent = bool(tab.sent), None, {}
        return no_run() if gone else gr.skip()
    step = run.usable_step(tab.step)
    parts = {
        "progress": progress(run),
        "strip": strip_key(run, step),
        "losses": len(run.validations) + len(run.samples),
        "buttons": [run.state, run.command, bool(run.checkpoints), bool(run.losses)],
    }
    if tab.sent == parts and tab.run == run.id:
        return gr.skip()
    moved, new_strip, new_buttons = (tab.sent.get(key) != parts[key] for key in ("progress", "strip", "buttons"))
    new_curves = run.losses and (new_strip or tab.sent.get("losses") != parts["losses"])
    tab.run, tab.sent = run.id, parts
    return (
        run.id if run.state == "done" and run.file else gr.skip(),
        gr.HTML(data=pill_data(parts["progress"])) if moved else gr.skip(),
        gr.HTML(data=parts["progress"]) if moved else gr.skip(),
        gr.HTML(data=strip_data(run, step)) if new_strip else gr.skip(),
        *(buttons(run) if new_buttons else [gr.skip()] * 3),
        *(checkpoint_row(run, step) if new_strip else [gr.skip()] * 3),
        gr.Accordion(visible=bool(run.losses)) if new_buttons else gr.skip(),
        loss_curves(run) if new_curves else gr.skip(),
    )


def no_run() -> tuple:
    """Return updates for `LiveView.outputs` when the run on show was deleted and there is no other."""
    hidden = [gr.Button(visible=False)] * 3
    return "", *[gr.HTML(data={})] * 3, *hidden, gr.Row(visible=False), *[gr.skip()] * 2, gr.Accordion(visible=False), gr.skip()


def buttons(run: RunView) -> list[gr.Button]:
    """Return Pause, Stop and Resume, visible as the run's state allows."""
    active = run.state in ACTIVE and run.command is None
    return [
        gr.Button(visible=active),
        gr.Button(visible=active or (run.state == "stopped" and bool(run.checkpoints))),
        gr.Button(visible=run.resumable),
    ]


def progress(run: RunView) -> dict:
    """Return what the progress widget shows of a run."""
    state = {"pause": words.PAUSING, "stop": words.STOPPING}.get(run.command or "", words.STATES[run.state])
    notes = {
        "running": phase_note(run),
        "done": words.FINISHED,
        "failed": f"{run.problem} {run.hint}".strip(),
        "stopped": words.PAUSED_NOTE if run.paused else words.STOPPED_NOTE,
    }
    counted = words.STEP_OF.format(step=run.step, steps=run.steps) if run.step and run.state != "done" else ""
    left = time_left(run.seconds_left) if run.state == "running" and run.step else ""
    return {
        "run": run.id,
        "stamp": stamp(run),
        "state": run.state,
        "title": f"{run.name} · {state}",
        "left": " · ".join(part for part in (counted, left) if part),
        "bar": run.state in (*ACTIVE, "stopped"),
        "percent": round(100 * run.step / max(run.steps, 1), 1),
        "note": notes.get(run.state, ""),
        "verdict": list(run.verdict.sentences) if run.verdict else [],
        "copied": copied(run) if run.verdict else [],
        "notes": [*run.warnings, *([words.HELD.format(name=run.held_out)] if run.held_out else [])],
    }


def copied(run: RunView) -> list[dict]:
    """Return the sample of the last checkpoint that looks like a picture of the artist, and that picture, with alt texts."""
    last = next((found for found in reversed(run.validations) if found.picture), None)
    if last is None or last.picture is None or not verdict.copies(last):
        return []
    sample = next((each for each in run.samples if (each.step, each.prompt_index) == (last.step, last.prompt_index)), None)
    pair = [(run.folder / sample.path, sample.prompt), (own_picture(run, last.picture), last.picture)] if sample else []
    shown = [{"src": picture_url(path, CELL), "alt": alt} for path, alt in pair]
    return shown if all(each["src"] for each in shown) else []


def own_picture(run: RunView, name: str) -> Path:
    """Return where a picture that was trained on lies, by its name in the set or the folder; it may be gone."""
    try:
        pictures = sets.load(run.set_id).pictures if run.set_id else ()
    except UserError:  # the set was deleted since
        pictures = ()
    return next((each.path for each in pictures if each.name == name), Path(run.images) / name)


def stamp(run: RunView) -> str:
    """Return another text whenever `updates` has more to show than the progress."""
    facts = [run.state, run.command, run.file, bool(run.losses), len(run.validations), strip_key(run, None)]
    return sha256(json.dumps(facts).encode()).hexdigest()[:16]


def pill_data(progress: dict) -> dict:
    """Return the line at the top of the page, while a run is under way."""
    text = " · ".join(filter(None, (progress["title"], progress["left"])))
    return {"state": progress["state"], "text": text} if progress["state"] in ACTIVE else {}


def phase_note(run: RunView) -> str:
    """Return what happens before the first step: "Encoding the pictures (3 of 12)"."""
    if run.phase is None:
        return "" if run.step or run.pictures is None else words.FIRST_SAMPLES
    counted = words.COUNTED.format(done=run.phase.done, total=run.phase.total) if run.phase.total > 1 else ""
    return words.STAGES.get(run.phase.stage, "") + counted


def time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return words.SECONDS.format(seconds=max(round(seconds / 5) * 5, 5)) + words.LEFT
    return words.MINUTES_SHORT.format(minutes=round(seconds / 60)) + words.LEFT


def strip_key(run: RunView, step: int | None) -> list:
    """Return what decides how the strip looks, small enough to compare every second."""
    samples = [(sample.step, sample.prompt_index, sample.path) for sample in run.samples]
    return [run.id, run.state == "done", run.verdict and run.verdict.suggested, step, sorted(run.usable_steps), samples]


def strip_data(run: RunView, chosen: int | None, *, live: bool = True) -> dict:
    """Return what page.js draws of the strip: a column per step with samples, a row per prompt.

    live: columns with a checkpoint can be chosen, and the strip follows its last column.
    """
    steps = sorted({sample.step for sample in run.samples})
    prompts = {sample.prompt_index: sample.prompt for sample in run.samples}
    cells = {(sample.prompt_index, sample.step): picture_url(run.folder / sample.path, CELL) for sample in run.samples}
    usable = run.usable_steps if live else set()
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
                "mark": words.SUGGESTED if run.verdict and step == run.verdict.suggested else "",
                "title": words.CHOOSE_CHECKPOINT.format(step=step),
            }
            for step in steps
        ],
        "rows": [
            {"prompt": prompt, "label": prompt, "cells": [cells.get((index, step), "") for step in steps]}
            for index, prompt in sorted(prompts.items())
        ],
    }


def checkpoint_row(run: RunView, step: int | None) -> tuple:
    """Return the row under the strip: try and download the chosen checkpoint."""
    if step is None:
        return gr.Row(visible=False), gr.skip(), gr.skip()
    last = run.state == "done" and step == run.step
    label = words.DOWNLOAD_LAST if last else words.DOWNLOAD_CHECKPOINT.format(step=step)
    return (
        gr.Row(visible=True),
        gr.Button(words.TRY_LAST if last else words.TRY_CHECKPOINT.format(step=step)),
        gr.Button(f"{label} ({checkpoint_bytes(run.folder, step) / 1e6:.1f} MB)", link=f"{polling.FILE}{run.id}/{step}"),
    )


def download_file(key: str) -> Path:
    """Return the LoRA file of "RUN/STEP", written when it is downloaded; raise UserError when there is none."""
    run_id, _, step = key.partition("/")
    run = runs.view(an_id(run_id, "run"))
    if not step.isdecimal() or int(step) not in run.usable_steps:
        raise UserError(f"There is no checkpoint at step {step[:12]}.", "Choose another one of the strip.")
    return runs.lora_file(run, int(step))


def loss_curves(run: RunView) -> pd.DataFrame:
    """Return smoothed loss and held-out loss, at most 400 points of each."""
    every = max(1, len(run.losses) // 400)
    rows = [(step, loss, words.CURVE) for step, loss in run.losses[::every]]
    rows += [(found.step, found.loss, words.CURVE_HELD) for found in run.validations if found.loss is not None]
    return pd.DataFrame(rows, columns=["step", "loss", "curve"])
