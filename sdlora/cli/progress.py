"""The display of a run: JSON lines for programs, a bar with the time left for people."""

import contextlib
import json
import os
import sys
from typing import TextIO

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from sdlora.cli.common import bars
from sdlora.jobs.run import RunView
from sdlora.train import events

STAGES = {"base": "Opening the base model", "pictures": "Reading the pictures", "latents": "Preparing the pictures",
          "captions": "Preparing the captions"}


class JsonLines:
    """One JSON object a line on stdout, flushed at once; what libraries print meanwhile goes to stderr."""

    def __init__(self, run: RunView) -> None:
        self.out: TextIO = sys.stdout
        started = {"event": "started", "step": run.step, "steps": run.steps, "run": run.id, "folder": str(run.folder)}
        self.write(json.dumps(started, ensure_ascii=False))

    def __enter__(self) -> "JsonLines":
        self.away = contextlib.redirect_stdout(sys.stderr)
        self.away.__enter__()
        return self

    def __exit__(self, *why: object) -> None:
        self.away.__exit__(None, None, None)

    def __call__(self, event: events.Event) -> None:
        self.write(events.to_json(event))

    def write(self, line: str) -> None:
        """Write a line; a reader that has gone away does not end the run."""
        try:
            self.out.write(line + "\n")
            self.out.flush()
        except BrokenPipeError:
            self.out = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


class RunProgress:
    """A bar with step, loss and time left; samples, warnings and the file are printed above it."""

    def __init__(self, run: RunView) -> None:
        self.run = run
        self.bar = bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        self.task = self.bar.add_task("Starting", total=run.steps, completed=run.step, note="")

    def __enter__(self) -> "RunProgress":
        self.bar.console.print(f"Run {self.run.id}")
        self.bar.start()
        return self

    def __exit__(self, *why: object) -> None:
        self.bar.stop()

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Preparing():
                stage = STAGES.get(event.stage, event.stage)
                self.bar.update(self.task, description=stage, total=event.total, completed=event.done)
            case events.Prepared():
                self.bar.update(self.task, description="Training", total=event.steps, completed=event.step)
                held = f", {event.held_out} is held out to measure" if event.held_out else ""
                self.print(f"{event.pictures} pictures{held}")
                for name, reason in event.skipped:
                    self.print(f"Skipped {name}: {reason}")
            case events.Step():
                note = f"loss {event.loss_average:.4f}, {clock(event.seconds_left)} left"
                self.bar.update(self.task, description="Training", total=event.steps, completed=event.step, note=note)
            case events.Sample() if event.prompt_index == 0:
                self.print(f"Sample pictures of step {event.step}: {(self.run.folder / event.path).parent}")
            case events.Rewound():
                self.print(f"Step {event.step}: {event.reason} Back to step {event.to_step}.")
            case events.Notice():
                self.print(event.message)
            case events.Validated() if event.style is not None:
                self.print(f"Step {event.step}: style {event.style:.0f} of 100{share('prompts kept', event.content)}")
            case events.Verdict():
                self.print("\n".join(event.sentences))
            case events.Done():
                self.bar.update(self.task, description="Done", note="")
                self.print(f"{event.file}\nwritten, read back and tried after {clock(event.seconds)}")

    def print(self, text: str) -> None:
        self.bar.console.print(text, soft_wrap=True)


def share(what: str, value: float | None) -> str:
    """Format a share, with a comma in front; nothing where it was not measured."""
    return "" if value is None else f", {what} {value:.0%}"


def clock(seconds: float) -> str:
    """Format seconds: 3725 -> "1:02:05"."""
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}" if minutes >= 60 else f"{minutes}:{left:02}"
