"""Locks that the operating system drops when their holder dies: no time-outs, and a file that is left over locks nothing."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

from sdlora.storage import disk_error


class Held:
    """A lock that is held until release(), the end of its `with` block, or the end of this object."""

    def __init__(self, lock: FileLock) -> None:
        self.lock = lock

    def release(self) -> None:
        """Let go; doing so twice is no harm."""
        self.lock.release(force=True)

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, *why: object) -> None:
        self.release()


def hold(path: Path, wait_seconds: float = 0.5) -> Held | None:
    """Take the lock; None when another process has it. Keep the result: the lock is released with it.

    The short wait lets an `is_held` of another process pass. Raises UserError when the disk does not take the lock file.
    """
    # thread_local off: signal handlers and worker threads of one process are one holder
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=wait_seconds, poll_interval=0.02)
    except Timeout:
        return None
    except OSError as error:
        raise disk_error(error, path) from error
    return Held(lock)


def is_held(path: Path) -> bool:
    """Return whether a living process holds the lock. Takes about 10 microseconds and never makes the file."""
    if os.name == "nt":
        return path.exists() and not _could_take(path)
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # shared: two that ask at the same time do not see each other
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _could_take(path: Path) -> bool:
    lock = hold(path, 0.1)
    if lock is not None:
        lock.release()
    return lock is not None
