"""How well a picture that is never trained on is predicted: always the same noise and timesteps, so that points compare.

Knows nothing about files or events.
"""

import torch

from sdlora.train.cache import Items
from sdlora.train.loss import Denoiser, denoising_loss
from sdlora.train.plan import HELD_OUT_FROM

DRAWS = 8
NOISE_SEED = 20_201  # of every run, so that runs on one set compare too


def held_out_index(digests: list[str]) -> int | None:
    """The picture that is held out, the same whatever the order of the set: none below 12 pictures."""
    if len(digests) < HELD_OUT_FROM:
        return None
    return min(range(len(digests)), key=lambda index: digests[index])


@torch.no_grad()
def held_out_loss(model: Denoiser, item: Items) -> float:
    """Mean denoising loss of one picture over 8 evenly spread timesteps with fixed noise. `item` holds that picture alone."""
    shape = (DRAWS, *item.mean.shape[1:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(NOISE_SEED)).to(item.mean.device)
    timesteps = ((torch.arange(DRAWS, device=item.mean.device) + 0.5) * len(model.abar) / DRAWS).long()
    features = {name: values[item.caption_of * DRAWS] for name, values in item.features.items()}
    return denoising_loss(model, item.mean.expand(shape), noise, timesteps, features, item.size_px).item()
