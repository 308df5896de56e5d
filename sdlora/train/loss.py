"""The loss of a step, and of a held-out picture. Knows nothing about LoRA, optimizers or files.

Names follow Ho et al. 2020 (arXiv 2006.11239): x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from sdlora.base.load import Base
from sdlora.train.cache import Items
from sdlora.train.plan import HELD_OUT_FROM

HELD_OUT_DRAWS = 8
HELD_OUT_SEED = 20_201  # of every run, so that runs on one set compare too

Features = dict[str, Tensor]
TARGETS = {
    "epsilon": lambda latents, noise, alpha, sigma: noise,
    # Salimans & Ho 2022 (arXiv 2202.00512), section 4: v = alpha eps - sigma x
    "v_prediction": lambda latents, noise, alpha, sigma: alpha * noise - sigma * latents,
}
MIN_SNR = {  # Hang et al. 2023 (arXiv 2303.09556), section 3.4
    "epsilon": lambda snr, gamma: snr.clamp(max=gamma) / snr,
    "v_prediction": lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1),
}


@dataclass(frozen=True)
class Denoiser:
    """A base and what it is trained to predict.

    predict(x_t, timesteps, features, size_px): as Base.predict. abar: (T,) fp32.
    target(latents, noise, alpha, sigma) -> (b, c, h, w). weight(snr): the weight of each sample, (b,) -> (b,).
    """
    predict: Callable[[Tensor, Tensor, Features, int], Tensor]
    abar: Tensor
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = TARGETS["epsilon"]
    weight: Callable[[Tensor], Tensor] = torch.ones_like


def make_denoiser(base: Base, min_snr_gamma: float | None = None) -> Denoiser:
    """Return the Denoiser of a Base; min_snr_gamma None: all noise levels weigh the same."""
    weight = torch.ones_like if min_snr_gamma is None else partial(MIN_SNR[base.prediction_type], gamma=min_snr_gamma)
    return Denoiser(base.predict, alphas_cumprod(base.scheduler_config, base.device), TARGETS[base.prediction_type], weight)


def alphas_cumprod(scheduler_config: dict[str, Any], device: torch.device | str) -> Tensor:
    """Return the base's own noise schedule abar from its scheduler's configuration, (T,) fp32 on `device`."""
    known = DDPMScheduler().config.keys() - {"variance_type"}
    schedule = DDPMScheduler(**{key: value for key, value in scheduler_config.items() if key in known and key[0] != "_"})
    return schedule.alphas_cumprod.to(device=device, dtype=torch.float32)


def denoising_loss(model: Denoiser, latents: Tensor, noise: Tensor, timesteps: Tensor, features: Features,
                   size_px: int) -> Tensor:
    """latents and noise (b, c, h, w) fp32, timesteps (b,) int64, features (b, ...) -> scalar fp32 with gradients."""
    abar_t = model.abar[timesteps].view(-1, 1, 1, 1)
    alpha, sigma = abar_t.sqrt(), (1 - abar_t).sqrt()
    x_t = alpha * latents + sigma * noise
    target = model.target(latents, noise, alpha, sigma)
    error = (model.predict(x_t, timesteps, features, size_px).float() - target).square().mean((1, 2, 3))
    snr = (abar_t / (1 - abar_t)).flatten()
    return (model.weight(snr) * error).mean()


def held_out_index(digests: list[str]) -> int | None:
    """Return the index of the picture that is held out, the same in any order of the set; None below 12 pictures."""
    if len(digests) < HELD_OUT_FROM:
        return None
    return min(range(len(digests)), key=lambda index: digests[index])


@torch.no_grad()
def held_out_loss(model: Denoiser, item: Items) -> float:
    """Return the mean loss of one picture over 8 evenly spread timesteps with fixed noise, so that checkpoints compare.

    `item` holds that picture alone. Weights of noise levels do not count.
    """
    shape = (HELD_OUT_DRAWS, *item.mean.shape[1:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(HELD_OUT_SEED)).to(item.mean.device)
    draws = torch.arange(HELD_OUT_DRAWS, device=item.mean.device)
    timesteps = ((draws + 0.5) * len(model.abar) / HELD_OUT_DRAWS).long()
    features = {name: values[item.caption_of * HELD_OUT_DRAWS] for name, values in item.features.items()}
    unweighted = replace(model, weight=torch.ones_like)
    return denoising_loss(unweighted, item.mean.expand(shape), noise, timesteps, features, item.size_px).item()
