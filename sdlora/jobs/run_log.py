"""The events of a run, read from its events.jsonl as the file grows.

Only the new lines are read, so that a run can be asked every second. An incomplete last line is left for the next read.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from sdlora.train import events

EVENTS = "events.jsonl"


@dataclass
class RunLog:
    """What the events of one run add up to, as far as they were read. `offset`: bytes, behind the last whole line."""
    offset: int = 0
    last: events.Event | None = None
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    phase: events.Preparing | None = None
    prepared: events.Prepared | None = None
    samples: dict[tuple[int, int], events.Sample] = field(default_factory=dict)  # by step and prompt
    losses: dict[int, float] = field(default_factory=dict)                       # by step, smoothed
    validations: dict[int, events.Validated] = field(default_factory=dict)
    verdict: events.Verdict | None = None
    warnings: dict[str, None] = field(default_factory=dict)                      # each once, in order

    @property
    def ended(self) -> bool:
        """Whether the last process on the run wrote down how it ended; False when it runs, or died."""
        return isinstance(self.last, events.Done | events.Failed | events.Stopped)

    def read_new_lines(self, path: Path) -> None:
        """Add the events that were appended since the last call; a file that shrank is read from its start."""
        size = path.stat().st_size
        if size < self.offset:
            self.__init__()
        if size == self.offset:
            return
        with path.open("rb") as handle:
            handle.seek(self.offset)
            new = handle.read()
        whole = new[:new.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.split(b"\n")[:-1]:
            try:
                self.add(events.from_json(line.decode("utf-8", "replace")))
            except (ValueError, TypeError, KeyError):
                # a line torn by a power cut stays in the file; what follows it is whole
                continue

    def add(self, event: events.Event) -> None:
        """Add one event. A run that resumed from a checkpoint writes its later steps again: the newest count."""
        if isinstance(event, events.Step) and event.step <= self.step:
            self.forget_after(event.step)
        self.last = event
        self.step = self.step if isinstance(event, events.Preparing) else event.step
        self.steps = getattr(event, "steps", self.steps)
        self.phase = event if isinstance(event, events.Preparing) else None
        match event:
            case events.Step():
                self.seconds_left = event.seconds_left
                self.losses[event.step] = event.loss_average
            case events.Prepared():
                self.prepared = event
            case events.Sample():
                self.samples[event.step, event.prompt_index] = event
            case events.Validated():
                self.validations[event.step] = event
            case events.Verdict():
                self.verdict = event
            case events.Rewound():
                self.step = event.to_step
                self.forget_after(event.to_step)
                self.warnings[f"Step {event.step}: {event.reason} Went back to step {event.to_step}."] = None
            case events.Notice():
                self.warnings[event.message] = None

    def forget_after(self, step: int) -> None:
        """Drop losses and samples of later steps."""
        self.losses = {at: loss for at, loss in self.losses.items() if at <= step}
        self.validations = {at: found for at, found in self.validations.items() if at <= step}
        self.verdict = None
        self.samples = {key: sample for key, sample in self.samples.items() if key[0] <= step}


logs: dict[Path, RunLog] = {}
reading = threading.Lock()  # hold it while calling read_log and while using what it returned


def read_log(folder: Path) -> RunLog:
    """Return the log of a run folder, up to date; the same object each time."""
    log = logs.setdefault(folder, RunLog())
    try:
        log.read_new_lines(folder / EVENTS)
    except FileNotFoundError:
        log = logs[folder] = RunLog()
    return log
