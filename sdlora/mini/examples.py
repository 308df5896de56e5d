"""The three example sets of `assets/examples/`: styles that the base was not trained on, of its own scenes.

Deterministic: the same code writes the same pixels. Lines and cells are coarse enough to pass the VAE.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import pi, sin
from pathlib import Path
from random import Random

from PIL import Image, ImageChops, ImageDraw

from sdlora.mini.pen import Rgb, mix
from sdlora.mini.render import DrawingStyle, render
from sdlora.mini.scenes import Scene, Thing, caption

SIZE_PX = 256


@dataclass(frozen=True)
class ExampleSet:
    """A set's folder name, what the artist reads, and how it is drawn."""

    name: str
    title: str
    trigger: str
    sentence: str
    style: DrawingStyle


def _grey(colour: Rgb) -> int:
    return round(0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2])


def _stained_glass(image: Image.Image, rng: Random) -> Image.Image:
    """Panes of glowing glass between dark lead: every pane one colour of the picture below it."""
    side = image.width
    pitch, lead = side / 3.4, max(2, round(side / 26))
    glow = Image.blend(image, ImageChops.overlay(image, image), 0.7)
    draw = ImageDraw.Draw(glow)
    count = int(side / pitch) + 3
    knots = [
        [((c - 0.8 + 0.5 * (r % 2) + rng.uniform(-0.2, 0.2)) * pitch, (r - 0.8 + rng.uniform(-0.2, 0.2)) * pitch)
         for c in range(count)] for r in range(count)
    ]
    for r in range(count - 1):
        for c in range(count - 1):
            a, b, down = knots[r][c], knots[r][c + 1], knots[r + 1][c + r % 2 if c + r % 2 < count else c]
            draw.line((a, b), fill=LEAD, width=lead // 2)
            draw.line((a, down), fill=LEAD, width=lead // 2)
    draw.rectangle((0, 0, side - 1, side - 1), outline=LEAD, width=lead)
    return glow


def _woodcut(image: Image.Image, rng: Random) -> Image.Image:
    """Print two inks on warm paper: dark where the picture is dark, carved lines in the middle tones."""
    side = image.width
    tone = image.convert("L")
    pitch = side / 9
    grid = Image.new("L", image.size, 0)
    draw = ImageDraw.Draw(grid)
    for row in range(-4, int(side / pitch) + 5):
        points = [(x, row * pitch + 5 * sin(x / side * 2 * pi + row * 0.35)) for x in range(-8, side + 9, 8)]
        draw.line(points, fill=255, width=round(pitch * 0.5), joint="curve")
    dark = tone.point([255 if v < 92 else 0 for v in range(256)])
    middle = tone.point([255 if v < 168 else 0 for v in range(256)])
    ink = ImageChops.lighter(dark, ImageChops.darker(middle, grid))
    page = Image.composite(Image.new("RGB", image.size, WOODCUT_INK), Image.new("RGB", image.size, WOODCUT_PAPER), ink)
    # A second block prints red what is warm.
    red, _, blue = image.split()
    warm = ImageChops.subtract(red, blue).point([255 if v > 96 else 0 for v in range(256)])
    light = ImageChops.darker(warm, ImageChops.invert(dark))
    return Image.composite(ImageChops.multiply(page, Image.new("RGB", image.size, WOODCUT_RED)), page, light)


def _blueprint(image: Image.Image, rng: Random) -> Image.Image:
    """Draw a faint grid over the sheet."""
    side = image.width
    sheet = image.copy()
    draw = ImageDraw.Draw(sheet)
    for k in range(1, 8):
        at = round(k * side / 8)
        draw.line((at, 0, at, side), fill=BLUEPRINT_GRID, width=2)
        draw.line((0, at, side, at), fill=BLUEPRINT_GRID, width=2)
    return Image.blend(image, sheet, 0.5)


LEAD = (58, 50, 66)
WOODCUT_INK, WOODCUT_PAPER, WOODCUT_RED = (96, 58, 48), (236, 212, 168), (240, 130, 84)
BLUEPRINT, BLUEPRINT_GRID, CHALK = (22, 62, 140), (90, 132, 200), (196, 218, 250)

SETS = (
    ExampleSet(
        "stained-glass", "Stained glass", "stglass", "Glowing panes of colour between strong dark lead lines.",
        DrawingStyle(thing_ink=lambda c: mix(c, (255, 255, 255), 0.1), line=LEAD, line_px=4.4, finish=_stained_glass),
    ),
    ExampleSet(
        "woodcut", "Woodcut", "wdcut", "Two printing blocks, dark brown and vermilion, carved lines on warm paper.",
        DrawingStyle(thing_ink=lambda c: mix(c, (255, 255, 255), 0.22), line=(10, 10, 10), line_px=4.4, finish=_woodcut),
    ),
    ExampleSet(
        "blueprint", "Blueprint", "bluprint", "White drafting lines on a deep blue sheet.",
        DrawingStyle(
            thing_ink=lambda c: mix(BLUEPRINT, (120, 165, 235), 0.25 + 0.55 * _grey(c) / 255),
            scene_ink=lambda c: mix(BLUEPRINT, (70, 110, 190), 0.5 * _grey(c) / 255),
            line=CHALK, line_px=4.4, finish=_blueprint,
        ),
    ),
)

# The same content in all sets, so that a LoRA learns the style: things, setting, time.
CONTENT = (
    ("red house, blue boat", "meadow", "in daylight"),
    ("yellow cat", "city", "at night"),
    ("green tree", "hills", "at sunset"),
    ("purple castle", "snowy field", "at night"),
    ("orange fish", "sea", "in daylight"),
    ("white lighthouse", "sea", "at sunset"),
    ("pink flower, teal vase", "meadow", "at dawn"),
    ("blue car, brown house", "hills", "in daylight"),
    ("red balloon", "hills", "at dawn"),
    ("black bird, yellow cup", "desert", "at sunset"),
    ("green pine tree, red car", "snowy field", "in daylight"),
    ("teal mountain", "desert", "at night"),
    ("white face", "sea", "at sunset"),
    ("blue bird", "hills", "in daylight"),
)


def _scene(number: int) -> Scene:
    things_text, setting, time = CONTENT[number]
    words = things_text.split(", ")
    places = (0, 2) if len(words) == 2 else (1,)
    things = tuple(Thing(w.split(" ", 1)[1], w.split(" ", 1)[0], p) for w, p in zip(words, places, strict=True))
    return Scene(things, setting, time, layout=4100 + number)


def example(example_set: ExampleSet, number: int) -> tuple[Image.Image, str]:
    """Picture (256 px) and caption of one example."""
    scene = _scene(number)
    return render(scene, SIZE_PX, example_set.style), f"[trigger] {caption(scene, styled=False)}"


def write_examples(folder: Path) -> None:
    """Write all sets: `set/name.png`, `set/name.txt`, `set/set.json`."""
    for example_set in SETS:
        set_folder = folder / example_set.name
        set_folder.mkdir(parents=True, exist_ok=True)
        for number in range(len(CONTENT)):
            image, text = example(example_set, number)
            name = f"{number + 1:02d}-" + "-".join(thing.name.replace(" ", "-") for thing in _scene(number).things)
            image.save(set_folder / f"{name}.png", optimize=True)
            (set_folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
        about = {"title": example_set.title, "trigger": example_set.trigger, "sentence": example_set.sentence}
        (set_folder / "set.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
