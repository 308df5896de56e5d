"""The whole recipe of the embedded base: render, train the VAE, encode once, train text encoder and UNet, write.

A stopped build resumes from its last checkpoint. From nothing, or with another VAE, a third of the time goes to the VAE; from an
existing base with its own the encoder stays (the UNet was trained on its latents) and a tenth goes to the decoder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from sdlora.mini.autoencoder import VaeSettings, normalize_channels, train_vae
from sdlora.mini.denoiser import UnetSettings, train_unet
from sdlora.mini.latents import encode, fill_cache, posterior
from sdlora.mini.network import Networks, Shape, forget_latents, fresh, load_networks, save_networks, set_latent_scale
from sdlora.mini.pictures import fine_pictures, scene_pictures, texture_pictures
from sdlora.mini.training import Budget, Checkpoint, Progress
from sdlora.storage import write_atomic

log = logging.getLogger(__name__)
VAE_SHARE_FRESH, VAE_SHARE_FROM = 0.35, 0.1


@dataclass(frozen=True)
class Recipe:
    """What is built, from what, and for how long."""

    minutes: float = 240.0
    source: str | None = None
    """Folder of a base to start from; None starts from nothing."""
    vae_source: str | None = None
    """Folder of a VAE to start from, encoder free. The UNet of `source`, if there is one, keeps all but its two ends."""
    scenes: int = 24_000
    vae_scenes: int = 3_000
    vae_textures: int = 2_000
    vae_fine: int = 6_000
    shape: Shape = Shape()
    vae: VaeSettings = VaeSettings()
    unet: UnetSettings = UnetSettings()
    vae_steps: int | None = None
    """Steps of the VAE's phase instead of minutes."""
    unet_steps: int | None = None
    """Steps of the UNet's phase instead of minutes; 0 leaves it out."""

    @classmethod
    def for_minutes(cls, minutes: float, source: str | None = None) -> Recipe:
        """Return the recipe with as many pictures as so many minutes can use."""
        scenes, vae_pictures = int(min(24_000, max(500, 160 * minutes))), int(min(3_000, max(64, 30 * minutes)))
        return cls(minutes, source, None, scenes, vae_pictures, vae_pictures * 2 // 3, vae_pictures * 2)

    @property
    def new_latents(self) -> bool:
        """Return whether the encoder is trained too, and not only the decoder."""
        return self.source is None or self.vae_source is not None

    def budget(self, phase: str) -> Budget:
        """Return the phase's part of the time."""
        share = VAE_SHARE_FRESH if self.new_latents else VAE_SHARE_FROM
        part, steps = (share, self.vae_steps) if phase == "vae" else (1 - share, self.unet_steps)
        return Budget(seconds=60 * self.minutes * part) if steps is None else Budget(steps=steps)


def pick_device(device: str = "auto") -> str:
    """Return the fastest device of this computer, or the named one."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def build(recipe: Recipe, work: Path, out: Path, device: str = "auto") -> Iterator[tuple[str, Progress]]:
    """Yield (phase, progress) after every step, and write the base to `out` at the end."""
    _check_recipe(recipe, work)
    torch.manual_seed(0)
    networks = load_networks(Path(recipe.source)) if recipe.source else fresh(recipe.shape)
    if recipe.vae_source:
        networks.vae = AutoencoderKL.from_pretrained(recipe.vae_source, torch_dtype=torch.float32)
        forget_latents(networks.unet)
    networks.to(pick_device(device))
    for progress in _vae_phase(networks, recipe, work):
        yield "vae", progress
    # The cache holds latents of the encoder, which the decoder-only phase of an existing base does not change.
    if recipe.unet_steps != 0:
        fill_cache(networks.vae, networks.tokenizer, work / "cache", recipe.scenes)
        for progress in train_unet(networks, work / "cache", recipe.budget("unet"), Checkpoint(work, "unet"), recipe.unet):
            yield "unet", progress
    save_networks(networks.to("cpu"), out)


def _vae_phase(networks: Networks, recipe: Recipe, work: Path) -> Iterator[Progress]:
    size_px = networks.vae.config["sample_size"]

    def pictures() -> torch.Tensor:
        return torch.cat([scene_pictures(recipe.vae_scenes, 11, size_px), texture_pictures(recipe.vae_textures, 500_000, size_px),
                          fine_pictures(recipe.vae_fine, 700_000, size_px)])

    settings = recipe.vae
    if recipe.source or recipe.vae_source:  # trained and annealed before
        settings = replace(settings, peak_rate=settings.peak_rate / 2)
    if not recipe.new_latents:
        settings = replace(settings, decoder_from=0.0)
    yield from train_vae(networks.vae, pictures, recipe.budget("vae"), Checkpoint(work, "vae"), settings)
    if recipe.new_latents:
        scenes = scene_pictures(min(512, recipe.vae_scenes), 11, size_px)
        normalize_channels(networks.vae, *posterior(networks.vae, scenes))
        snr = set_latent_scale(networks.vae, encode(networks.vae, scenes))
        log.info("latents scaled by %.4f, terminal SNR %.4f", networks.vae.config["scaling_factor"], snr)


def _check_recipe(recipe: Recipe, work: Path) -> None:
    """Refuse to resume with another start or shape than the folder was begun with."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "recipe.json"
    start = {"source": recipe.source, "vae_source": recipe.vae_source, "unet_channels": list(recipe.shape.unet_channels)}
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != start:
        raise ValueError(f"{work} holds another build ({path.name} differs). Empty it or name another --work folder.")
    write_atomic(path, (json.dumps(start, indent=2) + "\n").encode())
