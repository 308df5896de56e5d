"""The other end of sides.py: a measured process. Run as a file it times any external training script.

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
from collections.abc import Callable
from pathlib import Path

PORT = "SDLORA_BENCH_PORT"


class Asked:
    """The connection to the process that measures. wait() blocks until it says go; False: it wants nothing more."""

    def __init__(self) -> None:
        self.lines = socket.create_connection(("127.0.0.1", int(os.environ[PORT]))).makefile("rw", encoding="utf-8", newline="\n")
        self.say("ready")

    def say(self, value: object) -> None:
        self.lines.write(json.dumps(value) + "\n")
        self.lines.flush()

    def wait(self) -> bool:
        return self.lines.readline().strip() == "go"


def answer(turn: Callable[[], object]) -> None:
    """Answer every go with what `turn` returns, until no more is wanted."""
    asked = Asked()
    while asked.wait():
        asked.say(turn())


def settle() -> None:
    """Wait for what was left to a GPU."""
    torch = sys.modules["torch"]
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Steps:
    """Counts the steps of the first optimizer that makes one, and reports the seconds of every `window` of them."""

    def __init__(self, window: int) -> None:
        self.window, self.made, self.first, self.asked, self.began = window, 0, None, None, 0.0

    def made_one(self, optimizer: object, *_: object) -> None:
        """torch's hook after each optimizer step. A window runs from the end of one step to the end of another."""
        self.first = self.first or optimizer
        if optimizer is not self.first:
            return
        if self.asked is None:  # the first step, with everything it sets up, is nobody's measure
            self.asked = Asked()
        else:
            self.made += 1
            if self.made % self.window:
                return
            settle()
            self.asked.say(time.perf_counter() - self.began)
        if not self.asked.wait():
            os._exit(0)
        settle()
        self.began = time.perf_counter()


class AfterImport(importlib.abc.MetaPathFinder):
    """Registers a step hook at the moment the script imports torch, so that nothing of torch is loaded before."""

    def __init__(self, hook: Callable[..., None]) -> None:
        self.hook = hook

    def find_spec(self, name: str, path: object, target: object = None) -> object:
        if name != "torch.optim.optimizer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module: object) -> None:
            load(module)
            module.register_optimizer_step_post_hook(self.hook)
        spec.loader.exec_module = exec_module
        return spec


def main() -> None:
    """Run the script as `python SCRIPT ARGUMENTS...` would."""
    window, script = int(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(script).resolve().parent)
    sys.meta_path.insert(0, AfterImport(Steps(window).made_one))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
