"""A small classifier of what a picture shows: object, colour, setting, time and style. It measures the base and LoRAs.

It is trained on renders only, in the styles of the base, in random manners and in the styles of the benchmark: what a picture
shows has to be read in any of them. Its weights ship. Knows nothing about the base or LoRAs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import fmean

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlora.mini.manners import random_manner
from sdlora.mini.pictures import as_tensor
from sdlora.mini.render import DrawingStyle, render
from sdlora.mini.scenes import COLOURS, OBJECTS, SETTINGS, STYLES, TIMES, Scene, Thing, random_scenes
from sdlora.mini.strangers import FINAL_STRANGERS, STRANGERS
from sdlora.storage import shipped, write_atomic

HEADS: dict[str, Sequence[str]] = {"object": OBJECTS, "colour": COLOURS, "setting": SETTINGS, "time": TIMES, "style": STYLES}
OF_TWO: dict[str, Sequence[str]] = {
    "left object": OBJECTS, "left colour": COLOURS, "right object": OBJECTS, "right colour": COLOURS,
}  # read where a picture shows two things side by side
CLASSIFIER_PX = 64
UNASKED = -100  # the label of a head that a picture does not train: cross_entropy ignores it
BATCH = 64


class Classifier(nn.Module):
    """(b, 3, 64, 64) in -1..1 -> {head: scores (b, words)}."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for step in range(4):
            after = width * (1 + step)
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
            before = after
        self.body = nn.Sequential(*layers, nn.Conv2d(before, before, 3, padding=1), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(before * 16, len(words)) for name, words in (HEADS | OF_TWO).items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}


def measured_scenes(count: int, seed: int, plain: float = 0.5) -> list[Scene]:
    """Return one thing of medium size, mostly in the centre, everything else random: what the measured prompts ask for."""
    rng = Random(seed)
    scenes = []
    for _ in range(count):
        style = STYLES[0] if rng.random() < plain else rng.choice(STYLES[1:])
        thing = Thing(rng.choice(OBJECTS), rng.choice(COLOURS), rng.choice((0, 1, 1, 1, 2)))
        scenes.append(Scene((thing,), rng.choice(SETTINGS), rng.choice(TIMES), style, rng.getrandbits(31)))
    return scenes


def measured_pairs(count: int, seed: int) -> list[Scene]:
    """Return flat illustrations of two things, each of its own colour."""
    return random_scenes(count, seed, crowded=1.0, plain=1.0)


def in_any_style(count: int, seed: int) -> tuple[list[Scene], list[DrawingStyle | None]]:
    """Return scenes and styles (None: the scene's own): a quarter each in its own, random manners, the benchmark's; and pairs."""
    rng, strangers = Random(seed), [stranger.style for stranger in (*STRANGERS, *FINAL_STRANGERS)]
    part = count // 4
    scenes = measured_scenes(3 * part, seed) + measured_pairs(count - 3 * part, seed)
    manners = [random_manner(rng).style() for _ in range(part)]
    return scenes, [None] * part + manners + rng.choices(strangers, k=part) + [None] * (count - 3 * part)


def labels(scenes: Sequence[Scene], styles: Sequence[DrawingStyle | None]) -> dict[str, Tensor]:
    """Return the right answers of every head, (n,) each; UNASKED for the heads of two things where there is one, for those of one
    thing where there are two, and for the style of a scene that is drawn in another one than its own.
    """
    found = {name: torch.tensor([HEADS[name].index(word) for word in words]) for name, words in answers(scenes).items()}
    for number, (scene, style) in enumerate(zip(scenes, styles, strict=True)):
        if style is not None:
            found["style"][number] = UNASKED
        if len(scene.things) > 1:
            found["object"][number] = found["colour"][number] = UNASKED
    return found | of_two(scenes)


def answers(scenes: Sequence[Scene]) -> dict[str, list[str]]:
    """Return the words that the heads of one thing should say, scene by scene."""
    return {
        "object": [s.things[0].name for s in scenes], "colour": [s.things[0].colour for s in scenes],
        "setting": [s.setting for s in scenes], "time": [s.time for s in scenes], "style": [s.style for s in scenes],
    }


