"""The events of a run: frozen dataclasses, written as one JSON object a line. Every event has a `step`."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Preparing:
    """Work before the first step: `stage` is "base", "pictures", "latents" or "captions"."""
    step: int
    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Prepared:
    """Ready to train: pictures used, one of them held out or none, those skipped as (name, reason)."""
    step: int
    steps: int
    pictures: int
    held_out: str | None
    skipped: tuple[tuple[str, str], ...]
    seconds: float


@dataclass(frozen=True)
class Step:
    """One optimizer step: its loss, a smoothed loss, the rate it used, the estimated seconds that remain."""
    step: int
    steps: int
    loss: float
    loss_average: float
    learning_rate: float
    seconds_left: float


@dataclass(frozen=True)
class Sample:
    """A sample picture; `path` is relative to the run folder, `prompt_index` its place in the strip's row."""
    step: int
    prompt_index: int
    prompt: str
    seed: int
    path: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was written and read back; `path` is relative to the run folder."""
    step: int
    path: str


@dataclass(frozen=True)
class Validated:
    """What a step has learned, as far as it can be measured. All but `loss` are of its sample pictures.

    loss: of the held-out picture with fixed noise and timesteps.
    style: 0 the base before training, 100 the artist's pictures among themselves; None where those look alike to the base.
    content: share of the prompts that the base recognises in the pictures, of those that it did before training; None where it
    recognised none.
    copying: distance to the nearest picture of the artist / the usual one between the artist's own, at most 1; less is copied;
    None for a single picture.
    prompt_index, picture: the sample that is nearest to a picture of the artist, and the picture's name.
    """
    step: int
    loss: float | None
    style: float | None = None
    content: float | None = None
    copying: float | None = None
    prompt_index: int | None = None
    picture: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the run came to, in sentences, and the step of the checkpoint to take."""
    step: int
    suggested: int
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Rewound:
    """A non-finite loss or gradient: the run went back to `to_step` and continues at `learning_rate`."""
    step: int
    to_step: int
    learning_rate: float
    reason: str


@dataclass(frozen=True)
class Notice:
    """Something the artist should know; the run continues."""
    step: int
    message: str


@dataclass(frozen=True)
class Stopped:
    """Paused or interrupted: saved at `step`, can be resumed."""
    step: int
    steps: int


@dataclass(frozen=True)
class Failed:
    """The run cannot continue; its checkpoints are kept."""
    step: int
    steps: int
    message: str
    hint: str


@dataclass(frozen=True)
class Done:
    """The file was written, read back and shown to change the picture; `file` is its absolute path."""
    step: int
    steps: int
    run: str
    file: str
    seconds: float


EVENTS = {"preparing": Preparing, "prepared": Prepared, "step": Step, "sample": Sample, "saved": Saved, "validated": Validated,
          "verdict": Verdict, "rewound": Rewound, "warning": Notice, "stopped": Stopped, "failed": Failed, "done": Done}
NAMES = {kind: name for name, kind in EVENTS.items()}
Event = Preparing | Prepared | Step | Sample | Saved | Validated | Verdict | Rewound | Notice | Stopped | Failed | Done


def to_json(event: Event) -> str:
    """Return one line of JSON: `{"event": "step", "step": 12, ...}`."""
    return json.dumps({"event": NAMES[type(event)], **asdict(event)}, ensure_ascii=False)


def from_json(line: str) -> Event:
    """Return the event of one line. Raises ValueError for a line that is none, as a half-written last one."""
    fields = json.loads(line)
    if not isinstance(fields, dict) or fields.get("event") not in EVENTS:
        raise ValueError("not an event")
    kind = EVENTS[fields.pop("event")]
    if kind is Prepared:
        fields["skipped"] = tuple(tuple(pair) for pair in fields["skipped"])
    if kind is Verdict:
        fields["sentences"] = tuple(fields["sentences"])
    return kind(**fields)
