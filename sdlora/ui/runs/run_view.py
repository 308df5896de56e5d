"""Act 2, the live view: what the run is doing, the growing strip, pause and stop, the saved point that was chosen.

Knows nothing about training: everything is read from the run folder, so a reload or a second tab shows the same.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock

import gradio as gr
import pandas as pd

from sdlora.errors import UserError
from sdlora.jobs import run as runs
from sdlora.jobs.run import RunView
from sdlora.jobs.table import Table
from sdlora.jobs.worker import ensure_worker, keep_worker
from sdlora.train.checkpoint_files import checkpoint_bytes
from sdlora.ui import lists, words
from sdlora.ui.polling import FILE
from sdlora.ui.runs.strip import choosable, chosen_step, point_file, strip_facts, strip_of
from sdlora.ui.theme import widget
from sdlora.ui.validation import QUIET, TICK, an_id, fields, guarded, silent, whole


class Showing:
    """What one tab shows: the run, the chosen step (None for the last), and what the browser has been sent of it.

    Events of a tab are handled at the same time. Each holds the lock while it reads and changes this, so that a slow tick
    never answers, after a choice, with what was chosen before.
    """

    def __init__(self) -> None:
        self.run: str | None = None
        self.point: int | None = None
        self.sent: dict = {}
        self.lock = Lock()

    def __deepcopy__(self, memo: dict) -> "Showing":
        return Showing()


@contextmanager
def turn(tab: Showing) -> Iterator[None]:
    """The turn of one event of a tab. Raises UserError for what is no tab."""
    if not isinstance(tab, Showing):
        raise UserError(words.NOT_UNDERSTOOD)
    with tab.lock:
        yield


@dataclass(frozen=True)
class Watch:
    """The parts of the live view. `tab`: a `Showing`; `finished`: id of the last run that was seen to end well."""

    tab: gr.State
    finished: gr.Textbox
    pill: gr.HTML
    progress: gr.HTML
    strip: gr.HTML
    pause: gr.Button
    stop: gr.Button
    resume: gr.Button
    points: gr.Row
    try_it: gr.Button
    download: gr.Button
    losses: gr.Accordion
    plot: gr.LinePlot

    @property
    def shown(self) -> list:
        """What `look` updates."""
        return [
            self.finished,
            self.pill,
            self.progress,
            self.strip,
            self.pause,
            self.stop,
            self.resume,
            self.points,
            self.try_it,
            self.download,
            self.losses,
            self.plot,
        ]


def layout(pill: gr.HTML) -> Watch:
    """Draw the live view, inside act 2; `pill` is its short form at the top of the page."""
    progress = widget("progress", elem_id="progress", events=("tick",))
    with gr.Row(elem_id="controls"):
        pause = gr.Button(words.PAUSE, visible=False, scale=0, min_width=110)
        stop = gr.Button(words.STOP, visible=False, scale=0, min_width=140)
        resume = gr.Button(words.RESUME, variant="primary", visible=False, scale=0, min_width=110)
    strip = widget("strip", elem_id="strip")
    with gr.Row(visible=False, elem_id="points") as points:
        try_it = gr.Button(words.TRY_LAST, variant="primary", scale=0, min_width=190, elem_id="try-point")
        download = gr.Button(words.DOWNLOAD_LAST, scale=0, min_width=300, elem_id="download-point")
    with gr.Accordion(words.LOSS, open=False, visible=False) as losses:
        plot = gr.LinePlot(x="round", y="loss", color="curve", height=220, show_label=False)
    # a hidden text box: only components, and no State, tell of a change that a tick made
    finished = gr.Textbox(visible="hidden", elem_id="finished")
    return Watch(
        gr.State(Showing()),
        finished,
        pill,
        progress,
        strip,
        pause,
        stop,
        resume,
        points,
        try_it,
        download,
        losses,
        plot,
    )


def connect(watch: Watch) -> None:
    """Look when page.js learns from `moving` that more than the progress changed; each button writes a wish and looks again."""
    watch.progress.tick(silent(glance), watch.tab, watch.shown, **TICK)
    for button, wish in ((watch.pause, runs.pause), (watch.stop, runs.stop), (watch.resume, resume)):
        button.click(guarded(wished(wish)), watch.tab, watch.shown, **QUIET)
    watch.strip.select(guarded(choose), watch.tab, watch.shown, **QUIET)


def wished(wish):  # noqa: ANN001, ANN201
    """The handler of a button: do `wish` with the run on show, then look at it."""

    def handler(tab: Showing) -> tuple:
        with turn(tab):
            wish(an_id(tab.run, "run"))
            return updates(tab, current(tab.run))

    return handler


def resume(run_id: str) -> None:
    runs.resume_run(run_id)
    ensure_worker()


def choose(tab: Showing, event: gr.EventData) -> tuple:
    """A column of the strip was chosen."""
    step = whole(fields(event._data).get("step"), 0, 10**9, words.POINT)
    with turn(tab):
        tab.point = step
        return updates(tab, current(tab.run))


def show(tab: Showing, run_id: str) -> tuple:
    """Show another run, at its last point."""
    with turn(tab):
        tab.run, tab.point, tab.sent = run_id, None, {}
        return updates(tab, current(run_id))


def glance(tab: Showing, event: gr.EventData) -> tuple:
    """What happened by itself. The event says what the browser shows: an answer may have been lost, or drawn too late."""
    here = fields(event._data)
    with turn(tab):
        if [here.get("stamp"), here.get("step")] != shown_after(tab.sent):
            tab.sent = {}
        return updates(tab, recent(tab.run))


def first(tab: Showing) -> tuple:
    """Updates for `Watch.shown` of a page that loads."""
    with turn(tab):
        return updates(tab, recent(tab.run))


def shown_after(sent: dict) -> list:
    """The stamp of the progress and the chosen step of the strip in a browser that has drawn `sent`."""
    return [sent["progress"]["stamp"], sent["strip"][2]] if sent else [None, None]


def current(run_id: object) -> RunView | None:
    """The run to show: the one the page has, else one that runs or waits, else the newest."""
    if run_id:
        try:
            seen = runs.view(an_id(run_id, "run"))
        except UserError:
            seen = None
        if seen and seen.state in ("running", "queued", "stopped"):
            return seen
        active = Table().jobs("train", "running", "queued")
        return runs.view(active[0].target) if active and not seen else seen
    active = Table().jobs("train", "running", "queued")
    if active:
        return runs.view(active[0].target)
    return next(iter(runs.list_runs()), None)


def recent(run_id: object) -> RunView | None:
    """As `current`, as it was at most half a second ago for all tabs that show this run."""
    return lists.shared(("run", run_id if type(run_id) is str else ""), lambda: current(run_id), 0.5, apart=True)


def moving(run_id: str) -> dict:
    """What page.js draws by itself every second: the progress of the run that a tab shows ("" for none), and its short form.

    A worker that cannot be started is told beside it: the run goes on in a process of its own.
    """
    trouble = ""
    try:
        keep_worker()
    except UserError as error:
        trouble = words.NO_WORKER.format(why=error)
    try:
        view = recent(run_id)
    except UserError:
        view = None
    progress = told(view) if view else {}
    if progress and trouble:
        progress["note"] = f"{progress['note']} {trouble}".strip()
    return {"progress": progress, "pill": short_form(progress) if progress else {}}


def stamp_of(view: RunView) -> str:
    """Another one when `look` has more to show than the progress."""
    facts = [view.state, view.command, view.file, bool(view.losses), len(view.held_out_losses), strip_facts(view, None)]
    return sha256(json.dumps(facts).encode()).hexdigest()[:16]


def updates(tab: Showing, view: RunView | None) -> tuple:
    """Updates for `Watch.shown`; everything that the browser has already is skipped."""
    if view is None:
        gone, tab.run, tab.sent = bool(tab.sent), None, {}
        return no_run() if gone else gr.skip()
    step = chosen_step(view, tab.point)
    parts = {
        "progress": told(view),
        "strip": strip_facts(view, step),
        "losses": len(view.held_out_losses) + len(view.samples),
        "buttons": [view.state, view.command, bool(view.checkpoints), bool(view.losses)],
    }
    if tab.sent == parts and tab.run == view.id:
        return gr.skip()
    moved, fresh, pressed = (tab.sent.get(key) != parts[key] for key in ("progress", "strip", "buttons"))
    curves = view.losses and (fresh or tab.sent.get("losses") != parts["losses"])
    said = (
        view.id if view.state == "done" and view.file else gr.skip(),
        gr.HTML(data=short_form(parts["progress"])) if moved else gr.skip(),
        gr.HTML(data=parts["progress"]) if moved else gr.skip(),
        gr.HTML(data=strip_of(view, step)) if fresh else gr.skip(),
        *(buttons(view) if pressed else [gr.skip()] * 3),
        *(points_of(view, step) if fresh else [gr.skip()] * 3),
        gr.Accordion(visible=bool(view.losses)) if pressed else gr.skip(),
        curves_of(view) if curves else gr.skip(),
    )
    tab.run, tab.sent = view.id, parts
    return said


def no_run() -> tuple:
    """Updates for `Watch.shown` when the run on show was deleted and there is no other."""
    gone = [gr.HTML(data={})] * 3
    return "", *gone, *hidden(3), gr.Row(visible=False), gr.skip(), gr.skip(), gr.Accordion(visible=False), gr.skip()


def short_form(progress: dict) -> dict:
    """The line at the top of the page, while a run is under way."""
    active = progress["state"] in ("running", "queued")
    return {"state": progress["state"], "text": " · ".join(filter(None, (progress["title"], progress["left"])))} if active else {}


def hidden(amount: int) -> list:
    return [gr.Button(visible=False) for _ in range(amount)]


def buttons(view: RunView) -> list:
    """Pause, Stop, Go on, as the run's state allows."""
    active = view.state in ("running", "queued") and view.command is None
    return [
        gr.Button(visible=active),
        gr.Button(visible=active or (view.state == "stopped" and bool(view.checkpoints))),
        gr.Button(visible=view.resumable),
    ]


