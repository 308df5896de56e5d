"""How long a training step takes: ours, the same step with PEFT's layers, and two forwards (the floor), in one run.

Knows nothing about the command line. The three are measured in turn, round after round, so that a busy machine slows all
of them alike; the median of the rounds counts. Ours is the very loss and optimizer that `sdlora train` runs.
"""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from sdlora.base.load import Base, load_base
from sdlora.lora.layers import attach
from sdlora.train.loss import Denoiser, alphas_cumprod, denoising_loss
from sdlora.train.optim import AdamW

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
WARM_UP = 2  # rounds
LIMIT_SECONDS = 150.0  # a busy machine gets fewer rounds, never a longer wait
RATE = 1e-4
NO_PEFT = 'PEFT is not installed, so its layers were not measured. Get it with: pip install "sdlora[test]"'
Step = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """Seconds per step; floor_s is two forwards. The PEFT figures are None where PEFT is not installed."""
    model: str
    batch: int
    ours_s: float
    peft_s: float | None
    floor_s: float
    ratio_floor: float
    ratio_peft: float | None
    rounds: int
    threads: int


def measure(spec: str = "mini", *, batch: int = 4, rank: int = 16, rounds: int = 40, threads: int = 2) -> Result:
    """Time `rounds` steps of each kind on base `spec`, in fp32 on the CPU with `threads` threads. Raises UserError."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        base = load_base(spec, "cpu", parts=("text", "unet"))
        base.unet.requires_grad_(False)
        steps = {"ours": ours(base, batch, rank), "peft": peft(base, batch, rank), "forward": forward(base, batch)}
        seconds, rounds = medians({name: step for name, step in steps.items() if step}, rounds)
    finally:
        torch.set_num_threads(before)
    floor, theirs = 2 * seconds["forward"], seconds.get("peft")
    return Result(spec, batch, seconds["ours"], theirs, floor, seconds["ours"] / floor,
                  theirs / seconds["ours"] if theirs else None, rounds, threads)


def medians(steps: dict[str, Step], rounds: int) -> tuple[dict[str, float], int]:
    """(median seconds of each step, rounds made). Every round runs all of them once, beginning with another one."""
    names, seconds = list(steps), {name: [] for name in steps}
    started = time.perf_counter()
    for number in range(-WARM_UP, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            steps[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
        if number >= 0 and time.perf_counter() - started > LIMIT_SECONDS:
            break
    return {name: statistics.median(values) for name, values in seconds.items()}, len(seconds[names[0]])


def inputs(base: Base, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor], int]:
    """Latents and noise (b, c, h, w), timesteps (b,), features of a caption, size in px: the same for all three."""
    generator = torch.Generator().manual_seed(1)
    side = base.resolution // base.factor
    latents, noise = torch.randn((2, batch, base.channels, side, side), generator=generator)
    timesteps = torch.linspace(1, 999, batch).long()
    return latents, noise, timesteps, base.encode_text(["a red house, meadow, in daylight"] * batch), base.resolution


def denoiser(base: Base) -> Denoiser:
    """The base as the loss sees it."""
    return Denoiser(base.predict, alphas_cumprod(base.scheduler_config, base.device), base.prediction_type)


def ours(base: Base, batch: int, rank: int) -> Step:
    """A step as in train.loop: loss, backward, clipping and AdamW on the one flat parameter."""
    mine = replace(base, unet=copy.deepcopy(base.unet))
    attached = attach(mine.unet, rank, rank, seed=1)
    model, given = denoiser(mine), inputs(mine, batch)
    optimizer = AdamW(attached.parameters, weight_decay=0.01, clip_norm=1.0)

    def step() -> float:
        loss = denoising_loss(model, *given)
        optimizer.step(loss, RATE)
        return loss.item()
    return step


def peft(base: Base, batch: int, rank: int) -> Step | None:
    """The same loss through PEFT's layers, with PyTorch's fused AdamW and clipping: what its users run at best."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        return None
    theirs = replace(base, unet=copy.deepcopy(base.unet))
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS)), theirs.unet)
    model, given = denoiser(theirs), inputs(theirs, batch)
    parameters = [parameter for parameter in theirs.unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        loss = denoising_loss(model, *given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss.item()
    return step


def forward(base: Base, batch: int) -> Step:
    """One forward of the bare UNet without gradients; the floor of a frozen-base step is two of them."""
    latents, _, timesteps, features, size_px = inputs(base, batch)

    def step() -> torch.Tensor:
        with torch.no_grad():
            return base.predict(latents, timesteps, features, size_px)
    return step
