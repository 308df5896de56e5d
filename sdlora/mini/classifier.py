"""A small classifier of what a picture shows: object, colour, setting, time and style. It measures the base and LoRAs.

It is trained on renders only. Knows nothing about the base or LoRAs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlora.mini.pictures import as_tensor
from sdlora.mini.render import DrawingStyle, render
from sdlora.mini.scenes import COLOURS, OBJECTS, SETTINGS, STYLES, TIMES, Scene, Thing
from sdlora.storage import write_atomic

log = logging.getLogger(__name__)
HEADS = {"object": OBJECTS, "colour": COLOURS, "setting": SETTINGS, "time": TIMES, "style": STYLES}
CLASSIFIER_PX = 64


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
        self.heads = nn.ModuleDict({name: nn.Linear(before * 16, len(words)) for name, words in HEADS.items()})

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


def labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """Return the right answers of every head, (n,) each."""
    words_of = {
        "object": [s.things[0].name for s in scenes], "colour": [s.things[0].colour for s in scenes],
        "setting": [s.setting for s in scenes], "time": [s.time for s in scenes], "style": [s.style for s in scenes],
    }
    return {name: torch.tensor([HEADS[name].index(word) for word in words]) for name, words in words_of.items()}


def classifier_input(pictures: Tensor) -> Tensor:
    """(n, 3, s, s) uint8 -> (n, 3, 64, 64) in -1..1."""
    x = pictures.float() / 127.5 - 1
    return F.interpolate(x, size=CLASSIFIER_PX, mode="bilinear", antialias=True)


def train_classifier(
    model: Classifier, scenes: list[Scene], pictures: Tensor, epochs: int = 6, seed: int = 77
) -> Iterator[float]:
    """Yield the loss of every step. Pictures (n, 3, s, s) uint8 are shifted, blurred and noised, as those of a weak base are."""
    x, y = classifier_input(pictures), labels(scenes)
    gen = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    steps = max(1, epochs * len(x) // 64)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(x), (64,), generator=gen)
        batch = _augmented(x[chosen], gen)
        loss = torch.stack([F.cross_entropy(scores, y[name][chosen]) for name, scores in model(batch).items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        yield loss.item()
    model.eval()


def _augmented(x: Tensor, gen: torch.Generator) -> Tensor:
    dy, dx = (torch.randint(-3, 4, (2,), generator=gen)).tolist()
    x = torch.roll(x, (dy, dx), (2, 3))
    if torch.rand(1, generator=gen) < 0.5:
        x = F.avg_pool2d(x, 3, 1, 1)
    return x + 0.08 * torch.randn(x.shape, generator=gen)


@torch.no_grad()
def accuracy(model: Classifier, pictures: Tensor, scenes: list[Scene]) -> dict[str, float]:
    """Return the share of right answers of every head on (n, 3, s, s) uint8 pictures."""
    model.eval()
    answers = labels(scenes)
    scores = model(classifier_input(pictures))
    return {name: (scores[name].argmax(1) == answers[name]).float().mean().item() for name in HEADS}


def load_classifier(path: Path, scenes: list[Scene], styles: Sequence[DrawingStyle | None], size_px: int) -> Classifier:
    """Load the classifier from a file, or train it now on these scenes, each in its own style or the one given."""
    model = Classifier()
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    pictures = as_tensor(render(scene, size_px, style) for scene, style in zip(scenes, styles, strict=True))
    for step, loss in enumerate(train_classifier(model, scenes, pictures)):
        if step % 100 == 0:
            log.info("classifier step %d, loss %.3f", step, loss)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda temporary: save_file(model.state_dict(), temporary))
    return model
