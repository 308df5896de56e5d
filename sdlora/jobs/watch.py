"""What a run folder tells: its state, its progress, its strip of samples. Reads only.

Knows nothing about torch, the web page or who runs the run. Fast enough to be asked every second: of a growing
events.jsonl only the new lines are read. A half-written last line is left for the next look.
"""

import logging
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from sdlora.config import TrainConfig, make
from sdlora.errors import UserError
from sdlora.jobs.lock import is_held
from sdlora.jobs.table import Job, Table
from sdlora.storage import clean_text, home, read_json
from sdlora.train import events
from sdlora.train.points import point_steps

SPEC, EVENTS, LOCK, PAUSE, STOP, SUSPEND = "spec.json", "events.jsonl", "lock", "pause", "stop", "suspend"
STARTING_SECONDS = 10.0


@dataclass(frozen=True)
class RunView:
    """A run at this moment. `state`: queued, running, stopped, done or failed.

    `wish` is what the artist asked for and the run has not yet obeyed ("pause", "stop" or None); `paused`: stopped
    because the artist paused it. `samples` holds the newest one of each step and prompt, their paths relative to `folder`;
    `losses` are (step, smoothed loss); `checkpoints` the steps of the saved points. `ended`: the last process on it said
    how it ended; False when it runs, or died.
    """
    id: str
    folder: Path
    state: str
    config: TrainConfig
    images: str
    set_id: str | None
    out: str | None
    created: str
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    seconds: float | None = None
    phase: events.Preparing | None = None
    pictures: int | None = None
    held_out: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    samples: tuple[events.Sample, ...] = ()
    losses: tuple[tuple[int, float], ...] = ()
    held_out_losses: tuple[tuple[int, float], ...] = ()
    checkpoints: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    file: str | None = None
    problem: str = ""
    hint: str = ""
    paused: bool = False
    wish: str | None = None
    ended: bool = False

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def resumable(self) -> bool:
        """Whether `resume` has something to do."""
        return self.state in ("stopped", "failed")


@dataclass
class Story:
    """The events of one run, folded as far as they were read. `offset` is in bytes, behind the last whole line."""
    offset: int = 0
    last: events.Event | None = None
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    phase: events.Preparing | None = None
    prepared: events.Prepared | None = None
    samples: dict[tuple[int, int], events.Sample] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    held_out_losses: dict[int, float] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)

    def read_on(self, path: Path) -> None:
        """Fold in what was appended since; a file that shrank is read from its start."""
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
                self.fold(events.from_json(line.decode("utf-8", "replace")))
            except (ValueError, TypeError, KeyError):
                # a line torn by a power cut stays in the file; what follows it is whole
                continue

    def fold(self, event: events.Event) -> None:
        """Take in one event. A run that went back to a saved point tells its later steps once more: the newest counts."""
        if isinstance(event, events.Step) and event.step <= self.step:
            self.forget(event.step)
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
                self.held_out_losses[event.step] = event.loss
            case events.Rewound():
                self.step = event.to_step
                self.forget(event.to_step)
                self.warnings[f"Step {event.step}: {event.reason} Went back to step {event.to_step}."] = None
            case events.Notice():
                self.warnings[event.message] = None

    def forget(self, after: int) -> None:
        """Drop what was told of steps after `after`."""
        self.losses = {step: loss for step, loss in self.losses.items() if step <= after}
        self.held_out_losses = {step: loss for step, loss in self.held_out_losses.items() if step <= after}
        self.samples = {key: sample for key, sample in self.samples.items() if key[0] <= after}


RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,120}")
stories: dict[Path, Story] = {}
reading = threading.Lock()


def story_of(folder: Path) -> Story:
    """The folded events of a run folder, brought up to date. To be called, and its result read, under `reading`."""
    story = stories.setdefault(folder, Story())
    try:
        story.read_on(folder / EVENTS)
    except FileNotFoundError:
        story = stories[folder] = Story()
    return story


