"""How far a run has come, seen in its sample pictures: beside the artist's own, and beside those from before training.

Knows nothing about LoRA: the base must be as it was before training while it looks. What was found is kept in validation.json
of the run folder, so that a resumed run remembers it.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median

import torch
from PIL import Image

from sdlora.base.load import Base
from sdlora.dataset.picture import open_picture
from sdlora.draw.grammar import parse
from sdlora.errors import UserError
from sdlora.storage import read_json, write_json
from sdlora.train.events import Validated
from sdlora.train.features import Features, Recognition, distance, features, joined
from sdlora.train.samples import NEW_SCENES, sample_path, without_trigger

FILE = "validation.json"
PICTURES = 16  # of the artist's, at most
SHORTEST = 0.05  # distance, in deviations of a feature, below which two sets look alike
TOLD_APART = 2  # pairs of prompts that the base must tell apart before training, for content to be measured


class Validator:
    """Looks at the sample pictures of one run."""

    def __init__(self, base: Base, folder: Path, prompts: Sequence[str], trigger: str, names: Sequence[str], latents: torch.Tensor
                 ) -> None:
        """Look at the artist's pictures, named `names`, and at the samples of step 0, which must be there.

        latents: (n, c, h/f, w/f) of those pictures. They are seen through the VAE, as everything that the base draws.
        """
        self.base, self.folder, self.prompts = base, folder, prompts
        apart = -(-len(names) // PICTURES)
        self.names = names[::apart]
        own = [features(base, picture) for latent in latents[::apart].split(1) for picture in base.decode(latent)]
        self.layouts = torch.cat([each.layout for each in own])
        self.usual = usual_distance(self.layouts)
        words = ["".join(text for part in parse(prompt) for text, _ in part) for prompt in prompts]
        self.styled = [place for place, prompt in enumerate(words) if mentions(prompt, trigger)]
        self.recognition = Recognition(base, [without_trigger(prompt, trigger) for prompt in words], NEW_SCENES[:3])
        before = samples_of(folder, 0, len(prompts))
        self.known = self.recognition.answers(before)
        self.own = joined(own)
        self.nothing = self.away([features(base, picture) for picture in before])
        self.perfect = distance(joined(own[::2]), joined(own[1::2])) if len(own) > 1 else 0.0

    def away(self, found: Sequence[Features]) -> float:
        """Return how far the pictures with the trigger are from the artist's."""
        return distance(joined([found[place] for place in self.styled]), self.own) if self.styled else 0.0

    def validate(self, step: int, loss: float | None) -> Validated:
        """Return what the samples of a step show, and remember it. All of them must be there. loss: of the held-out picture."""
        result = self.look(step, loss, samples_of(self.folder, step, len(self.prompts)))
        write_json(self.folder / FILE, [asdict(each) for each in (*history(self.folder, step - 1), result)])
        return result

    def look(self, step: int, loss: float | None, pictures: Sequence[Image.Image]) -> Validated:
        """Return what pictures of all prompts show."""
        found = [features(self.base, picture) for picture in pictures]
        near = torch.cdist(torch.cat([each.layout for each in found]), self.layouts)
        sample, nearest = divmod(int(near.argmin()), near.shape[1])
        kept = [now for now, before in zip(self.recognition.answers(pictures), self.known, strict=True) if before]
        length = self.nothing - self.perfect
        return Validated(
            step, loss, round(100 * (self.nothing - self.away(found)) / length, 1) if length >= SHORTEST else None,
            round(mean(kept), 3) if len(kept) >= TOLD_APART else None,
            round(min(1.0, near.min().item() / self.usual), 3) if self.usual else None, sample, self.names[nearest])


def has_samples(folder: Path, step: int, count: int) -> bool:
    """Return whether all sample pictures of a step are there."""
    return all((folder / sample_path(step, index)).is_file() for index in range(count))


def samples_of(folder: Path, step: int, count: int, strength: float = 1.0) -> list[Image.Image]:
    """Return the sample pictures of a step, in the order of the prompts."""
    return [open_picture(folder / sample_path(step, index, strength)) for index in range(count)]


def usual_distance(layouts: torch.Tensor) -> float | None:
    """Return the median distance of (n, d) from the nearest other; None for one alone, and for equal ones."""
    apart = torch.cdist(layouts, layouts).fill_diagonal_(float("inf"))
    usual = median(apart.amin(1).tolist())
    return usual if 0 < usual < float("inf") else None


def mentions(prompt: str, trigger: str) -> bool:
    """Return whether the trigger word is in a prompt; always, when there is none."""
    return not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", prompt, re.IGNORECASE) is not None


def history(folder: Path, until: int) -> list[Validated]:
    """Return what samples have shown up to a step, in order; nothing when the file cannot be read: no run ends for that."""
    try:
        found = [Validated(**each) for each in read_json(folder / FILE)]
    except (UserError, TypeError):
        return []
    return [each for each in found if each.step <= until]
