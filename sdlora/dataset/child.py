"""Work on the bytes of an untrusted file in a process of its own, with a limit of time and memory.

Knows nothing about pictures. A decoder that hangs, crashes or uses up memory costs only the file it was given. A child works on
file after file; it ends when it gets none for IDLE_S, or when its parent has ended.
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
from typing import Any

from sdlora.errors import UserError
from sdlora.processes import child_process

LIMIT_S = 30  # wall clock, for one file; 40 megapixels of the slowest format take 3 s of one core
MEMORY_BYTES = 2 * 2**30  # of address space; 40 megapixels of 16-bit grey, the greediest, take 1.5 GB
IDLE_S = 20  # of waiting for the next file; a start takes 0.4 s
RUNNING = threading.BoundedSemaphore(max(4, os.cpu_count() or 1))  # files worked on at the same time
EXPORT_AGAIN = "Export it again or leave it out."

Result = tuple[dict[str, Any], bytes]  # JSON values, payload
IDLE: dict[subprocess.Popen[bytes], tuple[str, threading.Timer]] = {}  # {child without work: (its module, timer that ends it)}
IDLE_LOCK = threading.Lock()


def call(module: str, data: bytes, name: str, *options: int) -> Result:
    """Call the function that `module` passes to `serve` with (data, name, *options) in a child process; return its result.

    Raises UserError: what that function raised, or that the file took more than LIMIT_S or crashed the child.
    """
    with RUNNING:
        child, began = idle_child(module) or start(module), time.monotonic()
        try:
            values, payload, error = exchange(child, data, name, *options)
        except (EOFError, BrokenPipeError) as ended:
            end(child)
            raise child_error(name, time.monotonic() - began) from ended
        except BaseException:  # also Ctrl+C: half of a result may still be in the pipe
            end(child)
            raise
        keep_idle(child, module)
    if error:
        raise UserError(*error)
    return values, payload


def exchange(child: subprocess.Popen[bytes], data: bytes, name: str, *options: int) -> tuple[dict[str, Any], bytes, list[str]]:
    """Send a file, return (values, payload, message and hint of a UserError).

    Raises EOFError or BrokenPipeError when the child ends.
    """
    assert child.stdin and child.stdout
    child.stdin.write(json.dumps([name, len(data), LIMIT_S, *options]).encode() + b"\n")
    child.stdin.write(data)
    child.stdin.flush()
    head = child.stdout.readline()
    if not head.endswith(b"\n"):
        raise EOFError
    length, values, error = json.loads(head)
    payload = child.stdout.read(length)
    if len(payload) < length:
        raise EOFError
    return values, payload, error


def child_error(name: str, seconds: float) -> UserError:
    """Return the error for a file during which the child ended."""
    if seconds >= LIMIT_S:
        return UserError(f"{name} takes too long to read (more than {LIMIT_S} s): it is damaged, or made to do harm.",
                         EXPORT_AGAIN)
    return UserError(f"{name} could not be read: its decoder crashed.", EXPORT_AGAIN)


def start(module: str) -> subprocess.Popen:
    """Start a process that runs `module`."""
    command, options = child_process(["-m", module])
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options)


def idle_child(module: str) -> subprocess.Popen[bytes] | None:
    """Return a living child of this module without work, taken out of IDLE."""
    with IDLE_LOCK:
        children = [child for child, (its_module, _) in IDLE.items() if its_module == module]
        for child in reversed(children):
            IDLE.pop(child)[1].cancel()
            if child.poll() is None:
                return child
            end(child)
    return None


def keep_idle(child: subprocess.Popen[bytes], module: str) -> None:
    """Keep a child for the next file, for IDLE_S."""
    def retire() -> None:
        with IDLE_LOCK:
            was_idle = IDLE.pop(child, None)
        if was_idle:
            end(child)

    timer = threading.Timer(IDLE_S, retire)
    timer.daemon = True
    with IDLE_LOCK:
        IDLE[child] = (module, timer)
    timer.start()


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child and close its pipes."""
    assert child.stdin and child.stdout
    child.kill()
    child.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # it had not read all of its last file
        child.stdin.close()
    child.wait()


def serve(work: Callable[..., Result]) -> None:
    """Run as the child: work on files from stdin until it is closed. Work that takes too long ends this process.

    A request is a JSON line [name, number of bytes, seconds it may take, options...] and the bytes; the reply is a JSON line
    [number of bytes, values of the result, [message, hint] of a UserError or null] and the payload of the result.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the parent: this process ends when the pipe is closed
    limit_memory()
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    while line := source.readline():
        name, length, limit_s, *options = json.loads(line)
        data = source.read(length)
        faulthandler.dump_traceback_later(limit_s, exit=True)  # a thread in C: it acts even while a decoder hangs
        error = None
        try:
            values, payload = work(data, name, *options)
        except UserError as refused:
            values, payload, error = {}, b"", [refused.message, refused.hint]
        faulthandler.cancel_dump_traceback_later()
        sink.write(json.dumps([len(payload), values, error]).encode() + b"\n" + payload)
        sink.flush()


def limit_memory() -> None:
    """Limit this process to MEMORY_BYTES where the system can do that."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit, macOS not always
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
