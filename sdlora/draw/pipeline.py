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
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import diffusers
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sdlora import __version__
from sdlora.base.load import Base
from sdlora.config import DrawConfig
from sdlora.draw import loras, samplers
from sdlora.draw.compose import Mix, plan
from sdlora.draw.prompt import encode, stacked
from sdlora.draw.session import DrawSession, session_of
from sdlora.draw.start import Start, begin
from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient

LCM_STEPS = 50  # LCMScheduler's own number of steps to choose from
MAX_TRIED = 20  # steps, when the smallest number is looked for
# PLMS extrapolates (Adams-Bashforth): the higher its order, the smaller the steps in which that is stable. By the share of the
# noise that the first step takes away: the highest order. Measured on mini with guidance 5, mean distance in levels from 60
# steps of DDIM: in 10 steps (0.57) order 4 is off by 60 and more, order 3 by 28, order 2 by 2.6, DDIM by 2.4; in 6 steps (0.71)
# order 2 by 28. Stable Diffusion's own noise has 0.2 in 20 steps, so its pictures stay what other programs draw.
MAX_STRIDE, ORDERS = 0.6, ((0.3, 4), (0.6, 2))

Predict = Callable[[Tensor, Tensor, int], Tensor]
Scheduler = Any  # one of diffusers' schedulers: they share no class that declares what all of them have
LATENT_TO_RGB: WeakKeyDictionary[Base, Tensor] = WeakKeyDictionary()


@dataclass(frozen=True)
class Preview:
    """The picture in the making, after denoising step `step` of `steps`; decode() makes a rough picture of it."""
    prompt_index: int
    image_index: int
    step: int
    steps: int
    decode: Callable[[], Image.Image] = field(repr=False, compare=False)

    @cached_property
    def image(self) -> Image.Image:
        """The rough picture. Nothing is computed before it is read."""
        return self.decode()


@dataclass(frozen=True)
class Picture:
    """A finished picture and all that is needed to draw it again (`settings`: what infotext writes)."""
    prompt_index: int
    image_index: int
    prompt: str
    seed: int
    image: Image.Image
    settings: dict[str, Any]


class Denoising(NamedTuple):
    """Latents after `step` of the sampler; denoised(): the clean latents that its last prediction points to."""
    step: int
    latents: Tensor
    denoised: Callable[[], Tensor]


def draw(base: Base, config: DrawConfig, *, blend: Sequence[Ingredient] | None = None,
         stop: Callable[[], bool] = lambda: False) -> Iterator[Preview | Picture]:
    """Yield previews and pictures, prompt by prompt; image j of every prompt uses seed + j.

    blend: what is merged while drawing and taken out afterwards; None: read from config.loras;
    (): draw with the weights as they are, and cache nothing. stop() is called before every denoising step.
    Pictures are drawn one at a time with guidance in one batch of 2, so the same seed gives the same bits at any count.
    Raises UserError: a wrong size, an unknown sampler, a LoRA that does not fit, no memory, numbers out of range.
    """
    session = session_of(base) if blend is None or blend else None
    try:
        start = begin(base, config)
        if session:
            session.load([loras.ingredient(choice, base) for choice in config.loras] if blend is None else blend)
        yield from draw_all(base, config, start, session, stop)
    except torch.OutOfMemoryError as error:
        width, height = config.width or base.resolution, config.height or base.resolution
        raise UserError(f"There is not enough memory to draw {width}x{height} px with {base.title}.",
                        "Choose a smaller size, or close other programs that use the graphics card.") from error
    finally:
        if session:
            session.clear()


