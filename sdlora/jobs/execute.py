"""The run command: a run folder in, events and a file out, an exit code that says how it ended.

The command line and the processes that the worker starts call `execute`; training itself is `train.session`. The folder's lock
is held for as long as this process works on it.
"""

import errno
import os
import secrets
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sdlora.errors import DiskFull, UserError
from sdlora.jobs.lock import hold, is_held
from sdlora.jobs.run import LOCK, PAUSE, STOP, SUSPEND, clear_commands, run_folder, view
from sdlora.jobs.run_log import EVENTS
from sdlora.jobs.table import Table
from sdlora.storage import DISK_FULL, disk_error, home
from sdlora.train import events

DONE, BUG, MISTAKE, STOPPED = 0, 1, 2, 3
CODES = {events.Done: DONE, events.Failed: MISTAKE, events.Stopped: STOPPED}
LOG = "run.log"
DRAWING_LOCK = "drawing.lock"
FENCE_SECONDS = 5.0
LOCK_SECONDS = 1.0
LITTLE_DISK_MB = 2000  # with less free, a run may not be able to save

Training = Callable[..., Iterator[events.Event]]


class Interrupted(BaseException):
    """A request to pause that came before there was anything to save. Not an Exception: no handler may catch it."""


class Control:
    """Decides before every step what the run does next; waits while a picture is being drawn."""

    def __init__(self, folder: Path, fence: int = 0) -> None:
        self.folder, self.fence = folder, fence
        self.drawing = home() / DRAWING_LOCK
        self.signalled = False
        self.stepping = False
        self.fence_read_at = time.monotonic()

    def command(self) -> str | None:
        """Return None: train on; "pause": save and exit; "stop": write the file of this moment."""
        if self.signalled or self.fenced_off() or (self.folder / SUSPEND).exists():
            return "pause"
        if (self.folder / STOP).exists():
            return "stop"
        return "pause" if (self.folder / PAUSE).exists() else None

    def fenced_off(self) -> bool:
        """Return whether another claim of this run exists by now; read every 5 s, and only when the run came from a queue."""
        if not self.fence or time.monotonic() - self.fence_read_at < FENCE_SECONDS:
            return False
        self.fence_read_at = time.monotonic()
        return Table().fence("train", self.folder.name) > self.fence

    def __call__(self) -> str | None:
        """Return command(), once no picture is being drawn."""
        self.stepping = True
        while (command := self.command()) is None and is_held(self.drawing):
            time.sleep(0.02)
        return command

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Turn Ctrl-C, SIGTERM and SIGBREAK into a pause; the second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")
        before = {number: signal.getsignal(number) for name in names if (number := getattr(signal, name, None))}
        # a run started with nohup continues when its terminal is closed
        caught = [number for number, old in before.items() if number == signal.SIGINT or old != signal.SIG_IGN]
        try:
            for number in caught:
                signal.signal(number, self.on_signal)
            yield
        finally:
            for number in caught:
                signal.signal(number, before[number] or signal.SIG_DFL)

    def on_signal(self, *_: object) -> None:
        if self.signalled:
            os._exit(STOPPED)
        self.signalled = True
        if not self.stepping:
            raise Interrupted


class Journal:
    """events.jsonl: one line an event, flushed at once; `on_event` gets the same event in this process."""

    def __init__(self, folder: Path, on_event: Callable[[events.Event], object], step: int) -> None:
        self.path, self.on_event, self.step = folder / EVENTS, on_event, step
        self.last: events.Event | None = None
        try:
            torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
            self.file = self.path.open("ab", buffering=0)  # nothing is left to write when the disk is full
        except OSError as error:
            raise disk_error(error, self.path) from error
        if torn:
            self.append(b"\n")

    def write(self, event: events.Event) -> None:
        """Append an event. Raises DiskFull; readers skip a line that was cut short by a full disk."""
        self.append(events.to_json(event).encode() + b"\n")
        self.last = event
        self.step = self.step if isinstance(event, events.Preparing) else event.step
        try:
            self.on_event(event)
        except Exception as error:  # noqa: BLE001  a display must not end the run
            self.on_event = lambda event: None
            message, hint = log_bug(error, self.path.with_name(LOG))
            if type(event) not in CODES:  # the last event stays the last
                self.write(events.Notice(event.step, f"Showing this run failed, so it continues unseen. {message} {hint}"))

    def append(self, line: bytes) -> None:
        try:
            if self.file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise disk_error(error, self.path) from error

    def write_last(self, *last: events.Event) -> None:
        """Pass these events to `on_event`, and write as many of them as the disk still takes."""
        for event in last:
            try:
                self.write(event)
            except UserError:
                self.on_event(event)


