"""All that the loop remembers, as one object: what is not in TrainState is forgotten by a stop or a rewind.

Knows nothing about models, pictures or how a step is made. Safetensors and JSON, `OK` last, read back and hashed.
"""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sdlora.errors import UserError
from sdlora.storage import clean_text, crash_point, write_atomic
from sdlora.train.optimizer import AdamW
from sdlora.train.points import LORA, NUMBERS, OK, STATE, file_hash, point_folder, point_steps

VERSION = 1
MOST_STEPS = 20_000  # TrainConfig.steps takes no more
KEPT = 2
GENERATORS = ("noise", "dropout", "shuffle")
MAY_CHANGE = {"name", "steps", "save_every", "sample_every", "sample_prompts", "sample_steps", "sample_guidance", "file_dtype"}


@dataclass(frozen=True)
class Snapshot:
    """A TrainState at rest: CPU tensors and JSON numbers, both owned by nobody else."""
    tensors: dict[str, Tensor]
    numbers: dict[str, object]


Doubt = Callable[[Snapshot, dict[str, object]], str | None]


@dataclass
class TrainState:
    """Adapters, Adam, random generators, data order and counters of a run.

    The learning rate is a function of `step`; `rate_factor` is what a rewind left of it. `queue` holds the pictures
    of the present round that are still to come, by index. `best` is (step, held-out loss).
    """
    parameters: list[Tensor]
    optimizer: AdamW
    noise: torch.Generator
    dropout: torch.Generator
    shuffle: torch.Generator
    step: int = 0
    queue: list[int] = field(default_factory=list)
    loss_average: float | None = None
    rate_factor: float = 1.0
    rewinds: int = 0
    best: tuple[int, float] | None = None

    @classmethod
    def fresh(cls, parameters: list[Tensor], optimizer: AdamW, seed: int) -> "TrainState":
        """The state before the first step; every random draw of the run follows from `seed`."""
        seeds = random.Random(seed)
        device = parameters[0].device
        generators = [torch.Generator(where).manual_seed(seeds.getrandbits(48)) for where in (device, "cpu", "cpu")]
        return cls(list(parameters), optimizer, *generators)

    def next_pictures(self, count: int, repeats: list[int]) -> list[int]:
        """Indices of the next `count` pictures: shuffled rounds in which picture i comes repeats[i] times."""
        while len(self.queue) < count:
            round_of = [index for index, times in enumerate(repeats) for _ in range(times)]
            order = torch.randperm(len(round_of), generator=self.shuffle).tolist()
            self.queue += [round_of[place] for place in order]
        taken, self.queue = self.queue[:count], self.queue[count:]
        return taken

    def average(self, loss: float, step: int) -> float:
        """The smoothed loss after the `loss` of `step`: a plain mean at first, then a moving one over about 50 steps."""
        weight = max(0.02, 1 / step)
        self.loss_average = loss if self.loss_average is None else self.loss_average + weight * (loss - self.loss_average)
        return self.loss_average

    def tensors(self) -> dict[str, Tensor]:
        """The adapters and what Adam remembers, by the names they have in a saved point."""
        held = {f"lora.{index}": parameter.detach() for index, parameter in enumerate(self.parameters)}
        return held | {f"adam.{name}": tensor for name, tensor in self.optimizer.tensors.items()}

    def misfit(self, snapshot: Snapshot) -> str | None:
        """What of a snapshot this state cannot become, in words that follow its name; None when it fits."""
        for name, tensor in self.tensors().items():
            kept = snapshot.tensors.get(name)
            if kept is None or kept.shape != tensor.shape:
                return "holds adapters of another shape"
            if kept.dtype != tensor.dtype:
                return "holds adapters of another type of number"
            if not bool(torch.isfinite(kept).all()):
                return "holds values that are no numbers"
            below = (kept <= 0) if name == "adam.scale" else (kept < 0)
            if name.startswith(("adam.s", "adam.updates")) and bool(below.any()):
                return "holds impossible values of Adam"
        fits = all(accepts(getattr(self, name), snapshot.tensors.get(f"rng.{name}")) for name in GENERATORS)
        return None if fits else "holds random generators of another kind"

    def snapshot(self) -> Snapshot:
        """A copy of everything, on the CPU."""
        tensors = {name: tensor.to("cpu", copy=True) for name, tensor in self.tensors().items()}
        tensors |= {f"rng.{name}": getattr(self, name).get_state().clone() for name in GENERATORS}
        numbers = {name: getattr(self, name) for name in ("step", "loss_average", "rate_factor", "rewinds")}
        return Snapshot(tensors, {**numbers, "queue": list(self.queue), "best": self.best and list(self.best)})

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Become what `snapshot` holds; raises UserError when it was taken of adapters of another shape."""
        tensors, numbers = snapshot.tensors, snapshot.numbers
        own = self.tensors()
        if self.misfit(snapshot):
            raise UserError("The saved point does not fit this run's settings.", "Start a new run with these settings.")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        for name in GENERATORS:
            getattr(self, name).set_state(tensors[f"rng.{name}"])
        for name in ("step", "loss_average", "rate_factor", "rewinds"):
            setattr(self, name, numbers[name])
        self.queue = list(numbers["queue"])
        self.best = tuple(numbers["best"]) if numbers["best"] else None


def accepts(generator: torch.Generator, kept: Tensor | None) -> bool:
    """Whether a generator of this device can go on from the state `kept`."""
    try:
        torch.Generator(generator.device).set_state(kept)
        return True
    except (RuntimeError, TypeError):
        return False


def save_checkpoint(run_folder: Path, snapshot: Snapshot, identity: dict[str, object],
                    write_lora: Callable[[Path], object]) -> Path:
    """Write the point of `snapshot` and read it back; only then let older states go (two stay, every LoRA stays).

    `identity` is what a resume must find unchanged. `write_lora(path)` writes the point's LoRA file.
    Returns the point's folder; raises UserError when the disk refuses or gives back something else.
    """
    step = snapshot.numbers["step"]
    folder = point_folder(run_folder, step)
    if (folder / OK).is_file() and fault(folder) is None:
        return folder
    (folder / OK).unlink(missing_ok=True)
    content = save(snapshot.tensors)
    write_atomic(folder / STATE, content)
    crash_point("state-written")
    write_lora(folder / LORA)
    crash_point("lora-written")
    hashes = {STATE: sha256(content).hexdigest(), LORA: file_hash(folder / LORA)}
    numbers = {"version": VERSION, "files": hashes, "numbers": snapshot.numbers, "identity": identity}
    written = json.dumps(numbers, indent=1, allow_nan=False).encode()
    write_atomic(folder / NUMBERS, written)
    crash_point("numbers-written")
    if found := fault(folder):
        raise UserError(f"The saved point {folder.name} was read back {found}.", "Check the disk, then continue the run.")
    write_atomic(folder / OK, sha256(written).hexdigest().encode())
    crash_point("ok-written")
    for old in point_steps(run_folder, OK)[:-KEPT]:
        # OK goes first: a folder that is only half removed must not look whole
        (point_folder(run_folder, old) / OK).unlink(missing_ok=True)
        crash_point("old-unmarked")
        (point_folder(run_folder, old) / STATE).unlink(missing_ok=True)
    return folder


def fault(folder: Path) -> str | None:
    """What is wrong with a point's files, in words that follow "it is"; None when whole. OK may not exist yet."""
    try:
        written = (folder / NUMBERS).read_bytes()
        if (folder / OK).is_file() and (folder / OK).read_text() != sha256(written).hexdigest():
            return "changed since it was saved"
        numbers = json.loads(written)
        if numbers["version"] != VERSION:
            return f"of version {numbers['version']}, which this sdlora does not know"
        changed = [name for name, digest in numbers["files"].items() if file_hash(folder / name) != digest]
        return f"damaged ({changed[0]})" if changed else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unreadable ({type(error).__name__})"


