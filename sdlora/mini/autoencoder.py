"""Trains the VAE, and measures it: renders and textures in, smooth latents and faithful pictures out.

Knows nothing about captions or the UNet. The decoder can also be trained alone, on a base whose UNet was trained on the
encoder's latents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from sdlora.mini.training import Budget, Checkpoint, Progress, autocast, learning_rate, optimizer_for, step_generator
from sdlora.train.carry import fine_energy

SCALES = (0.5, 0.75)  # of smaller latents
LACKING = 1.3


@dataclass(frozen=True)
class VaeSettings:
    """How the VAE is trained."""

    batch_size: int = 16
    crop_px: int = 64
    peak_rate: float = 2e-3
    decoder_from: float = 0.9
    """Share of the budget after which the encoder is frozen; 0 trains the decoder alone."""
    whole_from: float = 0.8
    """Share of the budget after which batches hold whole pictures, a fourth as many: norms depend on the size."""
    energy_weight: float = 2.0
    """Weight of the loss on local high-band energy. More keeps more of fine textures (300 steps further: 76% at 1.2, 86% at 3.0
    with texture that lacks costing 1.3 times) and costs PSNR (renders 29.7 and 28.8 dB)."""
    seed: int = 1


def train_vae(
    vae: AutoencoderKL, make_pictures: Callable[[], Tensor], budget: Budget, checkpoint: Checkpoint,
    settings: VaeSettings = VaeSettings(),
) -> Iterator[Progress]:
    """Yield Progress after every step. make_pictures() -> (n, 3, s, s) uint8; not called when nothing is left to do."""
    optimizer = optimizer_for(vae, settings.peak_rate)
    progress = checkpoint.load({"vae": vae}, optimizer)
    device = next(vae.parameters()).device
    vae.train()
    pictures = make_pictures() if budget.share(progress) < 1 else torch.empty(0)
    while (share := budget.share(progress)) < 1:
        started = time.monotonic()
        gen = step_generator(settings.seed, progress.step)
        decoder_only, whole = share >= settings.decoder_from, share >= settings.whole_from
        count, side = (max(1, settings.batch_size // 4), pictures.shape[-1]) if whole else (settings.batch_size, settings.crop_px)
        batch = crops(pictures, count, side, gen).to(device)
        with autocast(device):
            loss = vae_loss(vae, batch, decoder_only, settings.energy_weight, gen)
        optimizer.minimize(loss, vae, learning_rate(share, progress.step, settings.peak_rate))
        progress.advance(len(batch), loss, started)
        if checkpoint.is_due():
            checkpoint.save({"vae": vae}, optimizer, progress)
        yield progress
    checkpoint.save({"vae": vae}, optimizer, progress)
    vae.eval()


def crops(pictures: Tensor, count: int, crop_px: int, gen: torch.Generator) -> Tensor:
    """`count` random squares, half of them mirrored: (count, 3, crop, crop) in -1..1."""
    side = pictures.shape[-1]
    chosen = torch.randint(len(pictures), (count,), generator=gen).tolist()
    tops = torch.randint(side - crop_px + 1, (count, 2), generator=gen).tolist()
    batch = torch.stack([pictures[i, :, y : y + crop_px, x : x + crop_px] for i, (y, x) in zip(chosen, tops, strict=True)])
    batch[: count // 2] = batch[: count // 2].flip(-1)
    return batch.float() / 127.5 - 1


def encoded(vae: AutoencoderKL, x: Tensor) -> DiagonalGaussianDistribution:
    """(b, 3, s, s) in -1..1 -> the posterior of unscaled latents (b, c, s/8, s/8)."""
    return vae.encode(x, return_dict=False)[0]


def decoded(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Return pictures (b, 3, s, s) of unscaled latents (b, c, s/8, s/8)."""
    return vae.decode(cast(torch.FloatTensor, latents), return_dict=False)[0]


