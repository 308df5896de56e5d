"""A small classifier that names object, colour, setting, time and style: the judge of what the base draws.

Trained on real renders only; its weights stay in the ignored build folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlora.mini.pictures import as_tensor
from sdlora.mini.render import render
from sdlora.mini.words import COLOURS, OBJECTS, SETTINGS, STYLES, TIMES, Scene, Thing

HEADS = {"object": OBJECTS, "colour": COLOURS, "setting": SETTINGS, "time": TIMES, "style": STYLES}
SIZE_PX = 64


class Classifier(nn.Module):
    """(b, 3, 64, 64) in -1..1 -> scores of every head."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for step in range(4):
            after = width * (1 + step)
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
            before = after
        self.body = nn.Sequential(*layers, nn.Conv2d(before, before, 3, padding=1), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(before * 16, len(words)) for name, words in HEADS.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).flatten(1)
        return {name: head(features) for name, head in self.heads.items()}


def exam_scenes(count: int, seed: int, plain: float = 0.5) -> list[Scene]:
    """One medium thing in the centre, everything else random: what the measured prompts ask for."""
    rng = Random(seed)
    scenes = []
    for _ in range(count):
        style = STYLES[0] if rng.random() < plain else rng.choice(STYLES[1:])
        thing = Thing(rng.choice(OBJECTS), rng.choice(COLOURS), rng.choice((0, 1, 1, 1, 2)))
        scenes.append(Scene((thing,), rng.choice(SETTINGS), rng.choice(TIMES), style, rng.getrandbits(31)))
    return scenes


def labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """The right answers of every head, (n,) each."""
    said = {
        "object": [s.things[0].name for s in scenes], "colour": [s.things[0].colour for s in scenes],
        "setting": [s.setting for s in scenes], "time": [s.time for s in scenes], "style": [s.style for s in scenes],
    }  # fmt: skip
    return {name: torch.tensor([HEADS[name].index(word) for word in words]) for name, words in said.items()}


def eyes(pictures: Tensor) -> Tensor:
    """(n, 3, s, s) uint8 -> (n, 3, 64, 64) in -1..1."""
    x = pictures.float() / 127.5 - 1
    return F.interpolate(x, size=SIZE_PX, mode="bilinear", antialias=True)


def train_classifier(model: Classifier, scenes: int = 6000, epochs: int = 6, seed: int = 77) -> Iterator[float]:
    """Yield the loss of every step. Pictures are jittered, blurred and noised as a weak base's would be."""
    rows = exam_scenes(scenes, seed)
    x, y = eyes(as_tensor(render(scene, SIZE_PX) for scene in rows)), labels(rows)
    gen = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    steps = epochs * len(x) // 64
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,), generator=gen)
        batch = _disturbed(x[chosen], gen)
        loss = sum(F.cross_entropy(scores, y[name][chosen]) for name, scores in model(batch).items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        yield loss.item()
    model.eval()


def _disturbed(x: Tensor, gen: torch.Generator) -> Tensor:
    dy, dx = (torch.randint(-3, 4, (2,), generator=gen)).tolist()
    x = torch.roll(x, (dy, dx), (2, 3))
    if torch.rand(1, generator=gen) < 0.5:
        x = F.avg_pool2d(x, 3, 1, 1)
    return x + 0.08 * torch.randn(x.shape, generator=gen)


@torch.no_grad()
def accuracy(model: Classifier, pictures: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Share of right answers of every head on (n, 3, s, s) uint8 pictures."""
    model.eval()
    answers = labels(scenes)
    scores = model(eyes(pictures))
    return {name: (scores[name].argmax(1) == answers[name]).float().mean().item() for name in HEADS}
