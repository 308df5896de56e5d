"""Trains the text encoder and the UNet together on cached latents.

Knows nothing about pictures: latents, token ids and class maps in, an average of the weights (EMA) out.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from sdlora.mini.latents import Examples, read_cache
from sdlora.mini.network import Networks, schedule, token_ids
from sdlora.mini.scenes import OBJECTS
from sdlora.mini.training import Budget, Checkpoint, Progress, autocast, learning_rate, optimizer_for, step_generator


@dataclass(frozen=True)
class UnetSettings:
    """How the UNet is trained."""

    batch_size: int = 64
    peak_rate: float = 1e-3
    caption_dropout: float = 0.1
    noise_centre: float = 0.4
    """Mean of log(sigma / alpha) of the noise levels: objects are decided above 0."""
    noise_spread: float = 1.3
    map_weight: float = 0.1
    map_until: float = 0.6
    """Share of the budget during which an auxiliary head also predicts the class map."""
    ema_decay: float = 0.998
    seed: int = 2


class Denoiser(nn.Module):
    """Text encoder, UNet and the auxiliary head, as one module."""

    def __init__(self, networks: Networks):
        super().__init__()
        self.text, self.unet = networks.text, networks.unet
        # Plain attention trains 1.8 times as fast on a CPU as torch's fused kernel: 256 tokens are few.
        self.unet.set_attn_processor(AttnProcessor())
        self.text.set_attn_implementation("eager")
        width = networks.unet.config["block_out_channels"][-1]
        self.naming = nn.Conv2d(width, 4 * (1 + len(OBJECTS)), 1)

    def forward(self, noisy: Tensor, t: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """noisy (b, c, h, w), t (b,), ids (b, n) -> noise (b, c, h, w), class scores (b, 1 + objects, h, w)."""
        features = []
        hook = self.unet.up_blocks[0].register_forward_hook(lambda _module, _args, out: features.append(out))
        words = self.text(ids).last_hidden_state  # (b, n, d)
        noise = self.unet(noisy, t, words, return_dict=False)[0]
        hook.remove()
        scores = self.naming(features[0])  # of the second resolution
        if scores.shape[-1] * 2 == noisy.shape[-1]:
            scores = F.pixel_shuffle(scores, 2)
        else:
            scores = scores.unflatten(1, (-1, 4)).mean(2)
        return noise, scores


def train_unet(
    networks: Networks, cache: Path, budget: Budget, checkpoint: Checkpoint, settings: UnetSettings = UnetSettings()
) -> Iterator[Progress]:
    """Yield Progress after every step; at the end the networks hold the averaged weights.

    cache: a folder of shards, read again at every checkpoint, as another process may still add to it.
    """
    device = networks.unet.device
    torch.manual_seed(settings.seed)  # for the auxiliary head
    model = Denoiser(networks).to(device).train()
    average = copy.deepcopy(model)
    optimizer = optimizer_for(model, settings.peak_rate)
    progress = checkpoint.load({"model": model, "average": average}, optimizer)
    batches = BatchLoss(networks, read_cache(cache), settings, device)
    while (share := budget.share(progress)) < 1:
        started = time.monotonic()
        gen = step_generator(settings.seed, progress.step)
        loss, map_loss = batches.losses(model, gen)
        total = loss + (settings.map_weight * map_loss if share < settings.map_until else 0.0)
        optimizer.minimize(total, model, learning_rate(share, progress.step, settings.peak_rate))
        _update_average(average, model, min(settings.ema_decay, (1 + progress.step) / (10 + progress.step)))
        progress.advance(settings.batch_size, loss, started)
        if checkpoint.is_due():
            checkpoint.save({"model": model, "average": average}, optimizer, progress)
            batches.examples = read_cache(cache)
        yield progress
    checkpoint.save({"model": model, "average": average}, optimizer, progress)
    networks.text.load_state_dict(average.text.state_dict())
    networks.unet.load_state_dict(average.unet.state_dict())


class BatchLoss:
    """Random batches and their losses: Ho et al. 2020, eq. 14, weighted towards the noise where objects are decided."""

    def __init__(self, networks: Networks, examples: Examples, settings: UnetSettings, device: torch.device):
        self.examples, self.settings, self.device = examples, settings, device
        self.scale = networks.vae.config["scaling_factor"]
        self.signal = schedule().alphas_cumprod.to(device)  # (1000,)
        self.empty = torch.tensor(token_ids(networks.tokenizer, [""])[0], device=device)
        self.log_noise = 0.5 * torch.log((1 - self.signal) / self.signal).cpu()  # rising

    def losses(self, model: Denoiser, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """Denoising loss and class-map loss of one random batch."""
        count = self.settings.batch_size
        rows = torch.randint(len(self.examples), (count,), generator=gen)
        captions = torch.randint(self.examples.ids.shape[1], (count,), generator=gen)
        clean = self.examples.latents[rows].to(self.device).float() * self.scale
        ids = self.examples.ids[rows, captions].to(self.device).long()
        ids[torch.rand(count, generator=gen).to(self.device) < self.settings.caption_dropout] = self.empty
        t = self.noise_levels(count, gen).to(self.device)
        noise = torch.randn(clean.shape, generator=gen).to(self.device)
        signal = self.signal[t].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        with autocast(self.device):
            predicted, scores = model(noisy, t, ids)
        weight = ((1 - signal) / signal).sqrt().clamp(0.25, 8).flatten()
        loss = (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()
        return loss, F.cross_entropy(scores.float(), self.examples.maps[rows].to(self.device).long())

    def noise_levels(self, count: int, gen: torch.Generator) -> Tensor:
        """Steps t (count,) whose log(sigma / alpha) is normal; one in eight is uniform, to cover all."""
        log_ratios = self.settings.noise_centre + self.settings.noise_spread * torch.randn(count, generator=gen)
        t = torch.searchsorted(self.log_noise, log_ratios).clamp(0, len(self.log_noise) - 1)
        uniform = torch.randint(len(self.log_noise), (count,), generator=gen)
        return torch.where(torch.rand(count, generator=gen) < 0.125, uniform, t)


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(model.parameters())
    torch._foreach_lerp_(averages, weights, 1 - decay)
