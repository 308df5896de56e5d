"""Scene -> picture: about 5 ms for 128 px, the same scene always the same pixels.

Knows nothing about captions, tensors or training. Drawn four times as large and averaged down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from sdlora.mini import objects
from sdlora.mini.pen import Pen, Rgb, mix, same
from sdlora.mini.settings import GROUNDS, LIGHTS, hang_lights, paint_sky
from sdlora.mini.words import OBJECTS, Scene, Thing

OVERSAMPLING = 4
PAPER = (250, 247, 238)
RGB = {
    "red": (218, 38, 38), "green": (40, 150, 56), "blue": (40, 84, 214), "yellow": (250, 212, 36),
    "pink": (250, 134, 184), "purple": (132, 52, 176), "black": (32, 30, 36), "orange": (246, 132, 24),
    "white": (248, 248, 248), "brown": (124, 76, 40), "teal": (22, 160, 160),
}  # fmt: skip
CENTRES = (0.27, 0.50, 0.73)
SIZES = (0.42, 0.62, 0.76)
SIZE_OF_TWO = 0.46

Finish = Callable[[Image.Image, Random], Image.Image]


def as_drawn(image: Image.Image, rng: Random) -> Image.Image:
    """No finish."""
    return image


@dataclass(frozen=True)
class Manner:
    """How a style draws: inks for things and for their surroundings, lines (px of 128), a finish."""

    thing_ink: Callable[[Rgb], Rgb] = same
    scene_ink: Callable[[Rgb], Rgb] = same
    line: Rgb | None = None
    line_px: float = 0.0
    finish: Finish = as_drawn


def cloudy(size: int, cells: int, spread: int, rng: Random) -> Image.Image:
    """Smooth random light: grey around 128, `cells` blobs a side."""
    small = Image.new("L", (cells, cells))
    small.putdata([128 + rng.randint(-spread, spread) for _ in range(cells * cells)])
    return small.resize((size, size), Image.Resampling.BICUBIC)


def brushed(image: Image.Image, rng: Random) -> Image.Image:
    """Soft edges and broad patches of light."""
    light = cloudy(image.width, 8, 60, rng).convert("RGB")
    soft = image.filter(ImageFilter.GaussianBlur(image.width / 150))
    return Image.blend(soft, ImageChops.overlay(soft, light), 0.7)


def washed(image: Image.Image, rng: Random) -> Image.Image:
    """Pigment that pools, and paper left bare around the picture."""
    image = Image.blend(image, ImageChops.overlay(image, cloudy(image.width, 12, 70, rng).convert("RGB")), 0.6)
    size = image.width
    edge = Image.new("L", (16, 16), 0)
    for x in range(1, 15):
        edge.paste(255, (x, 1 + rng.randint(0, 1), x + 1, 15 - rng.randint(0, 1)))
    return Image.composite(image, Image.new("RGB", image.size, PAPER), edge.resize((size, size), Image.Resampling.BICUBIC))


MANNERS = {
    "flat illustration": Manner(),
    "ink outline cartoon": Manner(line=(20, 18, 24), line_px=3.0),
    "soft painting": Manner(finish=brushed),
    "pencil sketch": Manner(
        thing_ink=lambda c: mix(c, PAPER, 0.35), scene_ink=lambda c: mix(c, PAPER, 0.68), line=(92, 90, 96), line_px=2.2
    ),
    "watercolor": Manner(thing_ink=lambda c: mix(c, PAPER, 0.18), scene_ink=lambda c: mix(c, PAPER, 0.38), finish=washed),
}


def render(scene: Scene, size_px: int = 128, manner: Manner | None = None) -> Image.Image:
    """Draw the scene as an RGB square; `manner` overrides the scene's own style."""
    manner = manner or MANNERS[scene.style]
    rng = Random(scene.layout)
    side = size_px * OVERSAMPLING
    light = LIGHTS[scene.time]
    image = Image.new("RGB", (side, side))
    line_px = manner.line_px * side / 128

    def scenery(colour: Rgb) -> Rgb:
        return manner.scene_ink(mix(colour, light.tint, light.ground_share))

    paint_sky(image, scene.time, manner.scene_ink)
    pen = Pen(ImageDraw.Draw(image), 0, 0, side, manner.scene_ink, manner.line, line_px * 0.7)
    hang_lights(pen, scene.time, rng)
    pen.ink = scenery
    GROUNDS[scene.setting](pen, rng)
    pen.line_px = line_px
    pen.ink = lambda colour: manner.thing_ink(mix(colour, light.tint, light.object_share))
    for thing, box in zip(scene.things, boxes(scene, rng), strict=True):
        objects.DRAW[thing.name](pen.at(*(side * part for part in box)), RGB[thing.colour])
    return manner.finish(image.reduce(OVERSAMPLING), rng)


def class_map(scene: Scene, side: int = 16) -> list[int]:
    """What is where, row by row: 0 surroundings, 1 + index of the object in OBJECTS."""
    rng = Random(scene.layout)
    fine = 4 * side
    image = Image.new("L", (fine, fine))
    pen = Pen(ImageDraw.Draw(image))
    blank = Pen(ImageDraw.Draw(Image.new("L", (1, 1))), ink=lambda colour: 0)
    hang_lights(blank, scene.time, rng)  # uses up the same accidents as render()
    GROUNDS[scene.setting](blank, rng)
    for thing, box in zip(scene.things, boxes(scene, rng), strict=True):
        label = 1 + OBJECTS.index(thing.name)
        pen.ink = lambda colour, label=label: label
        objects.DRAW[thing.name](pen.at(*(fine * part for part in box)), RGB[thing.colour])
    return list(image.resize((side, side), Image.Resampling.NEAREST).getdata())


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
