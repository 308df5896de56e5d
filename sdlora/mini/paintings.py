"""Sets as strangers bring them: painted figures and faces that the base does not know, with captions of unknown words.

They look like real work at a glance: brush strokes, torn paper, crosshatching. Deterministic: the same number of a set gives the
same pixels. Nothing here trains the base.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy import ndarray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from sdlora.mini.pen import Pen, Rgb, darker, lighter, mix

SKINS: tuple[Rgb, ...] = ((238, 196, 160), (206, 150, 112), (146, 96, 66), (226, 178, 148))


@dataclass(frozen=True)
class Hues:
    """The colours of one set: of backgrounds, of clothes and things."""

    grounds: tuple[Rgb, ...]
    cloths: tuple[Rgb, ...]


def portrait(pen: Pen, hues: Hues, rng: Random) -> None:
    """Head and shoulders."""
    skin, cloth, hair = rng.choice(SKINS), rng.choice(hues.cloths), rng.choice(((40, 28, 24), (120, 70, 36), (196, 160, 92)))
    lean = rng.uniform(-0.04, 0.04)
    pen.oval(0.24 + lean, 0.10, 0.76 + lean, 0.72, hair)
    pen.poly([(0.06, 1.05), (0.16, 0.80), (0.40, 0.70), (0.60, 0.70), (0.84, 0.80), (0.94, 1.05)], cloth)
    pen.poly([(0.42, 0.58), (0.58, 0.58), (0.61, 0.76), (0.50, 0.82), (0.39, 0.76)], darker(skin, 0.18))
    pen.oval(0.30 + lean, 0.18, 0.70 + lean, 0.68, skin)
    for x in (0.40, 0.60):
        pen.oval(x - 0.045 + lean, 0.38, x + 0.045 + lean, 0.43, (250, 246, 238))
        pen.oval(x - 0.018 + lean, 0.38, x + 0.022 + lean, 0.43, (34, 30, 36))
        pen.stroke([(x - 0.06 + lean, 0.35), (x + 0.05 + lean, 0.335)], 0.014, hair)
    pen.stroke([(0.50 + lean, 0.41), (0.475 + lean, 0.52), (0.52 + lean, 0.525)], 0.014, darker(skin, 0.3))
    pen.stroke([(0.43 + lean, 0.60), (0.50 + lean, 0.615), (0.57 + lean, 0.595)], 0.024, (168, 62, 62))


def dancer(pen: Pen, hues: Hues, rng: Random) -> None:
    """A whole figure in motion."""
    skin, cloth = rng.choice(SKINS), rng.choice(hues.cloths)
    swing = rng.uniform(-0.12, 0.12)
    hip, neck = (0.5 + swing / 2, 0.56), (0.5 + swing, 0.26)
    for knee, foot in (((0.36, 0.74), (0.26 - swing, 0.96)), ((0.66, 0.72), (0.78 - swing, 0.86))):
        pen.stroke([hip, knee, foot], 0.065, skin)
    for elbow, hand in (((0.28 + swing, 0.26), (0.14, 0.10 + abs(swing))), ((0.72 + swing, 0.34), (0.88, 0.22))):
        pen.stroke([(neck[0], 0.32), elbow, hand], 0.05, skin)
    skirt = [(hip[0] + 0.26, 0.70), (hip[0], 0.62), (hip[0] - 0.27, 0.70)]
    pen.poly([(neck[0] - 0.09, 0.28), (neck[0] + 0.09, 0.28), *skirt], cloth)
    pen.oval(neck[0] - 0.075, 0.08, neck[0] + 0.075, 0.25, skin)
    pen.oval(neck[0] - 0.08, 0.06, neck[0] + 0.07, 0.16, (52, 34, 28))


def heron(pen: Pen, hues: Hues, rng: Random) -> None:
    """A wading bird among reeds."""
    plume = rng.choice(hues.cloths)
    for _ in range(9):
        x = rng.uniform(-0.1, 1.1)
        pen.stroke([(x, 1.05), (x + rng.uniform(-0.08, 0.08), rng.uniform(0.25, 0.6))], 0.018, (92, 112, 60))
    for x in (0.47, 0.58):
        pen.stroke([(x, 0.68), (x + 0.02, 0.84), (x - 0.02, 1.0)], 0.018, (120, 92, 48))
    pen.oval(0.28, 0.46, 0.76, 0.72, plume)
    pen.poly([(0.62, 0.52), (0.98, 0.66), (0.66, 0.70)], darker(plume))
    pen.stroke([(0.34, 0.58), (0.24, 0.42), (0.34, 0.30), (0.28, 0.18)], 0.06, lighter(plume))
    pen.oval(0.20, 0.10, 0.36, 0.21, lighter(plume))
    pen.poly([(0.22, 0.14), (-0.02, 0.20), (0.22, 0.19)], (222, 160, 48))


def still_life(pen: Pen, hues: Hues, rng: Random) -> None:
    """A lamp, a bottle and fruit on a table."""
    pen.rect(-0.2, 0.70, 1.2, 1.2, rng.choice(hues.cloths))
    pen.poly([(0.16, 0.30), (0.44, 0.30), (0.50, 0.46), (0.10, 0.46)], rng.choice(hues.cloths))
    pen.rect(0.275, 0.46, 0.325, 0.78, (84, 64, 48))
    glass = rng.choice(hues.cloths)
    left = [(0.60, 0.80), (0.60, 0.46), (0.65, 0.38), (0.65, 0.24)]
    pen.poly([*left, *((1.36 - x, y) for x, y in reversed(left))], glass)
    pen.stroke([(0.63, 0.50), (0.63, 0.72)], 0.02, lighter(glass, 0.7))
    for x in (0.40, 0.50, 0.86):
        pen.oval(x - 0.08, 0.68, x + 0.08, 0.84, rng.choice(((226, 120, 40), (196, 52, 48), (232, 196, 72))))


FIGURES: dict[str, Callable[[Pen, Hues, Random], None]] = {
    "portrait": portrait, "dancer": dancer, "heron": heron, "still life": still_life,
}


def composed(hues: Hues, figure: str, side: int, rng: Random) -> Image.Image:
    """Return a figure before an uneven ground, lit from one side, without any manner."""
    ground = rng.sample(hues.grounds, 2)
    light = np.asarray(_clouds(side, side / 5, rng))[..., None]
    pixels = np.asarray(ground[0]) * (1 - light) + np.asarray(ground[1]) * light
    image = Image.fromarray(pixels.astype(np.uint8))
    size = side * rng.uniform(0.82, 1.0)
    FIGURES[figure](Pen(ImageDraw.Draw(image), (side - size) * rng.random(), side - size, size), hues, rng)
    shade = np.linspace(1.12, 0.72, side)[None, :, None] if rng.random() < 0.5 else np.linspace(0.72, 1.12, side)[None, :, None]
    return Image.fromarray(np.clip(np.asarray(image) * shade, 0, 255).astype(np.uint8))


def _clouds(side: int, scale_px: float, rng: Random) -> ndarray:
    """(s, s) smooth noise in 0 to 1."""
    small = max(2, round(side / scale_px))
    values = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (small, small), np.uint8)
    return np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255


def brush(image: Image.Image, rng: Random) -> Image.Image:
    """Return the picture in brush strokes: broad ones first, finer ones where it differs (Hertzmann 1998), on canvas."""
    side = image.width
    painted = image.filter(ImageFilter.GaussianBlur(side / 12))
    for width in (side / 18, side / 36, side / 64):
        target = np.asarray(image.filter(ImageFilter.GaussianBlur(width / 2)), np.float32)
        soft = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(width)), np.float32)
        down, across = (np.asarray(np.gradient(soft, axis=axis)) for axis in (0, 1))
        off = np.abs(np.asarray(painted, np.float32) - target).mean(-1)
        pen = ImageDraw.Draw(painted)
        for _ in range(round(1.3 * (side / width) ** 2)):
            x, y = rng.randrange(side), rng.randrange(side)
            if off[y, x] < 9 and rng.random() < 0.75:
                continue
            angle = np.arctan2(-across[y, x], down[y, x]) if np.hypot(across[y, x], down[y, x]) > 0.3 else rng.uniform(0.5, 1.0)
            reach = width * rng.uniform(0.8, 2.2)
            dx, dy = reach * np.cos(angle), reach * np.sin(angle)
            colour = tuple(int(np.clip(c + rng.gauss(0, 9), 0, 255)) for c in target[y, x])
            for hair in range(3):  # the ridges that bristles leave
                shift = (hair - 1) * width / 3
                tone = tuple(min(255, max(0, c + (hair - 1) * 10)) for c in colour)
                px, py = shift * np.sin(angle), -shift * np.cos(angle)
                pen.line([(x - dx + px, y - dy + py), (x + dx + px, y + dy + py)], fill=tone, width=max(1, round(width / 2.6)))
    weave = 1 + 0.05 * np.sin(np.arange(side) * 2.1)[:, None, None] * np.sin(np.arange(side) * 2.1)[None, :, None]
    return Image.fromarray(np.clip(np.asarray(painted) * weave, 0, 255).astype(np.uint8))


def collage(image: Image.Image, rng: Random) -> Image.Image:
    """Return the picture as torn pieces of printed and coloured paper with shadows below them."""
    side = image.width
    flat = image.filter(ImageFilter.ModeFilter(9)).quantize(7, dither=Image.Dither.NONE)
    places, palette = np.asarray(flat), np.asarray(flat.getpalette("RGB")).reshape(-1, 3)
    page = Image.new("RGB", image.size, (226, 214, 190))
    for index in np.argsort(-np.bincount(places.flatten(), minlength=7), kind="stable"):  # the largest piece lies lowest
        piece = Image.fromarray(((places == index) * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(5))
        torn = np.asarray(piece.filter(ImageFilter.GaussianBlur(side / 90)), np.float32) / 255
        torn = torn + 0.28 * (_clouds(side, side / 40, rng) - 0.5)
        edge, inner = (Image.fromarray(((torn > level) * 255).astype(np.uint8)) for level in (0.42, 0.56))
        shadow = ImageChops.offset(edge.filter(ImageFilter.GaussianBlur(side / 100)), side // 90, side // 70)
        page.paste((40, 34, 30), mask=shadow.point(lambda value: value * 0.45))
        page.paste((246, 242, 232), mask=edge)
        red, green, blue = (int(value) for value in palette[index])
        page.paste(_paper((red, green, blue), side, rng), mask=inner)
    return page


def _paper(colour: Rgb, side: int, rng: Random) -> Image.Image:
    """Return a sheet of paper: newsprint, dots, stripes or fibres in a colour."""
    sheet = Image.new("RGB", (side, side), colour)
    pen, kind, step = ImageDraw.Draw(sheet), rng.randrange(4), side / 26
    ink = mix(colour, (24, 22, 26) if sum(colour) > 300 else (240, 236, 224), 0.5)
    if kind == 0:
        for row in range(30):
            x = -rng.random() * step
            while x < side:
                word = step * rng.uniform(0.3, 1.6)
                pen.line([(x, row * step), (x + word, row * step)], fill=ink, width=max(1, round(step / 3)))
                x += word + step * 0.3
    elif kind == 1:
        for row in range(28):
            for column in range(28):
                x, y = (column + row % 2 / 2) * step, row * step
                pen.ellipse((x, y, x + step / 2.4, y + step / 2.4), fill=ink)
    elif kind == 2:
        for row in range(-28, 28):
            pen.line([(row * step * 1.5, 0), (row * step * 1.5 + side, side)], fill=ink, width=max(1, round(step / 3)))
    fibres = 12 * (_clouds(side, side / 90, rng) - 0.5)
    return Image.fromarray(np.clip(np.asarray(sheet, np.float32) + fibres[..., None], 0, 255).astype(np.uint8))


def crosshatch(image: Image.Image, rng: Random) -> Image.Image:
    """Return the picture in sepia lines that cross where it is dark, over a pale wash on rough paper."""
    side = image.width
    tone = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(side / 160)), np.float32) / 255
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side * 128
    ink = np.zeros((side, side), np.float32)
    for number, (angle, dark) in enumerate(((0.8, 0.80), (-0.7, 0.58), (0.1, 0.40), (1.5, 0.26))):
        bend = 0.9 * (_clouds(side, side / 9, rng) - 0.5)
        across = x * np.cos(angle) + y * np.sin(angle) + 3 * bend
        line = np.abs(across / 3.1 % 1 - 0.5) * 3.1
        broken = _clouds(side, side / 60, rng) > 0.16 + 0.05 * number
        ink = np.maximum(ink, np.clip((0.62 - line) * side / 128, 0, 1) * np.clip((dark - tone) * 14, 0, 1) * broken)
    edges = np.asarray(image.convert("L").filter(ImageFilter.FIND_EDGES).filter(ImageFilter.GaussianBlur(side / 300)), np.float32)
    ink = np.clip(ink + np.clip(edges / 90, 0, 0.9), 0, 1)[..., None]
    paper = np.asarray((242, 230, 204), np.float32) + 10 * (_clouds(side, side / 80, rng) - 0.5)[..., None]
    wash = np.asarray(image.filter(ImageFilter.GaussianBlur(side / 40)), np.float32)
    drawn = (0.8 * paper + 0.2 * wash) * (1 - ink) + np.asarray((66, 40, 26)) * ink
    return Image.fromarray(np.clip(drawn, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Paintings:
    """A set: its colours, its manner, and what its captions add to the name of the figure."""

    name: str
    hues: Hues
    manner: Callable[[Image.Image, Random], Image.Image]
    words: tuple[str, ...]

    def picture(self, number: int, side: int = 512) -> Image.Image:
        """Return picture `number` of the set."""
        rng = Random(f"{self.name} {number}")
        figure = list(FIGURES)[number % len(FIGURES)]
        return self.manner(composed(self.hues, figure, side, rng), rng)

    def caption(self, number: int) -> str:
        """Return its caption, with a place for the trigger."""
        rng = Random(f"{self.name} caption {number}")
        return f"[trigger] {list(FIGURES)[number % len(FIGURES)]}, {', '.join(rng.sample(self.words, 2))}"


PAINTINGS = (
    Paintings("brush", Hues(((62, 74, 92), (150, 132, 100), (96, 112, 84), (58, 46, 60)),
                            ((148, 44, 40), (44, 66, 110), (206, 168, 92), (92, 116, 92), (214, 206, 188))),
              brush, ("impasto", "studio lamp", "gouache", "varnished", "after rehearsal", "ochre shadow")),
    Paintings("collage", Hues(((236, 202, 120), (122, 176, 170), (230, 130, 104), (244, 234, 212)),
                              ((28, 82, 110), (222, 84, 60), (240, 188, 62), (48, 50, 62), (140, 180, 120))),
              collage, ("cut newsprint", "bus tickets", "kiosk", "matinee", "jazz poster", "scrapbook")),
    Paintings("crosshatch", Hues(((240, 234, 220), (214, 204, 186), (190, 178, 158), (230, 220, 204)),
                                 ((70, 62, 56), (110, 88, 66), (150, 130, 104), (52, 58, 66))),
              crosshatch, ("etching plate", "copperplate", "candle", "folio", "anatomy theatre", "cabinet")),
)
