"""Whether a base can carry an artist's pictures at all: how much of their fine lines and textures survives its VAE.

What is lost there no LoRA can draw. Knows nothing about training.
"""

from collections.abc import Sequence
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlora.base.load import Base
from sdlora.dataset.folder import Example
from sdlora.dataset.picture_cache import peek_square
from sdlora.errors import UserError
from sdlora.train.cache import content_hash, entry_name, read_entry, store
from sdlora.train.features import pixels_of

FINEST = 1 / 8  # cycles a pixel: what is finer than a latent
WINDOW_PX = 16
PICTURES = 6
LEAST = 0.6  # share of the fine energy
VISIBLE = 1e-4  # mean square in -1 to 1 below which a picture has nothing fine to lose


def high_pass(x: Tensor, frequency: float = FINEST) -> Tensor:
    """Return the part of (b, c, h, w) above `frequency` cycles a pixel."""
    height, width = x.shape[-2:]
    fy, fx = torch.fft.fftfreq(height, device=x.device)[:, None], torch.fft.rfftfreq(width, device=x.device)[None]
    return torch.fft.irfft2(torch.fft.rfft2(x) * (torch.hypot(fy, fx) > frequency), s=(height, width))


def fine_energy(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Return (what is kept of the fine energy, all of it) of pictures (b, 3, h, w) in -1 to 1.

    Energies are means of squares in windows of WINDOW_PX; what a window gains does not make up for what another loses.
    """
    left, had = (F.avg_pool2d(high_pass(x).square(), WINDOW_PX) for x in (after, before))
    return torch.minimum(left, had).mean().item(), had.mean().item()


def carry_note(base: Base, examples: Sequence[Example], side: int) -> str | None:
    """Return a sentence when the base loses much of what makes the pictures, else None. side: px of the trained squares.

    Only the embedded base is asked: the VAEs of Stable Diffusion carry what artists draw. A picture that cannot be read does not
    count.
    """
    chosen = examples[:: -(-len(examples) // PICTURES)] if base.family == "mini" and examples else []
    vae = content_hash(base.vae.state_dict()) if chosen else ""
    energies = torch.zeros(2)
    for example in chosen:
        with suppress(UserError):  # whoever uses the picture says why
            energies += energies_of(base, vae, example, side)
    kept, total = energies.tolist()
    if total <= VISIBLE * len(chosen) or kept / total >= LEAST:
        return None
    return (f"{base.title} keeps {kept / total:.0%} of the fine lines and textures of these pictures: it can catch their "
            "colours and coarse textures. For the real thing choose Stable Diffusion.")


def energies_of(base: Base, vae: str, example: Example, side: int) -> Tensor:
    """Return `fine_energy` of a picture and what the VAE makes of it, (2,), from the cache when it is there."""
    name = entry_name("carried", vae, example.digest, side)
    if (entry := read_entry(name)) is None:
        before = pixels_of(peek_square(example.path, example.name, example.digest, side))
        after = pixels_of(base.decode(base.encode_pictures(before)[0])[0])
        entry = store(name, {"energies": torch.tensor(fine_energy(before, after))})
    return entry["energies"]
