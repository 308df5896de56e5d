"""The resident drawing process: keeps a base loaded and draws what is asked for, beside a training run.

Knows nothing about pages or who asked. While it draws it holds HOME/drawing.lock, and training waits between two steps.
Between pictures it answers the questions of `desk.py`. The torch-free half (asking, watching, history) is `pictures.py`.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from sdlora.config import DrawConfig
from sdlora.draw.infotext.picture import write_picture
from sdlora.errors import UserError
from sdlora.jobs.desk import sweep_answers
from sdlora.jobs.drawings import (
    CANCEL,
    DRAWER_LOCK,
    EVENTS,
    PREVIEW,
    SHEET,
    draw_folder,
    items_of,
    picture_path,
    read_events,
    sheet_of,
    sweep_draws,
    write_event,
)
from sdlora.jobs.execute import DRAWING_LOCK, explained, log_bug
from sdlora.jobs.lock import hold, is_held
from sdlora.jobs.table import Table
from sdlora.jobs.tasks import answer_all
from sdlora.jobs.worker import WORKER_LOCK
from sdlora.storage import home, write_atomic, write_json

POLL_SECONDS = 0.05
PREVIEW_SECONDS = 0.2
ALONE_SECONDS = 5.0
SWEEP_SECONDS = 3600.0
MOST_TRIES = 2


def serve(load: Callable | None = None, draw: Callable | None = None) -> int:
    """Draw what waits until the worker is gone; 0, also when there is a drawing process already.

    `load` and `draw` stand in for base.load.load_base and draw.pipeline.draw.
    """
    lock = hold(home() / DRAWER_LOCK)
    if lock is None:
        return 0
    with lock:
        if load is None or draw is None:
            from sdlora.base.load import load_base as load
            from sdlora.draw.pipeline import draw
        Drawer(load, draw).run()
    return 0


class Drawer:
    """The drawing process: the base it has loaded, and the queue it reads."""

    def __init__(self, load: Callable, draw: Callable) -> None:
        self.home, self.table = home(), Table()
        self.load, self.draw = load, draw
        self.loaded: tuple[tuple[str, str], object] | None = None

    def run(self) -> None:
        """Draw until the worker has been gone for 5 s or the data folder is gone."""
        self.recover()
        self.sweep()
        self.warm()
        needed_at = swept_at = time.monotonic()
        while (self.home / DRAWER_LOCK).exists():
            if time.monotonic() - swept_at > SWEEP_SECONDS:
                self.sweep()
                swept_at = time.monotonic()
            if is_held(self.home / WORKER_LOCK):
                needed_at = time.monotonic()
            elif time.monotonic() - needed_at > ALONE_SECONDS:
                break
            answered, drawn = answer_all(self.base), self.turn()
            if not answered and not drawn:
                time.sleep(POLL_SECONDS)

    def sweep(self) -> None:
        """Remove what was drawn from and answered days ago."""
        sweep_draws()
        sweep_answers()

    def recover(self) -> None:
        """Queue again what an earlier drawing process left half done."""
        for job in self.table.lost("draw"):
            self.table.give_back(job)

    def warm(self) -> None:
        """Load the embedded base before anybody asks: the first picture is then as fast as the second."""
        try:
            self.base("mini", "auto")
        except UserError:
            # told when a picture is asked for; another base may be fine
            self.loaded = None

    def base(self, spec: str, device: str) -> object:
        """The base, loaded once; the one before it leaves memory first."""
        if self.loaded is None or self.loaded[0] != (spec, device):
            self.loaded = None
            self.loaded = ((spec, device), self.load(spec, device))
        return self.loaded[1]

    def turn(self) -> bool:
        """Draw the oldest waiting job; False when none waits."""
        job = self.table.claim("draw") if self.table.jobs("draw", "queued") else None
        if job is None:
            return False
        try:
            folder = draw_folder(job.target)
        except UserError as error:
            self.table.finish(job, "failed", str(error))
            return True
        state, problem = self.attempt(folder)
        self.table.finish(job, state, problem)
        return True

    def attempt(self, folder: Path) -> tuple[str, str]:
        """Draw all of one folder and tell how it ended: (state, problem)."""
        started = time.monotonic()
        try:
            tries = sum(event["event"] == "started" for event in read_events(folder))
            if tries:
                self.mend(folder)
            if tries >= MOST_TRIES:
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

    def mend(self, folder: Path) -> None:
        """End the torn last line of a process that died while writing."""
        with (folder / EVENTS).open("a", encoding="utf-8", newline="\n") as file:
            file.write("\n")

    def draw_items(self, folder: Path) -> bool:
        """Draw every item in order; False when it was cancelled."""
        def cancelled() -> bool:
            return (folder / CANCEL).exists()

        made_of: dict[str, tuple[Path, dict[str, object]]] = {}
        number = 0
        asked, bad = sheet_of(folder), {}

        def spoil(label: str, error: Exception) -> None:
            bad[label] = explained(error, self.home / "logs" / "drawer.log")  # one bad cell costs one cell
            write_event(folder, "bad", item=label, message=str(bad[label]))

        for label, (message, hint) in (asked or {}).get("bad", {}).items():
            spoil(label, UserError(message, hint))
        for label, config in items_of(folder):
            try:
                for made in self.draw(self.base(config.base, config.device), config, stop=cancelled):
                    if hasattr(made, "settings"):
                        made_of[label] = self.keep(folder, number, label, config, made), made.settings
                        number += 1
                    else:
                        self.show(folder, label, made)
            except Exception as error:
                if not asked:
                    raise
                spoil(label, error)
            if cancelled():
                return False
            answer_all(self.base)  # a grid of many cells keeps nobody waiting
        if bad and not made_of:
            raise list(bad.values())[-1]
        if asked:
            self.keep_sheet(folder, number, asked, made_of, {label: error.message for label, error in bad.items()})
        return True

    def show(self, folder: Path, label: str, made: object) -> None:
        """Write a preview, at most 5 a second; every step is told."""
        path = folder / PREVIEW
        if not path.exists() or time.time() - path.stat().st_mtime > PREVIEW_SECONDS:
            write_atomic(path, lambda temporary: made.image.save(temporary, "PNG"))
        write_event(folder, "preview", item=label, prompt_index=made.prompt_index, image_index=made.image_index,
             step=made.step, steps=made.steps)

    def keep(self, folder: Path, number: int, label: str, config: DrawConfig, made: object) -> Path:
        """Keep a finished picture with its settings in the dated folder; where it lies."""
        asked = config.model_dump(mode="json", exclude={"prompts", "count", "device"})
        settings = {**asked, **made.settings, "base": config.base, "loras": asked["loras"]}
        return self.written(folder, f"{folder.name}-{number:03d}", {"item": label, "settings": settings},
                            lambda path: write_picture(path, made.image, made.settings))

    def keep_sheet(self, folder: Path, number: int, asked: dict, cells: dict[str, tuple[Path, dict[str, object]]],
                   bad: dict[str, str]) -> None:
        """Put the cells of a grid together, with their labels, as one more picture; `bad`: why cells could not be drawn."""
        from sdlora.draw.grid import Axis, sheet_settings
        from sdlora.draw.sheet import sheet

        axes = [Axis(**axis) for axis in asked["axes"]]
        shown = {label: path for label, (path, _) in cells.items()} | bad
        places = {(int(label[3:]), int(label[:2])): there for label, there in shown.items()}
        columns, rows = axes[0].labels, axes[1].labels if axes[1:] else ("",)
        image = sheet(places, columns, rows, title=asked["title"])
        settings = sheet_settings([settings for _, settings in cells.values()], *axes)
        named = [{"file": lora["name"], "strength": lora["strength"]} for lora in settings["loras"]]
        told_too = {"base": items_of(folder)[0][1].base, "loras": named}
        self.written(folder, f"{folder.name}-{number:03d}", {"item": SHEET, "settings": settings | told_too},
                     lambda path: write_picture(path, image, settings))

    def written(self, folder: Path, picture_id: str, facts: dict[str, object], write: Callable[[Path], object]) -> Path:
        """Write a picture and what is known of it, then tell that it is there."""
        path = picture_path(picture_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path.with_suffix(".json"), {"created": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts})
        write(path)
        write_event(folder, "picture", id=picture_id, item=facts["item"])
        return path
