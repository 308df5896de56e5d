"""Prompts, seed and a blend of LoRAs -> pictures: a generator with previews while denoising.

Knows nothing about files, jobs or the page; what is drawn is decided by DrawConfig alone.
"""

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from PIL import Image
from torch import Tensor

from sdlora import __version__
from sdlora.base.load import Base
from sdlora.config import DrawConfig
from sdlora.draw import loras, samplers
from sdlora.draw.compose import Mix, plan
from sdlora.draw.preview import rough
from sdlora.draw.prompt import encode, together
from sdlora.draw.session import Easel, easel_of
from sdlora.draw.start import Start, begin
from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient

MOST_LCM = 50  # LCMScheduler's own number of steps to choose from
MOST_TRIED = 20  # steps, when the smallest number is looked for
# PLMS extrapolates (Adams-Bashforth): the higher its order, the smaller the steps in which that is stable. By the share of the
# noise that the first step takes away: the highest order. Measured on mini with guidance 5, mean distance in levels from 60
# steps of DDIM: in 10 steps (0.57) order 4 is off by 60 and more, order 3 by 28, order 2 by 2.6, DDIM by 2.4; in 6 steps (0.71)
# order 2 by 28. Stable Diffusion's own noise has 0.2 in 20 steps, so its pictures stay what other programs draw.
MAX_STRIDE, ORDERS = 0.6, ((0.3, 4), (0.6, 2))

Predict = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Preview:
    """The picture in the making, after denoising step `step` of `steps`; look() makes a picture of it."""
    prompt_index: int
    image_index: int
    step: int
    steps: int
    look: Callable[[], Image.Image] = field(repr=False, compare=False)

    @cached_property
    def image(self) -> Image.Image:
        """A rough look at it. Nothing is computed before somebody asks."""
        return self.look()


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
    """Latents after `step` of the sampler; guess(): the clean latents that its last prediction points to."""
    step: int
    latents: Tensor
    guess: Callable[[], Tensor]


def draw(base: Base, config: DrawConfig, *, blend: Sequence[Ingredient] | None = None,
         stop: Callable[[], bool] = lambda: False) -> Iterator[Preview | Picture]:
    """Yield previews and pictures, prompt by prompt; image j of every prompt uses seed + j.

    blend: what is merged while drawing and taken out afterwards; None: read from config.loras;
    (): draw with the weights as they are, and keep nothing. stop() is asked before every denoising step.
    Pictures are drawn one at a time with guidance in one batch of 2, so the same seed gives the same bits at any count.
    Raises UserError: a size or a sampler that is none, a LoRA that does not fit, no memory, numbers out of range.
    """
    easel = easel_of(base) if blend is None or blend else None
    try:
        start = begin(base, config)
        if easel:
            easel.load([loras.ingredient(choice, base) for choice in config.loras] if blend is None else blend)
        yield from every_picture(base, config, start, easel, stop)
    except torch.OutOfMemoryError as error:
        width, height = config.width or base.resolution, config.height or base.resolution
        raise UserError(f"There is not enough memory to draw {width}x{height} px with {base.title}.",
                        "Choose a smaller size, or close other programs that use the graphics card.") from error
    finally:
        if easel:
            easel.clear()


def every_picture(base: Base, config: DrawConfig, start: Start, easel: Easel | None,
                  stop: Callable[[], bool]) -> Iterator[Preview | Picture]:
    """All prompts x count, in order; ends early when stop() says so."""
    common = settings_of(base, config, start)
    steps = running(config, start)
    mixes = plan(config.method, easel.loras if easel else (), steps, config.switch_every, easel and easel.scores)
    for prompt_index, prompt in enumerate(config.prompts):
        predict = predictor(base, config, prompt, start.size, easel, mixes)
        for image_index in range(config.count):
            seed = config.seed + image_index
            for now in denoise(base, config, start, seed, predict):
                if stop():
                    return
                if now.step < steps:
                    yield Preview(prompt_index, image_index, now.step, steps, partial(look_at, base, now, start.size))
            if not now.latents.isfinite().all():
                raise UserError("The picture broke: the numbers of the model ran out of range.",
                                "Lower the strength of the LoRA or the guidance.")
            yield Picture(prompt_index, image_index, prompt, seed, start.finish(base.decode(now.latents)[0]),
                          {"prompt": prompt, "seed": seed, **common})


def look_at(base: Base, now: Denoising, size: tuple[int, int]) -> Image.Image:
    return rough(base, now.guess(), size)


