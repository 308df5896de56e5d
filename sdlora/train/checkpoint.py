"""All that the loop remembers, as one object, and its checkpoints on disk. What is not in TrainState is lost by a stop.

Knows nothing about how a step is made. A checkpoint is safetensors and JSON, read back and hashed.
"""

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sdlora.base.load import Base
from sdlora.config import MAX_STEPS, TrainConfig
from sdlora.dataset.folder import Example
from sdlora.errors import UserError
from sdlora.storage import clean_text, crash_point, write_atomic
from sdlora.train.checkpoint_files import LORA, NUMBERS, OK, STATE, STATES_KEPT, checkpoint_folder, checkpoint_steps, file_hash
from sdlora.train.optimizer import AdamW

VERSION = 1
GENERATORS = ("noise", "dropout", "shuffle")
MAY_CHANGE = {"name", "steps", "save_every", "sample_every", "sample_prompts", "sample_steps", "sample_guidance", "file_dtype"}


@dataclass(frozen=True)
class Snapshot:
    """A copy of a TrainState: CPU tensors and JSON numbers."""
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


ResumeCheck = Callable[[Snapshot, dict[str, Any]], str | None]


@dataclass
class TrainState:
    """Adapters, Adam, random generators, data order and counters of a run.

    The learning rate is a function of `step`, times `rate_factor`, which a rewind halves. `queue` holds the indices of the
    pictures that are left of this epoch.
    """
    parameters: Sequence[Tensor]
    optimizer: AdamW
    noise: torch.Generator
    dropout: torch.Generator
    shuffle: torch.Generator
    step: int = 0
    queue: list[int] = field(default_factory=list)
    loss_average: float | None = None
    rate_factor: float = 1.0
    rewinds: int = 0

    @classmethod
    def fresh(cls, parameters: Sequence[Tensor], optimizer: AdamW, seed: int) -> "TrainState":
        """Return the state before the first step; every random number of the run follows from `seed`."""
        seeds = random.Random(seed)
        device = parameters[0].device
        noise, dropout, shuffle = (torch.Generator(where).manual_seed(seeds.getrandbits(48)) for where in (device, "cpu", "cpu"))
        return cls(list(parameters), optimizer, noise, dropout, shuffle)

    def next_pictures(self, count: int, repeats: list[int]) -> list[int]:
        """Return the indices of the next `count` pictures: shuffled epochs in which picture i comes repeats[i] times."""
        while len(self.queue) < count:
            epoch = [index for index, times in enumerate(repeats) for _ in range(times)]
            order = torch.randperm(len(epoch), generator=self.shuffle).tolist()
            self.queue += [epoch[place] for place in order]
        taken, self.queue = self.queue[:count], self.queue[count:]
        return taken

    def average(self, loss: float, step: int) -> float:
        """Add the `loss` of `step` and return the smoothed loss: the mean at first, then a moving one over about 50 steps."""
        weight = max(0.02, 1 / step)
        self.loss_average = loss if self.loss_average is None else self.loss_average + weight * (loss - self.loss_average)
        return self.loss_average

    def tensors(self) -> dict[str, Tensor]:
        """Return the adapters and the moments of Adam by their names in a checkpoint."""
        held = {f"lora.{index}": parameter.detach() for index, parameter in enumerate(self.parameters)}
        return held | {f"adam.{name}": tensor for name, tensor in self.optimizer.tensors.items()}

    def mismatch(self, snapshot: Snapshot) -> str | None:
        """Say why this state cannot be restored from a snapshot, as "holds adapters of another shape"; None when it can."""
        for name, tensor in self.tensors().items():
            saved = snapshot.tensors.get(name)
            if saved is None or saved.shape != tensor.shape:
                return "holds adapters of another shape"
            if saved.dtype != tensor.dtype:
                return "holds adapters of another type of number"
            if not bool(torch.isfinite(saved).all()):
                return "holds values that are no numbers"
            below = (saved <= 0) if name == "adam.scale" else (saved < 0)
            if name.startswith(("adam.s", "adam.updates")) and bool(below.any()):
                return "holds impossible values of Adam"
        fits = all(can_restore(getattr(self, name), snapshot.tensors.get(f"rng.{name}")) for name in GENERATORS)
        return None if fits else "holds random generators of another kind"

    def snapshot(self) -> Snapshot:
        """Return a copy of everything, on the CPU."""
        tensors = {name: tensor.to("cpu", copy=True) for name, tensor in self.tensors().items()}
        tensors |= {f"rng.{name}": getattr(self, name).get_state().clone() for name in GENERATORS}
        numbers = {name: getattr(self, name) for name in ("step", "loss_average", "rate_factor", "rewinds")}
        return Snapshot(tensors, {**numbers, "queue": list(self.queue)})

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Take over what `snapshot` holds. Raises UserError when it was taken of adapters of another shape."""
        tensors, numbers = snapshot.tensors, snapshot.numbers
        if self.mismatch(snapshot):
            raise UserError("The checkpoint does not fit this run's settings.", "Start a new run with these settings.")
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])
        for name in GENERATORS:
            getattr(self, name).set_state(tensors[f"rng.{name}"])
        for name in ("step", "loss_average", "rate_factor", "rewinds"):
            setattr(self, name, numbers[name])
        self.queue = list(numbers["queue"])


def can_restore(generator: torch.Generator, saved: Tensor | None) -> bool:
    """Return whether a generator of this device takes the state `saved`."""
    if saved is None:
        return False
    try:
        torch.Generator(generator.device).set_state(saved)
        return True
    except (RuntimeError, TypeError):
        return False


def save_checkpoint(run_folder: Path, snapshot: Snapshot, identity: dict[str, Any],
                    write_lora: Callable[[Path], object]) -> Path:
    """Write the checkpoint of `snapshot`, read it back, and only then remove states before the newest STATES_KEPT.

    `identity` is what a resume must find unchanged. `write_lora(path)` writes the checkpoint's LoRA file.
    Returns the checkpoint's folder. Raises UserError when the disk refuses or gives back something else.
    """
    step = snapshot.numbers["step"]
    folder = checkpoint_folder(run_folder, step)
    if (folder / OK).is_file() and damage(folder) is None:
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
    if found := damage(folder):
        raise UserError(f"The checkpoint {folder.name} was read back {found}.", "Check the disk, then resume the run.")
    write_atomic(folder / OK, sha256(written).hexdigest().encode())
    crash_point("ok-written")
    for old in checkpoint_steps(run_folder, OK)[:-STATES_KEPT]:
        # OK goes first: a folder that is only half removed must not look whole
        (checkpoint_folder(run_folder, old) / OK).unlink(missing_ok=True)
        crash_point("old-unmarked")
        (checkpoint_folder(run_folder, old) / STATE).unlink(missing_ok=True)
    return folder


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint's files, as "damaged (state.safetensors)"; None when whole. OK may be missing yet."""
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


