"""Manners of drawing: composed at random from inks, lines, textures and finishes, and described in a small vocabulary.

Stable Diffusion knows thousands of styles, and a LoRA turns what is there. A base that knows five has nothing to turn; this
gives it hundreds of thousands. The example sets and the styles of the benchmark are drawn by other code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from sdlora.mini import fine_textures
from sdlora.mini.fine_textures import Canvas, Kind, with_ink
from sdlora.mini.pen import Rgb, mix, plain_ink
from sdlora.mini.render import DrawingStyle, paint_finish, watercolor_finish
from sdlora.mini.scenes import article

Ink = Callable[[Rgb], Rgb]
Way = Literal["over", "alone", "through"]

INKS: dict[str, Rgb] = {  # dark enough for pale paper
    "black": (28, 26, 32), "blue": (32, 56, 150), "red": (178, 30, 40), "green": (24, 98, 56), "brown": (96, 58, 34),
    "purple": (92, 40, 128), "teal": (10, 104, 112), "orange": (206, 92, 16), "pink": (214, 60, 128), "grey": (96, 98, 106),
}
PAPERS: dict[str, Rgb] = {
    "white": (250, 250, 248), "cream": (244, 232, 204), "grey": (206, 206, 204), "pink": (248, 210, 214),
    "yellow": (248, 226, 130), "blue": (196, 220, 242), "green": (206, 230, 200), "tan": (212, 178, 132),
}
DARK_PAPERS: dict[str, Rgb] = {
    "black": (22, 22, 26), "navy": (20, 34, 78), "brown": (72, 44, 28), "green": (20, 60, 46), "purple": (54, 28, 82),
    "grey": (66, 68, 74),
}
PALE_INKS: dict[str, Rgb] = {
    "white": (246, 246, 244), "yellow": (252, 226, 92), "pink": (250, 160, 196), "blue": (140, 200, 250),
    "green": (150, 232, 160), "orange": (250, 172, 90),
}
TEXTURES: dict[str, Kind] = {
    "striped": fine_textures.grating, "crossed": fine_textures.lattice, "hatched": fine_textures.hatching,
    "halftone": fine_textures.halftone, "dotted": fine_textures.dots, "stitched": fine_textures.stitches,
    "mosaic": fine_textures.mosaic_joints, "grainy": fine_textures.grain, "scratched": fine_textures.lines,
}
TONAL = ("hatched", "halftone")  # their ink follows the tone, so they can draw a picture alone
OPEN = ("hatched", "halftone", "striped", "grainy")  # enough is seen through them
NOUNS = ("drawing", "print", "painting", "picture")
LETTERS = ("bcdfghjklmnprstvz", "aeiou")


def grey(colour: Rgb) -> float:
    """Return the luma of a colour, 0 (black) to 1 (white)."""
    return (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]) / 255


@dataclass(frozen=True)
class Palette:
    """What becomes of colours: words, the ink of things and of their surroundings, and the two ends of its tones."""

    words: str = ""
    thing: Ink = plain_ink
    scene: Ink = plain_ink
    ink: Rgb = INKS["black"]
    paper: Rgb = PAPERS["white"]


@dataclass(frozen=True)
class Line:
    """Outlines; width in px of 128, 0 for none."""

    words: str = ""
    colour: Rgb | None = None
    width_px: float = 0.0


@dataclass(frozen=True)
class Texture:
    """One fine texture: ink over the picture, ink alone on paper, or the picture seen through it on paper."""

    words: str
    kind: Kind
    pitch_px: float
    ink: Rgb
    paper: Rgb
    way: Way
    strength: float = 1.0

    def draw(self, picture: Image.Image, rng: Random) -> Image.Image:
        """Return the picture with the texture."""
        mask = self.kind(Canvas.over(picture, rng), self.pitch_px)
        if self.way == "through":
            return with_ink(picture, 1 - mask, self.paper, 1.0)
        ground = Image.new("RGB", picture.size, self.paper) if self.way == "alone" else picture
        return with_ink(ground, mask, self.ink, self.strength)


@dataclass(frozen=True)
class Finish:
    """What is done to the whole picture last."""

    words: str
    apply: Callable[[Image.Image, Random], Image.Image]


@dataclass(frozen=True)
class Manner:
    """A whole manner. Its parts are independent of the scene: the same manner draws a set of pictures in one style."""

    palette: Palette = Palette()
    line: Line = Line()
    texture: Texture | None = None
    finish: Finish | None = None
    noun: str = NOUNS[0]

    def words(self) -> list[str]:
        """Return the phrase of every part that is not plain."""
        parts = (self.palette, self.line, self.texture, self.finish)
        return [part.words for part in parts if part and part.words]

    def style(self) -> DrawingStyle:
        """Return how `render` draws it."""
        return DrawingStyle(self.palette.thing, self.palette.scene, self.line.colour, self.line.width_px, self._last)

    def _last(self, picture: Image.Image, rng: Random) -> Image.Image:
        if self.texture:
            picture = self.texture.draw(picture, rng)
        return self.finish.apply(picture, rng) if self.finish else picture


def random_manner(rng: Random) -> Manner:
    """Compose a manner; at least one of its parts is not plain."""
    while True:
        palette = rng.choice(PALETTES)(rng)
        line = _line(rng, palette)
        texture = _texture(rng, palette) if rng.random() < 0.6 else None
        finish = rng.choice(FINISHES)(rng) if rng.random() < 0.35 else None
        manner = Manner(palette, line, texture, finish, rng.choice(NOUNS))
        if manner.words():
            return manner


def describe(manner: Manner, things: str, rng: Random) -> str:
    """Return a caption: the manner's words, some left out, before or after the words of the scene.

    A fifth of the manners goes unnamed, with an invented name in their place: an unknown word means some manner, as the trigger
    word of a LoRA will.
    """
    named = [words for words in manner.words() if rng.random() < 0.8]
    rng.shuffle(named)
    if not named or rng.random() < 0.2:
        name = invented_name(rng)
        return rng.choice((f"{name} style, {things}", f"{things}, {name} style", f"{name} {things}", f"{name} of {things}"))
    if rng.random() < 0.6:
        phrase = ", ".join(named)
        begin = f"{article(phrase)} {phrase}" if rng.random() < 0.3 else phrase
        return f"{begin} {manner.noun} of {things}"
    return ", ".join((things, *named))


def invented_name(rng: Random) -> str:
    """Return a word that nobody knows, of two or three syllables."""
    consonants, vowels = LETTERS
    word = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.choice((2, 2, 3))))
    return word + rng.choice(("", "", rng.choice(consonants)))


def two_tone(rng: Random) -> Palette:
    """One ink on paper, dark on pale or pale on dark; every tone lies between them."""
    pale_paper = rng.random() < 0.65
    inks, papers = (INKS, PAPERS) if pale_paper else (PALE_INKS, DARK_PAPERS)
    ink, paper = rng.choice(list(inks)), rng.choice(list(papers))
    power, floor = rng.choice((0.7, 1.0, 1.5)), rng.choice((0.0, 0.0, 0.25))
    negative = not pale_paper and rng.random() < 0.5

    def tone(colour: Rgb) -> Rgb:
        light = grey(colour) ** power
        share = 1 - light if pale_paper or negative else light
        return mix(papers[paper], inks[ink], floor + (1 - floor) * share)

    return Palette(f"{ink} ink on {paper} paper", tone, tone, inks[ink], papers[paper])


def shades(rng: Random) -> Palette:
    """All tones of one colour, from near black to near white."""
    name = rng.choice([name for name in INKS if name != "black"])
    colour = INKS[name]

    def tone(source: Rgb) -> Rgb:
        light = grey(source)
        return mix((12, 10, 20), colour, light * 2) if light < 0.5 else mix(colour, (255, 252, 246), light * 2 - 1)

    return Palette(f"{name} shades", tone, tone, mix(colour, (0, 0, 0), 0.6), mix(colour, (255, 255, 255), 0.8))


def natural(rng: Random) -> Palette:
    """The scene's own colours."""
    return Palette()