def draw_all(base: Base, config: DrawConfig, start: Start, session: DrawSession | None,
             stop: Callable[[], bool]) -> Iterator[Preview | Picture]:
    """Yield the previews and pictures of all prompts x count, in order; end early when stop() is true."""
    common = settings_of(base, config, start)
    steps = steps_to_run(config, start)
    mixes = plan(config.method, session.loras if session else (), steps, config.switch_every, session.scores if session else dict)
    for prompt_index, prompt in enumerate(config.prompts):
        predict = predictor(base, config, prompt, start.size, session, mixes)
        for image_index in range(config.count):
            seed = config.seed + image_index
            for state in denoise(base, config, start, seed, predict):
                if stop():
                    return
                if state.step < steps:
                    decode = partial(preview, base, state.denoised, start.size)
                    yield Preview(prompt_index, image_index, state.step, steps, decode)
            if not state.latents.isfinite().all():
                raise UserError("The picture broke: the numbers of the model ran out of range.",
                                "Lower the strength of the LoRA or the guidance.")
            yield Picture(prompt_index, image_index, prompt, seed, start.finish(base.decode(state.latents)[0]),
                          {"prompt": prompt, "seed": seed, **common})


def steps_to_run(config: DrawConfig, start: Start) -> int:
    """Return how many of the steps run: fewer when drawing begins from a picture."""
    return config.steps if start.latents is None else max(1, min(config.steps, int(config.steps * start.strength)))


def predictor(base: Base, config: DrawConfig, prompt: str, size: tuple[int, int], session: DrawSession | None,
              mixes: Sequence[tuple[Mix, ...]]) -> Predict:
    """Return predict(noisy (1, c, h, w), timestep, step): the UNet's output with guidance and the LoRA mixes of that step."""
    features = {}
    for factors in dict.fromkeys(mix.text for several in mixes for mix in several):
        encoded = partial(session.encode, factors=factors) if session else partial(encode, base)
        texts = [encoded(config.negative), encoded(prompt)] if config.guidance > 1 else [encoded(prompt)]
        features[factors] = stacked(texts, encoded)

    def predict(noisy: Tensor, timestep: Tensor, step: int) -> Tensor:
        outputs = []
        for mix in mixes[step]:
            if session:
                session.mix(mix.unet)
            rows = len(features[mix.text]["states"])
            output = base.predict(noisy.expand(rows, -1, -1, -1), timestep.expand(rows), features[mix.text], size)
            if rows == 2:
                uncond, cond = output.chunk(2)
                output = uncond + config.guidance * (cond - uncond)  # Ho & Salimans 2022, eq. 6, with guidance = 1 + w
            outputs.append(output)
        return outputs[0] if len(outputs) == 1 else torch.stack(outputs).mean(0)
    return predict


