"""What a base's own networks see in pictures: features of line, texture and colour, the layout, and which prompt is shown.

No other network is needed, so this works with every base. Knows nothing about LoRA, steps or files.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sdlora.base.load import Base
from sdlora.train.loss import TARGETS, alphas_cumprod
from sdlora.train.wasserstein import sliced_wasserstein

LEVELS = 2  # of the VAE's encoder, from the finest
POSITIONS = 1024  # of a level, in each picture
GRID = 8  # cells a side, as copying sees a picture
SIGNAL = (0.3, 0.12)  # abar of the noise at which a prompt is recognised: what a picture shows is decided there


@dataclass(frozen=True)
class Features:
    """Of one picture: what each level of the encoder holds, (positions, channels), and its layout (1, c x GRID^2)."""

    levels: list[Tensor]
    layout: Tensor


def pixels_of(picture: Image.Image) -> Tensor:
    """Return a picture as (1, 3, h, w) in -1..1."""
    return torch.from_numpy(numpy.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float() / 127.5 - 1


@torch.no_grad()
def features(base: Base, picture: Image.Image) -> Features:
    """Return the features of one picture."""
    found: list[Tensor] = []
    with caught(base.vae.encoder.down_blocks[:LEVELS], found):
        latents = base.encode_pictures(pixels_of(picture))[0]
    levels = [some_rows(level.float().cpu().squeeze(0).flatten(1).T) for level in found]
    return Features(levels, F.adaptive_avg_pool2d(latents.cpu(), GRID).flatten(1))


@contextmanager
def caught(modules: torch.nn.ModuleList, found: list[Tensor]) -> Iterator[None]:
    """Append the output of each module to `found`."""
    def keep(_module: torch.nn.Module, _given: tuple, output: Tensor) -> None:
        found.append(output)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def some_rows(values: Tensor) -> Tensor:
    """Return at most POSITIONS rows, at random, the same each time."""
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(0))[:POSITIONS]]


def joined(parts: Sequence[Features]) -> list[Tensor]:
    """Return the positions of each level of all pictures."""
    return [torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)]


def distance(levels: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return the mean distance over the levels, each in deviations of the others' channels."""
    parts = []
    for level, other in zip(levels, others, strict=True):
        deviation = other.std(0) + 1e-6
        parts.append(sliced_wasserstein(level / deviation, other / deviation))
    return mean(parts)


class Recognition:
    """Whether the base recognises a prompt in a picture: it predicts the noise better with the prompt than with another.

    Li et al. 2023, arXiv 2303.16203: a diffusion model is a classifier.
    """

    def __init__(self, base: Base, prompts: Sequence[str], others: Sequence[str]) -> None:
        """prompts: one of each picture, in plain words. others: of other scenes, for which none may be mistaken."""
        texts = list(dict.fromkeys([*prompts, *others]))
        self.base, self.own = base, [texts.index(prompt) for prompt in prompts]
        rows = [base.encode_text([text]) for text in texts]
        self.features = {part: torch.cat([row[part] for row in rows]) for part in rows[0]}
        self.abar = alphas_cumprod(base.scheduler_config, base.device)
        self.timesteps = [int((self.abar - signal).abs().argmin()) for signal in SIGNAL]

    @torch.no_grad()
    def answers(self, pictures: Sequence[Image.Image]) -> list[bool]:
        """Return, for each picture and each prompt that is not its own, whether its own fits better."""
        return [better for picture, own in zip(pictures, self.own, strict=True) for better in self._better(picture, own)]

    def _better(self, picture: Image.Image, own: int) -> list[bool]:
        clean = self.base.encode_pictures(pixels_of(picture))[0].to(self.base.device)
        count = len(next(iter(self.features.values())))
        errors = torch.zeros(count, device=clean.device)
        for number, timestep in enumerate(self.timesteps):
            gen = torch.Generator().manual_seed(number)
            noise = torch.randn(clean.shape, generator=gen).to(clean)
            abar = self.abar[timestep]
            alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
            noisy = (alpha * clean + sigma * noise).expand(count, -1, -1, -1)
            times = torch.full((count,), timestep, device=clean.device)
            found = self.base.predict(noisy, times, self.features, picture.width)
            target = TARGETS[self.base.prediction_type](clean, noise, alpha, sigma)
            errors += (found.float() - target).square().mean((1, 2, 3))
        return [bool(errors[own] < error) for place, error in enumerate(errors) if place != own]
