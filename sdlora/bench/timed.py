"""The measured process of sides.py. Run as a file it times any external training script.

    python timed.py STEPS SCRIPT ARGUMENTS...

Imports nothing of sdlora: the script keeps its own interpreter, environment and defaults, and imports torch itself.
"""

import importlib.abc
import importlib.util
import json
import os
import runpy
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PORT = "SDLORA_BENCH_PORT"


class Measurer:
    """The connection to the process that measures. wait() blocks until it sends "go"; False: it wants nothing more."""

    def __init__(self) -> None:
        self.lines = socket.create_connection(("127.0.0.1", int(os.environ[PORT]))).makefile("rw", encoding="utf-8", newline="\n")
        self.send("ready")

    def send(self, value: object) -> None:
        self.lines.write(json.dumps(value) + "\n")
        self.lines.flush()

    def wait(self) -> bool:
        return self.lines.readline().strip() == "go"


def answer(turn: Callable[[], object]) -> None:
    """Answer every "go" with what `turn` returns, until no more is wanted."""
    measurer = Measurer()
    while measurer.wait():
        measurer.send(turn())


def synchronize() -> None:
    """Wait until the GPU has finished."""
    torch = sys.modules["torch"]
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class StepTimer:
    """Counts the steps of the first optimizer that steps, and sends the seconds of every `window` of them."""

    def __init__(self, window: int) -> None:
        self.window, self.steps, self.began = window, 0, 0.0
        self.optimizer: object = None
        self.measurer: Measurer | None = None

    def on_step(self, optimizer: object, *_: object) -> None:
        """torch's hook after each optimizer step. A window begins and ends at the end of a step."""
        self.optimizer = self.optimizer or optimizer
        if optimizer is not self.optimizer:
            return
        if self.measurer is None:  # the first step, which sets everything up, is not measured
            self.measurer = Measurer()
        else:
            self.steps += 1
            if self.steps % self.window:
                return
            synchronize()
            self.measurer.send(time.perf_counter() - self.began)
        if not self.measurer.wait():
            os._exit(0)
        synchronize()
        self.began = time.perf_counter()


class AfterImport(importlib.abc.MetaPathFinder):
    """Registers a step hook when the script imports torch, so that nothing of torch is loaded before."""

    def __init__(self, hook: Callable[..., None]) -> None:
        self.hook = hook

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "torch.optim.optimizer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        assert spec and spec.loader, "torch has no optimizers"
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            module.register_optimizer_step_post_hook(self.hook)
        spec.loader.exec_module = exec_module
        return spec


def main() -> None:
    """Run the script as `python SCRIPT ARGUMENTS...` would."""
    window, script = int(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(script).resolve().parent)
    sys.meta_path.insert(0, AfterImport(StepTimer(window).on_step))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