def told(view: RunView) -> dict:
    """What the progress widget says, in words."""
    state = {"pause": words.PAUSING, "stop": words.STOPPING}.get(view.command or "", words.STATES[view.state])
    note, left = "", ""
    if view.state == "running":
        note = staged(view)
        left = said_left(view.seconds_left) if view.step else ""
    elif view.state == "done":
        note = words.FINISHED
    elif view.state == "failed":
        note = f"{view.problem} {view.hint}".strip()
    elif view.state == "stopped":
        note = words.PAUSED_NOTE if view.paused else words.STOPPED_NOTE
    counted = words.ROUNDS.format(step=view.step, steps=view.steps) if view.step and view.state != "done" else ""
    return {
        "run": view.id,
        "stamp": stamp_of(view),
        "state": view.state,
        "title": f"{view.name} · {state}",
        "left": " · ".join(part for part in (counted, left) if part),
        "bar": view.state in ("running", "stopped", "queued"),
        "percent": round(100 * view.step / max(view.steps, 1), 1),
        "note": note,
        "notes": [*view.warnings, *([words.HELD.format(name=view.held_out)] if view.held_out else [])],
    }


def staged(view: RunView) -> str:
    """What happens before the first round: "Looking at the pictures (3 of 12)"."""
    if view.phase is None:
        return "" if view.step or view.pictures is None else words.FIRST_SAMPLES
    counted = words.COUNTED.format(done=view.phase.done, total=view.phase.total) if view.phase.total > 1 else ""
    return words.STAGES.get(view.phase.stage, "") + counted