@torch.no_grad()
def denoise(base: Base, config: DrawConfig, start: Start, seed: int, predict: Predict) -> Iterator[Denoising]:
    """Yield the state before the first step to after the last; latents (1, c, h/f, w/f) fp32.

    The same arithmetic as diffusers' StableDiffusionPipeline, its Img2Img and its Inpaint pipeline (for a UNet without mask
    channels); noise is drawn on the CPU.
    """
    scheduler = scheduler_with_steps(base, config)
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, base.channels, start.size[1] // base.factor, start.size[0] // base.factor)
    noise = torch.randn(shape, generator=generator).to(base.device)
    steps = steps_to_run(config, start)
    timesteps = remaining_timesteps(scheduler, config.steps - steps, from_picture=start.latents is not None)
    from_noise = start.latents is None or (start.mask is not None and steps == config.steps)
    latents = noise * scheduler.init_noise_sigma if from_noise else scheduler.add_noise(start.latents, noise, timesteps[:1])
    extra = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    first = latents if start.latents is None else start.latents
    yield Denoising(0, latents, lambda: first)
    calls = len(timesteps)  # more than `steps` for second-order samplers
    for call, timestep in enumerate(timesteps, start=1):
        noisy = scheduler.scale_model_input(latents, timestep)
        output = predict(noisy, timestep, (call - 1) * steps // calls)
        denoised = partial(predicted_x0, scheduler, output, timestep, noisy)
        latents = scheduler.step(output, timestep, latents, return_dict=False, **extra)[0]
        if start.mask is not None and start.latents is not None:
            known = start.latents if call == calls else scheduler.add_noise(start.latents, noise, timesteps[call:call + 1])
            latents = (1 - start.mask) * known + start.mask * latents
        yield Denoising(max(1, call * steps // calls), latents, denoised)


def remaining_timesteps(scheduler: Scheduler, skipped: int, *, from_picture: bool) -> Tensor:
    """Return the timesteps that are left when drawing begins from a picture and the first `skipped` steps are not run."""
    if isinstance(scheduler, Plms) and scheduler.config["skip_prk_steps"]:
        # PLMS takes its first step twice, the second time with the average of two predictions: so the second time comes twice.
        # diffusers' Img2Img pipeline leaves that out when it begins later, and then every step assumes too little noise.
        times = scheduler.timesteps.unique().flip(0)[skipped:]
        return torch.cat([times[:2], times[1:]])
    first = skipped * scheduler.order
    if from_picture and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    return scheduler.timesteps[first:]


class Plms(diffusers.PNDMScheduler):
    """PLMS (PNDM, Liu et al. 2022) of a lower order where its steps are too large for the fourth, which would draw noise."""
    timesteps: Tensor
    max_predictions: int

    def first_stride(self) -> float:
        """Return the share of the noise that the first of several steps takes away; 0 for a single one and for Runge-Kutta."""
        if not self.config["skip_prk_steps"]:
            return 0.0
        times = self.timesteps.cpu().unique().flip(0)[:2]
        alpha_bar = self.alphas_cumprod[times.long()]
        sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
        return 1 - float(sigma[-1] / sigma[0])

    def step_plms(self, model_output: Tensor, *rest: Any, **options: Any) -> Any:
        """Step as diffusers does, with only so many predictions remembered as the order uses."""
        if self.config["skip_prk_steps"] and self.counter != 1:
            if not self.counter:
                stride = self.first_stride()
                self.max_predictions = next((order for limit, order in ORDERS if stride <= limit), 2) - 1
            self.ets = self.ets[-self.max_predictions:]
        return super().step_plms(model_output, *rest, **options)


def scheduler_with_steps(base: Base, config: DrawConfig) -> Scheduler:
    """Return the scheduler of a drawing with its steps set.

    Raises UserError with the smallest number of steps when the arithmetic of the sampler has no result for so few.
    """
    if scheduler := with_steps(base, config, config.steps):
        return scheduler
    least = next((steps for steps in range(config.steps + 1, MAX_TRIED) if with_steps(base, config, steps)), None)
    name = sampler_name(base, config)
    raise UserError(f"{name} cannot draw in {config.steps} step{'s' * (config.steps > 1)} with {base.title}.",
                    f"It needs {least} steps or more." if least else "Choose another sampler.")


def with_steps(base: Base, config: DrawConfig, steps: int) -> Scheduler | None:
    """Return a scheduler for so many steps; None when they are too far apart, or it computes a NaN (DPM2 a in 2 steps)."""
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
    """Return what the sampler of a drawing is called."""
    return samplers.official(config.sampler) if config.sampler else samplers.name_of(base.scheduler_config)


def scheduler_of(base: Base, config: DrawConfig) -> Scheduler:
    """Return a fresh scheduler: the chosen one, else the base's own; always with the noise and prediction type of the base.

    Latents may lie outside -1..1 and Stable Diffusion counts from step 1: older configurations do not say so, and
    diffusers' StableDiffusionPipeline sets it for them as we do. Raises UserError for an unknown sampler.
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
        options = options | {"original_inference_steps": max(LCM_STEPS, config.steps)}
    corrected = {} if base.family == "sdxl" else {"clip_sample": False, "steps_offset": 1}
    return copy.deepcopy(built(name, json.dumps(base.scheduler_config | corrected | options, sort_keys=True)))


@lru_cache(maxsize=64)
def built(name: str, settings: str) -> Scheduler:
    """Return a scheduler to copy for every picture: DPM2 takes half a second to make, for it first takes a thousand steps."""
    kind = Plms if name == "PNDMScheduler" else getattr(diffusers, name)
    return kind.from_config(json.loads(settings))


def predicted_x0(scheduler: Scheduler, output: Tensor, timestep: Tensor, x_t: Tensor) -> Tensor:
    """Return the clean latents x_0 (n, c, h, w) that the prediction `output` for x_t points to."""
    alpha_bar = scheduler.alphas_cumprod[int(timestep.round())].to(output.device)
    if scheduler.config.prediction_type == "v_prediction":
        return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output  # Salimans & Ho 2022, appendix D
    if scheduler.config.prediction_type == "epsilon":
        return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()  # DDIM, "predicted x_0" of eq. 12
    return output


def preview(base: Base, denoised: Callable[[], Tensor], size: tuple[int, int]) -> Image.Image:
    """Return a rough picture of `size` px of latents (1, c, h, w): colours by a linear map, enlarged smoothly."""
    latents = denoised()
    rows = with_ones(latents[0].flatten(1).T.float())  # (h w, c + 1)
    array = ((rows @ latent_to_rgb(base)).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(array.reshape(*latents.shape[2:], 3).cpu().numpy()).resize(size, Image.Resampling.BICUBIC)


def latent_to_rgb(base: Base) -> Tensor:
    """Return the best linear map (c + 1, 3) from a latent to its mean colour, fitted once per base on patches that it encodes.

    Flat patches alone leave open what the channels of texture mean: on renders their map is off by 0.10 to 0.20 (of 1), this one
    by 0.05 to 0.08.
    """
    if base not in LATENT_TO_RGB:
        patches = fitting_patches(base.factor)
        mean = torch.cat([base.encode_pictures(patch)[0] for patch in patches.split(1)])
        seen = F.avg_pool2d(patches, base.factor) / 2 + 0.5
        latents, colours = (x[:, :, 1:3, 1:3].permute(0, 2, 3, 1).flatten(0, 2) for x in (mean, seen))  # away from the borders
        rows, colours = with_ones(latents), colours.to(latents)  # (patches x 4, c + 1), (patches x 4, 3)
        gram = rows.T @ rows + 1e-3 * torch.eye(rows.shape[1], device=rows.device)
        LATENT_TO_RGB[base] = torch.linalg.solve(gram, rows.T @ colours)
    return LATENT_TO_RGB[base]


def fitting_patches(factor: int) -> Tensor:
    """Return patches of four latents a side, (108, 3, 4 factor, 4 factor) in -1..1: 27 colours, flat and in mosaics."""
    levels = torch.tensor([-0.8, 0.0, 0.8])
    flat = torch.cartesian_prod(levels, levels, levels)[:, :, None, None].expand(-1, -1, 4 * factor, 4 * factor)
    gen = torch.Generator().manual_seed(0)
    mosaics = (F.interpolate(torch.rand(27, 3, 4 * factor // cell, 4 * factor // cell, generator=gen) * 2 - 1, size=4 * factor)
               for cell in (factor, factor // 2, 2))
    return torch.cat([flat, *((flat + mosaic) / 2 for mosaic in mosaics)])


def with_ones(rows: Tensor) -> Tensor:
    """(n, c) -> (n, c + 1): the last column, of ones, carries the offset of the linear map."""
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1)


def settings_of(base: Base, config: DrawConfig, start: Start) -> dict[str, Any]:
    """Return what every picture of this job has in common, in plain JSON types, under the names of DrawConfig."""
    several = {"method": config.method, "switch_every": config.switch_every} if len(config.loras) > 1 else {}
    return {"negative": config.negative, "steps": config.steps, "sampler": sampler_name(base, config),
            "guidance": config.guidance, "width": start.size[0], "height": start.size[1],
            **({} if start.latents is None else {"init_strength": start.strength}), **several,
            "model": Path(base.spec).stem if base.spec != "mini" else "sdlora mini", "model_hash": base.identity[:10],
            "loras": [loras.settings_of(choice) for choice in config.loras], "version": f"sdlora {__version__}"}
