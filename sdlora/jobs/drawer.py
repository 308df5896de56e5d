"""The resident drawing process: keeps a base loaded, draws what waits and answers questions, beside a training run.

Knows nothing about pages or who asked. While it draws it holds HOME/drawing.lock, and training waits between two steps.
What others need of it without torch is in `drawings.py` and `questions.py`.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sdlora.config import DrawConfig
from sdlora.draw.infotext.picture import write_picture
from sdlora.errors import UserError
from sdlora.jobs.drawings import (
    CANCEL,
    DRAWER_LOCK,
    EVENTS,
    PREVIEW,
    SHEET,
    draw_folder,
    items_of,
    picture_path,
    sheet_of,
    sweep_draws,
    write_event,
)
from sdlora.jobs.execute import DRAWING_LOCK, explained, log_bug
from sdlora.jobs.lock import hold, is_held
from sdlora.jobs.questions import answer_waiting, remove_old_answers
from sdlora.jobs.table import DRAWER_KINDS, Job, Table
from sdlora.jobs.worker import WORKER_LOCK
from sdlora.storage import home, write_atomic, write_json

POLL_SECONDS = 0.05
PREVIEW_SECONDS = 0.2
ALONE_SECONDS = 5.0
SWEEP_SECONDS = 3600.0
MOST_CRASHES = 2

Cells = dict[str, tuple[Path, dict[str, Any]]]  # of a grid, by their labels: the picture's file and settings


def serve() -> int:
    """Draw what waits until the worker is gone; 0, also when there is a drawing process already."""
    lock = hold(home() / DRAWER_LOCK)
    if lock is None:
        return 0
    with lock:
        from sdlora.base.load import load_base
        from sdlora.draw.pipeline import draw

        Drawer(load_base, draw).run()
    return 0


class Drawer:
    """The drawing process: the base it has loaded, and the queue it reads.

    load: as base.load.load_base; draw: as draw.pipeline.draw.
    """

    def __init__(self, load: Callable[[str, str], Any], draw: Callable[..., Iterator[Any]]) -> None:
        self.home, self.table = home(), Table()
        self.load, self.draw = load, draw
        self.loaded: tuple[tuple[str, str], Any] | None = None

    def run(self) -> None:
        """Draw until the worker has been gone for 5 s or the data folder is gone."""
        self.recover()
        self.sweep()
        self.warm_up()
        needed_at = swept_at = time.monotonic()
        while (self.home / DRAWER_LOCK).exists():
            if time.monotonic() - swept_at > SWEEP_SECONDS:
                self.sweep()
                swept_at = time.monotonic()
            if is_held(self.home / WORKER_LOCK):
                needed_at = time.monotonic()
            elif time.monotonic() - needed_at > ALONE_SECONDS:
                break
            if not self.turn():
                time.sleep(POLL_SECONDS)

    def sweep(self) -> None:
        """Remove drawings and answers of days ago."""
        sweep_draws()
        remove_old_answers()

    def recover(self) -> None:
        """Queue again what an earlier drawing process left half done."""
        for job in self.table.jobs(DRAWER_KINDS, "running"):
            self.table.give_back(job, crashed_at=0)

    def warm_up(self) -> None:
        """Load the embedded base before anybody asks: the first picture is then as fast as the second."""
        try:
            self.base("mini", "auto")
        except UserError:
            # the error is shown when a picture is requested; another base may be fine
            self.loaded = None

    def base(self, spec: str, device: str) -> Any:
        """Return the base, loaded once; the one before it leaves memory first."""
        if self.loaded is None or self.loaded[0] != (spec, device):
            self.loaded = None
            self.loaded = ((spec, device), self.load(spec, device))
        return self.loaded[1]

    def turn(self) -> bool:
        """Answer the questions that wait, then draw the oldest waiting job; False when nothing waited."""
        answered = answer_waiting(self.table, self.base)
        job = self.table.claim("draw")
        if job is not None:
            self.table.finish(job, *self.draw_job(job))
        return answered or job is not None

    def draw_job(self, job: Job) -> tuple[str, str]:
        """Draw everything of one job and return how it ended: (state, problem)."""
        started = time.monotonic()
        try:
            folder = draw_folder(job.target)
        except UserError as error:
            return "failed", str(error)
        try:
            if job.crashes:
                end_torn_line(folder)
            if job.crashes >= MOST_CRASHES:
                raise UserError("The drawing process ended unexpectedly, twice.", "Choose a smaller size or fewer pictures.")
            write_event(folder, "started")
            # training waits as soon as a picture is wanted, not only when the base is loaded
            with hold(self.home / DRAWING_LOCK, 10) or nullcontext():
                whole = self.draw_items(folder)
            state = "done" if whole else "cancelled"
            write_event(folder, state, seconds=round(time.monotonic() - started, 3))
            return state, ""
        except UserError as error:
            message, hint = error.message, error.hint
        except Exception as error:  # noqa: BLE001  one broken job must not end the drawing process
            message, hint = log_bug(error, self.home / "logs" / "drawer.log")
            self.loaded = None
        write_event(folder, "failed", message=message, hint=hint)
        return "failed", message

    def draw_items(self, folder: Path) -> bool:
        """Draw every item in order; False when it was cancelled. In a grid a bad cell costs one cell.

        Raises what a drawing raises; in a grid the last problem, when no cell could be drawn.
        """
        sheet, numbers = sheet_of(folder), itertools.count()
        cells: Cells = {}
        bad: dict[str, UserError] = {}

        def leave_out(label: str, error: Exception) -> None:
            bad[label] = explained(error, self.home / "logs" / "drawer.log")
            write_event(folder, "bad", item=label, message=str(bad[label]))

        for label, (message, hint) in (sheet or {}).get("bad", {}).items():
            leave_out(label, UserError(message, hint))
        for label, config in items_of(folder):
            try:
                self.draw_item(folder, label, config, numbers, cells)
            except Exception as error:
                if not sheet:
                    raise
                leave_out(label, error)
            if (folder / CANCEL).exists():
                return False
            answer_waiting(self.table, self.base)  # between two cells: a large grid keeps nobody waiting
        if bad and not cells:
            raise list(bad.values())[-1]
        if sheet:
            self.add_sheet(f"{folder.name}-{next(numbers):03d}", folder, sheet, cells, bad)
        return True

    def draw_item(self, folder: Path, label: str, config: DrawConfig, numbers: Iterator[int], cells: Cells) -> None:
        """Draw one item, with previews; its last picture goes into `cells`."""
        for made in self.draw(self.base(config.base, config.device), config, stop=(folder / CANCEL).exists):
            if not hasattr(made, "settings"):
                self.show_preview(folder, label, made)
                continue
            path = self.add_picture(f"{folder.name}-{next(numbers):03d}", folder, label, config, made)
            cells[label] = path, made.settings

    def show_preview(self, folder: Path, label: str, made: Any) -> None:
        """Write a preview, at most 5 a second, and an event for every step."""
        path = folder / PREVIEW
        if not path.exists() or time.time() - path.stat().st_mtime > PREVIEW_SECONDS:
            write_atomic(path, lambda temporary: made.image.save(temporary, "PNG"))
        write_event(folder, "preview", item=label, prompt_index=made.prompt_index, image_index=made.image_index,
                    step=made.step, steps=made.steps)

    def add_picture(self, picture_id: str, folder: Path, label: str, config: DrawConfig, made: Any) -> Path:
        """Write a finished picture with its settings into the dated folder and return its path."""
        wanted = config.model_dump(mode="json", exclude={"prompts", "count", "device"})
        settings = {**wanted, **made.settings, "base": config.base, "loras": wanted["loras"]}
        return add_to_history(picture_id, folder, {"item": label, "settings": settings},
                              lambda path: write_picture(path, made.image, made.settings))

    def add_sheet(self, picture_id: str, folder: Path, wanted: dict[str, Any], cells: Cells, bad: dict[str, UserError]) -> None:
        """Put the cells of a grid together, with their labels, as one more picture; in place of a bad cell stands why."""
        from sdlora.draw.grid import Axis, sheet_settings
        from sdlora.draw.sheet import sheet

        axes = [Axis(**axis) for axis in wanted["axes"]]
        contents = {label: path for label, (path, _) in cells.items()} | {label: error.message for label, error in bad.items()}
        places = {(int(label[3:]), int(label[:2])): content for label, content in contents.items()}
        columns, rows = axes[0].labels, axes[1].labels if axes[1:] else ("",)
        image = sheet(places, columns, rows, title=wanted["title"])
        settings: dict[str, Any] = sheet_settings([settings for _, settings in cells.values()], *axes)
        loras = [{"file": lora["name"], "strength": lora["strength"]} for lora in settings["loras"]]
        known = settings | {"base": items_of(folder)[0][1].base, "loras": loras}
        add_to_history(picture_id, folder, {"item": SHEET, "settings": known}, lambda path: write_picture(path, image, settings))


def add_to_history(picture_id: str, folder: Path, facts: dict[str, Any], write: Callable[[Path], object]) -> Path:
    """Write a picture of a drawing and what is known of it, then its event; return where it lies."""
    path = picture_path(picture_id)
    assert path is not None, picture_id
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_suffix(".json"), {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts})
    write(path)
    write_event(folder, "picture", id=picture_id, item=facts["item"])
    return path


def end_torn_line(folder: Path) -> None:
    """End the incomplete last line of a process that died while writing."""
    with (folder / EVENTS).open("a", encoding="utf-8", newline="\n") as file:
        file.write("\n")