def running(config: DrawConfig, start: Start) -> int:
    """How many of the steps run: fewer where a picture is there to begin with."""
    return config.steps if start.latents is None else max(1, min(config.steps, int(config.steps * start.strength)))


def predictor(base: Base, config: DrawConfig, prompt: str, size: tuple[int, int], easel: Easel | None,
              mixes: Sequence[tuple[Mix, ...]]) -> Predict:
    """What the UNet says of noisy latents (1, c, h, w) in a step, guided, with the LoRAs mixed as that step wants them."""
    features = {}
    for mix in dict.fromkeys(mix.text for several in mixes for mix in several):
        read = (lambda text, factors=mix: easel.read(text, factors)) if easel else (lambda text: encode(base, text))
        wanted = [read(config.negative), read(prompt)] if config.guidance > 1 else [read(prompt)]
        features[mix] = together(wanted, read)

    def predict(noisy: Tensor, timestep: Tensor, step: int) -> Tensor:
        outputs = []
        for mix in mixes[step]:
            if easel:
                easel.mix(mix.unet)
            rows = len(features[mix.text]["states"])
            output = base.predict(noisy.expand(rows, -1, -1, -1), timestep.expand(rows), features[mix.text], size)
            if rows == 2:
                without, wanted = output.chunk(2)
                output = without + config.guidance * (wanted - without)
            outputs.append(output)
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(0)
    return predict


