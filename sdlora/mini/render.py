"""Scene -> picture: sky, ground and objects in a style. About 5 ms for 128 px; the same scene always gives the same pixels.

Knows nothing about captions, tensors or training. Drawn four times as large and averaged down. Coordinates are shares of the
picture's side; the pen turns them into pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from sdlora.mini.objects import DRAW_OBJECT
from sdlora.mini.pen import Pen, Rgb, mix, plain_ink
from sdlora.mini.scenes import OBJECTS, Scene, Thing

OVERSAMPLING = 4
PAPER = (250, 247, 238)
RGB = {
    "red": (218, 38, 38), "green": (40, 150, 56), "blue": (40, 84, 214), "yellow": (250, 212, 36),
    "pink": (250, 134, 184), "purple": (132, 52, 176), "black": (32, 30, 36), "orange": (246, 132, 24),
    "white": (248, 248, 248), "brown": (124, 76, 40), "teal": (22, 160, 160),
}
CENTRES = (0.27, 0.50, 0.73)
SIZES = (0.42, 0.62, 0.76)
SIZE_OF_TWO = 0.46
HORIZON = 0.66
CLOUD, STAR = (255, 255, 255), (255, 250, 210)

Finish = Callable[[Image.Image, Random], Image.Image]


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


def draw_sky(image: Image.Image, time: str, ink: Callable[[Rgb], Rgb]) -> None:
    """Fill the image with the sky's gradient."""
    top, low = (ink(c) for c in LIGHTS[time].sky)
    column = Image.new("RGB", (1, 2))
    column.putdata([top, low])
    height = round(image.height * HORIZON)
    image.paste(column.resize((image.width, height), Image.Resampling.BILINEAR), (0, 0))
    image.paste(low, (0, height, image.width, image.height))


def draw_sky_objects(pen: Pen, time: str, rng: Random) -> None:
    """Sun, moon, stars and clouds, which tell the time of day."""
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


DRAW_GROUND = {
    "meadow": meadow, "sea": sea, "city": city, "hills": hills, "desert": desert, "snowy field": snowy_field,
}


def no_finish(image: Image.Image, rng: Random) -> Image.Image:
    """Return the image unchanged."""
    return image


@dataclass(frozen=True)
class DrawingStyle:
    """Inks for things and for their surroundings, lines (px of 128) and a finish."""

    thing_ink: Callable[[Rgb], Rgb] = plain_ink
    scene_ink: Callable[[Rgb], Rgb] = plain_ink
    line: Rgb | None = None
    line_px: float = 0.0
    finish: Finish = no_finish


def cloud_map(size: int, cells: int, spread: int, rng: Random) -> Image.Image:
    """Smooth random light: grey around 128, `cells` blobs a side."""
    small = Image.new("L", (cells, cells))
    small.putdata([128 + rng.randint(-spread, spread) for _ in range(cells * cells)])
    return small.resize((size, size), Image.Resampling.BICUBIC)


def paint_finish(image: Image.Image, rng: Random) -> Image.Image:
    """Soft edges and broad patches of light."""
    light = cloud_map(image.width, 8, 60, rng).convert("RGB")
    soft = image.filter(ImageFilter.GaussianBlur(image.width / 150))
    return Image.blend(soft, ImageChops.overlay(soft, light), 0.7)


def watercolor_finish(image: Image.Image, rng: Random) -> Image.Image:
    """Pigment that pools, and paper left bare around the picture."""
    image = Image.blend(image, ImageChops.overlay(image, cloud_map(image.width, 12, 70, rng).convert("RGB")), 0.6)
    size = image.width
    edge = Image.new("L", (16, 16), 0)
    for x in range(1, 15):
        edge.paste(255, (x, 1 + rng.randint(0, 1), x + 1, 15 - rng.randint(0, 1)))
    return Image.composite(image, Image.new("RGB", image.size, PAPER), edge.resize((size, size), Image.Resampling.BICUBIC))


DRAWING_STYLES = {
    "flat illustration": DrawingStyle(),
    "ink outline cartoon": DrawingStyle(line=(20, 18, 24), line_px=3.0),
    "soft painting": DrawingStyle(finish=paint_finish),
    "pencil sketch": DrawingStyle(
        thing_ink=lambda c: mix(c, PAPER, 0.35), scene_ink=lambda c: mix(c, PAPER, 0.68), line=(92, 90, 96), line_px=2.2
    ),
    "watercolor": DrawingStyle(
        thing_ink=lambda c: mix(c, PAPER, 0.18), scene_ink=lambda c: mix(c, PAPER, 0.38), finish=watercolor_finish
    ),
}


def render(scene: Scene, size_px: int = 128, style: DrawingStyle | None = None) -> Image.Image:
    """Draw the scene as an RGB square; `style` overrides the scene's own."""
    style = style or DRAWING_STYLES[scene.style]
    rng = Random(scene.layout)
    side = size_px * OVERSAMPLING
    light = LIGHTS[scene.time]
    image = Image.new("RGB", (side, side))
    line_px = style.line_px * side / 128

    def ground_ink(colour: Rgb) -> Rgb:
        return style.scene_ink(mix(colour, light.tint, light.ground_share))

    draw_sky(image, scene.time, style.scene_ink)
    pen = Pen(ImageDraw.Draw(image), 0, 0, side, style.scene_ink, style.line, line_px * 0.7)
    draw_sky_objects(pen, scene.time, rng)
    pen.ink = ground_ink
    DRAW_GROUND[scene.setting](pen, rng)
    pen.line_px = line_px
    pen.ink = lambda colour: style.thing_ink(mix(colour, light.tint, light.object_share))
    for thing, box in zip(scene.things, boxes(scene, rng), strict=True):
        DRAW_OBJECT[thing.name](pen.at(*(side * part for part in box)), RGB[thing.colour])
    return style.finish(image.reduce(OVERSAMPLING), rng)


def class_map(scene: Scene, side: int = 16) -> list[int]:
    """Return what is where, row by row: 0 surroundings, 1 + index of the object in OBJECTS."""
    rng = Random(scene.layout)
    large = 4 * side
    image = Image.new("L", (large, large))
    pen = Pen(ImageDraw.Draw(image))
    blank = Pen(ImageDraw.Draw(Image.new("L", (1, 1))), ink=lambda colour: 0)
    draw_sky_objects(blank, scene.time, rng)  # draws the same random numbers as render()
    DRAW_GROUND[scene.setting](blank, rng)
    for thing, box in zip(scene.things, boxes(scene, rng), strict=True):
        label = 1 + OBJECTS.index(thing.name)
        pen.ink = lambda colour, label=label: label
        DRAW_OBJECT[thing.name](pen.at(*(large * part for part in box)), RGB[thing.colour])
    return list(image.resize((side, side), Image.Resampling.NEAREST).tobytes())


def boxes(scene: Scene, rng: Random) -> list[tuple[float, float, float]]:
    """Left, top and size of every thing, as shares of the picture."""
    return [_box(thing, len(scene.things) > 1, rng) for thing in scene.things]


def _box(thing: Thing, crowded: bool, rng: Random) -> tuple[float, float, float]:
    size = (SIZE_OF_TWO if crowded else SIZES[thing.size]) * rng.uniform(0.95, 1.05)
    centre = CENTRES[thing.place] + rng.uniform(-0.03, 0.03)
    base = 0.90 + rng.uniform(-0.03, 0.03)
    if thing.name == "balloon":
        base = 0.06 + size
    elif thing.name == "fish":
        base = 0.58 + size / 2
    elif thing.name == "mountain":
        base = 0.82
    return centre - size / 2, base - size, size
