"""Work on the bytes of an untrusted file in a process of its own, with a limit of time and memory.

Knows nothing about pictures. A decoder that hangs, crashes or eats memory costs the one file it was given. A child answers
file after file and ends when nothing comes for a while, or when its parent is gone.
"""

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from sdlora.errors import UserError
from sdlora.storage import child_process

LIMIT_S = 30  # wall clock, for one file; 40 megapixels of the slowest format take 3 s of one core
MEMORY_BYTES = 2 * 2**30  # of address space; 40 megapixels of 16-bit grey, the greediest, take 1.5 GB
IDLE_S = 20  # so long a child waits for the next file; its start takes 0.4 s
TURNS = threading.BoundedSemaphore(max(4, os.cpu_count() or 1))  # files worked on at the same time
AGAIN = "Export it again or leave it out."

Answer = tuple[dict[str, object], bytes]
WAITING: dict[subprocess.Popen, tuple[str, threading.Timer]] = {}  # children without work: their module, what ends them
CHANGING = threading.Lock()


def ask(module: str, data: bytes, name: str, *wishes: int) -> Answer:
    """What the function that `module` gives to `serve` answers to (data, name, *wishes), from a child process.

    Raises UserError: what that function raised, or that the file took more than LIMIT_S or crashed the child.
    """
    with TURNS:
        child, began = waiting(module) or start(module), time.monotonic()
        try:
            answer, payload, refused = exchange(child, data, name, *wishes)
        except (EOFError, BrokenPipeError) as error:
            end(child)
            raise gave_up(name, time.monotonic() - began) from error
        except BaseException:  # also Ctrl+C: half of an answer may still be in the pipe
            end(child)
            raise
        keep_waiting(child, module)
    if refused:
        raise UserError(*refused)
    return answer, payload


def exchange(child: subprocess.Popen, data: bytes, name: str,
             *wishes: int) -> tuple[dict[str, object], bytes, list[str] | None]:
    """Send a file, read (answer, payload, what a UserError said). Raises EOFError or BrokenPipeError when the child ends."""
    child.stdin.write(json.dumps([name, len(data), LIMIT_S, *wishes]).encode() + b"\n")
    child.stdin.write(data)
    child.stdin.flush()
    head = child.stdout.readline()
    if not head.endswith(b"\n"):
        raise EOFError
    length, answer, refused = json.loads(head)
    payload = child.stdout.read(length)
    if len(payload) < length:
        raise EOFError
    return answer, payload, refused


def gave_up(name: str, seconds: float) -> UserError:
    """The sentence for a file over which a child ended."""
    if seconds >= LIMIT_S:
        return UserError(f"{name} takes too long to read (more than {LIMIT_S} s): it is damaged, or made to do harm.", AGAIN)
    return UserError(f"{name} could not be read: its decoder crashed.", AGAIN)


def start(module: str) -> subprocess.Popen:
    """A new process that runs `module`."""
    command, options = child_process(["-m", module])
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options)


def waiting(module: str) -> subprocess.Popen | None:
    """A living child of this module that has no work, taken out of WAITING."""
    with CHANGING:
        fitting = [child for child, (its, _) in WAITING.items() if its == module]
        for child in reversed(fitting):
            WAITING.pop(child)[1].cancel()
            if child.poll() is None:
                return child
            end(child)
    return None


def keep_waiting(child: subprocess.Popen, module: str) -> None:
    """Keep a child for the next file, for IDLE_S."""
    def retire() -> None:
        with CHANGING:
            late = WAITING.pop(child, None)
        if late:
            end(child)

    ending = threading.Timer(IDLE_S, retire)
    ending.daemon = True
    with CHANGING:
        WAITING[child] = (module, ending)
    ending.start()


def end(child: subprocess.Popen) -> None:
    """End a child and take back its pipes."""
    child.kill()
    child.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # what it had not read of its last file
        child.stdin.close()
    child.wait()


def serve(work: Callable[..., Answer]) -> None:
    """Be the child: answer files from stdin until it ends. Work that takes too long ends this process.

    A request is a JSON line [name, number of bytes, seconds it may take, wishes...] and the bytes; the answer a JSON line
    [number of bytes, what work() found, what a UserError of it said or null] and the bytes it gave.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the parent: this process ends when the pipe is closed
    limit_memory()
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not get between the answers
    while line := source.readline():
        name, length, limit_s, *wishes = json.loads(line)
        data = source.read(length)
        faulthandler.dump_traceback_later(limit_s, exit=True)  # a thread in C: it acts even while a decoder hangs
        refused = None
        try:
            answer, payload = work(data, name, *wishes)
        except UserError as error:
            answer, payload, refused = {}, b"", [error.message, error.hint]
        faulthandler.cancel_dump_traceback_later()
        sink.write(json.dumps([len(payload), answer, refused]).encode() + b"\n" + payload)
        sink.flush()


def limit_memory() -> None:
    """Refuse this process more than MEMORY_BYTES where the system can do that."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit, macOS not always
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
