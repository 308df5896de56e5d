"""The styles of the style benchmark: none of them trains the base, and FINAL_STRANGERS are not used before the final table.

Each is a drawing style of whole scenes, so that the truth of any prompt can be rendered. Deterministic: the same scene gives
the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy import ndarray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from sdlora.mini.fine_textures import OVERSAMPLING, UNSEEN, Canvas, cell, cell_noise, with_ink
from sdlora.mini.pen import Rgb, mix
from sdlora.mini.render import DrawingStyle


@dataclass(frozen=True)
class Stranger:
    """A style of the benchmark: what is new in it (line, texture, palette, layout) and how it is drawn."""

    name: str
    what: str
    style: DrawingStyle


def _pixels(image: Image.Image) -> ndarray:
    """(s, s, 3) fp32 in 0 to 1."""
    return np.asarray(image, np.float32) / 255


def _image(pixels: ndarray) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def _noise(side: int, scale: float, rng: Random) -> ndarray:
    """(s, s) smooth noise of deviation 1, blurred by `scale` px of 128."""
    values = Image.fromarray(np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (side, side), np.uint8))
    soft = np.asarray(values.filter(ImageFilter.GaussianBlur(scale * side / 128)), np.float32)
    return (soft - soft.mean()) / (soft.std() + 1e-6)


def _ramp(tone: ndarray, colours: list[Rgb]) -> ndarray:
    """Tones (s, s) in 0 to 1 -> colours (s, s, 3) in 0 to 1, evenly spaced on the scale."""
    places = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(tone, places, [c[band] / 255 for c in colours]) for band in range(3)], -1)


def _reduced(values: ndarray) -> ndarray:
    """Average what a canvas holds down to the picture's size."""
    side = values.shape[0] // OVERSAMPLING
    return values.reshape(side, OVERSAMPLING, side, OVERSAMPLING, *values.shape[2:]).mean((1, 3))


def _tone(image: Image.Image) -> ndarray:
    return np.asarray(image.convert("L"), np.float32) / 255


def chalk(image: Image.Image, rng: Random) -> Image.Image:
    """Chalk on slate: broken slanted strokes in pastel, denser where the scene is light."""
    side = image.width
    canvas = Canvas.over(image, rng)
    along, across = canvas.rotated(0.9)
    strokes = np.abs(across / 3.6 % 1 - 0.5) * 3.6 - 1.7 * canvas.tone
    broken = _noise(canvas.x.shape[0], 0.7, rng) > -0.5 - 0.2 * np.sin(along)
    mask = _reduced(canvas.coverage(strokes) * broken)[..., None]
    slate = np.asarray((0.16, 0.19, 0.20), np.float32) + 0.015 * _noise(side, 0.5, rng)[..., None]
    return _image(slate * (1 - mask) + (0.45 + 0.55 * _pixels(image)) * mask)


def riso(image: Image.Image, rng: Random) -> Image.Image:
    """Riso print: dots of two inks, pink and teal, out of register on warm paper."""
    page = Image.new("RGB", image.size, (246, 240, 226))
    red, green, blue = image.split()
    for plate, ink, angle, shift in ((green, (236, 58, 120), 0.26, 1), (ImageChops.lighter(red, blue), (0, 132, 140), 1.31, -1)):
        canvas = Canvas.over(ImageChops.offset(plate, shift, shift).convert("RGB"), rng)
        a, b, _, _ = cell(*canvas.rotated(angle), 4.2)
        dots = canvas.coverage((np.hypot(a, b) - 0.68 * np.sqrt(1 - canvas.tone)) * 4.2)
        page = ImageChops.multiply(page, with_ink(Image.new("RGB", image.size, (255, 255, 255)), dots, ink, 0.92))
    return page


def neon(image: Image.Image, rng: Random) -> Image.Image:
    """Neon tubes: glowing coloured contours at night."""
    pixels = _pixels(image)
    edges = np.zeros(pixels.shape[:2], np.float32)
    for axis in (0, 1):
        edges = np.maximum(edges, np.abs(np.diff(pixels, axis=axis, append=np.take(pixels, [-1], axis))).max(-1))
    mask = np.clip((edges - 0.06) * 6, 0, 1)[..., None]
    strongest = pixels.max(-1, keepdims=True)
    hue = np.clip((pixels / np.maximum(strongest, 0.05)) ** 2.2, 0.05, 1)
    tubes = _image(mask * hue)
    glow = tubes.filter(ImageFilter.GaussianBlur(image.width / 36))
    night = Image.new("RGB", image.size, (10, 6, 22))
    return ImageChops.add(ImageChops.screen(tubes, ImageChops.add(glow, glow)), night)


