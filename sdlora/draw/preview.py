"""A rough look at latents without the VAE's decoder. Knows nothing about denoising."""

from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor

from sdlora.base.load import Base

FITTED: WeakKeyDictionary[Base, Tensor] = WeakKeyDictionary()


def rough(base: Base, latents: Tensor, size: tuple[int, int]) -> Image.Image:
    """latents (1, c, h, w), clean or nearly so -> a picture of `size` px: colours by a linear map, enlarged smoothly."""
    rows = with_ones(latents[0].flatten(1).T.float())  # (h w, c + 1)
    array = ((rows @ colours(base)).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(array.reshape(*latents.shape[2:], 3).cpu().numpy()).resize(size, Image.Resampling.BICUBIC)


def colours(base: Base) -> Tensor:
    """The best linear map (c + 1, 3) from a latent to its colour, fitted once per base on flat patches that it encodes."""
    if base not in FITTED:
        levels = torch.tensor([-0.8, 0.0, 0.8])
        palette = torch.cartesian_prod(levels, levels, levels)  # (27, 3)
        patches = palette[:, :, None, None].expand(-1, -1, 4 * base.factor, 4 * base.factor)
        mean = torch.cat([base.encode_pictures(patch)[0] for patch in patches.split(1)])
        rows = with_ones(mean[:, :, 1:3, 1:3].permute(0, 2, 3, 1).flatten(0, 2))  # (27 x 4, c + 1): away from the borders
        wanted = (palette / 2 + 0.5).repeat_interleave(4, 0).to(rows.device)
        gram = rows.T @ rows + 1e-3 * torch.eye(rows.shape[1], device=rows.device)
        FITTED[base] = torch.linalg.solve(gram, rows.T @ wanted)
    return FITTED[base]


def with_ones(rows: Tensor) -> Tensor:
    """(n, c) -> (n, c + 1): the last column carries the offset."""
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
