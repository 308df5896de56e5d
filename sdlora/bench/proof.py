"""Whether the ruler of `bench style` measures style: it must tell styles apart, and not be won by a blur or a palette."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from sdlora.base.load import Base
from sdlora.bench.ruler import distances, separation
from sdlora.bench.style import Truth, render_all
from sdlora.bench.style_runs import draw_prompts, held_out, prompts_of
from sdlora.mini.strangers import Stranger

BLUR_PX = 2.0


@dataclass(frozen=True)
class Cheat:
    """Fine scores of pictures without the lines of the style: real ones blurred, the base's own in the colours of real ones.

    length: how far the fine ruler reaches, from the base to the best it could draw. None: the style has no fine texture.
    """

    style: str
    length: float
    blurred: float | None
    recoloured: float | None


def tell_apart(strangers: Sequence[Stranger], prompts: int) -> dict[str, float]:
    """Return, for each distance, how often pictures of other prompts in one style are nearer than in another style, 0.5 to 1."""
    scenes = held_out(2 * prompts)
    halves = [{s.name: render_all(s, part) for s in strangers} for part in (scenes[:prompts], scenes[prompts:])]
    found = {(a, b): distances(halves[0][a], halves[1][b]) for a, b in product(halves[0], repeat=2)}
    return {name: separation([getattr(found[pair], name) for pair in found if pair[0] == pair[1]],
                             [getattr(found[pair], name) for pair in found if pair[0] != pair[1]])
            for name in ("fine", "coarse", "random")}


def cheats(base: Base, strangers: Sequence[Stranger], prompts: int) -> Iterator[Cheat]:
    """Measure what a blur and a palette alone score, style by style."""
    scenes = held_out(prompts)
    plain = draw_prompts(base, prompts_of(scenes, trigger=False), 2)
    for stranger in strangers:
        truth = Truth(base, stranger, scenes, plain)
        yield Cheat(stranger.name, truth.nothing.fine - truth.perfect.fine, truth.style(blurred(truth.real)).fine,
                    truth.style(recoloured(plain, truth.real)).fine)


def blurred(pictures: Tensor) -> Tensor:
    """(n, 3, s, s) uint8 -> the same, without what is finer than about BLUR_PX."""
    soft = [Image.fromarray(x.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(BLUR_PX)) for x in pictures]
    return torch.stack([torch.frombuffer(bytearray(x.tobytes()), dtype=torch.uint8).view(x.height, x.width, 3) for x in soft]
                       ).permute(0, 3, 1, 2)


def recoloured(pictures: Tensor, like: Tensor) -> Tensor:
    """Return (n, 3, s, s) uint8 pictures whose channels have the histograms of those of `like`, all pictures together."""
    out = torch.empty_like(pictures)
    for channel in range(3):
        values, wanted = (x[:, channel].flatten() for x in (pictures, like))
        shares = torch.cumsum(torch.bincount(values, minlength=256), 0) / len(values)
        ranks = (shares * (len(wanted) - 1)).long()
        out[:, channel] = wanted.sort().values[ranks][pictures[:, channel].long()]
    return out
