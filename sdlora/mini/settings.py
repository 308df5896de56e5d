"""Skies and grounds: the six settings at the four times of day, behind the objects.

Coordinates are shares of the picture's side; the pen turns them into pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from PIL import Image

from sdlora.mini.pen import Pen, Rgb, mix

HORIZON = 0.66
CLOUD, STAR = (255, 255, 255), (255, 250, 210)


@dataclass(frozen=True)
class Light:
    """Sky from top to horizon, and the tint (colour, share) that everything takes on."""

    sky: tuple[Rgb, Rgb]
    tint: Rgb
    ground_share: float
    object_share: float


LIGHTS = {
    "in daylight": Light(((96, 176, 240), (200, 230, 250)), (255, 255, 240), 0.0, 0.0),
    "at sunset": Light(((236, 92, 60), (255, 196, 84)), (240, 110, 50), 0.28, 0.08),
    "at night": Light(((26, 34, 88), (62, 76, 140)), (24, 30, 90), 0.52, 0.12),
    "at dawn": Light(((176, 150, 216), (255, 214, 206)), (206, 170, 220), 0.30, 0.08),
}


def paint_sky(image: Image.Image, scene_time: str, ink: Callable[[Rgb], Rgb]) -> None:
    """Fill the image with the gradient of the hour."""
    top, low = (ink(c) for c in LIGHTS[scene_time].sky)
    column = Image.new("RGB", (1, 2))
    column.putdata([top, low])
    height = round(image.height * HORIZON)
    image.paste(column.resize((image.width, height), Image.Resampling.BILINEAR), (0, 0))
    image.paste(low, (0, height, image.width, image.height))


def hang_lights(pen: Pen, time: str, rng: Random) -> None:
    """Sun, moon, stars and clouds: what tells the hour at a glance."""
    side = rng.choice((0.16, 0.84))
    if time == "in daylight":
        pen.oval(side - 0.10, 0.06, side + 0.10, 0.26, (255, 222, 60))
        x = 0.98 - side + rng.uniform(-0.05, 0.05)
        for dx, dy, r in ((-0.09, 0.02, 0.06), (0.0, -0.01, 0.08), (0.09, 0.02, 0.06)):
            pen.oval(x + dx - r, 0.16 + dy - r, x + dx + r, 0.16 + dy + r, CLOUD, outlined=False)
    elif time == "at sunset":
        pen.oval(side - 0.15, HORIZON - 0.22, side + 0.15, HORIZON + 0.08, (255, 240, 140))
    elif time == "at night":
        for _ in range(7):
            x, y = rng.uniform(0.04, 0.96), rng.uniform(0.04, 0.42)
            pen.oval(x - 0.018, y - 0.018, x + 0.018, y + 0.018, STAR, outlined=False)
        pen.oval(side - 0.10, 0.06, side + 0.10, 0.26, (250, 244, 200))
        pen.oval(side - 0.04, 0.04, side + 0.13, 0.21, mix(*LIGHTS[time].sky, 0.18), outlined=False)
    else:
        pen.oval(side - 0.11, HORIZON - 0.10, side + 0.11, HORIZON + 0.12, (255, 246, 226))
        for y in (0.14, 0.28):
            x = rng.uniform(0.1, 0.5)
            pen.rect(x, y, x + 0.4, y + 0.045, (246, 196, 210))


def meadow(pen: Pen, rng: Random) -> None:
    pen.rect(-0.1, HORIZON, 1.1, 1.1, (112, 196, 72))
    for _ in range(8):
        x, y = rng.uniform(0.02, 0.98), rng.uniform(HORIZON + 0.06, 0.97)
        colour = rng.choice(((255, 236, 90), (255, 255, 255), (250, 150, 180)))
        pen.oval(x - 0.024, y - 0.024, x + 0.024, y + 0.024, colour, outlined=False)


def sea(pen: Pen, rng: Random) -> None:
    pen.rect(-0.1, HORIZON - 0.06, 1.1, 1.1, (30, 104, 190))
    for row in range(4):
        y, x = HORIZON + 0.02 + row * 0.09, rng.uniform(-0.1, 0.1)
        for start in (x, x + 0.36, x + 0.72):
            pen.arc((start, y - 0.03, start + 0.14, y + 0.03), 0, 180, 0.025, (130, 196, 236))
            pen.arc((start + 0.14, y - 0.03, start + 0.28, y + 0.03), 0, 180, 0.025, (130, 196, 236))


def city(pen: Pen, rng: Random) -> None:
    x = -0.04
    while x < 1.0:
        width, top = rng.uniform(0.14, 0.20), rng.uniform(0.18, 0.46)
        pen.rect(x, top, x + width, HORIZON + 0.05, rng.choice(((128, 138, 168), (150, 158, 184), (108, 118, 150))))
        for row in range(int((HORIZON - top) / 0.12)):
            for dx in (0.22, 0.60):
                left, y = x + width * dx, top + 0.05 + row * 0.12
                pen.rect(left, y, left + 0.04, y + 0.06, (255, 236, 150))
        x += width + 0.01
    pen.rect(-0.1, HORIZON + 0.04, 1.1, 1.1, (112, 112, 120))
    for x in (0.02, 0.30, 0.58, 0.86):
        pen.rect(x, 0.90, x + 0.14, 0.94, (240, 240, 230))


def hills(pen: Pen, rng: Random) -> None:
    shift = rng.uniform(-0.08, 0.08)
    pen.oval(-0.35 + shift, 0.40, 0.60 + shift, 1.5, (150, 196, 120))
    pen.oval(0.40 + shift, 0.36, 1.40 + shift, 1.5, (120, 176, 104))
    pen.oval(0.05 + shift, 0.58, 1.05 + shift, 1.6, (84, 150, 84))
    pen.oval(-0.60, 0.74, 0.55, 1.7, (62, 126, 70))
    pen.oval(0.35, 0.76, 1.6, 1.7, (52, 112, 64))


def desert(pen: Pen, rng: Random) -> None:
    pen.rect(-0.1, HORIZON, 1.1, 1.1, (240, 204, 120))
    shift = rng.uniform(-0.1, 0.1)
    pen.oval(-0.4 + shift, HORIZON - 0.07, 0.55 + shift, 1.2, (232, 188, 104))
    pen.oval(0.35 + shift, HORIZON + 0.06, 1.5 + shift, 1.4, (222, 172, 88))
    x = rng.choice((0.08, 0.92))
    pen.rect(x - 0.025, 0.48, x + 0.025, 0.76, (70, 140, 84))
    pen.rect(x - 0.08, 0.54, x - 0.04, 0.64, (70, 140, 84))
    pen.rect(x - 0.08, 0.61, x, 0.65, (70, 140, 84))
    pen.rect(x + 0.04, 0.51, x + 0.08, 0.60, (70, 140, 84))
    pen.rect(x, 0.57, x + 0.08, 0.61, (70, 140, 84))


def snowy_field(pen: Pen, rng: Random) -> None:
    pen.rect(-0.1, HORIZON, 1.1, 1.1, (238, 244, 252))
    pen.oval(-0.3, HORIZON - 0.06, 0.6, 1.1, (222, 232, 246))
    pen.oval(0.4, HORIZON - 0.02, 1.4, 1.3, (246, 250, 255))
    for row in range(3):
        for column in range(5):
            x = 0.1 + column * 0.2 + rng.uniform(-0.06, 0.06)
            y = 0.08 + row * 0.18 + rng.uniform(-0.05, 0.05)
            pen.oval(x - 0.022, y - 0.022, x + 0.022, y + 0.022, (255, 255, 255), outlined=False)


GROUNDS = {
    "meadow": meadow, "sea": sea, "city": city, "hills": hills, "desert": desert, "snowy field": snowy_field,
}  # fmt: skip