def said_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return words.SECONDS.format(seconds=max(round(seconds / 5) * 5, 5)) + words.LEFT
    return words.MINUTES_SHORT.format(minutes=round(seconds / 60)) + words.LEFT


def points_of(view: RunView, step: int | None) -> tuple:
    """The row under the strip: try and download the chosen point."""
    if step is None:
        return gr.Row(visible=False), gr.skip(), gr.skip()
    last = view.state == "done" and step == view.step
    label = words.DOWNLOAD_LAST if last else words.DOWNLOAD_POINT.format(step=step)
    return (
        gr.Row(visible=True),
        gr.Button(words.TRY_LAST if last else words.TRY_POINT.format(step=step)),
        gr.Button(f"{label} ({checkpoint_bytes(view.folder, step) / 1e6:.1f} MB)", link=f"{FILE}{view.id}/{step}"),
    )


def point_of(key: str) -> Path:
    """The LoRA file of "RUN/STEP", written when it is downloaded. Raises UserError."""
    run_id, _, step = key.partition("/")
    view = runs.view(an_id(run_id, "run"))
    if not step.isdecimal() or int(step) not in choosable(view):
        raise UserError(f"There is no saved point at step {step[:12]}.", "Choose another point of the strip.")
    return point_file(view, int(step))


def curves_of(view: RunView) -> pd.DataFrame:
    """Smoothed loss and held-out loss, at most 400 points of each."""
    every = max(1, len(view.losses) // 400)
    rows = [(step, loss, words.CURVE) for step, loss in view.losses[::every]]
    rows += [(step, loss, words.CURVE_HELD) for step, loss in view.held_out_losses]
    return pd.DataFrame(rows, columns=["round", "loss", "curve"])
