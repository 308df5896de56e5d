"""Run folders: made, queued, paused, stopped, resumed and deleted; `view` and `list_runs` read them.

Starts no process: it writes a plan and flag files, which the run itself obeys.
"""

import logging
import re
import shutil
import time
import uuid
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlora.config import TrainConfig, make
from sdlora.errors import UserError
from sdlora.jobs.lock import hold, is_held
from sdlora.jobs.run_log import EVENTS, RunLog, read_log, reading
from sdlora.jobs.table import Job, Table
from sdlora.storage import clean_text, data_folder, home, read_json, slug, write_json
from sdlora.train import events
from sdlora.train.checkpoint_files import checkpoint_steps, export_checkpoint

SPEC, LOCK = "spec.json", "lock"
PAUSE, STOP, SUSPEND = "pause", "stop", "suspend"  # flag files; "suspend" is the worker's own pause: the run stays queued
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,120}")
STARTING_SECONDS = 10.0  # for which a claimed run without a process counts as queued
START_LOCK = ".start.lock"
START_WAIT_SECONDS = 10.0
TWIN_SECONDS = 10.0  # for which the same order, given again, is the same run


@dataclass(frozen=True)
class RunView:
    """A run at this moment. `state`: queued, running, stopped, done or failed.

    `command`: what the artist requested and the run has not yet obeyed ("pause", "stop" or None); `paused`: stopped
    because the artist paused it. `samples` holds the newest one of each step and prompt, their paths relative to `folder`;
    `losses` are (step, smoothed loss); `checkpoints` the steps of the saved ones. `ended`: as in RunLog.
    """
    id: str
    folder: Path
    state: str
    config: TrainConfig
    images: str
    set_id: str | None
    out: str | None
    created: str
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    seconds: float | None = None
    phase: events.Preparing | None = None
    pictures: int | None = None
    held_out: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    samples: tuple[events.Sample, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    validations: tuple[events.Validated, ...] = ()
    verdict: events.Verdict | None = None
    checkpoints: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    file: str | None = None
    problem: str = ""
    hint: str = ""
    paused: bool = False
    command: str | None = None
    ended: bool = False

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def resumable(self) -> bool:
        return self.state in ("stopped", "failed")

    @property
    def usable_steps(self) -> set[int]:
        """The steps whose LoRA can be drawn with and downloaded."""
        return {*self.checkpoints, *([self.step] if self.state == "done" and self.file else [])}

    def usable_step(self, wanted: object) -> int | None:
        """Return `wanted` when it is one of `usable_steps`, else the last of them; None when there is none yet."""
        return wanted if type(wanted) is int and wanted in self.usable_steps else max(self.usable_steps, default=None)


def run_folder(run: str | Path) -> Path:
    """Return the folder of a run given by id or as its folder; raises UserError when there is none."""
    if isinstance(run, str) and not RUN_ID.fullmatch(run):
        raise UserError(f"There is no run {clean_text(run, 80)!r}.", "See the runs there are with: sdlora runs")
    folder = run if isinstance(run, Path) else home() / "runs" / run
    if not (folder / SPEC).is_file():
        raise UserError(f"There is no run {folder.name}.", "See the runs there are with: sdlora runs")
    return folder


def view(run: str | Path) -> RunView:
    """Return the run as it is now. Raises UserError when there is no such run or its spec.json is damaged."""
    return read_run(run_folder(run), Table().jobs("train", "queued", "running"))


def list_runs() -> list[RunView]:
    """Return every readable run, newest first. A damaged one is logged and left out: it cannot be shown or resumed."""
    jobs = Table().jobs("train", "queued", "running")
    found = []
    for spec in (home() / "runs").glob(f"*/{SPEC}"):
        try:
            found.append(read_run(spec.parent, jobs))
        except UserError as error:
            logging.getLogger("sdlora").warning("%s", error)
    return sorted(found, key=lambda run: (run.created, run.id), reverse=True)


def read_run(folder: Path, jobs: list[Job]) -> RunView:
    """Return the view of one folder, given the waiting and running jobs of the table."""
    spec = read_json(folder / SPEC)
    try:
        config = make(TrainConfig, {**spec["config"], "sample_prompts": tuple(spec["config"].get("sample_prompts", ()))})
        facts = {"id": spec["id"], "config": config, "images": spec["images"], "set_id": spec.get("set"),
                 "out": spec.get("out"), "created": spec["created"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / SPEC} is not the plan of a run.", "Remove the folder.") from error
    # the lock is read before the events: a run that ends in between is "running" once more, never "stopped"
    running = is_held(folder / LOCK)
    job = next((job for job in jobs if job.target == facts["id"]), None)
    pausing, stopping = (folder / PAUSE).exists(), (folder / STOP).exists()
    with reading:
        log = read_log(folder)
        written = (folder / EVENTS).stat().st_mtime if log.offset else 0.0
        state = state_of(running, log.last, job, written)
        facts |= facts_of(log, running)
    facts["steps"] = facts["steps"] or config.steps
    command = ("stop" if stopping else "pause" if pausing else None) if state in ("running", "queued") else None
    return RunView(**facts, folder=folder, state=state, checkpoints=tuple(checkpoint_steps(folder)),
                   paused=state == "stopped" and pausing, command=command)


def facts_of(log: RunLog, running: bool) -> dict[str, Any]:
    """Return the fields of a RunView that follow from its events."""
    facts = {"step": log.step, "steps": log.steps, "warnings": tuple(log.warnings), "ended": log.ended,
             "samples": tuple(log.samples[key] for key in sorted(log.samples)),
             "losses": tuple(log.losses.items()), "validations": tuple(log.validations.values()), "verdict": log.verdict}
    if running:
        facts |= {"phase": log.phase, "seconds_left": log.seconds_left}
    if log.prepared:
        facts |= {name: getattr(log.prepared, name) for name in ("pictures", "held_out", "skipped")}
    if isinstance(log.last, events.Done):
        facts |= {"file": log.last.file, "seconds": log.last.seconds}
    if isinstance(log.last, events.Failed):
        facts |= {"problem": log.last.message, "hint": log.last.hint}
    return facts


def state_of(running: bool, last: events.Event | None, job: Job | None, written: float) -> str:
    """Return the state of a run: by its lock, else by how it ended, else by whether it waits in the table, else stopped.

    written: when its last event was written (Unix seconds). A claimed job without an event yet is still starting.
    """
    if running:
        return "running"
    starting = job and job.state == "running" and written < job.claimed and abs(time.time() - job.claimed) < STARTING_SECONDS
    if job and (job.state == "queued" or starting) and not isinstance(last, events.Done):
        return "queued"
    return "done" if isinstance(last, events.Done) else "failed" if isinstance(last, events.Failed) else "stopped"


def lora_file(run: RunView, step: int) -> Path:
    """Return the LoRA of a run at one of its `usable_steps`: at its end the finished file while it is there."""
    if run.state == "done" and step == run.step and run.file and Path(run.file).is_file():
        return Path(run.file)
    return export_checkpoint(run.folder, step)


def create_run(config: TrainConfig, images: Path, out: Path | None = None, set_id: str | None = None) -> Path:
    """Make runs/<YYYYMMDD-HHMMSS>-<slug>[-n]/ with its spec.json and return it; nothing starts yet."""
    runs, stem, number = data_folder("runs"), f"{time.strftime('%Y%m%d-%H%M%S')}-{slug(config.name)}", 1
    folder = runs / stem
    while True:
        try:
            folder.mkdir()
            break
        except FileExistsError:
            number += 1
            folder = runs / f"{stem}-{number}"
    spec = {"version": 1, "id": folder.name, **order_of(config, images, out), "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "set": set_id}
    write_json(folder / SPEC, spec)
    return folder


def order_of(config: TrainConfig, images: Path, out: Path | None) -> dict[str, Any]:
    """Return the part of spec.json that says what is trained and where the file goes."""
    return {"images": str(Path(images).absolute()), "out": str(Path(out).absolute()) if out else None,
            "config": config.model_dump(mode="json")}


def start_run(config: TrainConfig, images: Path, *, idempotency_key: str, out: Path | None = None,
              set_id: str | None = None) -> str:
    """Make a run, queue it and return its id. The same key again is the same run: two clicks are one job.

    So is the same order from another tab within TWIN_SECONDS, while the first one waits or runs.
    """
    with hold(data_folder("runs") / START_LOCK, START_WAIT_SECONDS) or nullcontext():
        table = Table()
        if known := table.known(idempotency_key):
            return known.target
        if twin := twin_of(table, config, images, out):
            return twin
        folder = create_run(config, images, out, set_id)
        job = table.submit("train", folder.name, idempotency_key=idempotency_key)
        if job.target != folder.name:
            shutil.rmtree(folder)
        return job.target


def twin_of(table: Table, config: TrainConfig, images: Path, out: Path | None) -> str | None:
    """Return the id of a waiting or running run of the same order that was given a moment ago, or None."""
    wanted = order_of(config, images, out)
    for job in reversed(table.jobs("train", "queued", "running")):
        spec = data_folder("runs") / job.target / SPEC
        if abs(time.time() - job.created) < TWIN_SECONDS and spec.is_file() and wanted.items() <= read_json(spec).items():
            return job.target
    return None


def resume_run(run: str, idempotency_key: str | None = None) -> None:
    """Queue a stopped or failed run again; one that runs or waits already is left alone."""
    seen = view(run)
    if seen.state == "done":
        raise UserError(f"{seen.name} is finished.", "Start a new run to train further.")
    if seen.resumable:
        clear_commands(seen.folder)
        Table().submit("train", seen.id, idempotency_key=idempotency_key or uuid.uuid4().hex)


def clear_commands(folder: Path) -> None:
    """Remove the flags that tell the run to pause or stop."""
    for flag in (PAUSE, STOP, SUSPEND):
        (folder / flag).unlink(missing_ok=True)


def pause(run: str) -> None:
    """Ask a run to save and rest; it stays resumable. Raises UserError when it neither runs nor waits."""
    seen = view(run)
    if seen.state not in ("running", "queued"):
        raise UserError(f"{seen.name} is not running.", "Nothing to pause.")
    (seen.folder / PAUSE).touch()
    Table().cancel("train", seen.id, "stopped")


def stop(run: str) -> None:
    """Ask a run to save, to write and verify the file of this moment, and to end `done`.

    A stopped run is queued for that. One that has no checkpoint yet is only taken out of the queue.
    """
    seen = view(run)
    if seen.state == "done":
        raise UserError(f"{seen.name} is finished.", "Nothing to stop.")
    if seen.state != "running" and not seen.checkpoints:
        if not Table().cancel("train", seen.id, "stopped") and seen.resumable:
            raise UserError(f"{seen.name} has no checkpoint yet.", "Resume it, or delete it.")
        return
    (seen.folder / STOP).touch()
    (seen.folder / PAUSE).unlink(missing_ok=True)
    if seen.resumable:
        Table().submit("train", seen.id, idempotency_key=uuid.uuid4().hex)


def delete(run: str) -> None:
    """Remove a run's folder: settings, checkpoints, samples. A finished file on the shelf stays.

    Raises UserError while it runs.
    """
    folder = run_folder(run)
    Table().cancel("train", folder.name)
    lock = hold(folder / LOCK)
    if lock is None:
        raise UserError(f"The run {folder.name} is still running.", "Stop it first.")
    # without its plan a half-removed folder is no run any more
    (folder / SPEC).unlink()
    lock.release()
    shutil.rmtree(folder)
