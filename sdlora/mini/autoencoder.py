"""Trains the VAE: renders and textures in, smooth latents and faithful pictures out.

Knows nothing about captions or the UNet. The last quarter of the budget moves the decoder only, so that it
can also be run alone on a base whose UNet already speaks the encoder's latents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from sdlora.mini.checkpoint import Budget, Progress, Store, generator, rate
from sdlora.mini.muon import optimizer_for

SCALES = (0.5, 0.75)


@dataclass(frozen=True)
class VaeSettings:
    """How the VAE learns."""

    batch_size: int = 16
    crop_px: int = 64
    peak_rate: float = 1e-3
    decoder_from: float = 0.75
    """Share of the budget after which the encoder rests; 0 trains the decoder alone."""
    seed: int = 1


def train_vae(
    vae: AutoencoderKL, pictures: Tensor, budget: Budget, store: Store, settings: VaeSettings = VaeSettings()
) -> Iterator[Progress]:
    """Yield Progress after every step. pictures: (n, 3, s, s) uint8."""
    optimizer = optimizer_for([vae], settings.peak_rate)
    progress = store.load({"vae": vae}, optimizer)
    device = next(vae.parameters()).device
    vae.train()
    while (share := budget.share(progress)) < 1:
        started = time.monotonic()
        gen = generator(settings.seed, progress.step)
        decoder_only = share >= settings.decoder_from
        batch = crops(pictures, settings, gen).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = vae_loss(vae, batch, decoder_only, gen)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(share, progress.step, settings.peak_rate)
        optimizer.step()
        progress.step += 1
        progress.pictures += len(batch)
        progress.loss = loss.item()
        progress.seconds += time.monotonic() - started
        if store.due():
            store.save({"vae": vae}, optimizer, progress)
        yield progress
    store.save({"vae": vae}, optimizer, progress)
    vae.eval()


def crops(pictures: Tensor, settings: VaeSettings, gen: torch.Generator) -> Tensor:
    """Random squares, half of them mirrored: (b, 3, crop, crop) in -1..1."""
    side, crop = pictures.shape[-1], settings.crop_px
    chosen = torch.randint(len(pictures), (settings.batch_size,), generator=gen).tolist()
    tops = torch.randint(side - crop + 1, (settings.batch_size, 2), generator=gen).tolist()
    batch = torch.stack([pictures[i, :, y : y + crop, x : x + crop] for i, (y, x) in zip(chosen, tops, strict=True)])
    batch[: len(batch) // 2] = batch[: len(batch) // 2].flip(-1)
    return batch.float() / 127.5 - 1


def vae_loss(vae: AutoencoderKL, x: Tensor, decoder_only: bool, gen: torch.Generator) -> Tensor:
    """Reconstruction, on half of the steps of a mirrored or smaller latent: EQ-VAE, arXiv:2502.09509."""
    with torch.set_grad_enabled(not decoder_only):
        posterior = vae.encode(x).latent_dist
        z = posterior.mean  # (b, c, h/8, w/8)
        if not decoder_only:
            z = z + posterior.std * torch.randn(z.shape, generator=gen).to(z)
    target, draw = x, torch.rand(3, generator=gen).tolist()
    if not decoder_only and draw[0] < 0.5:
        if draw[1] < 0.3:
            z, target = z.flip(-1), x.flip(-1)
        else:
            scale = SCALES[int(draw[2] * len(SCALES))]
            z = F.interpolate(z.float(), scale_factor=scale, mode="bilinear", antialias=True)
            target = F.interpolate(x, size=[8 * s for s in z.shape[-2:]], mode="bilinear", antialias=True)
    # A few disturbed latents: what the UNet draws is never quite on the encoder's grid.
    amount = torch.rand(len(z), 1, 1, 1, generator=gen).sub(0.75).clamp(min=0).to(z.device)
    z = z + amount * z.detach().std() * torch.randn(z.shape, generator=gen).to(z.device)
    out = vae.decode(z.to(x.dtype)).sample.float()
    loss = (out - target).abs().mean() + (out - target).square().mean() + 0.1 * _pyramid_l1(out - target)
    return loss if decoder_only else loss + 1e-6 * posterior.kl().mean()


def _pyramid_l1(error: Tensor, levels: int = 3) -> Tensor:
    """L1 of the Laplacian pyramid of an error: weighs edges of every width alike."""
    total = error.new_zeros(())
    for level in range(levels):
        small = F.avg_pool2d(error, 2)
        total = total + 2.0**level * (error - F.interpolate(small, scale_factor=2.0)).abs().mean()
        error = small
    return total


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean PSNR (dB) of encoding and decoding (n, 3, s, s) uint8 pictures."""
    values = []
    device = next(vae.parameters()).device
    for batch in pictures.split(16):
        x = batch.to(device).float() / 127.5 - 1
        y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        values.append(10 * torch.log10(4 / (x - y).square().mean((1, 2, 3))))
    return torch.cat(values).mean().item()
