"""Fine textures, 2.6 to 12 px of 128 from one line or dot to the next: coverage of an ink over a picture.

Every kind takes the canvas (coordinates and tone of the picture) and a pitch, and gives a mask from 0 to 1. The VAE is trained
on the TRAINED kinds; the UNSEEN kinds only measure it. Knows nothing about scenes or networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFilter

OVERSAMPLING = 2
PITCH_PX = (2.6, 12.0)


@dataclass(frozen=True)
class Canvas:
    """x, y (s, s) in px of 128, tone (s, s) in 0 (dark) to 1, all OVERSAMPLING times as large as the picture."""

    x: ndarray
    y: ndarray
    tone: ndarray
    rng: Random

    @classmethod
    def over(cls, picture: Image.Image, rng: Random) -> Canvas:
        """The canvas over a picture."""
        side = picture.width * OVERSAMPLING
        along = (np.arange(side, dtype=np.float32) + 0.5) * 128 / side
        tone = np.asarray(picture.convert("L").resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
        return cls(*np.meshgrid(along, along), tone, rng)

    def rotated(self, angle: float) -> tuple[ndarray, ndarray]:
        """x and y rotated by `angle` (radians)."""
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return self.x * c + self.y * s, self.y * c - self.x * s

    def randomly_rotated(self) -> tuple[ndarray, ndarray]:
        """x and y rotated by a random angle, often a right angle or none."""
        return self.rotated(self.rng.choice((0, np.pi / 2, np.pi / 4, self.rng.uniform(0, np.pi))))

    def coverage(self, distance: ndarray) -> ndarray:
        """1 inside (distance < 0), 0 outside; distance in px of 128, with antialiased edges."""
        return np.clip(0.5 - distance * (self.x.shape[0] / 128), 0, 1)


Kind = Callable[[Canvas, float], ndarray]


def line_distance(u: ndarray, v: ndarray, pitch: float, rng: Random) -> ndarray:
    """Distance (px) from the nearest of many lines along v, straight or waving."""
    bend = rng.choice((0, 0, 1)) * rng.uniform(0.1, 1.2) * pitch
    u = u + bend * np.sin(v * np.float32(2 * np.pi / (pitch * rng.uniform(2, 8))) + rng.uniform(0, 6))
    return np.abs((u / pitch + rng.random()) % 1 - 0.5) * pitch


def cell(u: ndarray, v: ndarray, pitch: float, shift: float = 0.0) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Place within a cell (-0.5..0.5, twice) and number of the cell; every second row is shifted by `shift` cells."""
    row = np.floor(v / pitch)
    column = u / pitch + shift * (row % 2)
    return column % 1 - 0.5, v / pitch % 1 - 0.5, np.floor(column), row


def cell_noise(column: ndarray, row: ndarray, salt: int) -> ndarray:
    """A pseudo-random number from 0 to 1, the same for the same cell."""
    value = np.sin(column * 127.1 + row * 311.7 + salt * 74.7) * 43758.5453
    return (value - np.floor(value)).astype(np.float32)


def grating(canvas: Canvas, pitch: float) -> ndarray:
    """Parallel lines, straight or waving, of one width."""
    return canvas.coverage(line_distance(*canvas.randomly_rotated(), pitch, canvas.rng) - pitch * canvas.rng.uniform(0.12, 0.38))


def lattice(canvas: Canvas, pitch: float) -> ndarray:
    """Two gratings across each other."""
    return np.maximum(grating(canvas, pitch), grating(canvas, pitch * canvas.rng.uniform(0.8, 1.3)))


def hatching(canvas: Canvas, pitch: float) -> ndarray:
    """Lines that swell where the picture is dark."""
    width = pitch * (0.05 + 0.45 * (1 - canvas.tone))
    return canvas.coverage(line_distance(*canvas.randomly_rotated(), pitch, canvas.rng) - width)


def halftone(canvas: Canvas, pitch: float) -> ndarray:
    """Round or square dots on a grid, larger where the picture is dark."""
    rng = canvas.rng
    a, b, _, _ = cell(*canvas.randomly_rotated(), pitch, rng.choice((0, 0.5)))
    distance = np.hypot(a, b) if rng.random() < 0.7 else np.maximum(np.abs(a), np.abs(b))
    radius = 0.08 + 0.5 * (1 - canvas.tone)
    return canvas.coverage((distance - radius) * pitch)


