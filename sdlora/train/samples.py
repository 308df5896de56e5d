"""Sample pictures of a run: which prompts, drawn with the adapters as they are, kept in the run folder.

Knows nothing about steps or losses. The pictures come from draw's own generators: the training's random numbers stay untouched.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from sdlora.base.load import Base, load_base
from sdlora.config import DrawConfig, TrainConfig, make
from sdlora.dataset.captions import TRIGGER
from sdlora.draw.infotext import write_picture
from sdlora.draw.pipeline import Picture, draw
from sdlora.train.events import Sample

SMALL_BYTES = 200 * 2**20  # text encoders and VAE below this stay in memory between samples
# Words that every base knows, mini too: the one that shares the fewest words with the captions is where the style goes next
ELSEWHERE = ("a red boat, sea, at sunset", "a yellow cat, city, at night", "a blue house, meadow, in daylight",
             "a green tree, sea, at night", "a yellow boat, city, in daylight", "a red cat and a blue tree, meadow, at sunset")


def sample_prompts(config: TrainConfig, captions: Sequence[str], count: int) -> tuple[str, ...]:
    """The first `count` of: a caption of the set, one without the trigger, a scene the pictures never showed, another caption.

    The config's own prompts win; [trigger] in them is replaced.
    """
    if config.sample_prompts:
        return tuple(TRIGGER.sub(lambda _: config.trigger, prompt) for prompt in config.sample_prompts[:count])
    seen = set(re.findall(r"\w+", " ".join(captions).lower()))
    foreign = min(ELSEWHERE, key=lambda scene: len(seen & set(re.findall(r"\w+", scene))))
    bare = without_trigger(captions[len(captions) // 2], config.trigger)
    elsewhere = f"{config.trigger}, {foreign}" if config.trigger else foreign
    wanted = (captions[0], bare or foreign, elsewhere, captions[-1])
    return tuple(wanted[:count])


def without_trigger(caption: str, trigger: str) -> str:
    """`caption` with the trigger word and the commas it leaves taken out."""
    if trigger:
        caption = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", "", caption, flags=re.IGNORECASE)
    return re.sub(r"\s*,(\s*,)*", ",", re.sub(r"\s+", " ", caption)).strip(" ,")


def draw_samples(base: Base, config: TrainConfig, prompts: Sequence[str], folder: Path, step: int,
                 stop: Callable[[], bool]) -> Iterator[tuple[Sample, float]]:
    """Draw those pictures of `step` that `folder`/samples lacks; yields each with the seconds it took. Ends early on stop()."""
    wake(base)
    for index, prompt in enumerate(prompts):
        path = Path("samples") / f"{step:06d}-{index}.png"
        if (folder / path).exists():
            continue
        began = time.monotonic()
        wanted = make(DrawConfig, {"prompts": (prompt,), "base": config.base, "seed": config.seed, "steps": config.sample_steps,
                                   "guidance": config.sample_guidance, "width": config.resolution, "height": config.resolution})
        for drawn in draw(base, wanted, blend=(), stop=stop):
            if isinstance(drawn, Picture):
                write_picture(folder / path, drawn.image, drawn.settings)
                yield Sample(step, index, prompt, drawn.seed, path.as_posix()), time.monotonic() - began
    sleep(base)


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
