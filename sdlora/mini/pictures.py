"""Rendered pictures as tensors, for the VAE and for measuring. Training and held-out seeds never meet."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdlora.mini.render import render
from sdlora.mini.textures import fine_texture, texture
from sdlora.mini.words import Scene, random_scene

HELD_OUT = 1_000_000_007


def as_tensor(images: Iterable[Image.Image]) -> Tensor:
    """RGB pictures of one size -> (n, 3, s, s) uint8."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def scenes(count: int, seed: int, crowded: float = 0.25, plain: float = 0.6) -> list[Scene]:
    """Random scenes; the same seed gives the same list."""
    rng = Random(seed)
    return [random_scene(rng, crowded, plain) for _ in range(count)]


def scene_pictures(count: int, seed: int, size_px: int = 128, plain: float = 0.2) -> Tensor:
    """Renders in all base styles alike."""
    return as_tensor(render(scene, size_px) for scene in scenes(count, seed, plain=plain))


def texture_pictures(count: int, seed: int, size_px: int = 128) -> Tensor:
    """Random textures."""
    return as_tensor(texture(seed + number, size_px) for number in range(count))


def fine_pictures(count: int, seed: int, size_px: int = 128) -> Tensor:
    """Fine textures over all kinds of pictures."""
    return as_tensor(fine_texture(seed + number, size_px) for number in range(count))
