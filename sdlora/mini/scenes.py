"""The scenes of the embedded base: what they can hold, and their captions.

Knows nothing about pixels, tensors or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

OBJECTS = (
    "house", "tree", "pine tree", "lighthouse", "fish", "boat", "flower", "mountain",
    "balloon", "cup", "castle", "face", "car", "bird", "cat", "vase",
)
COLOURS = (
    "red", "green", "blue", "yellow", "pink", "purple", "black", "orange", "white", "brown", "teal",
)
SETTINGS = ("meadow", "sea", "city", "hills", "desert", "snowy field")
TIMES = ("in daylight", "at sunset", "at night", "at dawn")
STYLES = (
    "flat illustration", "ink outline cartoon", "soft painting", "pencil sketch", "watercolor",
)
PLACES = ("on the left", "in the centre", "on the right")
SIZES = ("small", "", "large")

# Used instead of the plain word in a part of the training captions.
SYNONYMS = {
    "tree": ("round tree",),
    "cat": ("kitten",),
    "boat": ("sailing boat",),
    "balloon": ("hot air balloon",),
    "cup": ("mug",),
    "face": ("smiling face",),
    "large": ("big",),
    "small": ("little",),
    "in the centre": ("in the middle",),
    "meadow": ("green meadow", "grass"),
    "sea": ("ocean", "by the sea"),
    "city": ("town",),
    "snowy field": ("snow",),
    "in daylight": ("by day",),
    "at night": ("by night",),
}


@dataclass(frozen=True)
class Thing:
    """One object: names from OBJECTS and COLOURS, place 0-2 (left to right), size 0-2."""

    name: str
    colour: str
    place: int = 1
    size: int = 1


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `layout` seeds every random detail (jitter, clouds, brush)."""

    things: tuple[Thing, ...]
    setting: str
    time: str
    style: str = "flat illustration"
    layout: int = 0


def caption(scene: Scene, styled: bool = True) -> str:
    """Return the exact caption: `watercolor of a red house and a blue boat, meadow, in daylight`."""
    words = " and ".join(f"{article(t.colour)} {t.colour} {t.name}" for t in scene.things)
    words = f"{words}, {scene.setting}, {scene.time}"
    return f"{scene.style} of {words}" if styled else words


def article(word: str) -> str:
    """Return "a" or "an"."""
    return "an" if word[0] in "aeiou" else "a"


def training_caption(scene: Scene, rng: Random, styled: bool | None = None) -> str:
    """Return the exact caption in half of the cases, else one that is longer (size, place), shorter, reordered or reworded.

    Unless `styled` says whether the style is named, the flat illustration may go unnamed: a caption without a style means it.
    """
    if styled is None:
        styled = scene.style != STYLES[0] or rng.random() < 0.4
    form = rng.random()
    if form < 0.5:
        return caption(scene, styled)
    prefix = f"{scene.style} of " if styled else ""
    if form < 0.7:
        return prefix + f"{_things(scene, rng, long=True)}, {scene.setting}, {scene.time}"
    if form < 0.8:
        return prefix + _short(scene, rng)
    reword = _synonyms(rng)
    things = _things(scene, rng, long=False, reword=reword)
    if form < 0.9:
        return prefix + f"{things}, {reword(scene.setting)}, {reword(scene.time)}"
    reordered = f"{reword(scene.setting)}, {reword(scene.time)}, {things}"
    return f"{reordered}, {scene.style}" if styled else reordered


def _synonyms(rng: Random) -> Callable[[str], str]:
    """Return a function that gives a word or one of its synonyms."""
    return lambda word: rng.choice((word, *SYNONYMS.get(word, ())))


def _things(scene: Scene, rng: Random, long: bool, reword: Callable[[str], str] = str) -> str:
    parts = []
    for thing in scene.things:
        size = SIZES[thing.size] if long else ""
        words = " ".join(w for w in (reword(size), thing.colour, reword(thing.name)) if w)
        place = f" {PLACES[thing.place]}" if long and rng.random() < 0.7 else ""
        parts.append(f"{article(words)} {words}{place}")
    if not long and rng.random() < 0.5:
        parts.reverse()
    return " and ".join(parts)


def _short(scene: Scene, rng: Random) -> str:
    """Leave out the setting, the time or both."""
    things = _things(scene, rng, long=False)
    return rng.choice((things, f"{things}, {scene.setting}", f"{things}, {scene.time}"))


def vocabulary() -> list[str]:
    """Return every word that the caption of a scene can hold, in a fixed order."""
    phrases = [*OBJECTS, *COLOURS, *SETTINGS, *TIMES, *STYLES, *PLACES, *SIZES, "a an and of"]
    phrases += [form for forms in SYNONYMS.values() for form in forms]
    words = " ".join(phrases).split()
    return list(dict.fromkeys(words))


def random_scene(rng: Random, crowded: float = 0.25, plain: float = 0.6) -> Scene:
    """Draw a scene; `crowded` of them hold two things, `plain` of them are flat illustrations."""
    style = STYLES[0] if rng.random() < plain else rng.choice(STYLES[1:])
    if rng.random() < crowded:
        names, colours = rng.sample(OBJECTS, 2), rng.sample(COLOURS, 2)
        things = tuple(Thing(n, c, 2 * i) for i, (n, c) in enumerate(zip(names, colours, strict=True)))
    else:
        place = rng.choices((0, 1, 2), (1, 8, 1))[0]
        size = rng.choices((0, 1, 2), (1, 8, 1))[0]
        things = (Thing(rng.choice(OBJECTS), rng.choice(COLOURS), place, size),)
    setting, time = rng.choice(SETTINGS), rng.choice(TIMES)
    return Scene(things, setting, time, style, rng.getrandbits(31))


def random_scenes(count: int, seed: int, crowded: float = 0.25, plain: float = 0.6) -> list[Scene]:
    """Random scenes; the same seed gives the same list."""
    rng = Random(seed)
    return [random_scene(rng, crowded, plain) for _ in range(count)]
