"""How near one set of pictures is to another in style: *fine* (line and texture) and *coarse* (palette and layout).

A third distance, *random*, is a second opinion: of what random filters see, which nobody chose with styles in mind. All are
sliced Wasserstein distances (Rabin et al. 2011) between what the pictures hold, not between pictures: no pair has to match.
Knows nothing about prompts, bases or LoRAs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlora.mini.autoencoder import high_band
from sdlora.train.wasserstein import sliced_wasserstein

PATCHES = 8192
FINE_SCALES = (1, 2)  # the picture, and half its size
PATCH_PX = 7
LAYOUT = 8  # cells a side
RANDOM_CHANNELS = (48, 96)
SHORTEST = 0.02  # fine distance, in a coordinate of -1 to 1, below which two sets look alike in line and texture


@dataclass(frozen=True)
class Distances:
    """Of a set of pictures to another; 0 for the same distribution."""

    fine: float
    coarse: float
    random: float


@dataclass(frozen=True)
class Scores:
    """0: as far from the style as the base without the LoRA, 100: as near as it can carry; None: no difference to measure."""

    fine: float | None
    coarse: float | None
    random: float | None

    @property
    def main(self) -> float:
        """Return the fine score, or the first that there is."""
        return next((value for value in (self.fine, self.coarse, self.random) if value is not None), 0.0)


def distances(pictures: Tensor, others: Tensor) -> Distances:
    """pictures, others: (n, 3, s, s) uint8 each, of one size; the numbers may differ."""
    a, b = (x.float() / 127.5 - 1 for x in (pictures, others))
    return Distances(fine_distance(a, b), coarse_distance(a, b), random_distance(a, b))


def fine_distance(a: Tensor, b: Tensor) -> float:
    """Mean over the scales of the distance between their high-pass patches; pictures in -1..1."""
    total = 0.0
    for scale in FINE_SCALES:
        halves = [high_patches(F.avg_pool2d(x, scale) if scale > 1 else x) for x in (a, b)]
        total += sliced_wasserstein(*halves)
    return total / len(FINE_SCALES)


def coarse_distance(a: Tensor, b: Tensor) -> float:
    """Mean of the distance between their colours and between their layouts; pictures in -1..1."""
    palette = [F.avg_pool2d(x, 4).permute(0, 2, 3, 1).flatten(0, 2) for x in (a, b)]  # (n, 3)
    layout = [F.adaptive_avg_pool2d(x, LAYOUT).flatten(1) for x in (a, b)]  # (n, 3 LAYOUT^2)
    return (sliced_wasserstein(*palette) + sliced_wasserstein(*layout)) / 2


def random_distance(a: Tensor, b: Tensor) -> float:
    """Distance between the responses of two layers of random filters; pictures in -1..1.

    Random filters tell textures apart nearly as well as trained ones: Ustyuzhaninov et al. 2016, arXiv 1606.00021.
    """
    return sliced_wasserstein(random_features(a), random_features(b))


def random_features(x: Tensor) -> Tensor:
    """(n, 3, s, s) in -1..1 -> responses at every eighth pixel, (n (s/8)^2, sum of RANDOM_CHANNELS), each of deviation near 1."""
    gen = torch.Generator().manual_seed(2)
    found, cells = [], x.shape[-1] // 8
    for channels, side in zip(RANDOM_CHANNELS, (7, 5), strict=True):
        filters = F.normalize(torch.randn(channels, x.shape[1] * side**2, generator=gen), dim=1)
        x = F.avg_pool2d(F.conv2d(x, filters.view(channels, -1, side, side), padding=side // 2).relu(), 2)
        found.append(F.adaptive_avg_pool2d(x, cells))
    return torch.cat([features.permute(0, 2, 3, 1).flatten(0, 2) for features in found], dim=1)


def high_patches(x: Tensor) -> Tensor:
    """(n, 3, s, s) -> PATCHES random patches without what a blur of 5 px keeps, (PATCHES, 3 * PATCH_PX^2)."""
    high = high_band(x)
    gen = torch.Generator().manual_seed(0)
    reach = high.shape[-1] - PATCH_PX + 1
    picture = torch.randint(len(high), (PATCHES,), generator=gen)
    top, left = torch.randint(reach, (2, PATCHES), generator=gen)
    windows = high.unfold(2, PATCH_PX, 1).unfold(3, PATCH_PX, 1)  # (n, 3, reach, reach, p, p), a view
    return windows[picture, :, top, left].flatten(1)


def score(drawn: float, nothing: float, perfect: float, shortest: float = 1e-6) -> float | None:
    """Return 100 for a distance of `perfect` and 0 for `nothing`, linear between and beyond.

    None when the ruler has no length: what the base draws without a LoRA is as near to the style as real pictures are.
    """
    return None if nothing - perfect < shortest else 100 * (nothing - drawn) / (nothing - perfect)


def scores(drawn: Distances, nothing: Distances, perfect: Distances) -> Scores:
    """Return the scores of every distance."""
    return Scores(score(drawn.fine, nothing.fine, perfect.fine, SHORTEST), score(drawn.coarse, nothing.coarse, perfect.coarse),
                  score(drawn.random, nothing.random, perfect.random))


def separation(same: Sequence[float], other: Sequence[float]) -> float:
    """Return the area under the ROC curve: how often a distance within a style is smaller than one between styles."""
    return mean((a < b) + 0.5 * (a == b) for a in same for b in other)
