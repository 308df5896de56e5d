"""The sliced Wasserstein distance between two sets of vectors. Knows nothing about pictures."""

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = 128


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """Mean W1 of (n, d) and (m, d) over random directions of length 1, scaled by sqrt(d): the mean difference of a coordinate.

    Rabin et al. 2011. The directions are always the same.
    """
    gen = torch.Generator().manual_seed(1)
    directions = F.normalize(torch.randn(a.shape[1], DIRECTIONS, generator=gen), dim=0)
    shares = torch.linspace(0, 1, max(len(a), len(b)))
    quantiles = [at_shares((x @ directions).sort(0).values, shares) for x in (a, b)]
    return (quantiles[0] - quantiles[1]).abs().mean().item()


def at_shares(ordered: Tensor, shares: Tensor) -> Tensor:
    """Return the quantiles (k, d) of sorted values (n, d) at shares (k,) of 0 to 1, linear between values."""
    place = shares * (len(ordered) - 1)
    low = place.floor().long().clamp(max=max(0, len(ordered) - 2))
    high = (low + 1).clamp(max=len(ordered) - 1)
    return torch.lerp(ordered[low], ordered[high], (place - low)[:, None])
