"""Pictures for the VAE: renders in the base's styles, coarse and fine textures in none of them, and each kind as tensors.

The textures train the VAE for styles that the base does not have. Training and held-out seeds never overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import cos, pi, sin
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from torch import Tensor

from sdlora.mini.fine_textures import PITCH_PX, TRAINED, Canvas, Kind, with_ink
from sdlora.mini.pen import Rgb, mix
from sdlora.mini.render import OVERSAMPLING, DrawingStyle, render
from sdlora.mini.scenes import random_scene, random_scenes

HELD_OUT = 1_000_000_007  # first of the held-out seeds


def as_tensor(images: Iterable[Image.Image]) -> Tensor:
    """RGB pictures of one size -> (n, 3, s, s) uint8."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def scene_pictures(count: int, seed: int, size_px: int = 128) -> Tensor:
    """Renders with all base styles in equal shares."""
    return as_tensor(render(scene, size_px) for scene in random_scenes(count, seed, plain=0.2))


def texture_pictures(count: int, seed: int, size_px: int = 128) -> Tensor:
    """Random textures."""
    return as_tensor(texture(seed + number, size_px) for number in range(count))


def fine_pictures(count: int, seed: int, size_px: int = 128) -> Tensor:
    """Fine textures over all kinds of pictures."""
    return as_tensor(fine_texture(seed + number, size_px) for number in range(count))


def texture(seed: int, size_px: int = 128) -> Image.Image:
    """An RGB square with a texture of random kind, scale and palette."""
    rng = Random(seed)
    source = render(random_scene(rng), size_px, _random_style(rng)) if rng.random() < 0.5 else _blobs(rng, size_px)
    return rng.choice(KINDS)(source, rng)


def fine_texture(seed: int, size_px: int = 128, kinds: dict[str, Kind] = TRAINED) -> Image.Image:
    """An RGB square with one or two fine textures over a render, a coarse texture or blobs."""
    rng = Random(seed)
    chosen = rng.random()
    if chosen < 0.5:
        picture = render(random_scene(rng), size_px, _random_style(rng))
    else:
        picture = _blobs(rng, size_px) if chosen < 0.8 else texture(rng.randrange(2**32), size_px)
    if rng.random() < 0.35:
        picture = rng.choice((posters, exposure, inverted))(picture, rng)
    for _ in range(rng.choice((1, 1, 2))):
        kind = kinds[rng.choice(list(kinds))]
        low, high = PITCH_PX
        mask = kind(Canvas.over(picture, rng), low * (high / low) ** rng.random())
        picture = with_ink(picture, mask, _colour(rng), rng.choice((1.0, 1.0, rng.uniform(0.3, 1.0))))
    return picture


def one_texture_images(kind: Kind, count: int, seed: int, size_px: int = 128) -> list[Image.Image]:
    """`count` pictures with one kind of fine texture at full strength, for measuring."""
    pictures = []
    for number in range(count):
        rng = Random(seed + number)
        picture = render(random_scene(rng), size_px)
        mask = kind(Canvas.over(picture, rng), rng.uniform(3.0, 8.0))
        pictures.append(with_ink(picture, mask, _colour(rng), 1.0))
    return pictures


def _random_style(rng: Random) -> DrawingStyle | None:
    """Half of the time the scene in its own style, else outlined and toned at random."""
    if rng.random() < 0.5:
        return None
    tone, share_of_thing, share_of_scene = _colour(rng), rng.uniform(0, 0.6), rng.uniform(0, 0.9)
    return DrawingStyle(
        thing_ink=lambda c: mix(c, tone, share_of_thing),
        scene_ink=lambda c: mix(c, tone, share_of_scene),
        line=_colour(rng),
        line_px=rng.choice((0.0, rng.uniform(2.5, 5.0))),
    )


def _blobs(rng: Random, size_px: int) -> Image.Image:
    """A few random colours with soft or hard edges."""
    cells = rng.choice((2, 3, 4, 6))
    small = Image.new("RGB", (cells, cells))
    small.putdata([_colour(rng) for _ in range(cells * cells)])
    smooth = rng.random() < 0.6
    return small.resize((size_px, size_px), Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST)


def _colour(rng: Random) -> Rgb:
    grey = rng.randrange(256)
    colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
    return mix(colour, (grey, grey, grey), rng.choice((0.0, 0.3, 1.0)))


def _canvas(source: Image.Image) -> tuple[Image.Image, ImageDraw.ImageDraw, float]:
    """The picture four times as large, its ImageDraw, and the length of one pixel of 128 on it."""
    side = source.width * OVERSAMPLING
    big = source.resize((side, side), Image.Resampling.BICUBIC)
    return big, ImageDraw.Draw(big), side / 128


def _pixel(source: Image.Image, x: float, y: float) -> Any:
    """The colour or grey value of the source under a point of its canvas."""
    column, row = (min(source.width - 1, max(0, int(v / OVERSAMPLING))) for v in (x, y))
    return source.getpixel((column, row))


def stripes(source: Image.Image, rng: Random) -> Image.Image:
    """Parallel or crossing lines, straight or waving."""
    big, draw, px = _canvas(source)
    for _ in range(rng.choice((1, 1, 2))):
        angle, pitch, wave = rng.uniform(0, pi), rng.uniform(7, 20) * px, rng.choice((0, 0, rng.uniform(1, 6) * px))
        width, ink = max(1, round(pitch * rng.uniform(0.3, 0.6))), _colour(rng)
        ux, uy = cos(angle), sin(angle)
        half, middle = big.width * 0.75, big.width / 2
        for row in range(-int(half / pitch), int(half / pitch) + 1):
            points = []
            for along in range(-12, 13):
                a, b = along * half / 12, row * pitch + wave * sin(along * 1.3)
                points.append((middle + a * ux - b * uy, middle + a * uy + b * ux))
            draw.line(points, fill=ink, width=width, joint="curve")
    return big.reduce(OVERSAMPLING)


