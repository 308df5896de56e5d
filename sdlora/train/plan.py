"""The dry run: steps, minutes, memory and disk of a run, and which sample pictures there is time for. Imports no torch.

It also names the settings that are reduced to fit the run, and the sample prompts that cannot be drawn.
"""

from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

from sdlora.config import TrainConfig
from sdlora.dataset.captions import TRIGGER
from sdlora.draw import grammar
from sdlora.errors import UserError
from sdlora.families import FAMILIES
from sdlora.train.checkpoint_files import STATES_KEPT
from sdlora.train.speed import expected_speed

SAMPLING_SHARE = 0.2
MAX_TIMES = 8
DEFAULT_PROMPTS = 4
LONG_MINUTES = 24 * 60
WARMUP_SHARE = 10  # a warm-up takes at most a tenth of the run
HELD_OUT_FROM = 12  # pictures, of which one is then held out

# LoRA numbers per rank on the attention projections of the published UNets: sum of (in + out)
WEIGHTS_PER_RANK = {"mini": 21_376, "sd1": 199_296, "sd2": 207_488, "sdxl": 1_451_520}
# MB of the frozen weights in fp32 and of what one picture keeps for the backward pass at the family's own resolution
WEIGHTS_MB = {"mini": 65, "sd1": 4300, "sd2": 5200, "sdxl": 13_800}
PICTURE_MB = {"mini": 40, "sd1": 2300, "sd2": 2300, "sdxl": 17_600}
PROGRAM_MB = 650  # Python with torch, diffusers and transformers


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
