"""Run folders: made, queued, paused, stopped, continued, deleted; `view` and `list_runs` read them.

Knows nothing about torch or processes: it writes a plan and flag files, the run itself obeys them.
"""

import shutil
import time
import uuid
from contextlib import nullcontext
from pathlib import Path

from sdlora.config import TrainConfig
from sdlora.errors import UserError
from sdlora.jobs.lock import hold
from sdlora.jobs.table import Table
from sdlora.jobs.watch import LOCK, PAUSE, SPEC, STOP, SUSPEND, RunView, list_runs, run_folder, view
from sdlora.storage import data_folder, read_json, slug, write_json

__all__ = ["RunView", "clear_wishes", "create_run", "delete", "list_runs", "pause", "resume_run", "run_folder", "start_run",
           "stop", "view"]


START_LOCK = ".start.lock"
START_WAIT_SECONDS = 10.0
AGAIN_SECONDS = 10.0


def create_run(config: TrainConfig, images: Path, out: Path | None = None, set_id: str | None = None) -> Path:
    """Make runs/<YYYYMMDD-HHMMSS>-<slug>[-n]/ with its spec.json; nothing starts yet."""
    runs, stem = data_folder("runs"), f"{time.strftime('%Y%m%d-%H%M%S')}-{slug(config.name)}"
    for number in range(1, 1000):
        folder = runs / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
            break
        except FileExistsError:
            continue
    spec = {"version": 1, "id": folder.name, "images": str(Path(images).absolute()),
            "out": str(Path(out).absolute()) if out else None, "config": config.model_dump(mode="json"),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "set": set_id}
    write_json(folder / SPEC, spec)
    return folder


def start_run(config: TrainConfig, images: Path, *, once: str, out: Path | None = None, set_id: str | None = None) -> str:
    """Make a run and queue it; the id of the run. The same `once` again is the same run: two clicks are one job.

    So is the same order, pictures and settings alike, from another tab within AGAIN_SECONDS while the first one waits or runs.
    """
    with hold(data_folder("runs") / START_LOCK, START_WAIT_SECONDS) or nullcontext():
        table = Table()
        if known := table.known(once):
            return known.target
        if twin := twin_of(table, config, images, out):
            return twin
        folder = create_run(config, images, out, set_id)
        job = table.submit("train", folder.name, once=once)
        if job.target != folder.name:
            shutil.rmtree(folder)
        return job.target


def twin_of(table: Table, config: TrainConfig, images: Path, out: Path | None) -> str | None:
    """The id of a run that waits or runs, was ordered a moment ago and is to do the very same; None when there is none."""
    wanted = {"config": config.model_dump(mode="json"), "images": str(Path(images).absolute()),
              "out": str(Path(out).absolute()) if out else None}
    for job in reversed(table.jobs("train", "queued", "running")):
        spec = data_folder("runs") / job.target / SPEC
        if abs(time.time() - job.created) < AGAIN_SECONDS and spec.is_file() and wanted.items() <= read_json(spec).items():
            return job.target
    return None


def resume_run(run: str, once: str | None = None) -> None:
    """Queue a stopped or failed run again; one that runs or waits already is left alone."""
    seen = view(run)
    if seen.state == "done":
        raise UserError(f"{seen.name} is finished.", "Start a new run to train further.")
    if seen.resumable:
        clear_wishes(seen.folder)
        Table().submit("train", seen.id, once=once or uuid.uuid4().hex)


def clear_wishes(folder: Path) -> None:
    """Forget that the run was to pause or stop."""
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

    A resting run is queued for that. One that has not learned anything yet is only taken out of the queue.
    """
    seen = view(run)
    if seen.state == "done":
        raise UserError(f"{seen.name} is finished.", "Nothing to stop.")
    if seen.state != "running" and not seen.checkpoints:
        if not Table().cancel("train", seen.id, "stopped") and seen.resumable:
            raise UserError(f"{seen.name} has no saved point yet.", "Continue it, or delete it.")
        return
    (seen.folder / STOP).touch()
    (seen.folder / PAUSE).unlink(missing_ok=True)
    if seen.resumable:
        Table().submit("train", seen.id, once=uuid.uuid4().hex)


def delete(run: str) -> None:
    """Remove a run's folder: settings, saved points, samples. A finished file on the shelf stays.

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