def dots(canvas: Canvas, pitch: float) -> ndarray:
    """Dots or rings of one size, some of them missing."""
    rng = canvas.rng
    a, b, column, row = cell(*canvas.randomly_rotated(), pitch, rng.choice((0, 0.5)))
    radius, salt = rng.uniform(0.15, 0.42), rng.randrange(1000)
    distance = np.hypot(a, b) - radius
    distance = np.abs(distance + 0.08) - 0.08 if rng.random() < 0.25 else distance
    return canvas.coverage(distance * pitch) * (cell_noise(column, row, salt) < rng.choice((1.0, 0.7)))


def stitches(canvas: Canvas, pitch: float) -> ndarray:
    """Small crosses or slanted dashes in rows."""
    rng = canvas.rng
    a, b, _, _ = cell(*canvas.rotated(0), pitch)
    arms = np.minimum(np.abs(a - b), np.abs(a + b)) if rng.random() < 0.5 else np.abs(a - b)
    inside = np.maximum(np.abs(a), np.abs(b)) - 0.4
    return canvas.coverage(np.maximum(arms - rng.uniform(0.12, 0.22), inside) * pitch)


def mosaic_joints(canvas: Canvas, pitch: float) -> ndarray:
    """The joints between tiles of random shape (a jittered Voronoi diagram)."""
    u, v = canvas.randomly_rotated()
    pitch *= 1.6
    column, row = np.floor(u / pitch), np.floor(v / pitch)
    salt, jitter = canvas.rng.randrange(1000), canvas.rng.uniform(0.2, 0.9)
    nearest = np.full((2, *u.shape), 1e6, np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            cx, cy = column + dx, row + dy
            px = cx + 0.5 + (cell_noise(cx, cy, salt) - 0.5) * jitter
            py = cy + 0.5 + (cell_noise(cx, cy, salt + 1) - 0.5) * jitter
            distance = np.hypot(u / pitch - px, v / pitch - py)
            nearest = np.sort(np.concatenate([nearest, distance[None]]), axis=0)[:2]
    return canvas.coverage((nearest[1] - nearest[0] - canvas.rng.uniform(0.08, 0.22)) * pitch)


def grain(canvas: Canvas, pitch: float) -> ndarray:
    """Noise of a random spectrum, isotropic or drawn out like fibres, hard or soft."""
    rng, side = canvas.rng, canvas.x.shape[0]
    noise = np.random.default_rng(rng.randrange(2**32)).standard_normal((side, side)).astype(np.float32)
    fy, fx = np.fft.fftfreq(side)[:, None] * side / 128, np.fft.rfftfreq(side)[None] * side / 128  # cycles per px of 128
    stretch = rng.choice((1, 1, rng.uniform(2, 6)))
    frequency = np.hypot(fy * stretch, fx) * pitch
    shape = np.exp(-np.square(frequency)) if rng.random() < 0.6 else np.exp(-8 * np.square(frequency - 0.8))
    value = np.fft.irfft2(np.fft.rfft2(noise) * shape, s=(side, side))
    value = value / (value.std() + 1e-6)
    return np.clip(0.5 + value * rng.choice((0.2, 0.4, 2.0)), 0, 1).astype(np.float32)


def lines(canvas: Canvas, pitch: float) -> ndarray:
    """A few thin open lines anywhere, sometimes with a glow around them."""
    rng, side = canvas.rng, canvas.x.shape[0]
    image = Image.new("L", (side, side))
    draw, px = ImageDraw.Draw(image), side / 128
    for _ in range(rng.randint(5, 40)):
        x, y, turn = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0, 2 * np.pi)
        points = [(x, y)]
        for _ in range(rng.randint(1, 8)):
            turn += rng.gauss(0, 0.6)
            x, y = x + np.cos(turn) * pitch * 2 * px, y + np.sin(turn) * pitch * 2 * px
            points.append((x, y))
        draw.line(points, fill=255, width=max(1, round(rng.uniform(0.7, 2.2) * px)), joint="curve")
    mask = np.asarray(image, np.float32) / 255
    if rng.random() < 0.3:
        halo = np.asarray(image.filter(ImageFilter.GaussianBlur(2.5 * px)), np.float32) / 255
        mask = np.maximum(mask, np.clip(halo * 1.6, 0, 0.7))
    return mask


