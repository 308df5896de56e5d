"""The loss against diffusers' own schedulers and SNR; the held-out loss: fixed noise, and only from 12 pictures on."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from sdlora.storage import shipped
from sdlora.train.cache import Items
from sdlora.train.loss import Denoiser, alphas_cumprod, denoising_loss, held_out_index, held_out_loss, make_denoiser

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

    base = SimpleNamespace(predict=predict, scheduler_config=SD1, device="cpu", prediction_type=kind)
    loss = denoising_loss(make_denoiser(base, gamma), latents, noise, timesteps, {}, 64)
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


ABAR = torch.linspace(0.999, 0.001, 1000)


def item():
    return Items(torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), {"states": torch.zeros(2, 3, 5)}, [0], [1], 32)


def test_holds_out_one_picture_from_twelve_on():
    digests = [f"{number:02d}" for number in range(12)]
    assert held_out_index(digests[:11]) is None
    assert held_out_index(digests) == 0 and held_out_index(digests[::-1]) == 11


def test_the_held_out_loss_always_uses_the_same_noise_and_no_other_generator():
    calls = []

    def predict(noisy, timesteps, features, size_px):
        calls.append((noisy.clone(), timesteps.clone()))
        assert len(features["states"]) == len(noisy)
        return noisy

    before = torch.get_rng_state()
    first = held_out_loss(Denoiser(predict, ABAR), item())
    assert held_out_loss(Denoiser(predict, ABAR), item()) == first
    assert torch.equal(calls[0][0], calls[1][0]) and torch.equal(torch.get_rng_state(), before)
    assert calls[0][1].tolist() == [62, 187, 312, 437, 562, 687, 812, 937]


def test_a_perfect_answer_costs_nothing():
    seen = {}

    def predict(noisy, timesteps, features, size_px):
        abar = ABAR[timesteps].view(-1, 1, 1, 1)
        seen["noise"] = (noisy - abar.sqrt()) / (1 - abar).sqrt()
        return seen["noise"]

    assert held_out_loss(Denoiser(predict, ABAR), item()) < 1e-8
    assert seen["noise"].std() > 0.9