def paper_cut(image: Image.Image, rng: Random) -> Image.Image:
    """Paper cuts: flat layers in soft colours, each with a shadow below it."""
    tone = image.convert("L").filter(ImageFilter.ModeFilter(7))
    flat = _pixels(image.filter(ImageFilter.ModeFilter(7)))
    grey = _tone(tone)
    lifted = np.asarray(ImageChops.offset(tone, 2, 3).filter(ImageFilter.GaussianBlur(image.width / 80)), np.float32) / 255
    shadow = np.clip((lifted - grey) * 1.3, 0, 0.45)[..., None]
    fibre = 0.02 * _noise(image.width, 0.6, rng)[..., None]
    return _image((0.30 + 0.68 * flat) * (1 - shadow) + fibre)


def patchwork(image: Image.Image, rng: Random) -> Image.Image:
    """Patchwork: square patches of cloth, each in one colour and weave, sewn with pale dashes."""
    side = image.width
    count = 14
    patches = image.resize((count, count), Image.Resampling.BOX).resize((side, side), Image.Resampling.NEAREST)
    canvas = Canvas.over(patches, rng)
    pitch = 128 / count
    a, b, column, row = cell(canvas.x, canvas.y, pitch)
    check = np.where((column + row) % 2 == 0, np.sin(canvas.x * 2.4), np.sin(canvas.y * 2.4)) > 0
    cloth = with_ink(patches, check.astype(np.float32), (255, 250, 240), 0.18)
    edge = np.maximum(np.abs(a), np.abs(b)) * pitch
    dashes = canvas.coverage(np.abs(edge - pitch / 2 + 1.3) - 0.5) * ((canvas.x + canvas.y) % 3.2 < 1.9)
    return with_ink(with_ink(cloth, canvas.coverage(pitch / 2 - 0.45 - edge), (70, 52, 60), 0.8), dashes, (252, 244, 222), 1.0)


def thermal(image: Image.Image, rng: Random) -> Image.Image:
    """A thermal camera: soft tones from violet over red and yellow to white."""
    tone = _tone(image.filter(ImageFilter.GaussianBlur(image.width / 90)))
    return _image(_ramp(tone, [(8, 4, 46), (92, 10, 120), (206, 36, 80), (250, 136, 20), (252, 236, 120), (255, 255, 250)]))


def knitted(image: Image.Image, rng: Random) -> Image.Image:
    """Knitted wool: rows of small V, each stitch in one colour."""
    count = 21
    small = image.resize((count, count), Image.Resampling.BOX)
    wool = small.resize(image.size, Image.Resampling.NEAREST)
    canvas = Canvas.over(wool, rng)
    return with_ink(wool, 1 - UNSEEN["knit"](canvas, 128 / count), (40, 30, 36), 0.55)


def banknote(image: Image.Image, rng: Random) -> Image.Image:
    """Engraving: rings of green ink that swell with the tone, on pale green paper."""
    page = Image.new("RGB", image.size, (226, 234, 214))
    canvas = Canvas.over(image, rng)
    rings = np.hypot(canvas.x + 30, canvas.y - 150)
    swell = canvas.coverage(np.abs(rings / 3.4 % 1 - 0.5) * 3.4 - 3.4 * (0.04 + 0.40 * (1 - canvas.tone)))
    return with_ink(page, swell, (16, 74, 54), 1.0)


def stipple(image: Image.Image, rng: Random) -> Image.Image:
    """Pen and ink: scattered dots in sepia, closer where the scene is dark."""
    page = Image.new("RGB", image.size, (248, 240, 222))
    for pitch in (2.8, 3.7):
        canvas = Canvas.over(image, rng)
        page = with_ink(page, UNSEEN["stipple"](canvas, pitch), (74, 44, 30), 0.95)
    return page