def toned(rng: Random) -> Palette:
    """The scene's own colours, shifted towards one tone."""
    words, colour, share = rng.choice((
        ("pale", (255, 255, 255), 0.5), ("dark", (10, 10, 24), 0.5), ("muted", (128, 126, 122), 0.45),
        ("warm", (240, 150, 60), 0.35), ("cool", (60, 110, 200), 0.35), ("sepia", (150, 110, 70), 0.6),
        ("pink light", (250, 110, 170), 0.35),
        ("green light", (80, 190, 110), 0.35),
    ))
    share = share * rng.uniform(0.8, 1.2)

    def tone(source: Rgb) -> Rgb:
        return mix(source, colour, share)

    return Palette(words, tone, tone)


def vivid(rng: Random) -> Palette:
    """Colours away from grey."""

    def tone(source: Rgb) -> Rgb:
        level = round(255 * grey(source))
        red, green, blue = (max(0, min(255, round(level + (v - level) * 1.9))) for v in source)
        return red, green, blue

    return Palette("vivid", tone, tone)


def inverted(rng: Random) -> Palette:
    """The negative."""

    def tone(source: Rgb) -> Rgb:
        return 255 - source[0], 255 - source[1], 255 - source[2]

    return Palette("inverted", tone, tone, PALE_INKS["white"], DARK_PAPERS["black"])


