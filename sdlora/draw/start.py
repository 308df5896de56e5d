"""What a picture begins from: pure noise, a picture (image-to-image), or a picture of which a part is redrawn (inpainting).

Knows nothing about denoising or LoRAs.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import max_pool2d

from sdlora.base.load import Base
from sdlora.config import DrawConfig
from sdlora.dataset.picture import open_picture
from sdlora.errors import UserError


@dataclass(frozen=True)
class Start:
    """`size`: (width, height) of the picture in px; strength: the share of the steps that run.

    picture, latents: what to begin from, fitted to `size`, and (1, c, h/f, w/f) clean; None for pure noise.
    area: white where it is redrawn, greys between; mask: that as (1, 1, h/f, w/f) of 0 and 1. None: everywhere.
    """
    size: tuple[int, int]
    strength: float = 1.0
    picture: Image.Image | None = None
    latents: Tensor | None = None
    area: Image.Image | None = None
    mask: Tensor | None = None

    def finish(self, image: Image.Image) -> Image.Image:
        """Return the drawn picture with the pixels of the first one wherever the mask is black."""
        return image if self.area is None or self.picture is None else Image.composite(image, self.picture, self.area)


def begin(base: Base, config: DrawConfig) -> Start:
    """Read and fit `init` and `mask`. Raises UserError: a wrong size, an unreadable picture, a mask without white."""
    assert base.unet is not None and base.vae is not None
    channels = base.unet.config["in_channels"]
    if channels != base.vae.config["latent_channels"]:
        raise UserError(f"{base.title} is an inpainting model with {channels} channels; sdlora inpaints with ordinary base "
                        "models.", "Choose the ordinary base model it was made from.")
    if config.mask and not config.init:
        raise UserError("A mask needs the picture it belongs to.", "Give the picture too (--init), or leave the mask out.")
    if not config.init:
        return Start(checked_size(base, config.width or base.resolution, config.height or base.resolution))
    picture = open_picture(Path(config.init))
    size = size_like(base, picture, config.width, config.height)
    picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    array = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1  # (1, 3, h, w)
    latents = base.encode_pictures(array)[0]
    if not config.mask:
        return Start(size, config.init_strength, picture, latents)
    area = ImageOps.fit(open_picture(Path(config.mask)).convert("L"), size, Image.Resampling.BILINEAR)
    white = torch.from_numpy(np.array(area))[None, None].float() / 255
    mask = (max_pool2d(white, base.factor) >= 0.5).float()  # a latent any part of which is to change
    if not mask.any():
        raise UserError(f"{Path(config.mask).name} is black all over: nothing would be redrawn.",
                        "Paint white where the picture is to change.")
    return Start(size, config.init_strength, picture, latents, area, mask.to(base.device))


def checked_size(base: Base, width: int, height: int) -> tuple[int, int]:
    """Return (width, height) when the base can draw it; else raise UserError with the nearest size it can."""
    if width % base.factor or height % base.factor:
        raise UserError(f"{base.title} draws sizes that are a multiple of {base.factor} px, not {width}x{height}.",
                        f"Try {max(1, width // base.factor) * base.factor}x{max(1, height // base.factor) * base.factor}.")
    return width, height


def size_like(base: Base, picture: Image.Image, width: int | None, height: int | None) -> tuple[int, int]:
    """Return the chosen size; sides of None follow the picture's shape, at about as many pixels as the base is made for."""
    assert base.unet is not None
    step = base.factor * 2 ** (len(base.unet.config["block_out_channels"]) - 1)  # halves evenly all the way down the UNet
    shape = picture.width / picture.height
    if width is None:
        width = rounded(base.resolution * math.sqrt(shape) if height is None else height * shape, step)
        height = height or rounded(base.resolution / math.sqrt(shape), step)
    return checked_size(base, width, height or rounded(width / shape, step))


def rounded(side: float, step: int) -> int:
    """Return the multiple of `step` nearest to `side` that is at least one step and at most 2048 px."""
    return min(max(1, round(side / step)), 2048 // step) * step
