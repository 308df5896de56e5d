"""Prompts, seed and a blend of LoRAs -> pictures: a generator with previews while denoising.

Knows nothing about files, jobs or the page; what is drawn is decided by DrawConfig alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers
from PIL import Image
from torch import Tensor

from sdlora import __version__
from sdlora.base import catalog
from sdlora.base.load import Base
from sdlora.config import DrawConfig, LoraChoice
from sdlora.draw.apply import Applied
from sdlora.draw.preview import rough
from sdlora.errors import UserError
from sdlora.lora import file as lora_file
from sdlora.lora.blend import Ingredient

SAMPLERS = {  # diffusers' class -> the name A1111 and its readers know
    "DPMSolverMultistepScheduler": "DPM++ 2M", "DPMSolverSinglestepScheduler": "DPM++ 2S", "DDIMScheduler": "DDIM",
    "PNDMScheduler": "PLMS", "EulerDiscreteScheduler": "Euler", "EulerAncestralDiscreteScheduler": "Euler a",
    "HeunDiscreteScheduler": "Heun", "LMSDiscreteScheduler": "LMS", "UniPCMultistepScheduler": "UniPC",
}
STOCHASTIC = {"DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"}


@dataclass(frozen=True)
class Preview:
    """A rough look at the picture in the making, after denoising step `step` of `steps`."""
    prompt_index: int
    image_index: int
    step: int
    steps: int
    image: Image.Image


@dataclass(frozen=True)
class Picture:
    """A finished picture and all that is needed to draw it again (`settings`: what infotext writes)."""
    prompt_index: int
    image_index: int
    prompt: str
    seed: int
    image: Image.Image
    settings: dict[str, object]


class Denoising(NamedTuple):
    """Latents after `step` of the sampler, and the clean latents that its last prediction points to."""
    step: int
    latents: Tensor
    guess: Tensor


def draw(base: Base, config: DrawConfig, *, blend: Sequence[Ingredient] | None = None,
         stop: Callable[[], bool] = lambda: False) -> Iterator[Preview | Picture]:
    """Yield previews and pictures, prompt by prompt; image j of every prompt uses seed + j.

    blend: what is merged while drawing and taken out afterwards; None: read from config.loras;
    (): draw with the weights as they are. stop() is asked before every denoising step.
    Pictures are drawn one at a time with guidance in one batch of 2, so the same seed gives the same bits at any count.
    Raises UserError: a size the base cannot draw, a LoRA of another family, no memory, numbers out of range.
    """
    width, height = config.width or base.resolution, config.height or base.resolution
    if width % base.factor or height % base.factor:
        raise UserError(f"{base.title} draws sizes that are a multiple of {base.factor} px, not {width}x{height}.",
                        f"Try {max(1, width // base.factor) * base.factor}x{max(1, height // base.factor) * base.factor}.")
    if blend is None:
        blend = [ingredient(choice) for choice in config.loras]
    applied = Applied(base)
    try:
        if blend:
            applied.set(blend)
        yield from every_picture(base, config, (width, height), stop)
    except torch.OutOfMemoryError as error:
        raise UserError(f"There is not enough memory to draw {width}x{height} px with {base.title}.",
                        "Choose a smaller size, or close other programs that use the graphics card.") from error
    finally:
        applied.clear()


def ingredient(choice: LoraChoice) -> Ingredient:
    """A LoRA file read, as part of a blend. Raises UserError."""
    file = Path(choice.file)
    return Ingredient(lora_file.read(file).adapters, choice.strength, choice.text_strength, start=choice.start, end=choice.end,
                      name=file.stem)


def every_picture(base: Base, config: DrawConfig, size: tuple[int, int],
                  stop: Callable[[], bool]) -> Iterator[Preview | Picture]:
    """All prompts x count, in order; ends early when stop() says so."""
    common = settings_of(base, config, size)
    negative = base.encode_text([config.negative])
    for prompt_index, prompt in enumerate(config.prompts):
        features = base.encode_text([prompt])
        if config.guidance > 1:
            features = {key: torch.cat([negative[key], features[key]]) for key in features}
        for image_index in range(config.count):
            seed = config.seed + image_index
            for now in denoise(base, config, features, size, seed):
                if stop():
                    return
                if now.step < config.steps:
                    yield Preview(prompt_index, image_index, now.step, config.steps, rough(base, now.guess, size))
            if not now.latents.isfinite().all():
                raise UserError("The picture broke: the numbers of the model ran out of range.",
                                "Lower the strength of the LoRA or the guidance.")
            yield Picture(prompt_index, image_index, prompt, seed, base.decode(now.latents)[0],
                          {"prompt": prompt, "seed": seed, **common})


@torch.no_grad()
def denoise(base: Base, config: DrawConfig, features: dict[str, Tensor], size: tuple[int, int],
            seed: int) -> Iterator[Denoising]:
    """Yield the state after step 0 (pure noise) to `steps`; latents (1, c, h/f, w/f) fp32.

    The same arithmetic as diffusers' StableDiffusionPipeline with the scheduler of the base; noise is made on the CPU.
    """
    scheduler = scheduler_of(base)
    scheduler.set_timesteps(config.steps, device=base.device)
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, base.channels, size[1] // base.factor, size[0] // base.factor)
    latents = torch.randn(shape, generator=generator).to(base.device) * scheduler.init_noise_sigma
    rows = len(features["states"])
    yield Denoising(0, latents, latents)
    calls = len(scheduler.timesteps)  # more than `steps` for second-order samplers
    for call, timestep in enumerate(scheduler.timesteps, start=1):
        noisy = scheduler.scale_model_input(latents, timestep)
        output = base.predict(noisy.expand(rows, -1, -1, -1), timestep.expand(rows), features, size)
        if rows == 2:
            without, wanted = output.chunk(2)
            output = without + config.guidance * (wanted - without)
        guess = clean_guess(scheduler, output, timestep, noisy)
        extra = {"generator": generator} if type(scheduler).__name__ in STOCHASTIC else {}
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
        yield Denoising(max(1, call * config.steps // calls), latents, guess)


def scheduler_of(base: Base) -> object:
    """A fresh scheduler of the class and settings the base comes with.

    Latents may lie outside -1..1 and Stable Diffusion counts from step 1: older configurations do not say so, and
    diffusers' StableDiffusionPipeline sets it for them as we do.
    """
    name = str(base.scheduler_config.get("_class_name"))
    if name not in KarrasDiffusionSchedulers.__members__:
        raise UserError(f"{base.title} asks for the sampler {name}, which sdlora does not know.",
                        "Put DPMSolverMultistepScheduler into its scheduler/scheduler_config.json.")
    corrected = {} if base.family == "sdxl" else {"clip_sample": False, "steps_offset": 1}
    return getattr(diffusers, name).from_config(base.scheduler_config | corrected)


def clean_guess(scheduler: object, output: Tensor, timestep: Tensor, noisy: Tensor) -> Tensor:
    """The picture that `output` points to, x0 of (n, c, h, w): DDIM eq. 12, or Salimans & Ho 2022, appendix D for v."""
    kept = scheduler.alphas_cumprod[int(timestep.round())].to(output.device)
    if scheduler.config.prediction_type == "v_prediction":
        return kept.sqrt() * noisy - (1 - kept).sqrt() * output
    return (noisy - (1 - kept).sqrt() * output) / kept.sqrt() if scheduler.config.prediction_type == "epsilon" else output


def settings_of(base: Base, config: DrawConfig, size: tuple[int, int]) -> dict[str, object]:
    """What every picture of this job has in common, in plain JSON types."""
    sampler = str(base.scheduler_config.get("_class_name", ""))
    return {"negative": config.negative, "steps": config.steps, "sampler": SAMPLERS.get(sampler, sampler),
            "guidance": config.guidance, "width": size[0], "height": size[1],
            "model": Path(base.spec).stem if base.spec != "mini" else "sdlora mini", "model_hash": base.identity[:10],
            "loras": [{"name": Path(choice.file).stem, "strength": choice.strength,
                       "hash": catalog.identity(Path(choice.file))[:12]} for choice in config.loras],
            "version": f"sdlora {__version__}"}