def vae_loss(vae: AutoencoderKL, x: Tensor, decoder_only: bool, energy_weight: float, gen: torch.Generator) -> Tensor:
    """Return the loss of reconstruction, on 40% of the steps of a mirrored or smaller latent: EQ-VAE, arXiv:2502.09509."""
    with torch.set_grad_enabled(not decoder_only):
        posterior = encoded(vae, x)
        z = posterior.mean  # (b, c, h/8, w/8)
        if not decoder_only:
            z = z + posterior.std * torch.randn(z.shape, generator=gen).to(z)
    target, chance = x, torch.rand(3, generator=gen).tolist()
    if not decoder_only and chance[0] < 0.4:
        if chance[1] < 0.3:
            z, target = z.flip(-1), x.flip(-1)
        else:
            scale = SCALES[int(chance[2] * len(SCALES))]
            z = F.interpolate(z.float(), scale_factor=scale, mode="bilinear", antialias=True)
            target = F.interpolate(x, size=[8 * s for s in z.shape[-2:]], mode="bilinear", antialias=True)
    # Noise of up to 0.3 of their deviation on 30% of the latents: what the UNet draws is never quite on the encoder's grid.
    amount = torch.rand(len(z), 1, 1, 1, generator=gen).sub(0.7).clamp(min=0).to(z.device)
    z = z + amount * z.detach().std((0, 2, 3), keepdim=True) * torch.randn(z.shape, generator=gen).to(z.device)
    out = decoded(vae, z.to(x.dtype)).float()
    error = out - target
    loss = error.abs().mean() + error.square().mean() + 0.3 * high_band(error).abs().mean()
    loss = loss + energy_weight * energy_error(out, target)
    return loss if decoder_only else loss + 1e-6 * posterior.kl().mean()


def high_band(x: Tensor) -> Tensor:
    """(b, c, h, w) minus its blur with the 5x5 binomial kernel."""
    row = x.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(row, row).expand(x.shape[1], 1, 5, 5)
    return x - F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=x.shape[1])


def energy_error(out: Tensor, target: Tensor) -> Tensor:
    """Return how far the high band's local strength is off: root of its mean square in 8 px windows, on two scales.

    Plain regression blurs a texture that it cannot place. This loss asks for texture of the right strength in the right
    place, wherever its lines fall, as an adversarial loss would, without a second network. Strength that lacks costs LACKING
    times as much as strength in excess: an uncertain decoder tends to less.
    """
    total = out.new_zeros(())
    for _ in range(2):
        strengths = [F.avg_pool2d(high_band(x).square(), 8, 4).add(1e-4).sqrt() for x in (out, target)]
        excess = strengths[0] - strengths[1]
        total = total + torch.where(excess < 0, -LACKING * excess, excess).mean()
        out, target = F.avg_pool2d(out, 2), F.avg_pool2d(target, 2)
    return total


@torch.no_grad()
def normalize_channels(vae: AutoencoderKL, means: Tensor, deviations: Tensor) -> None:
    """Fold a scale and a shift of every channel into the convolutions around the latents: each then has mean 0, deviation 1.

    means, deviations: the encoder's posterior, (n, c, h, w) each, unscaled. The deviation is that of sampled latents: by its
    means alone, a channel that holds nothing but the noise of the posterior would be amplified. Decoded pictures stay the same,
    up to rounding.
    """
    mean = means.float().mean((0, 2, 3))  # (c,)
    std = (means.float().var((0, 2, 3)) + deviations.float().square().mean((0, 2, 3))).sqrt()
    before, after = vae.quant_conv, vae.post_quant_conv
    assert before is not None and before.bias is not None and after is not None and after.bias is not None
    count = len(mean)
    after.bias += after.weight.flatten(1) @ mean.to(after.weight)
    after.weight *= std.view(1, -1, 1, 1).to(after.weight)
    before.weight[:count] /= std.view(-1, 1, 1, 1)
    before.bias[:count] = (before.bias[:count] - mean) / std
    before.bias[count:] -= 2 * std.log()  # the logarithm of the variance


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Return the mean PSNR (dB) of encoding and decoding (n, 3, s, s) uint8 pictures."""
    values = []
    device = next(vae.parameters()).device
    for batch in pictures.split(16):
        x = batch.to(device).float() / 127.5 - 1
        y = decoded(vae, encoded(vae, x).mean).clamp(-1, 1)
        values.append(10 * torch.log10(4 / (x - y).square().mean((1, 2, 3))))
    return torch.cat(values).mean().item()


@torch.no_grad()
def energy_retained(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Return the share of the local energy above 1/8 cycle a pixel that survives encoding and decoding, 0 to 1."""
    retained = total = 0.0
    device = next(vae.parameters()).device
    for batch in pictures.split(16):
        x = batch.to(device).float() / 127.5 - 1
        left, had = fine_energy(x, decoded(vae, encoded(vae, x).mean).clamp(-1, 1))
        retained, total = retained + len(batch) * left, total + len(batch) * had
    return retained / total