def newest_checkpoint(run_folder: Path, check: ResumeCheck = lambda snapshot, identity: None
                      ) -> tuple[Snapshot | None, list[str]]:
    """Return (snapshot, problems) of the newest checkpoint that can be used; `problems` names newer ones that cannot.

    check(snapshot, identity): why the run cannot resume from it, in words that follow its name, or None.
    Returns (None, []) for a run that saved nothing. Raises UserError when there are checkpoints and none can be used.
    """
    problems = []
    for step in reversed(checkpoint_steps(run_folder, OK)):
        folder = checkpoint_folder(run_folder, step)
        try:
            if found := damage(folder):
                problem = f"is {found}"
            else:
                state = json.loads((folder / NUMBERS).read_bytes())
                snapshot = Snapshot(load((folder / STATE).read_bytes()), state["numbers"])
                problem = invalid_number(snapshot.numbers, step) or check(snapshot, state["identity"])
                if problem is None:
                    return snapshot, problems
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"is unreadable ({type(error).__name__})"
        problems.append(f"The checkpoint {folder.name} {problem}; an older one is used.")
    if problems:
        raise UserError(f"This run cannot continue: {problems[0].split(';')[0]}, and no other is whole.",
                        "Start it again from the beginning.")
    return None, problems


def invalid_number(numbers: dict[str, Any], step: int) -> str | None:
    """Say what is wrong with the numbers of the checkpoint of `step`, as "holds an impossible loss"; None when nothing is."""
    def whole(value: Any) -> bool:
        return type(value) is int and 0 <= value <= MAX_STEPS

    def finite(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    queue = numbers["queue"]
    valid = {
        "step": whole(numbers["step"]) and numbers["step"] == step,
        "loss": numbers["loss_average"] is None or finite(numbers["loss_average"]),
        "learning rate": finite(numbers["rate_factor"]) and 0 < numbers["rate_factor"] <= 1,
        "count of rewinds": whole(numbers["rewinds"]),
        "order of pictures": isinstance(queue, list) and all(map(whole, queue))}
    wrong = [name for name, good in valid.items() if not good]
    return f"holds an impossible {wrong[0]}" if wrong else None


def resume_check(state: TrainState, now: dict[str, Any], pictures: int) -> ResumeCheck:
    """Return a check that a checkpoint belongs to this run and that `state` can be restored from it. now: the run's identity.

    The check raises UserError where pictures, base or settings changed (refuse_changes).
    """
    def check(snapshot: Snapshot, identity: dict[str, Any]) -> str | None:
        if identity.get("run") not in (None, now.get("run")):
            return f"belongs to the run {clean_text(str(identity['run']), 80)}"
        refuse_changes(identity, now)
        if any(index >= pictures for index in snapshot.numbers["queue"]):
            return "holds pictures that are not there"
        return state.mismatch(snapshot)
    return check


def run_identity(run: str, config: TrainConfig, base: Base, examples: Sequence[Example]) -> dict[str, Any]:
    """Return what a resume must find unchanged (but for MAY_CHANGE of the settings)."""
    pictures = json.dumps([(example.digest, example.caption, example.repeats) for example in examples])
    return {"pictures": sha256(pictures.encode()).hexdigest(), "base": base.identity, "device": base.device.type,
            "run": run, "config": config.model_dump(mode="json")}


def refuse_changes(saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError when pictures, base or a setting that decides the result changed between stop and resume."""
    for key, what in (("pictures", "The pictures or captions"), ("base", "The base model"), ("device", "The device")):
        if saved.get(key) != now[key]:
            raise UserError(f"{what} of this run changed since it stopped.", "Put everything back as it was, or start a new run.")
    for key, value in now["config"].items():
        if key not in MAY_CHANGE and saved["config"].get(key) != value:
            raise UserError(f"The setting {key} changed from {saved['config'].get(key)} to {value} since the run stopped.",
                            "Set it back, or start a new run.")