def newest_checkpoint(run_folder: Path, doubt: Doubt = lambda snapshot, identity: None
                      ) -> tuple[Snapshot | None, dict[str, object], list[str]]:
    """(snapshot, identity, problems) of the newest point that can be trusted; `problems` says which newer ones were passed over.

    doubt(snapshot, identity): what the run has against a point that is whole, in words that follow its name, or None.
    (None, {}, []) for a run that never finished a save. Raises UserError when there are saved points but none can be trusted.
    """
    problems = []
    for step in reversed(point_steps(run_folder, OK)):
        folder = point_folder(run_folder, step)
        if found := fault(folder):
            problems.append(f"The saved point {folder.name} is {found}; an older one is used.")
            continue
        try:
            numbers = json.loads((folder / NUMBERS).read_bytes())
            snapshot, identity = Snapshot(load((folder / STATE).read_bytes()), numbers["numbers"]), numbers["identity"]
            found = impossible(snapshot.numbers, step) or doubt(snapshot, identity)
            if not found:
                return snapshot, identity, problems
            problems.append(f"The saved point {folder.name} {found}; an older one is used.")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"The saved point {folder.name} is unreadable ({type(error).__name__}); an older one is used.")
    if problems:
        raise UserError(f"This run cannot continue: {problems[0].split(';')[0]}, and no other is whole.",
                        "Start it again from the beginning.")
    return None, {}, problems


