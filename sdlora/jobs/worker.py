"""One worker per data folder: claims training jobs, watches one process per run, keeps the drawing process alive.

It may be killed at any moment: runs continue in their own processes, and the next worker finds them by their locks.
"""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sdlora.errors import UserError
from sdlora.jobs.backends.local import Handle, Local
from sdlora.jobs.drawings import DRAWER_LOCK, fail_waiting
from sdlora.jobs.execute import BUG, DONE, MISTAKE, STOPPED
from sdlora.jobs.lock import Held, hold, is_held
from sdlora.jobs.run import LOCK, PAUSE, view
from sdlora.jobs.run_log import EVENTS
from sdlora.jobs.table import DRAWER_KINDS, Job, Table
from sdlora.processes import spawn
from sdlora.storage import data_folder, home, prune_cache, remove_temporaries
from sdlora.train import events

WORKER_LOCK = "worker.lock"
LINGER_SECONDS = 60.0
POLL_SECONDS = 0.2
RESTART_SECONDS = 2.0         # of the worker, by a web process
DRAWER_RESTART_SECONDS = 5.0
SAVE_SECONDS = 15.0           # for the runs to save when the worker ends
START_AGAIN_SECONDS = 5.0     # after a run whose process could not be started
MOST_CRASHES = 5              # of a run
MOST_DEATHS = 3               # of the drawing process, one after the other

held_for_life: list[Held] = []         # the lock of this web process
kept_at = [-RESTART_SECONDS]           # when keep_worker() last tried
started: list[subprocess.Popen] = []   # workers of this web process


def announce_web() -> None:
    """Hold a lock for as long as this web process lives: the worker stays while there is one."""
    lock = hold(data_folder("web") / f"{os.getpid()}.lock")
    if lock is not None:
        held_for_life.append(lock)


def web_is_alive(folder: Path) -> bool:
    """Return whether any web process of this data folder is alive."""
    return any(is_held(path) for path in (folder / "web").glob("*.lock"))


def ensure_worker() -> bool:
    """Start the worker of this data folder unless there is one. Takes microseconds when there is.

    Two that start at the same time are no harm: the second one finds the lock taken and leaves.
    """
    folder = home()
    if is_held(folder / WORKER_LOCK):
        return False
    started[:] = [process for process in started if process.poll() is None]
    if not started:
        started.append(spawn(["-m", "sdlora", "worker"], folder / "logs" / "worker.log"))
    return True


def keep_worker() -> None:
    """Start the worker again when it died, at most once in RESTART_SECONDS. Every open page calls this each second.

    Raises UserError as long as it cannot be started: every call tries again, so that the page keeps showing why.
    """
    now = time.monotonic()
    if now - kept_at[0] > RESTART_SECONDS:
        ensure_worker()
        kept_at[0] = now


def work(backend: Local | None = None, linger_seconds: float = LINGER_SECONDS,
         drawer: Callable[[Path], subprocess.Popen] | None = None) -> int:
    """Run as the worker until nobody needs one any more; 0, also when there is one already.

    Ends after `linger_seconds` without a web process, a run or a waiting job; at once when the data folder is gone; and
    on SIGTERM or Ctrl-C, after the runs were saved (they are queued, the next worker continues them).
    """
    while (lock := hold(home() / WORKER_LOCK)) is not None:
        with lock:
            worker = Worker(backend or Local(), linger_seconds, drawer or start_drawer)
            worker.run()
        # a run submitted between the last turn and the release found the lock held and started no other worker
        if worker.ending or not worker.home.exists() or not worker.table.jobs("train", "queued"):
            return 0
    return 0


def start_drawer(folder: Path) -> subprocess.Popen:
    """Start the drawing process of a data folder."""
    return spawn(["-m", "sdlora", "drawer"], folder / "logs" / "drawer.log")


