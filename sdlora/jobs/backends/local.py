"""Runs on this computer: one process per run, in a session of its own, so that it outlives whoever started it.

A backend is four methods: `slots start poll stop`.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from sdlora.jobs.execute import DONE, LOG, MISTAKE, STOPPED
from sdlora.jobs.lock import is_held
from sdlora.jobs.run import LOCK, SUSPEND, view
from sdlora.processes import spawn

CODES = {"done": DONE, "failed": MISTAKE, "stopped": STOPPED}  # of a run whose process was not ours, by its events
DIED = -1


@dataclass(frozen=True)
class Handle:
    """A run that was started here, or (process None) one that an earlier worker started."""
    folder: Path
    process: subprocess.Popen | None


class Local:
    """One run at a time: a second one would only halve the speed of the first. `command` stands in for `-m sdlora run`."""

    def __init__(self, command: tuple[str, ...] = ("-m", "sdlora", "run")) -> None:
        self.command = command
        self.handles: list[Handle] = []

    def slots(self) -> int:
        """Return how many more runs can be started now."""
        return 1 - len(self.handles)

    def start(self, folder: Path, fence: int) -> Handle:
        """Start the run of `folder`, or only watch it when a process has it already."""
        alive = is_held(folder / LOCK)
        process = None if alive else spawn([*self.command, str(folder), "--fence", str(fence)], folder / LOG)
        handle = Handle(folder, process)
        self.handles.append(handle)
        return handle

    def poll(self, handle: Handle) -> int | None:
        """Return None while it runs, else 0 done, 3 stopped, 2 or 1 failed; any other code: its process died."""
        if handle.process is not None:
            code = handle.process.poll()
        elif is_held(handle.folder / LOCK):
            code = None
        else:
            seen = view(handle.folder)
            code = CODES.get(seen.state, DIED) if seen.ended else DIED
        if code is not None:
            self.handles.remove(handle)
        return code

    def stop(self, handle: Handle, now: bool = False) -> None:
        """Ask the run to save and end (exit 3), resumable; `now` ends a process of ours at once."""
        if not now:
            (handle.folder / SUSPEND).touch()
        elif handle.process is not None:
            handle.process.kill()