def ballpoint(image: Image.Image, rng: Random) -> Image.Image:
    """Ballpoint: one restless line in blue, loops within loops where the scene is dark."""
    side = image.width * OVERSAMPLING
    tone = np.asarray(image.convert("L").resize((64, 64), Image.Resampling.BOX), np.float32) / 255
    page = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(page)
    for row in range(64):
        for column in range(64):
            if rng.random() > (1 - tone[row, column]) ** 1.3 * 1.1 + 0.01:
                continue
            x, y, reach = (column + rng.random()) * side / 64, (row + rng.random()) * side / 64, side / 64 * rng.uniform(0.7, 1.3)
            start, box = rng.randrange(360), (x - reach, y - reach * 0.8, x + reach, y + reach * 0.8)
            draw.arc(box, start, start + rng.randint(200, 360), 255, side // 160)
    return with_ink(Image.new("RGB", image.size, (252, 251, 246)), np.asarray(page, np.float32) / 255, (24, 44, 148), 0.95)


def enamel(image: Image.Image, rng: Random) -> Image.Image:
    """Enamel scales: overlapping arcs, each in one colour with gold rims."""
    side, pitch = image.width, 7.0
    canvas = Canvas.over(image, rng)
    a, b, column, row = cell(canvas.x, canvas.y, pitch, 0.5)
    upper = np.hypot(a, b + 0.5) < 0.5
    cx = np.clip((column + np.where(row % 2 == 0, 0.5, 0.0)) * pitch, 0, 127).astype(int) * side // 128
    cy = np.clip((row + np.where(upper, 0.2, 0.9)) * pitch, 0, 127).astype(int) * side // 128
    shade = 0.78 + 0.3 * cell_noise(column, row + upper, 5)
    colour = _reduced(_pixels(image)[cy, cx] * shade[..., None])
    rims = canvas.coverage((np.abs(np.hypot(a, b + 0.5) - 0.5) - 0.07) * pitch)
    return with_ink(_image(colour), rims, (226, 186, 84), 1.0)


def tarot(image: Image.Image, rng: Random) -> Image.Image:
    """A tarot card: the scene small in a round frame, rays around it, a border, three inks."""
    side = image.width
    inner = image.resize((side * 5 // 8, side * 5 // 8), Image.Resampling.LANCZOS)
    tones = _ramp(_tone(inner), [(58, 22, 66), (190, 66, 72), (246, 214, 150)])
    page = Image.new("RGB", (side * 2, side * 2), (246, 226, 178))
    draw = ImageDraw.Draw(page)
    for ray in range(24):
        draw.pieslice((-side, -side, side * 3, side * 3), ray * 15, ray * 15 + 7.5, fill=(228, 160, 92))
    draw.rectangle((side // 14, side // 14, side * 27 // 14, side * 27 // 14), outline=(58, 22, 66), width=side // 24)
    page = page.resize((side, side), Image.Resampling.BOX)
    disc = Image.new("L", (inner.width * 2, inner.width * 2), 0)
    ImageDraw.Draw(disc).ellipse((2, 2, inner.width * 2 - 3, inner.width * 2 - 3), fill=255)
    place = (side - inner.width) // 2
    page.paste(_image(tones), (place, place), disc.resize(inner.size, Image.Resampling.BOX))
    ring = (place, place, place + inner.width, place + inner.width)
    ImageDraw.Draw(page).ellipse(ring, outline=(58, 22, 66), width=max(2, side // 48))
    return page


def _towards(colour: Rgb, share: float) -> Callable[[Rgb], Rgb]:
    return lambda source: mix(source, colour, share)


PALE, DARK = (255, 255, 255), (0, 0, 0)
STRANGERS = (
    Stranger("chalk", "line, palette", DrawingStyle(scene_ink=_towards(DARK, 0.55), line=PALE, line_px=2.2, finish=chalk)),
    Stranger("riso", "texture, palette", DrawingStyle(finish=riso)),
    Stranger("neon", "line, palette", DrawingStyle(finish=neon)),
    Stranger("paper cut", "texture, palette", DrawingStyle(finish=paper_cut)),
    Stranger("patchwork", "texture", DrawingStyle(finish=patchwork)),
    Stranger("thermal", "palette", DrawingStyle(finish=thermal)),
)
FINAL_STRANGERS = (
    Stranger("knitted", "texture", DrawingStyle(finish=knitted)),
    Stranger("banknote", "line, palette", DrawingStyle(scene_ink=_towards(PALE, 0.5), line=DARK, line_px=1.6, finish=banknote)),
    Stranger("stipple", "texture, palette", DrawingStyle(_towards(DARK, 0.3), _towards(PALE, 0.75), DARK, 2.0, stipple)),
    Stranger("ballpoint", "line, palette", DrawingStyle(_towards(DARK, 0.3), _towards(PALE, 0.8), DARK, 2.4, ballpoint)),
    Stranger("enamel", "texture", DrawingStyle(_towards(PALE, 0.08), finish=enamel)),
    Stranger("tarot", "layout, palette", DrawingStyle(finish=tarot)),
)
