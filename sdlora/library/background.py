"""A process of its own for the long work of the shelf: reading thousands of headers, hashing. Knows nothing of the work itself.

It is `sdlora library scan --background`: it runs at low priority, ends when all is done or its time is up, and there is at most
one per data folder. It may be killed at any moment: what it read is in the index, the next one goes on from there.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sdlora.storage import disk_error, home, spawn

started: dict[Path, subprocess.Popen] = {}  # by data folder


def start() -> bool:
    """Start the process unless there is one; True when it was started."""
    if is_running():
        return False
    started[home()] = spawn(["-m", "sdlora", "library", "scan", "--background"], home() / "logs" / "library.log")
    return True


def is_running() -> bool:
    """Whether the process is there: started by us and alive, or holding the lock."""
    if home() in started and started[home()].poll() is None:
        return True
    with alone() as mine:
        return not mine


@contextmanager
def alone() -> Iterator[bool]:
    """True inside for the one process that does the background work; the lock falls when its holder dies."""
    lock = FileLock(home() / "library-scan.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise disk_error(error, home() / "library-scan.lock") from error
    try:
        yield True
    finally:
        lock.release()