def run_folder(run: str | Path) -> Path:
    """The folder of a run given by id or as its folder; raises UserError when there is none."""
    if isinstance(run, str) and not RUN_ID.fullmatch(run):
        raise UserError(f"There is no run {clean_text(run, 80)!r}.", "See the runs there are with: sdlora runs")
    folder = Path(run) if isinstance(run, Path) else home() / "runs" / run
    if not (folder / SPEC).is_file():
        raise UserError(f"There is no run {folder.name}.", "See the runs there are with: sdlora runs")
    return folder


def view(run: str | Path) -> RunView:
    """The run as it is now. Raises UserError when there is no such run or its spec.json is damaged."""
    folder = run_folder(run)
    return look(folder, Table().jobs("train", "queued", "running"))


def list_runs() -> list[RunView]:
    """Every readable run, newest first. A damaged one is logged and left out: it cannot be shown or resumed."""
    folder = home() / "runs"
    jobs = Table().jobs("train", "queued", "running")
    found = []
    for spec in sorted(folder.glob(f"*/{SPEC}"), reverse=True):
        try:
            found.append(look(spec.parent, jobs))
        except UserError as error:
            logging.getLogger("sdlora").warning("%s", error)
    return sorted(found, key=lambda run: run.created, reverse=True)


def look(folder: Path, jobs: list[Job]) -> RunView:
    """The view of one folder, given the waiting and running jobs of the table."""
    spec = read_json(folder / SPEC)
    try:
        config = make(TrainConfig, {**spec["config"], "sample_prompts": tuple(spec["config"].get("sample_prompts", ()))})
        facts = {"id": spec["id"], "config": config, "images": spec["images"], "set_id": spec.get("set"),
                 "out": spec.get("out"), "created": spec["created"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / SPEC} is not the plan of a run.", "Remove the folder.") from error
    # the lock is looked at before the events: a run that ends in between is "running" for one more look, never "stopped"
    running = is_held(folder / LOCK)
    job = next((job for job in jobs if job.target == facts["id"]), None)
    pausing, stopping = (folder / PAUSE).exists(), (folder / STOP).exists()
    with reading:
        story = story_of(folder)
        told_at = (folder / EVENTS).stat().st_mtime if story.offset else 0.0
        state = state_of(running, story.last, job, told_at)
        facts |= told(story, running)
    facts["steps"] = facts["steps"] or config.steps
    wish = ("stop" if stopping else "pause" if pausing else None) if state in ("running", "queued") else None
    return RunView(**facts, folder=folder, state=state, checkpoints=tuple(point_steps(folder)),
                   paused=state == "stopped" and pausing, wish=wish)


def told(story: Story, running: bool) -> dict[str, object]:
    """The fields of a RunView that follow from its events."""
    facts = {"step": story.step, "steps": story.steps, "warnings": tuple(story.warnings),
             "samples": tuple(story.samples[key] for key in sorted(story.samples)),
             "ended": isinstance(story.last, events.Done | events.Failed | events.Stopped),
             "losses": tuple(story.losses.items()), "held_out_losses": tuple(story.held_out_losses.items())}
    if running:
        facts |= {"phase": story.phase, "seconds_left": story.seconds_left}
    if story.prepared:
        facts |= {name: getattr(story.prepared, name) for name in ("pictures", "held_out", "skipped")}
    if isinstance(story.last, events.Done):
        facts |= {"file": story.last.file, "seconds": story.last.seconds}
    if isinstance(story.last, events.Failed):
        facts |= {"problem": story.last.message, "hint": story.last.hint}
    return facts


def state_of(running: bool, last: events.Event | None, job: Job | None, told_at: float) -> str:
    """The state of a run: held lock, else how it ended, else whether it waits in the table, else it rests.

    told_at: when its last event was written (Unix seconds). A claimed job that has told nothing yet is on its way.
    """
    if running:
        return "running"
    starting = job and job.state == "running" and told_at < job.claimed and abs(time.time() - job.claimed) < STARTING_SECONDS
    if job and (job.state == "queued" or starting) and not isinstance(last, events.Done):
        return "queued"
    return "done" if isinstance(last, events.Done) else "failed" if isinstance(last, events.Failed) else "stopped"
