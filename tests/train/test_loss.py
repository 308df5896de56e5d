"""The loss against diffusers' own schedulers and SNR."""

import json

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from sdlora.storage import shipped
from sdlora.train.loss import Denoiser, alphas_cumprod, denoising_loss

SD1 = {"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
       "num_train_timesteps": 1000, "skip_prk_steps": True, "steps_offset": 1}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_is_what_diffusers_trains_on(kind, gamma):
    """Oracle: add_noise, get_velocity and compute_snr of diffusers, weighted as its training scripts do."""
    generator = torch.Generator().manual_seed(0)
    latents, noise, answer = torch.randn((3, 5, 4, 8, 8), generator=generator)
    timesteps = torch.tensor([0, 17, 300, 700, 999])
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    seen = []

    def predict(noisy, timesteps, features, size_px):
        seen.append(noisy)
        return answer

    loss = denoising_loss(Denoiser(predict, alphas_cumprod(SD1, "cpu"), kind), latents, noise, timesteps, {}, 64, gamma)
    target = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    each = (answer - target).square().mean((1, 2, 3))
    if gamma is not None:
        snr = compute_snr(scheduler, timesteps)
        each = each * snr.clamp(max=gamma) / (snr if kind == "epsilon" else snr + 1)
    torch.testing.assert_close(seen[0], scheduler.add_noise(latents, noise, timesteps))
    torch.testing.assert_close(loss, each.mean())


def test_reads_the_schedule_of_the_embedded_base():
    config = json.loads((shipped("assets", "mini") / "scheduler" / "scheduler_config.json").read_text())
    abar = alphas_cumprod(config, "cpu")
    betas = torch.linspace(config["beta_start"], config["beta_end"], 1000, dtype=torch.float64)
    assert config["beta_schedule"] == "linear"
    torch.testing.assert_close(abar.double(), (1 - betas).cumprod(0), rtol=1e-4, atol=1e-7)
