"""The dry run: steps, minutes, memory and disk of a run, and which sample pictures there is time for. Imports no torch.

It also names the settings that are reduced to fit the run, and the sample prompts that cannot be drawn. Speeds are those that
earlier runs measured on this machine (HOME/speed.json), else DEFAULT_SPEEDS.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

from sdlora.config import TrainConfig
from sdlora.dataset.captions import TRIGGER
from sdlora.draw import grammar
from sdlora.errors import UserError
from sdlora.families import FAMILIES
from sdlora.storage import home, write_json
from sdlora.train.checkpoint_files import STATES_KEPT

SAMPLING_SHARE = 0.2
MAX_TIMES = 8
DEFAULT_PROMPTS = 4
LONG_MINUTES = 24 * 60
WARMUP_SHARE = 10  # a warm-up takes at most a tenth of the run
HELD_OUT_FROM = 12  # pictures, of which one is then held out

SPEED_FIELDS = {"family": str, "device": str, "batch": int, "resolution": int, "step": float, "draw_step": float, "around": float}
# LoRA numbers per rank on the attention projections of the published UNets: sum of (in + out)
WEIGHTS_PER_RANK = {"mini": 21_376, "sd1": 199_296, "sd2": 207_488, "sdxl": 1_451_520}
# MB of the frozen weights in fp32 and of what one picture keeps for the backward pass at the family's own resolution
WEIGHTS_MB = {"mini": 65, "sd1": 4300, "sd2": 5200, "sdxl": 13_800}
PICTURE_MB = {"mini": 40, "sd1": 2300, "sd2": 2300, "sdxl": 17_600}
PROGRAM_MB = 650  # Python with torch, diffusers and transformers


@dataclass(frozen=True)
class Speed:
    """Seconds of one training step, of one denoising step of a sample picture, of start and end together (`around`)."""
    step: float
    draw_step: float
    around: float


# Per picture of a batch at the family's own resolution. mini on a CPU was measured on two cores; the others are
# published or computed from FLOPs and only serve until the first run on this machine.
DEFAULT_SPEEDS = {
    ("mini", "cpu"): Speed(0.033, 0.045, 9), ("mini", "cuda"): Speed(0.02, 0.02, 12), ("mini", "mps"): Speed(0.03, 0.03, 12),
    ("sd1", "cpu"): Speed(14, 6.5, 60), ("sd1", "cuda"): Speed(0.25, 0.07, 30), ("sd1", "mps"): Speed(2, 0.7, 40),
    ("sd2", "cpu"): Speed(14, 6.5, 60), ("sd2", "cuda"): Speed(0.25, 0.07, 30), ("sd2", "mps"): Speed(2, 0.7, 40),
    ("sdxl", "cpu"): Speed(120, 55, 180), ("sdxl", "cuda"): Speed(1.2, 0.25, 60), ("sdxl", "mps"): Speed(12, 4, 90),
}


@dataclass(frozen=True)
class Plan:
    """What a run will take. `samples`: the steps at which sample pictures are drawn; `measured`: speeds of this machine."""
    steps: int
    minutes: float
    memory_mb: int
    disk_mb: int
    samples: tuple[int, ...]
    prompts_per_sample: int
    measured: bool
    notes: tuple[str, ...]


def plan(config: TrainConfig, pictures: int, family: str, *, device: str = "cpu") -> Plan:
    """Return the dry run of `config` on `pictures` pictures and a base of `family`; device: "cpu", "cuda" or "mps"."""
    config, notes = fit_settings(config, pictures - (pictures >= HELD_OUT_FROM))
    notes += usable_prompts(config)[1]
    resolution = config.resolution or FAMILIES[family].resolution
    speed, measured = expected_speed(family, device, config.batch_size, resolution)
    picture_seconds = speed.draw_step * config.sample_steps
    rest = speed.around + pictures * picture_seconds / 20 + config.steps * speed.step
    samples, prompts = choose_samples(config, picture_seconds, rest)
    minutes = (rest + len(samples) * prompts * picture_seconds) / 60
    weights = WEIGHTS_PER_RANK[family] * config.rank
    file_mb = weights * (4 if config.file_dtype == "fp32" else 2) / 2**20
    checkpoints = len({*samples, *range(config.save_every, config.steps + 1, config.save_every)})
    disk = STATES_KEPT * weights * 12 / 2**20 + (checkpoints + 2) * file_mb + len(samples) * prompts * resolution**2 * 2 / 2**20
    half = 1 if device == "cpu" else 0.5
    area = (resolution / FAMILIES[family].resolution) ** 2
    memory = PROGRAM_MB + half * (WEIGHTS_MB[family] + config.batch_size * area * PICTURE_MB[family]) + weights * 16 / 2**20
    if not measured:
        notes.append("The minutes are a guess until the first run on this computer has been measured.")
    if prompts < prompt_count(config):
        notes.append(f"{prompts} of {prompt_count(config)} sample prompts are drawn, so that training gets the time.")
    if minutes > LONG_MINUTES:
        notes.append(f"This would take {minutes / 60:.0f} hours. Try a smaller base or fewer steps first.")
    return Plan(config.steps, round(minutes, 1), round(memory), round(disk * 1.1) + 1, samples, prompts, measured, tuple(notes))


def fit_settings(config: TrainConfig, pictures: int) -> tuple[TrainConfig, list[str]]:
    """Return the settings with what is too large for the run reduced, and a sentence for each.

    pictures: those that are trained on, without the held-out one.
    """
    changes, notes = {}, []
    warmup = config.steps // WARMUP_SHARE
    if config.warmup_steps > warmup:
        changes["warmup_steps"] = warmup
        notes.append(f"The warm-up takes {warmup} steps instead of {config.warmup_steps}: at most a tenth of the run.")
    if config.batch_size > max(1, pictures):
        changes["batch_size"] = max(1, pictures)
        notes.append(f"The batch size is {changes['batch_size']} instead of {config.batch_size}: the number of pictures.")
    return config.model_copy(update=changes), notes


def usable_prompts(config: TrainConfig) -> tuple[tuple[str, ...], list[str]]:
    """Return the sample prompts of the settings that can be drawn, with the trigger in them, and a sentence for each other one.

    There is a sentence too for parts of a prompt that have no effect. Whether a prompt is too long only the base knows.
    """
    usable, notes = [], []
    for prompt in config.sample_prompts:
        prompt = TRIGGER.sub(lambda _: grammar.literal(config.trigger), prompt)
        if wrong := grammar.problem(prompt):
            notes.append(f"A sample prompt is left out. {wrong}")
        else:
            usable.append(prompt)
            notes += grammar.notes(prompt)
    return tuple(usable), list(dict.fromkeys(notes))


def refuse_full_disk(planned: Plan, folder: Path) -> None:
    """Raise UserError when the disk of `folder` has no room for the run."""
    free_mb = disk_usage(folder).free // 2**20
    if free_mb < planned.disk_mb:
        raise UserError(f"The disk has {free_mb} MB left and this run needs {planned.disk_mb} MB.",
                        "Free some space, then try again.")


def prompt_count(config: TrainConfig) -> int:
    """Return how many sample prompts are drawn when there is time for all."""
    return len(usable_prompts(config)[0]) or DEFAULT_PROMPTS


def choose_samples(config: TrainConfig, picture_seconds: float, rest_seconds: float) -> tuple[tuple[int, ...], int]:
    """Return (steps with samples, prompts per sample) so that sampling stays under a fifth of the run.

    When time is short, prompts are left out first, then steps. Step 0 and the last step always have samples; at least two
    prompts are drawn as long as any step between those has samples.
    """
    most = min(MAX_TIMES, -(-config.steps // config.sample_every))
    wanted = prompt_count(config)
    choices = [(times, prompts) for times in range(most, 0, -1) for prompts in range(wanted, 0, -1)
               if prompts >= min(2, wanted) or times == 1]
    allowed = rest_seconds * SAMPLING_SHARE / (1 - SAMPLING_SHARE)
    times, prompts = next((choice for choice in choices if (choice[0] + 1) * choice[1] * picture_seconds <= allowed), choices[-1])
    marks = range(config.sample_every, config.steps, config.sample_every)
    between = min(times - 1, len(marks))
    places = [marks[round(index * (len(marks) + 1) / (between + 1)) - 1] for index in range(1, between + 1)]
    return tuple(sorted({0, *places, config.steps})), prompts


def expected_speed(family: str, device: str, batch_size: int, resolution: int) -> tuple[Speed, bool]:
    """Return the expected speed, and whether it was measured on this machine (scaled from the most similar run)."""
    def size(batch: int, side: int) -> float:
        return batch * side**2

    measured = [(entry["batch"], entry["resolution"], Speed(entry["step"], entry["draw_step"], entry["around"]))
                for entry in recorded_speeds() if (entry["family"], entry["device"]) == (family, device)]
    here = DEFAULT_SPEEDS.get((family, device), DEFAULT_SPEEDS[family, "cpu"])
    batch, side, speed = min(measured, key=lambda run: abs(size(batch_size, resolution) / size(run[0], run[1]) - 1),
                             default=(1, FAMILIES[family].resolution, here))
    larger = size(batch_size, resolution) / size(batch, side)
    return replace(speed, step=speed.step * larger, draw_step=speed.draw_step * (resolution / side) ** 2), bool(measured)


def recorded_speeds() -> list[dict[str, Any]]:
    """Return the speeds of runs on this machine; none when the file is missing or damaged: it only serves estimates."""
    try:
        entries = json.loads((home() / "speed.json").read_text(encoding="utf-8"))["runs"]
        return [entry for entry in entries if all(isinstance(entry[key], kind) for key, kind in SPEED_FIELDS.items())
                and min(entry["step"], entry["draw_step"], entry["batch"], entry["resolution"]) > 0]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def record_speed(family: str, device: str, batch_size: int, resolution: int, speed: Speed) -> None:
    """Save how fast a run was, as the mean of this and the last run of this kind."""
    place = {"family": family, "device": device, "batch": batch_size, "resolution": resolution}
    others, same = [], []
    for entry in recorded_speeds():
        (same if {key: entry[key] for key in place} == place else others).append(entry)
    fresh = {"step": float(speed.step), "draw_step": float(speed.draw_step), "around": float(speed.around)}
    if same:
        fresh = {key: (value + same[-1][key]) / 2 for key, value in fresh.items()}
    write_json(home() / "speed.json", {"version": 1, "runs": [*others, {**place, **fresh}]})