def weave(canvas: Canvas, pitch: float) -> ndarray:
    """Threads over and under each other."""
    a, b, column, row = cell(*canvas.rotated(0), pitch)
    over = (column + row) % 2 == 0
    return canvas.coverage((np.where(over, np.abs(a), np.abs(b)) - 0.3) * pitch)


def scales(canvas: Canvas, pitch: float) -> ndarray:
    """Overlapping arcs, row upon row."""
    a, b, _, _ = cell(*canvas.rotated(0), pitch, 0.5)
    return canvas.coverage((np.abs(np.hypot(a, b + 0.5) - 0.5) - 0.09) * pitch)


def engraving(canvas: Canvas, pitch: float) -> ndarray:
    """Rings around a point outside the picture, swelling with the tone."""
    rng = canvas.rng
    distance = np.hypot(canvas.x - rng.uniform(-80, 0), canvas.y - rng.uniform(-80, 200))
    return canvas.coverage(np.abs(distance / pitch % 1 - 0.5) * pitch - pitch * (0.06 + 0.42 * (1 - canvas.tone)))


def stipple(canvas: Canvas, pitch: float) -> ndarray:
    """Scattered dots of one size, closer where the picture is dark."""
    a, b, column, row = cell(canvas.x, canvas.y, pitch)
    salt = canvas.rng.randrange(1000)
    a, b = a + (cell_noise(column, row, salt) - 0.5) * 0.5, b + (cell_noise(column, row, salt + 1) - 0.5) * 0.5
    return canvas.coverage((np.hypot(a, b) - 0.24) * pitch) * (cell_noise(column, row, salt + 2) > canvas.tone)


def bricks(canvas: Canvas, pitch: float) -> ndarray:
    """Joints of a wall."""
    a, b, _, _ = cell(canvas.x / 2, canvas.y, pitch, 0.5)
    return canvas.coverage(np.minimum(pitch * (1 - 2 * np.abs(a)), pitch / 2 * (1 - 2 * np.abs(b))) - 0.5)


def knit(canvas: Canvas, pitch: float) -> ndarray:
    """Columns of small V."""
    a, b, _, _ = cell(canvas.x, canvas.y, pitch)
    return canvas.coverage((np.abs((b - np.abs(a) + 1) % 1 - 0.5) - 0.2) * pitch)


def scribble(canvas: Canvas, pitch: float) -> ndarray:
    """One long curling line."""
    rng, side = canvas.rng, canvas.x.shape[0]
    image = Image.new("L", (side, side))
    px = side / 128
    t = np.linspace(0, 128 / pitch, 1500)
    points = [(64 + 50 * np.sin(0.9 * s + 1) + pitch * 1.5 * np.cos(9 * s), s * pitch + pitch * 1.5 * np.sin(9 * s)) for s in t]
    ImageDraw.Draw(image).line([(x * px, y * px) for x, y in points], fill=255, width=max(1, round(rng.uniform(0.8, 1.6) * px)))
    return np.asarray(image, np.float32) / 255


TRAINED: dict[str, Kind] = {kind.__name__: kind for kind in (
    grating, lattice, hatching, halftone, dots, stitches, mosaic_joints, grain, lines)}
UNSEEN: dict[str, Kind] = {kind.__name__: kind for kind in (weave, scales, engraving, stipple, bricks, knit, scribble)}


def with_ink(picture: Image.Image, mask: ndarray, ink: tuple[int, int, int], strength: float) -> Image.Image:
    """The picture under one ink, as opaque as mask times strength."""
    side = picture.width
    small = mask.reshape(side, OVERSAMPLING, side, OVERSAMPLING).mean((1, 3))[..., None] * strength
    base = np.asarray(picture, np.float32)
    return Image.fromarray(np.clip(base * (1 - small) + np.asarray(ink, np.float32) * small, 0, 255).astype(np.uint8))