def swapped(rng: Random) -> Palette:
    """Red, green and blue in another order."""
    order = rng.choice(((1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2)))

    def tone(source: Rgb) -> Rgb:
        return source[order[0]], source[order[1]], source[order[2]]

    return Palette("swapped colours", tone, tone)


def empty_ground(rng: Random) -> Palette:
    """Things in their own colours, nearly all else paper."""
    dark = rng.random() < 0.35
    papers = DARK_PAPERS if dark else PAPERS
    name, share = rng.choice(list(papers)), rng.uniform(0.7, 0.92)
    paper = papers[name]
    ink = PALE_INKS["white"] if dark else INKS["black"]
    return Palette(f"{name} background", plain_ink, lambda source: mix(source, paper, share), ink, paper)


def coloured_things(rng: Random) -> Palette:
    """Surroundings in grey, things in their own colours."""

    def tone(source: Rgb) -> Rgb:
        level = round(255 * grey(source))
        return level, level, level

    return Palette("grey background", plain_ink, tone)


PALETTES = (natural, natural, two_tone, two_tone, shades, toned, toned, vivid, inverted, swapped, empty_ground, coloured_things)


def _line(rng: Random, palette: Palette) -> Line:
    """No lines in half of the cases; else of three widths, in the palette's ink, white, or a colour."""
    if rng.random() < 0.5:
        return Line()
    width, width_px = rng.choice((("thin", rng.uniform(1.2, 2.0)), ("", rng.uniform(2.4, 3.4)), ("thick", rng.uniform(4.0, 5.5))))
    if palette.words and rng.random() < 0.6:
        return Line(f"{width} lines".strip(), palette.ink, width_px)
    colours = INKS | {"white": PALE_INKS["white"]}
    name = rng.choice(("black", "white", *colours))
    return Line(" ".join(w for w in (width, name, "lines") if w), colours[name], width_px)