def impossible(numbers: dict[str, object], step: int) -> str | None:
    """What is wrong with the numbers of the point of `step`, in words that follow its name; None when nothing is."""
    def whole(value: object, least: int, most: int) -> bool:
        return type(value) is int and least <= value <= most

    def finite(value: object) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    best, queue = numbers["best"], numbers["queue"]
    fine = {
        "step": whole(numbers["step"], 0, MOST_STEPS) and numbers["step"] == step,
        "loss": numbers["loss_average"] is None or finite(numbers["loss_average"]),
        "learning rate": finite(numbers["rate_factor"]) and 0 < numbers["rate_factor"] <= 1,
        "count of rewinds": whole(numbers["rewinds"], 0, MOST_STEPS),
        "order of pictures": isinstance(queue, list) and all(whole(index, 0, MOST_STEPS) for index in queue),
        "best point": best is None or (isinstance(best, list) and len(best) == 2 and whole(best[0], 0, MOST_STEPS)
                                       and finite(best[1]))}
    wrong = [name for name, good in fine.items() if not good]
    return f"holds an impossible {wrong[0]}" if wrong else None


def doubts(state: TrainState, now: dict[str, object], pictures: int) -> Doubt:
    """What a run has against a point: that it is of another run, or that `state` cannot become it. now: the run's identity.

    The result raises UserError where pictures, base or settings changed (refuse_changes).
    """
    def doubt(snapshot: Snapshot, identity: dict[str, object]) -> str | None:
        if identity.get("run") not in (None, now.get("run")):
            return f"belongs to the run {clean_text(str(identity['run']), 80)}"
        refuse_changes(identity, now)
        if any(index >= pictures for index in snapshot.numbers["queue"]):
            return "holds pictures that are not there"
        return state.misfit(snapshot)
    return doubt


def refuse_changes(saved: dict[str, object], now: dict[str, object]) -> None:
    """Raise UserError when pictures, base or a setting that decides the result changed between stop and continue."""
    for key, what in (("pictures", "The pictures or captions"), ("base", "The base model"), ("device", "The device")):
        if saved.get(key) != now[key]:
            raise UserError(f"{what} of this run changed since it stopped.", "Put everything back as it was, or start a new run.")
    for key, value in now["config"].items():
        if key not in MAY_CHANGE and saved["config"].get(key) != value:
            raise UserError(f"The setting {key} changed from {saved['config'].get(key)} to {value} since the run stopped.",
                            "Set it back, or start a new run.")
