"""Sample pictures of a run: at which steps, of which prompts, drawn with the adapters as they are into the run folder.

Knows nothing about losses. Drawing has random generators of its own: those of the training stay untouched.
"""

import gc
import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from sdlora.base.load import Base, load_base
from sdlora.config import DrawConfig, TrainConfig, make
from sdlora.draw.grammar import literal
from sdlora.draw.infotext.picture import write_picture
from sdlora.draw.pipeline import Picture, draw
from sdlora.draw.prompt import measured
from sdlora.errors import UserError
from sdlora.storage import clean_text, read_json, write_json
from sdlora.train.events import Notice, Sample
from sdlora.train.plan import plan, refuse_full_disk, usable_prompts

SMALL_BYTES = 200 * 2**20  # text encoders and VAE below this stay in memory between samples
# In words that every base knows, mini too; the one that shares the fewest words with the captions is drawn
NEW_SCENES = ("a red boat, sea, at sunset", "a yellow cat, city, at night", "a blue house, meadow, in daylight",
             "a green tree, sea, at night", "a yellow boat, city, in daylight", "a red cat and a blue tree, meadow, at sunset")


def plan_samples(folder: Path, config: TrainConfig, base: Base,
                 captions: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...], list[str]]:
    """Return (steps with sample pictures, prompts, notes), from plan.json when the run was planned before.

    Raises UserError when the disk has no room for the run.
    """
    planned = plan(config, len(captions), base.family, device=base.device.type)
    refuse_full_disk(planned, folder)
    path = folder / "plan.json"
    if path.exists():
        saved = read_json(path)
        if saved["steps"] == config.steps:
            return tuple(saved["columns"]), tuple(saved["prompts"]), []
    prompts, notes = sample_prompts(config, captions, planned.prompts_per_sample, base)
    write_json(path, {"steps": config.steps, "columns": planned.samples, "prompts": prompts})
    return planned.samples, prompts, notes


def sample_prompts(config: TrainConfig, captions: Sequence[str], count: int, base: Base) -> tuple[tuple[str, ...], list[str]]:
    """Return (prompts, notes): the first `count` of a caption of the set, one without the trigger, a new scene, another caption.

    Captions are drawn as they are trained: literally, and no further than the base reads. Prompts of the settings come
    instead; those that cannot be drawn are left out, with a note each.
    """
    own, notes = usable_prompts(config)
    wrong = {prompt: error for prompt in own if (error := prompt_error(base, prompt))}
    notes += [f"A sample prompt is left out. {error}" for error in wrong.values()]
    if own := [prompt for prompt in own if prompt not in wrong]:
        return tuple(own[:count]), notes
    seen = set(re.findall(r"\w+", " ".join(captions).lower()))
    scene = min(NEW_SCENES, key=lambda each: len(seen & set(re.findall(r"\w+", each))))
    bare = without_trigger(captions[len(captions) // 2], config.trigger)
    new_scene = f"{config.trigger}, {scene}" if config.trigger else scene
    chosen = (captions[0], bare or scene, new_scene, captions[-1])
    return tuple(literal(shorten(base, caption)) for caption in chosen[:count]), notes


def prompt_error(base: Base, prompt: str) -> UserError | None:
    """Return why the base cannot draw a prompt of the settings, or None."""
    try:
        measured(base, prompt)
    except UserError as error:
        return UserError(f'"{clean_text(prompt, 60)}" cannot be drawn. {error.message}', error.hint)
    return None


def shorten(base: Base, caption: str) -> str:
    """Return the words at the beginning of `caption` that the text encoders read, or the beginning of one endless word."""
    if not base.overlong(caption):
        return caption
    end = bisect_left(range(len(caption)), True, key=lambda end: bool(base.overlong(caption[:end + 1])))
    whole = caption[:end] if caption[end].isspace() else caption[:end].rpartition(" ")[0]
    return (whole or caption[:end]).rstrip(" ,")


def without_trigger(caption: str, trigger: str) -> str:
    """Return `caption` without the trigger word and the commas it leaves."""
    if trigger:
        caption = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", "", caption, flags=re.IGNORECASE)
    return re.sub(r"\s*,(\s*,)*", ",", re.sub(r"\s+", " ", caption)).strip(" ,")


def draw_samples(base: Base, config: TrainConfig, prompts: Sequence[str], folder: Path, step: int,
                 stop: Callable[[], bool]) -> Iterator[tuple[Sample | Notice, float]]:
    """Draw those pictures of `step` that `folder`/samples lacks; yield each with the seconds it took. stop() ends it early.

    An error costs one picture: a Notice says what went wrong, its memory is freed, the run continues.
    """
    for index, prompt in enumerate(prompts):
        path = sample_path(step, index)
        if (folder / path).exists():
            continue
        began = time.monotonic()
        try:
            seed = draw_sample(base, config, prompt, folder / path, stop)
            if seed is None:
                break
            event = Sample(step, index, prompt, seed, path.as_posix())
        except Exception as error:  # noqa: BLE001  no sample picture is worth a run
            event = Notice(step, f"A sample picture could not be drawn. {reason_of(error)}")
        if isinstance(event, Notice):
            free_memory()
        yield event, time.monotonic() - began


def sample_path(step: int, index: int, strength: float = 1.0) -> Path:
    """Return where the sample of a step and a prompt lies in the run folder; those of other strengths have their own."""
    return Path("samples" if strength == 1 else f"strength-{strength:g}") / f"{step:06d}-{index}.png"


def draw_sample(base: Base, config: TrainConfig, prompt: str, path: Path, stop: Callable[[], bool]) -> int | None:
    """Draw one picture to `path` and return its seed; None when stop() ended it."""
    reload_encoders(base)
    settings = make(DrawConfig, {"prompts": (prompt,), "base": config.base, "seed": config.seed, "steps": config.sample_steps,
                               "guidance": config.sample_guidance, "width": config.resolution, "height": config.resolution})
    drawn = next((found for found in draw(base, settings, blend=(), stop=stop) if isinstance(found, Picture)), None)
    if drawn is None:
        return None
    write_picture(path, drawn.image, drawn.settings)
    return drawn.seed


def reason_of(error: Exception) -> str:
    """Return what went wrong as a sentence; of a bug, what Python says."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory."
    return f"{type(error).__name__}: {clean_text(str(error), 300)}"


def free_memory() -> None:
    """Free what a failed picture held. Not while its exception is handled: its frames hold the tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def unload_encoders(base: Base) -> None:
    """Free the memory of large text encoders and VAE; small ones stay."""
    loaded = [*base.text_encoders, *([base.vae] if base.vae is not None else [])]
    if sum(weight.numel() * weight.element_size() for model in loaded for weight in model.parameters()) > SMALL_BYTES:
        base.drop("text", "vae")


def reload_encoders(base: Base) -> None:
    """Load again what unload_encoders() freed."""
    if base.vae is None:
        again = load_base(base.spec, base.device.type, parts=("text", "vae"), dtype=base.dtype)
        base.tokenizers, base.text_encoders, base.vae = again.tokenizers, again.text_encoders, again.vae
