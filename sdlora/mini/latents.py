"""Training examples of the UNet, rendered and encoded once: shards of latents, token ids and class maps.

A folder of shards can grow while the training reads it; the seed of a scene is its number.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from sdlora.mini.autoencoder import encoded
from sdlora.mini.manners import Manner, describe, random_manner
from sdlora.mini.network import token_ids
from sdlora.mini.pictures import as_tensor
from sdlora.mini.render import class_map, render
from sdlora.mini.scenes import Scene, random_scene, training_caption
from sdlora.mini.training import autocast
from sdlora.storage import write_atomic

log = logging.getLogger(__name__)
CAPTIONS = 4  # of every scene
MANNERED = 0.5  # share of scenes in a random manner, instead of a style of the base
SHARD = 500  # scenes in a file


@dataclass
class Examples:
    """latents (n, c, h, w) fp16, unscaled; ids (n, CAPTIONS, MAX_TOKENS) int16; maps (n, h, w) uint8."""

    latents: Tensor
    ids: Tensor
    maps: Tensor

    def __len__(self) -> int:
        return len(self.latents)


def encode(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """(n, 3, s, s) uint8 -> posterior means (n, c, s/8, s/8) fp16, unscaled."""
    return posterior(vae, pictures)[0].half()


@torch.no_grad()
def posterior(vae: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 3, s, s) uint8 -> means and deviations, each (n, c, s/8, s/8) fp32, unscaled."""
    device = next(vae.parameters()).device
    means, deviations = [], []
    for batch in pictures.split(32):
        with autocast(device):
            latents = encoded(vae, batch.to(device).float() / 127.5 - 1)
        means.append(latents.mean.float().cpu())
        deviations.append(latents.std.float().cpu())
    return torch.cat(means), torch.cat(deviations)


def make_examples(vae: AutoencoderKL, tokenizer: CLIPTokenizer, scenes: list[Scene]) -> Examples:
    """Render, encode and caption some scenes, a part of them in random manners."""
    size_px = vae.config["sample_size"]
    rngs = [Random(scene.layout) for scene in scenes]
    manners = [random_manner(rng) if rng.random() < MANNERED else None for rng in rngs]
    styles = [manner.style() if manner else None for manner in manners]
    latents = encode(vae, as_tensor(render(scene, size_px, style) for scene, style in zip(scenes, styles, strict=True)))
    side = latents.shape[-1]
    texts = [training_text(*example) for example in zip(scenes, manners, rngs, strict=True) for _ in range(CAPTIONS)]
    ids = torch.tensor(token_ids(tokenizer, texts), dtype=torch.int16).view(len(scenes), CAPTIONS, -1)
    maps = torch.tensor([class_map(scene, side) for scene in scenes], dtype=torch.uint8).view(-1, side, side)
    return Examples(latents, ids, maps)


def training_text(scene: Scene, manner: Manner | None, rng: Random) -> str:
    """Return a caption of the scene in its manner, or in its own style where there is none."""
    if manner is None:
        return training_caption(scene, rng)
    return describe(manner, training_caption(scene, rng, styled=False), rng)


def fill_cache(vae: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path, count: int) -> None:
    """Write the shards that are missing up to `count` scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    size = min(SHARD, count)
    for number in range(count // size):
        path = folder / f"{number:04d}.safetensors"
        if path.exists():
            continue
        rng = Random(number)
        scenes = [random_scene(rng, _crowded(number * size / count)) for _ in range(size)]
        examples = make_examples(vae, tokenizer, scenes)
        write_atomic(path, lambda temporary, tensors=vars(examples): save_file(tensors, temporary))
        log.info("cached %d of %d scenes", (number + 1) * size, count)


def _crowded(share: float) -> float:
    """Return the share of scenes with two things: few at first, for the shapes; then nearly all, for which of them is red."""
    return 0.2 if share < 0.75 else 0.9


def read_cache(folder: Path) -> Examples:
    """Return all shards as one."""
    shards = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    return Examples(*(torch.cat([shard[key] for shard in shards]) for key in ("latents", "ids", "maps")))