@torch.no_grad()
def denoise(base: Base, config: DrawConfig, start: Start, seed: int, predict: Predict) -> Iterator[Denoising]:
    """Yield the state before the first step to after the last; latents (1, c, h/f, w/f) fp32.

    The same arithmetic as diffusers' StableDiffusionPipeline, its Img2Img and its Inpaint pipeline (for a UNet that is not
    told the mask); noise is made on the CPU.
    """
    scheduler = ready_scheduler(base, config)
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, base.channels, start.size[1] // base.factor, start.size[0] // base.factor)
    noise = torch.randn(shape, generator=generator).to(base.device)
    steps = running(config, start)
    timesteps = remaining(scheduler, config.steps - steps, begun=start.latents is not None)
    from_noise = start.latents is None or (start.mask is not None and steps == config.steps)
    latents = noise * scheduler.init_noise_sigma if from_noise else scheduler.add_noise(start.latents, noise, timesteps[:1])
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    begun = latents if start.latents is None else start.latents
    yield Denoising(0, latents, lambda: begun)
    calls = len(timesteps)  # more than `steps` for second-order samplers
    for call, timestep in enumerate(timesteps, start=1):
        noisy = scheduler.scale_model_input(latents, timestep)
        output = predict(noisy, timestep, (call - 1) * steps // calls)
        guess = partial(clean_guess, scheduler, output, timestep, noisy)
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
        if start.mask is not None:
            known = start.latents if call == calls else scheduler.add_noise(start.latents, noise, timesteps[call:call + 1])
            latents = (1 - start.mask) * known + start.mask * latents
        yield Denoising(max(1, call * steps // calls), latents, guess)


def remaining(scheduler: object, skipped: int, *, begun: bool) -> Tensor:
    """The timesteps that are left when a picture is there to begin with (`begun`) and the first `skipped` steps are not run."""
    if isinstance(scheduler, diffusers.PNDMScheduler) and scheduler.config.skip_prk_steps:
        # It goes from its first time to the second, and there again with what it has learned: so the second comes twice.
        # diffusers' Img2Img pipeline leaves that out when it begins later, and then every step believes in too little noise.
        times = scheduler.timesteps.unique().flip(0)[skipped:]
        return torch.cat([times[:2], times[1:]])
    first = skipped * scheduler.order
    if begun and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler.timesteps[first:]


class Plms(diffusers.PNDMScheduler):
    """PLMS whose order falls where its steps are so large that the fourth order would draw noise."""

    def first_stride(self) -> float:
        """The share of the noise that the first of several steps takes away; 0 for a single one and for Runge-Kutta steps."""
        if not self.config.skip_prk_steps:
            return 0.0
        times = self.timesteps.cpu().unique().flip(0)[:2]
        kept = self.alphas_cumprod[times.long()]
        sigmas = ((1 - kept) / kept).sqrt()
        return 1 - float(sigmas[-1] / sigmas[0])

    def step_plms(self, model_output: Tensor, *rest: object, **options: object) -> object:
        """As diffusers', with only so many predictions remembered as the order uses."""
        if self.config.skip_prk_steps and self.counter != 1:
            if not self.counter:
                stride = self.first_stride()
                self.most_kept = next((order for most, order in ORDERS if stride <= most), 2) - 1
            self.ets = self.ets[-self.most_kept:]
        return super().step_plms(model_output, *rest, **options)


def ready_scheduler(base: Base, config: DrawConfig) -> object:
    """The scheduler of a drawing with its steps set.

    Raises UserError with the smallest number of steps when the arithmetic of the sampler has no result for so few.
    """
    if scheduler := with_steps(base, config, config.steps):
        return scheduler
    least = next((steps for steps in range(config.steps + 1, MOST_TRIED) if with_steps(base, config, steps)), None)
    name = sampler_name(base, config)
    raise UserError(f"{name} cannot draw in {config.steps} step{'s' * (config.steps > 1)} with {base.title}.",
                    f"It needs {least} steps or more." if least else "Choose another sampler.")


def with_steps(base: Base, config: DrawConfig, steps: int) -> object | None:
    """A scheduler for so many steps; None when they are too far apart, or one of its numbers is none (DPM2 a in 2 steps)."""
    scheduler = scheduler_of(base, config.model_copy(update={"steps": steps}))
    try:
        scheduler.set_timesteps(steps, device=base.device)
    except (ValueError, IndexError, ArithmeticError):
        return None
    if isinstance(scheduler, Plms) and scheduler.first_stride() > MAX_STRIDE:
        return None
    numbers = [torch.as_tensor(getattr(scheduler, name)) for name in ("timesteps", "sigmas") if hasattr(scheduler, name)]
    return scheduler if all(each.isfinite().all() for each in numbers) else None


def sampler_name(base: Base, config: DrawConfig) -> str:
    """What the sampler of a drawing is called."""
    return samplers.official(config.sampler) if config.sampler else samplers.name_of(base.scheduler_config)


def scheduler_of(base: Base, config: DrawConfig) -> object:
    """A fresh scheduler: the one asked for, else the base's own; always with the noise and the prediction type of the base.

    Latents may lie outside -1..1 and Stable Diffusion counts from step 1: older configurations do not say so, and
    diffusers' StableDiffusionPipeline sets it for them as we do. Raises UserError for a sampler that is none.
    """
    name, options = str(base.scheduler_config.get("_class_name")), {}
    if config.sampler:
        name, options = samplers.find(config.sampler)
        if name in samplers.EVEN and base.scheduler_config.get("timestep_spacing") == "linspace":
            options = options | {"timestep_spacing": "leading"}
    elif name not in {kind for kind, _ in samplers.SOLVERS.values()}:
        raise UserError(f"{base.title} asks for the sampler {name}, which sdlora does not know.",
                        "Choose a sampler by name, such as Euler.")
    if name == "LCMScheduler":
        options = options | {"original_inference_steps": max(MOST_LCM, config.steps)}
    corrected = {} if base.family == "sdxl" else {"clip_sample": False, "steps_offset": 1}
    return copy.deepcopy(built(name, json.dumps(base.scheduler_config | corrected | options, sort_keys=True)))


@lru_cache(maxsize=64)
def built(name: str, settings: str) -> object:
    """A scheduler to copy for every picture: DPM2 takes half a second to make, for it first takes a thousand steps itself."""
    kind = Plms if name == "PNDMScheduler" else getattr(diffusers, name)
    return kind.from_config(json.loads(settings))


def clean_guess(scheduler: object, output: Tensor, timestep: Tensor, noisy: Tensor) -> Tensor:
    """The picture that `output` points to, x0 of (n, c, h, w): DDIM eq. 12, or Salimans & Ho 2022, appendix D for v."""
    kept = scheduler.alphas_cumprod[int(timestep.round())].to(output.device)
    if scheduler.config.prediction_type == "v_prediction":
        return kept.sqrt() * noisy - (1 - kept).sqrt() * output
    return (noisy - (1 - kept).sqrt() * output) / kept.sqrt() if scheduler.config.prediction_type == "epsilon" else output


def settings_of(base: Base, config: DrawConfig, start: Start) -> dict[str, object]:
    """What every picture of this job has in common, in plain JSON types, under the names of DrawConfig."""
    several = {"method": config.method, "switch_every": config.switch_every} if len(config.loras) > 1 else {}
    return {"negative": config.negative, "steps": config.steps, "sampler": sampler_name(base, config),
            "guidance": config.guidance, "width": start.size[0], "height": start.size[1],
            **({} if start.latents is None else {"init_strength": start.strength}), **several,
            "model": Path(base.spec).stem if base.spec != "mini" else "sdlora mini", "model_hash": base.identity[:10],
            "loras": [loras.told(choice) for choice in config.loras], "version": f"sdlora {__version__}"}