def of_two(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Return the right answers of the heads of two things, (n,) each; UNASKED where there is one."""
    pairs = [s.things if len(s.things) > 1 else () for s in scenes]
    found = {}
    for at, side in enumerate(("left", "right")):
        found[f"{side} object"] = torch.tensor([OBJECTS.index(pair[at].name) if pair else UNASKED for pair in pairs])
        found[f"{side} colour"] = torch.tensor([COLOURS.index(pair[at].colour) if pair else UNASKED for pair in pairs])
    return found


def classifier_input(pictures: Tensor) -> Tensor:
    """(n, 3, s, s) uint8 -> (n, 3, 64, 64) in -1..1."""
    x = pictures.float() / 127.5 - 1
    return F.interpolate(x, size=CLASSIFIER_PX, mode="bilinear", antialias=True)


def train_classifier(model: Classifier, x: Tensor, y: dict[str, Tensor], epochs: int = 6, seed: int = 77) -> Iterator[float]:
    """Yield the loss of every step. x: see `classifier_input`, shifted, blurred and noised as those of a weak base are.

    y: see `labels`.
    """
    gen = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    steps = max(1, epochs * len(x) // BATCH)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(x), (BATCH,), generator=gen)
        batch = _augmented(x[chosen], gen)
        loss = torch.stack([_error(scores, y[name][chosen]) for name, scores in model(batch).items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        yield loss.item()
    model.eval()


def _error(scores: Tensor, right: Tensor) -> Tensor:
    """Return the mean cross entropy of those that are asked, 0 where none is."""
    return F.cross_entropy(scores, right, reduction="sum") / (right != UNASKED).sum().clamp(min=1)


def _augmented(x: Tensor, gen: torch.Generator) -> Tensor:
    dy, dx = (torch.randint(-3, 4, (2,), generator=gen)).tolist()
    x = torch.roll(x, (dy, dx), (2, 3))
    if torch.rand(1, generator=gen) < 0.5:
        x = F.avg_pool2d(x, 3, 1, 1)
    return x + 0.08 * torch.randn(x.shape, generator=gen)


@torch.no_grad()
def accuracy(model: Classifier, pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, float]:
    """Return the share of right answers of every head of one thing, on (n, 3, s, s) uint8 pictures."""
    scores = model(classifier_input(pictures))
    return {name: fmean(HEADS[name][at] == word for at, word in zip(scores[name].argmax(1), words, strict=True))
            for name, words in answers(scenes).items()}


@torch.no_grad()
def own_colours(model: Classifier, pictures: Tensor, scenes: Sequence[Scene]) -> float:
    """Return the share of things that have the colour asked for, on (n, 3, s, s) uint8 pictures of two things each.

    Which of the two stands on which side is read off the objects: captions do not say.
    """
    scores = {name: found.log_softmax(1) for name, found in model(classifier_input(pictures)).items()}
    asked, every = of_two(scenes), torch.arange(len(scenes))

    def fit(side: str, other: str) -> Tensor:
        return scores[f"{side} object"][every, asked[f"{other} object"]]

    straight = fit("left", "left") + fit("right", "right") >= fit("left", "right") + fit("right", "left")
    shown = {side: scores[f"{side} colour"].argmax(1) for side in ("left", "right")}
    right = [torch.where(straight, asked[f"{side} colour"], asked[f"{other} colour"]) == shown[side]
             for side, other in (("left", "right"), ("right", "left"))]
    return torch.cat(right).float().mean().item()


def write_classifier(path: Path, count: int, epochs: int) -> Iterator[float]:
    """Train a classifier on so many scenes and write it in fp16; yield the loss of every step."""
    scenes, styles = in_any_style(count, 5)
    drawn = (as_tensor([render(scene, style=style)]) for scene, style in zip(scenes, styles, strict=True))
    x = torch.cat([classifier_input(picture) for picture in drawn])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = Classifier()
    yield from train_classifier(model, x, labels(scenes, styles), epochs)
    write_atomic(path, lambda temporary: save_file(model.half().state_dict(), temporary))


def load_classifier(path: Path = shipped("assets", "judge.safetensors")) -> Classifier:
    """Load a classifier, in fp32; the default ships."""
    model = Classifier()
    model.load_state_dict(load_file(path))
    return model.eval()