def dots(source: Image.Image, rng: Random) -> Image.Image:
    """Halftone: round or square dots on a grid, larger where the picture is dark."""
    big, draw, px = _canvas(source)
    pitch = rng.uniform(7, 14) * px
    ink, by_tone, round_ones = _colour(rng), rng.random() < 0.6, rng.random() < 0.7
    tones = source.convert("L")
    count = int(big.width / pitch) + 1
    for row in range(count):
        for column in range(count):
            x, y = (column + 0.5 * (row % 2)) * pitch, row * pitch
            radius = pitch * (0.15 + 0.35 * (1 - _pixel(tones, x, y) / 255) if by_tone else 0.33)
            box = (x - radius, y - radius, x + radius, y + radius)
            (draw.ellipse if round_ones else draw.rectangle)(box, fill=ink)
    return big.reduce(OVERSAMPLING)


def cells(source: Image.Image, rng: Random) -> Image.Image:
    """Mosaic: tilted tiles in the picture's colours between joints."""
    big, draw, px = _canvas(source)
    pitch, joint = rng.uniform(8, 18) * px, rng.uniform(1.5, 3.0) * px
    draw.rectangle((0, 0, big.width, big.width), fill=_colour(rng))
    count = int(big.width / pitch) + 2
    grid = [[_jittered(column, row, pitch, rng) for column in range(count)] for row in range(count)]
    for row in range(count - 1):
        for column in range(count - 1):
            corners = [grid[row][column], grid[row][column + 1], grid[row + 1][column + 1], grid[row + 1][column]]
            cx, cy = sum(x for x, _ in corners) / 4, sum(y for _, y in corners) / 4
            keep = 1 - joint / pitch
            draw.polygon([(cx + (x - cx) * keep, cy + (y - cy) * keep) for x, y in corners], fill=_pixel(source, cx, cy))
    return big.reduce(OVERSAMPLING)


def _jittered(column: int, row: int, pitch: float, rng: Random) -> tuple[float, float]:
    return (column - 0.3 + rng.uniform(0, 0.5)) * pitch, (row - 0.3 + rng.uniform(0, 0.5)) * pitch


def strokes(source: Image.Image, rng: Random) -> Image.Image:
    """Short strokes in slightly wrong colours over the picture."""
    big, draw, px = _canvas(source)
    length, width, turn = rng.uniform(10, 26) * px, rng.uniform(4, 9) * px, rng.uniform(0, pi)
    for _ in range(260):
        x, y = rng.uniform(0, big.width), rng.uniform(0, big.width)
        ink = mix(_pixel(source, x, y), _colour(rng), rng.uniform(0, 0.25))
        angle = turn + rng.gauss(0, 0.5)
        dx, dy = cos(angle) * length / 2, sin(angle) * length / 2
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=ink, width=max(1, round(width)))
    return big.reduce(OVERSAMPLING)


def hatching(source: Image.Image, rng: Random) -> Image.Image:
    """Two inks: lines that swell where the picture is dark, as in an engraving."""
    side, px = source.width, source.width / 128
    pitch, angle = rng.uniform(7, 12) * px, rng.uniform(0, pi)
    ramp = Image.new("L", (side * 2, side * 2))
    draw = ImageDraw.Draw(ramp)
    ux, uy = cos(angle), sin(angle)
    reach = int(side * 1.5 / pitch)
    for row in range(-reach, reach + 1):
        for part in range(4):
            grey = (60, 130, 190, 240)[part]
            offset = (row + part / 8) * pitch * 2
            points = [(side - uy * offset + ux * along, side + ux * offset + uy * along) for along in (-side * 2, side * 2)]
            draw.line(points, fill=grey, width=max(1, round(pitch * (1.1 - part * 0.25))))
    ramp = ramp.filter(ImageFilter.GaussianBlur(px)).reduce(2)
    tone = source.convert("L")
    mask = Image.composite(Image.new("L", tone.size, 255), Image.new("L", tone.size, 0), _above(ramp, tone))
    return Image.composite(Image.new("RGB", tone.size, _colour(rng)), Image.new("RGB", tone.size, _colour(rng)), mask)


def _above(a: Image.Image, b: Image.Image) -> Image.Image:
    """A soft mask of where a is lighter than b."""
    return ImageChops.subtract(a, b, scale=0.15, offset=128)


def posters(source: Image.Image, rng: Random) -> Image.Image:
    """Flat areas: the picture blurred and cut into few tones, in other colours."""
    tones = source.convert("L").filter(ImageFilter.GaussianBlur(source.width / 64))
    steps = rng.choice((2, 3, 4))
    palette = [_colour(rng) for _ in range(steps)]
    bands = [tones.point([palette[min(steps - 1, v * steps // 256)][band] for v in range(256)]) for band in range(3)]
    return Image.merge("RGB", bands)


def exposure(source: Image.Image, rng: Random) -> Image.Image:
    """The picture itself in another exposure."""
    return Image.blend(source, Image.new("RGB", source.size, _colour(rng)), rng.uniform(0, 0.4))


def inverted(source: Image.Image, rng: Random) -> Image.Image:
    """The negative, whole or in part."""
    return Image.blend(source, ImageChops.invert(source), rng.choice((0.8, 1.0)))


KINDS: tuple[Callable[[Image.Image, Random], Image.Image], ...] = (
    stripes, dots, cells, strokes, hatching, posters, exposure, exposure,
)
