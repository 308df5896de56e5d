"""How long a training step takes: ours, the same step with PEFT's layers, and two forwards (the floor), in one run.

Or ours beside any external training script on the same base and pictures. Each is a process of its own (sides.py) with its own
defaults, measured in turn; the result is the median of the rounds. Ours is the loss, optimizer and loop of `sdlora train`.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch

from sdlora.base.catalog import resolve
from sdlora.base.load import Base, load_base, pick_device, training_dtype
from sdlora.bench import sides, timed
from sdlora.bench.switch import MODELS, TARGETS, Step, random_base
from sdlora.config import TrainConfig, make
from sdlora.dataset.folder import read_dataset
from sdlora.errors import UserError
from sdlora.storage import shipped
from sdlora.train import loop, samples, session
from sdlora.train.checkpoint import TrainState
from sdlora.train.layers import attach
from sdlora.train.loss import denoising_loss, make_denoiser
from sdlora.train.optimizer import AdamW

RATE = 1e-4
TRIGGER = "benchstyle"
TRAINED_PX = {"sd15": 512, "sdxl": 1024}  # a side of the pictures that artists train the large models on
Value = TypeVar("Value")


@dataclass(frozen=True)
class Case:
    """What is measured. model: "sd15" and "sdxl" have random weights of true shape; anything else is a base as usual."""
    model: str = "mini"
    device: str = "cpu"
    batch: int = 4
    rank: int = 16
    threads: int = 2
    pictures: str = ""

    @property
    def window(self) -> int:
        """Steps in a turn: as many as a second or two hold."""
        if self.device != "cpu":
            return 8
        return 1 if self.model in TRAINED_PX else 4


@dataclass(frozen=True)
class Result:
    """Seconds per step; floor_s is two forwards. The PEFT figures are None where PEFT is not installed.

    spread: how many times as long slow rounds took as fast ones, for the side where that is worst (sides.spread).
    """
    model: str
    batch: int
    ours_s: float
    peft_s: float | None
    floor_s: float
    ratio_floor: float
    ratio_peft: float | None
    rounds: int
    threads: int
    device: str
    spread: float


@dataclass(frozen=True)
class ScriptResult:
    """Seconds per optimizer step of ours and of an external script; ratio is theirs / ours. spread as in Result."""
    model: str
    batch: int
    script: str
    ours_s: float
    theirs_s: float
    ratio: float
    rounds: int
    steps_per_round: int
    device: str
    spread: float


def measure(case: Case, rounds: int = 20) -> Result:
    """Time `rounds` windows of each kind. Raises UserError: no such base or device, or a side that fails."""
    case = resolved(case)
    options = json.dumps(asdict(case))
    environments = {"ours": dict(os.environ), "forward": dict(os.environ)}
    if find_spec("peft"):
        environments["peft"] = sides.foreign_environment() | sides.OWN_WAITING
    commands = {name: (sides.own_python("sdlora.bench.train", name, options), environment)
                for name, environment in environments.items()}
    with sides.running(commands) as running:
        seconds = sides.in_turn(running, rounds)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    floor, peft_s = 2 * middle["forward"], middle.get("peft")
    return Result(case.model, case.batch, middle["ours"], peft_s, floor, middle["ours"] / floor,
                  peft_s / middle["ours"] if peft_s else None, len(seconds["ours"]), case.threads, case.device,
                  max(map(sides.spread, seconds.values())))


def measure_script(case: Case, script: Path, arguments: Sequence[str], *, rounds: int = 10, python: str = sys.executable,
                   steps: int = 10) -> ScriptResult:
    """Time ours beside `python script arguments`, `steps` optimizer steps a round.

    {base} {pictures} {out} {batch} {rank} in the arguments are replaced. Raises UserError as measure() does, or when the
    script ends too early.
    """
    case = resolved(case)
    if not script.is_file():
        raise UserError(f"There is no script {script}.", "Give the path of a training script after --script.")
    with tempfile.TemporaryDirectory() as out:
        placeholders = {"base": str(resolve(case.model)), "pictures": case.pictures, "out": out, "batch": str(case.batch),
                        "rank": str(case.rank)}
        filled = [fill(argument, placeholders) for argument in arguments]
        theirs = [python, str(Path(timed.__file__)), str(steps), str(script.resolve()), *filled]
        ours = sides.own_python("sdlora.bench.train", "loop", json.dumps(asdict(case)), str(steps))
        with sides.running({"sdlora": (ours, dict(os.environ)), script.name: (theirs, sides.foreign_environment())}) as running:
            seconds = sides.in_turn(running, rounds)
    ours_s, theirs_s = ([value / steps for value in seconds[name]] for name in ("sdlora", script.name))
    middle = statistics.median(ours_s), statistics.median(theirs_s)
    return ScriptResult(case.model, case.batch, script.name, *middle, middle[1] / middle[0], len(ours_s), steps, case.device,
                        max(sides.spread(ours_s), sides.spread(theirs_s)))


def shipped_pictures() -> Path:
    """Return the pictures that a script is measured on when no others are named."""
    return shipped("assets", "examples", "stained-glass")


def resolved(case: Case) -> Case:
    """Return the case with its device named. Raises UserError for one that is not there."""
    return replace(case, device=pick_device(case.device).type)


def fill(argument: str, placeholders: dict[str, str]) -> str:
    for name, value in placeholders.items():
        argument = argument.replace(f"{{{name}}}", value)
    return argument


def open_base(case: Case, parts: Sequence[str] = ("text", "unet")) -> Base:
    """Return the base of a case, as a training run opens it."""
    torch.set_num_threads(case.threads)
    dtype = training_dtype(torch.device(case.device))
    if case.model in TRAINED_PX:
        return random_base(MODELS[case.model], case.device, dtype)
    base = load_base(case.model, case.device, parts=parts, dtype=dtype)
    base.unet.requires_grad_(False)
    return base


def inputs(base: Base, case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor], int]:
    """Return latents and noise (b, c, h, w), timesteps (b,), features of a caption, size in px: the same for all three."""
    generator = torch.Generator().manual_seed(1)
    size_px = TRAINED_PX.get(case.model, base.resolution)
    latents, noise = torch.randn((2, case.batch, base.channels, *[size_px // base.factor] * 2), generator=generator)
    timesteps = torch.linspace(1, 999, case.batch).long()
    if base.text_encoders:
        features = base.encode_text(["a red house, meadow, in daylight"] * case.batch)
    else:
        features = {"states": torch.randn(case.batch, 77, base.unet.config["cross_attention_dim"], generator=generator)}
        if base.family == "sdxl":
            features["pooled"] = torch.randn(case.batch, 1280, generator=generator)
    features = {part: values.to(base.device) for part, values in features.items()}
    return latents.to(base.device), noise.to(base.device), timesteps.to(base.device), features, size_px


def ours(base: Base, case: Case) -> Step:
    """Make a step as train.loop does: loss, backward, clipping and AdamW on the one flat parameter."""
    attached = attach(base.unet, case.rank, case.rank, seed=1)
    model, batch = make_denoiser(base), inputs(base, case)
    optimizer = AdamW(attached.parameters, weight_decay=0.01, clip_norm=1.0)

    def step() -> torch.Tensor:
        loss = denoising_loss(model, *batch)
        optimizer.step(loss, RATE)
        return loss
    return step


def peft(base: Base, case: Case) -> Step:
    """Make a step on the same loss through PEFT's layers, with PyTorch's fused AdamW and clipping: what its users run at best."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=case.rank, lora_alpha=case.rank, target_modules=list(TARGETS)), base.unet)
    model, batch = make_denoiser(base), inputs(base, case)
    parameters = [parameter for parameter in base.unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=True)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = denoising_loss(model, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss
    return step


def forward(base: Base, case: Case) -> Step:
    """Run one forward of the bare UNet without gradients; the floor of a frozen-base step is two of them."""
    latents, _, timesteps, features, size_px = inputs(base, case)

    def step() -> torch.Tensor:
        with torch.no_grad():
            return base.predict(latents, timesteps, features, size_px)
    return step


STEPS: dict[str, Callable[[Base, Case], Step]] = {"ours": ours, "peft": peft, "forward": forward}


def loop_step(case: Case) -> Step:
    """Make the next step of a real run's loop, on the pictures of the case with their captions."""
    base = open_base(case, ("text", "vae", "unet"))
    dataset = read_dataset(Path(case.pictures), trigger=TRIGGER)
    examples, latents, _ = returned(session.encode_pictures(base, dataset, base.resolution))
    items, _ = returned(session.encode_captions(base, examples, latents, base.resolution, None))
    samples.unload_encoders(base)
    attached = attach(base.unet, case.rank, case.rank, seed=1)
    config = make(TrainConfig, {"base": case.model, "trigger": TRIGGER, "rank": case.rank, "batch_size": case.batch,
                                "steps": 20_000, "learning_rate": RATE})
    optimizer = AdamW(attached.parameters, weight_decay=config.weight_decay, clip_norm=config.clip_norm,
                      scaled=base.dtype == torch.float16)
    state = TrainState.fresh(attached.parameters, optimizer, config.seed)
    steps = loop.train(make_denoiser(base), items, config, state, stop=lambda: False, checkpoint_due=lambda step: False)
    return lambda: next(steps)


def returned(generator: Generator[object, None, Value]) -> Value:
    """Run a generator and return its result; its events are skipped."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def serve(side: str, case: Case, window: int) -> None:
    """Answer with the seconds per step of `window` steps (for "loop", of all of them) until no more is wanted."""
    step = loop_step(case) if side == "loop" else STEPS[side](open_base(case), case)

    def turn() -> float:
        timed.synchronize()
        began = time.perf_counter()
        for _ in range(window):
            step()
        timed.synchronize()
        return (time.perf_counter() - began) / (1 if side == "loop" else window)
    timed.answer(turn)


if __name__ == "__main__":
    options = Case(**json.loads(sys.argv[2]))
    serve(sys.argv[1], options, int(sys.argv[3]) if len(sys.argv) > 3 else options.window)