def _texture(rng: Random, palette: Palette) -> Texture:
    """A fine or coarse texture in the palette's ink, or in any where the palette is natural."""
    name = rng.choice(list(TEXTURES))
    fine = rng.random() < 0.6
    pitch_px = rng.uniform(3.0, 5.0) if fine else rng.uniform(5.0, 9.0)
    ink_name, ink, paper = "", palette.ink, palette.paper
    if not palette.words and rng.random() < 0.7:
        ink_name = rng.choice(("black", "white", *INKS))
        ink = (INKS | PALE_INKS)[ink_name]
        paper = PAPERS["cream"] if grey(ink) < 0.6 else DARK_PAPERS["black"]
    through: tuple[Way, ...] = ("through",) if name in OPEN else ()
    alone: tuple[Way, ...] = ("alone", "alone") if name in TONAL else ()
    way = rng.choice(("over", "over", *through, *alone))
    strength = 1.0 if way != "over" or rng.random() < 0.5 else rng.uniform(0.4, 0.8)
    words = f"{'fine' if fine else 'coarse'} {'' if way == 'through' else ink_name} {name}".replace("  ", " ")
    return Texture(words if rng.random() < 0.7 else name, TEXTURES[name], pitch_px, ink, paper, way, strength)


def _soft(rng: Random) -> Finish:
    radius = rng.uniform(0.8, 1.6)
    return Finish("soft", lambda image, _: image.filter(ImageFilter.GaussianBlur(radius * image.width / 128)))


def _painted(rng: Random) -> Finish:
    return Finish("painted", paint_finish)


def _washed(rng: Random) -> Finish:
    return Finish("washed", watercolor_finish)


def _glowing(rng: Random) -> Finish:
    amount = rng.uniform(0.6, 1.0)

    def glow(image: Image.Image, _: Random) -> Image.Image:
        halo = image.filter(ImageFilter.GaussianBlur(image.width / 40))
        return Image.blend(image, ImageChops.screen(image, halo), amount)

    return Finish("glowing", glow)


def _pixelated(rng: Random) -> Finish:
    block = rng.choice((3, 4, 5))

    def blocks(image: Image.Image, _: Random) -> Image.Image:
        small = max(8, round(image.width / block))
        return image.resize((small, small), Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)

    return Finish("pixelated", blocks)


def _flat(rng: Random) -> Finish:
    levels = rng.choice((3, 4))
    curve = [round(round(v / 255 * (levels - 1)) * 255 / (levels - 1)) for v in range(256)] * 3
    return Finish("poster", lambda image, _: image.filter(ImageFilter.ModeFilter(5)).point(curve))


def _wobbly(rng: Random) -> Finish:
    reach, cells = rng.uniform(1.5, 3.5), rng.choice((10, 16, 24))

    def wobble(image: Image.Image, random: Random) -> Image.Image:
        side = image.width
        pixels = np.asarray(image)
        at = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij")).astype(np.float32)
        for axis in range(2):
            small = Image.new("F", (cells, cells))
            small.putdata([random.uniform(-1, 1) for _ in range(cells * cells)])
            at[axis] += np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)) * reach * side / 128
        row, column = np.clip(np.rint(at), 0, side - 1).astype(int)
        return Image.fromarray(pixels[row, column])

    return Finish("wobbly", wobble)


def _framed(rng: Random) -> Finish:
    name = rng.choice(("white", "black", "cream"))
    colour, share = (PAPERS | DARK_PAPERS)[name], rng.uniform(0.04, 0.09)

    def frame(image: Image.Image, _: Random) -> Image.Image:
        width = round(share * image.width)
        return ImageOps.expand(image.crop((width, width, image.width - width, image.height - width)), width, colour)

    return Finish(f"{name} frame", frame)


FINISHES = (_soft, _painted, _washed, _glowing, _pixelated, _flat, _wobbly, _framed)
PHRASES = (
    *INKS, *PAPERS, *DARK_PAPERS, *PALE_INKS, *TEXTURES, *NOUNS,
    "ink on paper background shades lines thin thick fine coarse style",
    "pale dark muted warm cool sepia light vivid inverted swapped colours frame",
    "soft painted washed glowing pixelated poster wobbly",
)  # every word that a description can hold

