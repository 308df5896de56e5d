"""Programs measured in turn, each in a process of its own, with its own defaults.

A side connects to a loopback socket, sends "ready", and answers every "go" with one line of JSON. All but one wait at any
moment, so a busy machine slows them alike, and no setting of ours reaches another program.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

import sdlora
from sdlora.bench.timed import PORT
from sdlora.errors import UserError
from sdlora.processes import with_source

START_SECONDS = 600.0
LIMIT_SECONDS = 150.0  # a busy machine gets fewer rounds instead of a longer wait
# Set to its default, this variable keeps sdlora from changing how OpenMP threads wait (sdlora.limit_spinning).
OWN_WAITING = {"KMP_BLOCKTIME": "200"}


def foreign_environment() -> dict[str, str]:
    """Return this process's environment without what sdlora set in it."""
    return {name: value for name, value in os.environ.items() if sdlora.THREAD_WAITING.get(name) != value}


def own_python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of ours as a side."""
    return [sys.executable, "-m", module, *arguments]


class Side:
    """One running program."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name, self.log = name, tempfile.TemporaryFile()
        self.lines: TextIO | None = None
        self.server = socket.create_server(("127.0.0.1", 0))
        own = command[:2] == [sys.executable, "-m"]
        variables = (with_source(environment) if own else dict(environment)) | {PORT: str(self.server.getsockname()[1])}
        self.process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def wait_until_ready(self) -> None:
        """Wait until the program can be measured. Raises UserError when it ends before that."""
        self.server.settimeout(0.5)
        until = time.monotonic() + START_SECONDS
        while self.lines is None:
            if self.process.poll() is not None or time.monotonic() > until:
                raise self._ended()
            with suppress(TimeoutError):
                connection, _ = self.server.accept()
                connection.settimeout(None)
                self.lines = connection.makefile("rw", encoding="utf-8", newline="\n")
        self._read()

    def _read(self) -> Any:
        line = self.lines.readline() if self.lines else ""
        if not line:
            self.process.wait(10)
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> UserError:
        self.close()
        self.log.seek(0)
        printed = [line for line in self.log.read().decode("utf-8", "replace").split("\n") if line.strip()]
        return UserError(f"{self.name} ended before it was measured.", f"Its last line: {printed[-1] if printed else 'none'}")

    def turn(self) -> Any:
        """Let it go once and return its answer. Raises UserError when it ends before that."""
        assert self.lines, "wait_until_ready() comes first"
        try:
            self.lines.write("go\n")
            self.lines.flush()
        except OSError as error:
            raise self._ended() from error
        return self._read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.server.close()


@contextmanager
def running(commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]]) -> Iterator[dict[str, Side]]:
    """Yield {name: Side} of {name: (command, environment)}, all of them ready; they are ended afterwards."""
    with ExitStack() as stack:
        sides = {}
        for name, (command, environment) in commands.items():
            sides[name] = Side(name, command, environment)
            stack.callback(sides[name].close)
        for side in sides.values():
            side.wait_until_ready()
        yield sides


def in_turn(sides: Mapping[str, Side], rounds: int, warm_up: int = 1) -> dict[str, list]:
    """Return {name: answers of each round}. Every round lets all of them go once, beginning with another one."""
    names, answers = list(sides), {name: [] for name in sides}
    started = time.perf_counter()
    for number in range(-warm_up, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            value = sides[name].turn()
            if number >= 0:
                answers[name].append(value)
        if number >= 0 and time.perf_counter() - started > LIMIT_SECONDS:
            break
    return answers


def spread(values: Sequence[float]) -> float:
    """Return the time of the slow rounds over that of the fast ones: the 9th decile over the 1st, 1.0 for a single round."""
    if len(values) < 2:
        return 1.0
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return tenths[-1] / tenths[0]