class Worker:
    """The running jobs, the drawing process, and when a worker was last needed."""

    def __init__(self, backend: Local, linger_seconds: float, drawer: Callable[[Path], subprocess.Popen]) -> None:
        self.home = home()
        self.table = Table()
        self.backend, self.linger_seconds, self.start_drawer = backend, linger_seconds, drawer
        self.active: dict[Handle, Job] = {}
        self.ended: list[tuple[Job, int]] = []  # runs whose end is not written into the table yet, with exit codes
        self.start_again_at = 0.0
        self.drawer: subprocess.Popen | None = None
        self.drawer_started = -DRAWER_RESTART_SECONDS
        self.drawer_deaths = 0
        self.needed_at = time.monotonic()
        self.ending = False

    def run(self) -> None:
        """Work until not needed."""
        self.listen()
        remove_temporaries(self.home)
        prune_cache()
        self.recover()
        logged = ""
        while not self.ending and (self.home / WORKER_LOCK).exists():
            try:
                needed, problem = self.turn(), ""
            except (UserError, OSError) as error:
                # a full disk, a damaged job list, a vanished folder: the runs continue, the next turn tries again
                needed, problem = self.needed(), str(error)
            if problem not in ("", logged):
                logging.getLogger("sdlora").warning("%s", problem)
            logged = problem
            if not needed:
                break
            time.sleep(POLL_SECONDS)
        self.leave()

    def listen(self) -> None:
        """Let the first signal end the worker after the runs were saved, the second one at once."""
        def on_signal(*_: object) -> None:
            if self.ending:
                os._exit(0)
            self.ending = True

        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
                if number := getattr(signal, name, None):
                    signal.signal(number, on_signal)

    def recover(self) -> None:
        """Take over what an earlier worker left: watch the runs that are alive, queue the others again."""
        for job in self.table.jobs("train", "running"):
            folder = self.home / "runs" / job.target
            if is_held(folder / LOCK):
                self.active[self.backend.start(folder, job.fence)] = job
            elif not folder.is_dir():
                self.table.finish(job, "failed", "The run folder is gone.")
            elif view(folder).ended or (folder / PAUSE).exists():
                self.conclude(job, {"done": DONE, "failed": MISTAKE}.get(view(folder).state, STOPPED))
            else:
                self.table.give_back(job)

    def turn(self) -> bool:
        """Note which runs ended, start waiting ones; False when nobody needs a worker any more."""
        drawing = bool(self.table.jobs(DRAWER_KINDS, "queued", "running"))  # first: it raises when the job list is damaged
        self.keep_drawer()
        for handle, job in list(self.active.items()):
            code = self.backend.poll(handle)
            if code is not None:
                del self.active[handle]
                self.ended.append((job, code))
        while self.ended:
            self.conclude(*self.ended[0])
            self.ended.pop(0)
        now = time.monotonic()
        while now >= self.start_again_at and self.backend.slots() > 0 and (job := self.table.claim("train")):
            self.begin(job)
        return self.needed(drawing)

    def needed(self, drawing: bool = False) -> bool:
        """Return whether anybody needs a worker, or did a moment ago. drawing: a drawing or a question waits or runs."""
        now = time.monotonic()
        if drawing or self.active or web_is_alive(self.home):
            self.needed_at = now
        return now - self.needed_at < self.linger_seconds

    def begin(self, job: Job) -> None:
        """Start the process of a claimed job."""
        folder = self.home / "runs" / job.target
        if not folder.is_dir():
            self.table.finish(job, "cancelled", "The run was deleted.")
            return
        try:
            self.active[self.backend.start(folder, job.fence)] = job
        except UserError as error:
            self.start_again_at = time.monotonic() + START_AGAIN_SECONDS
            if job.crashes + 1 < MOST_CRASHES:
                self.table.give_back(job, crashed_at=job.crash_step)
                logging.getLogger("sdlora").warning("%s: %s", job.target, error)
                return
            self.table.finish(job, "failed", error.message)
            seen = view(folder)
            append_event(folder, events.Failed(seen.step, seen.steps, error.message, error.hint))

    def conclude(self, job: Job, code: int) -> None:
        """Write into the table how a run ended; one whose process died is tried again, unless it died twice at the same step."""
        folder = self.home / "runs" / job.target
        if code in (DONE, BUG, MISTAKE, STOPPED):
            if code == STOPPED and self.ending and not (folder / PAUSE).exists():
                self.table.give_back(job)
            else:
                self.table.finish(job, {DONE: "done", STOPPED: "stopped"}.get(code, "failed"))
            return
        if not folder.is_dir():
            self.table.finish(job, "failed", "The run folder is gone.")
            return
        seen = view(folder)
        if job.crashes + 1 >= MOST_CRASHES or (job.crashes and job.crash_step == seen.step):
            reason = f"The training process died again at step {seen.step}"
            self.table.finish(job, "failed", reason)
            hint = "What was saved is kept. Close other programs or choose smaller settings, then resume."
            append_event(folder, events.Failed(seen.step, seen.steps, f"{reason} (code {code}).", hint))
        else:
            self.table.give_back(job, crashed_at=seen.step)

    def keep_drawer(self) -> None:
        """Start the drawing process when there is none. When it keeps dying, every 5 s, what waits for it fails."""
        code = self.drawer.poll() if self.drawer is not None else 0
        if code is None or is_held(self.home / DRAWER_LOCK):
            return
        if self.drawer is not None:
            self.drawer, self.drawer_deaths = None, self.drawer_deaths + 1 if code else 0
        if self.drawer_deaths >= MOST_DEATHS:
            fail_waiting("The drawing process does not start.", f"The reason is in {self.home / 'logs' / 'drawer.log'}")
        if time.monotonic() - self.drawer_started > DRAWER_RESTART_SECONDS:
            self.drawer_started = time.monotonic()
            self.drawer = self.start_drawer(self.home)

    def leave(self) -> None:
        """Let the runs save and end; wait for nothing when the data folder is gone."""
        gone = not (self.home / WORKER_LOCK).exists()
        deadline = time.monotonic() + (0 if gone else SAVE_SECONDS)
        for handle in list(self.active):
            self.backend.stop(handle, now=gone)
        while self.active and not gone:
            late = time.monotonic() > deadline
            for handle, job in list(self.active.items()):
                if late:
                    self.backend.stop(handle, now=True)
                code = self.backend.poll(handle)
                if code is not None or late:
                    del self.active[handle]
                    self.conclude_while_leaving(job, code)
            time.sleep(0.05)
        if self.drawer is not None and self.drawer.poll() is None:
            self.drawer.terminate()

    def conclude_while_leaving(self, job: Job, code: int | None) -> None:
        """Write into the table how a run ended; one that was cut off is resumed by the next worker."""
        try:
            if code in (DONE, BUG, MISTAKE, STOPPED):
                self.conclude(job, code)
            else:
                self.table.give_back(job)
        except UserError:
            # the job stays "running" with no living process: the next worker recovers it
            return


def append_event(folder: Path, event: events.Event) -> None:
    """Add an event to a run whose process is gone; a line it may have torn is ended first."""
    with (folder / EVENTS).open("a", encoding="utf-8", newline="\n") as journal:
        journal.write("\n" + events.to_json(event) + "\n")