def execute(folder: Path, fence: int = 0, on_event: Callable[[events.Event], object] = lambda event: None,
            training: Training | None = None) -> int:
    """Train the run of `folder` from its last checkpoint. Return 0 done, 3 stopped and resumable, 2 the artist's mistake, 1 bug.

    `fence`: the claim this process works under, 0 when nobody else can claim it. `training` stands in for
    train.session.run_training. Raises UserError when another process has the run, or when it is finished.
    """
    folder = run_folder(Path(folder))
    lock = hold(folder / LOCK, LOCK_SECONDS)
    if lock is None:
        raise UserError(f"The run {folder.name} is running already.", "Watch it with: sdlora runs")
    with lock:
        journal, control = Journal(folder, on_event, view(folder).step), Control(folder, fence)
        (folder / SUSPEND).unlink(missing_ok=True)
        with journal.file, control.signals():
            code = follow(folder, journal, control, training)
        if code == DONE:
            clear_commands(folder)
    return code


def follow(folder: Path, journal: Journal, control: Control, training: Training | None) -> int:
    """Write the events of the training until it ends, and the last event when the training raised instead of ending."""
    seen = view(folder)
    if seen.file:
        raise UserError(f"The run {folder.name} is finished: {seen.file}", "Start a new run to train further.")
    try:
        if training is None:
            # the libraries take seconds to load: the first event comes before them
            journal.write(events.Preparing(seen.step, "base", 0, 1))
            from sdlora.train.session import run_training as training
        for event in training(folder, control=control):
            journal.write(event)
            if not control.stepping and control.command() == "pause":
                raise Interrupted
        return CODES[type(journal.last)]
    except (Interrupted, KeyboardInterrupt):
        journal.write_last(events.Stopped(journal.step, seen.steps))
        return STOPPED
    except Exception as error:  # noqa: BLE001  this is the outermost frame of the run
        return end_with(error, folder, journal, seen.steps)


def end_with(error: Exception, folder: Path, journal: Journal, steps: int) -> int:
    """Write the error as the run's last event. A full disk only stops the run; a bug becomes a code, its traceback is logged."""
    if isinstance(error, DiskFull) or isinstance(error, OSError) and error.errno in DISK_FULL:
        advice = f"The disk is full. Free {LITTLE_DISK_MB / 1000:g} GB and resume the run."
        journal.write_last(events.Notice(journal.step, advice), events.Stopped(journal.step, steps))
        return STOPPED
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        error = UserError("The memory of this computer or its graphics card is too small for these settings.",
                          "Lower batch_size or resolution, or close other programs, then resume the run.")
    if isinstance(error, UserError):
        journal.write_last(events.Failed(journal.step, steps, error.message, error.hint))
        return MISTAKE
    message, hint = log_bug(error, folder / LOG)
    journal.write_last(events.Failed(journal.step, steps, message, f"What was saved is kept. {hint}"))
    return BUG


def explained(error: Exception, log: Path) -> UserError:
    """Return the error as a sentence for an artist: a bug of ours by its code, with its traceback in `log`."""
    return error if isinstance(error, UserError) else UserError(*log_bug(error, log))


def log_bug(error: BaseException, log: Path) -> tuple[str, str]:
    """Append the traceback of a bug of ours to `log` and return what to show: (sentence with a code, where to look)."""
    code = secrets.token_hex(2).upper()
    entry = f"{time.strftime('%Y-%m-%d %H:%M:%S')} code {code}\n{''.join(traceback.format_exception(error))}\n"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            file.write(entry)
    except OSError as refusal:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        return f"Something went wrong in sdlora ({reason}).", f"The details could not be written to {log} ({refusal.strerror})."
    return f"Something went wrong in sdlora (code {code}).", f"The details are in {log}"
