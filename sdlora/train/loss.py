"""What a step minimises: noise, target and weight, one expression each. Knows nothing about LoRA, optimizers or files.

Names follow Ho et al. 2020 (arXiv 2006.11239): x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler
from torch import Tensor

Features = dict[str, Tensor]
Predict = Callable[[Tensor, Tensor, Features, int], Tensor]

TARGETS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda latents, noise, alpha, sigma: noise,
    # Salimans & Ho 2022 (arXiv 2202.00512), section 4: v = alpha eps - sigma x
    "v_prediction": lambda latents, noise, alpha, sigma: alpha * noise - sigma * latents,
}


@dataclass(frozen=True)
class Denoiser:
    """The base as the loss sees it: predict(noisy, timesteps, features, size_px) as Base.predict, abar (T,) fp32."""
    predict: Predict
    abar: Tensor
    prediction_type: str = "epsilon"


def alphas_cumprod(scheduler_config: dict, device: torch.device | str) -> Tensor:
    """The base's own noise schedule abar, from its scheduler's configuration -> (T,) fp32 on `device`."""
    known = DDPMScheduler().config.keys() - {"variance_type"}
    schedule = DDPMScheduler(**{key: value for key, value in scheduler_config.items() if key in known and key[0] != "_"})
    return schedule.alphas_cumprod.to(device=device, dtype=torch.float32)


def min_snr_weight(snr: Tensor, gamma: float | None, prediction_type: str) -> Tensor:
    """Weight of each sample (b,) -> (b,). Hang et al. 2023 (arXiv 2303.09556): min(SNR, gamma) over SNR (eps) or SNR + 1 (v)."""
    if gamma is None:
        return torch.ones_like(snr)
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def denoising_loss(model: Denoiser, latents: Tensor, noise: Tensor, timesteps: Tensor, features: Features,
                   size_px: int, min_snr_gamma: float | None = None) -> Tensor:
    """latents and noise (b, c, h, w) fp32, timesteps (b,) int64, features (b, ...) -> scalar fp32 with gradients."""
    abar_t = model.abar[timesteps].view(-1, 1, 1, 1)
    alpha, sigma = abar_t.sqrt(), (1 - abar_t).sqrt()
    noisy = alpha * latents + sigma * noise
    target = TARGETS[model.prediction_type](latents, noise, alpha, sigma)
    error = (model.predict(noisy, timesteps, features, size_px).float() - target).square().mean((1, 2, 3))
    snr = (abar_t / (1 - abar_t)).flatten()
    return (min_snr_weight(snr, min_snr_gamma, model.prediction_type) * error).mean()
