"""Sample pictures of a run: which prompts, drawn with the adapters as they are, kept in the run folder.

Knows nothing about steps or losses. The pictures come from draw's own generators: the training's random numbers stay untouched.
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
from sdlora.storage import clean_text
from sdlora.train.events import Notice, Sample
from sdlora.train.plan import own_prompts

SMALL_BYTES = 200 * 2**20  # text encoders and VAE below this stay in memory between samples
# Words that every base knows, mini too: the one that shares the fewest words with the captions is where the style goes next
ELSEWHERE = ("a red boat, sea, at sunset", "a yellow cat, city, at night", "a blue house, meadow, in daylight",
             "a green tree, sea, at night", "a yellow boat, city, in daylight", "a red cat and a blue tree, meadow, at sunset")


def sample_prompts(config: TrainConfig, captions: Sequence[str], count: int, base: Base) -> tuple[tuple[str, ...], list[str]]:
    """(prompts, notes): the first `count` of: a caption of the set, one without the trigger, a scene the pictures never showed,
    another caption.

    Captions are drawn as they are trained: literally, and no further than the base reads. The config's own prompts win; those
    that cannot be drawn are left out, with a note each.
    """
    own, notes = own_prompts(config)
    wrong = {prompt: error for prompt in own if (error := unread(base, prompt))}
    notes += [f"A sample prompt is left out. {error}" for error in wrong.values()]
    if own := [prompt for prompt in own if prompt not in wrong]:
        return tuple(own[:count]), notes
    seen = set(re.findall(r"\w+", " ".join(captions).lower()))
    foreign = min(ELSEWHERE, key=lambda scene: len(seen & set(re.findall(r"\w+", scene))))
    bare = without_trigger(captions[len(captions) // 2], config.trigger)
    elsewhere = f"{config.trigger}, {foreign}" if config.trigger else foreign
    wanted = (captions[0], bare or foreign, elsewhere, captions[-1])
    return tuple(literal(shortened(base, caption)) for caption in wanted[:count]), notes


def unread(base: Base, prompt: str) -> UserError | None:
    """What the base cannot read of a prompt of the artist."""
    try:
        measured(base, prompt)
    except UserError as error:
        return UserError(f'"{clean_text(prompt, 60)}" cannot be drawn. {error.message}', error.hint)
    return None


def shortened(base: Base, caption: str) -> str:
    """As many words from the beginning of `caption` as the text encoders read in training; of one endless word its beginning."""
    if not base.overlong(caption):
        return caption
    end = bisect_left(range(len(caption)), True, key=lambda end: bool(base.overlong(caption[:end + 1])))
    whole = caption[:end] if caption[end].isspace() else caption[:end].rpartition(" ")[0]
    return (whole or caption[:end]).rstrip(" ,")


def without_trigger(caption: str, trigger: str) -> str:
    """`caption` with the trigger word and the commas it leaves taken out."""
    if trigger:
        caption = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", "", caption, flags=re.IGNORECASE)
    return re.sub(r"\s*,(\s*,)*", ",", re.sub(r"\s+", " ", caption)).strip(" ,")


def draw_samples(base: Base, config: TrainConfig, prompts: Sequence[str], folder: Path, step: int,
                 stop: Callable[[], bool]) -> Iterator[tuple[Sample | Notice, float]]:
    """Draw those pictures of `step` that `folder`/samples lacks; yields each with the seconds it took. Ends early on stop().

    Whatever goes wrong costs that picture: a Notice says what it was, the memory it took is given back, the run goes on.
    """
    for index, prompt in enumerate(prompts):
        path = Path("samples") / f"{step:06d}-{index}.png"
        if (folder / path).exists():
            continue
        began = time.monotonic()
        try:
            drawn = draw_sample(base, config, prompt, stop)
            if drawn is None:
                break
            write_picture(folder / path, drawn.image, drawn.settings)
            told = Sample(step, index, prompt, drawn.seed, path.as_posix())
        except Exception as error:  # noqa: BLE001  no sample picture is worth a run
            told = Notice(step, f"A sample picture could not be drawn. {reason_of(error)}")
        if isinstance(told, Notice):
            give_back_memory()
        yield told, time.monotonic() - began
    sleep(base)


def draw_sample(base: Base, config: TrainConfig, prompt: str, stop: Callable[[], bool]) -> Picture | None:
    """One sample picture; None when stop() ended it."""
    wake(base)
    wanted = make(DrawConfig, {"prompts": (prompt,), "base": config.base, "seed": config.seed, "steps": config.sample_steps,
                               "guidance": config.sample_guidance, "width": config.resolution, "height": config.resolution})
    return next((drawn for drawn in draw(base, wanted, blend=(), stop=stop) if isinstance(drawn, Picture)), None)


def reason_of(error: Exception) -> str:
    """What went wrong, in a sentence; of a bug what Python says of it."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory."
    return f"{type(error).__name__}: {clean_text(str(error), 300)}"


def give_back_memory() -> None:
    """Free what a failed picture held. Not while its exception is handled: the frames of that hold the tensors."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def sleep(base: Base) -> None:
    """Take large text encoders and VAE out of memory; small ones stay."""
    held = [*base.text_encoders, *([base.vae] if base.vae is not None else [])]
    if sum(weight.numel() * weight.element_size() for model in held for weight in model.parameters()) > SMALL_BYTES:
        base.drop("text", "vae")


def wake(base: Base) -> None:
    """Bring back what sleep() took out."""
    if base.vae is None:
        again = load_base(base.spec, base.device.type, parts=("text", "vae"), dtype=base.dtype)
        base.tokenizers, base.text_encoders, base.vae = again.tokenizers, again.text_encoders, again.vae


def training_dtype(device: torch.device) -> torch.dtype:
    """What the frozen base computes in: fp32 on a CPU, bf16 where a card has it, else fp16 (with a gradient scaler)."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
