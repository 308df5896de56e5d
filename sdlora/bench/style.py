"""How well a base and a trainer learn styles that they never saw, and what that costs: the numbers of `bench style`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, pstdev

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from sdlora.base.load import Base
from sdlora.bench.curves import Curve, measure_curve
from sdlora.bench.ruler import Scores, distances, scores
from sdlora.bench.style_runs import (
    LAYOUTS,
    Trained,
    draw_prompts,
    held_out,
    layouts,
    prompts_of,
    through_vae,
    train,
    training_scenes,
    write_training_set,
)
from sdlora.mini.classifier import Classifier, accuracy, load_classifier
from sdlora.mini.pictures import as_tensor
from sdlora.mini.render import render
from sdlora.mini.scenes import Scene
from sdlora.mini.strangers import Stranger
from sdlora.storage import write_atomic

SMALL_PX = 16  # side of a picture as copying, drift and diversity see it
READABLE = 0.5  # a head that names fewer of the real renders than this says nothing about content
ARRIVED = 0.9  # share of the final fine style at which a style has arrived
CHECKPOINT_PROMPTS = 12
HEADS_OF_CONTENT = ("object", "colour", "setting", "time")


@dataclass(frozen=True)
class Case:
    """What is trained and how it is measured; arguments: further ones of `sdlora train`."""

    base: str = "mini"
    preset: str = "quick"
    arguments: tuple[str, ...] = ()
    pictures: int = 12
    prompts: int = 40
    per_prompt: int = 2  # or more: two are compared for diversity
    seed: int = 1
    curves: bool = False


@dataclass(frozen=True)
class StyleResult:
    """Of one style. style_fine, style_coarse, style_random: 0 the base without the LoRA, 100 other real renders through its VAE.

    style_fine is None for a style that has no line or texture of its own: the base draws it as it is.
    content: right answers about the drawn pictures / about real renders in the style. copying: median distance to the nearest
    training picture / that of unseen real renders, at most 1; less is copied. drift: change of pictures without the trigger /
    with it. diversity: difference of two pictures of a prompt / of two real renders. time_to_style_s: seconds until a checkpoint
    reaches 90% of the style (fine, else coarse) of the last one.
    """

    style: str
    style_fine: float | None
    style_coarse: float | None
    style_random: float | None
    content: float
    copying: float
    drift: float
    diversity: float
    time_to_style_s: float
    seconds: float
    pictures_seen: int


class Truth:
    """Everything about a style that does not depend on the LoRA."""

    def __init__(self, base: Base, stranger: Stranger, scenes: Sequence[Scene], plain: Tensor) -> None:
        self.stranger, self.scenes, self.plain = stranger, list(scenes), plain
        self.renders = [render_all(stranger, layouts(scenes, number)) for number in range(LAYOUTS)]
        self.real = torch.cat(self.renders[:2])
        self.nothing = distances(plain, self.real)
        self.perfect = distances(through_vae(base, torch.cat(self.renders[2:])), self.real)

    def style(self, drawn: Tensor) -> Scores:
        """Return the scores of drawn pictures (n, 3, s, s) of these prompts."""
        return scores(distances(drawn, self.real), self.nothing, self.perfect)

    def content(self, judge: Classifier, drawn: Tensor, per_prompt: int) -> float:
        """Return the mean, over what can be read off real renders, of right answers about drawn / about real pictures.

        drawn: of all prompts or of the first ones, prompt by prompt.
        """
        asked = [scene for scene in self.scenes[: len(drawn) // per_prompt] for _ in range(per_prompt)]
        real, reached = accuracy(judge, self.renders[0], self.scenes), accuracy(judge, drawn, asked)
        return mean(reached[head] / real[head] for head in HEADS_OF_CONTENT if real[head] >= READABLE)

    @cached_property
    def spread(self) -> float:
        """Return the mean difference of two real renders of one prompt."""
        return difference(self.renders[0], self.renders[1])


def render_all(stranger: Stranger, scenes: Sequence[Scene]) -> Tensor:
    """Draw scenes in a style -> (n, 3, s, s) uint8."""
    return as_tensor(render(scene, style=stranger.style) for scene in scenes)


def small(pictures: Tensor) -> Tensor:
    """(n, 3, s, s) uint8 -> (n, 3 SMALL_PX^2) in 0..1."""
    return F.adaptive_avg_pool2d(pictures.float() / 255, SMALL_PX).flatten(1)


def difference(pictures: Tensor, others: Tensor) -> float:
    """Return the mean distance (root mean square) of pairs, as small pictures."""
    return (small(pictures) - small(others)).square().mean(1).sqrt().mean().item()


def nearest(pictures: Tensor, training: Tensor) -> float:
    """Return the median distance to the nearest training picture."""
    return torch.cdist(small(pictures), small(training)).amin(1).median().item()


def measure(base: Base, case: Case, strangers: Sequence[Stranger], folder: Path) -> Iterator[tuple[StyleResult, Curve | None]]:
    """Train and measure every style in turn; files stay in `folder`. The curve is None unless the case asks for it."""
    judge, scenes = load_classifier(), held_out(case.prompts)
    plain = draw_prompts(base, prompts_of(scenes, trigger=False), case.per_prompt)
    for stranger in strangers:
        place = folder / f"{stranger.name.replace(' ', '-')}-{case.seed}"
        pictures = write_training_set(place / "pictures", stranger, case.pictures, case.seed)
        trained = train(pictures, place / "lora.safetensors", case.base, case.preset, ["--seed", str(case.seed), *case.arguments])
        truth = Truth(base, stranger, scenes, plain)
        yield result_of(base, case, truth, trained, judge), measure_curve(base, truth, trained, judge) if case.curves else None


def result_of(base: Base, case: Case, truth: Truth, trained: Trained, judge: Classifier) -> StyleResult:
    """Draw with a trained LoRA and score it; `sheet.png` beside the file shows what was scored."""
    drawn = draw_prompts(base, prompts_of(truth.scenes, trigger=True), case.per_prompt, trained.file)
    found = truth.style(drawn)
    some = truth.scenes[: max(1, case.prompts // 2)]
    without = draw_prompts(base, prompts_of(some, trigger=False), 1, trained.file)
    before, after = (pictures[:: case.per_prompt][: len(some)] for pictures in (truth.plain, drawn))
    training = render_all(truth.stranger, training_scenes(case.pictures, case.seed))
    write_sheet(trained.file.with_name("sheet.png"), [truth.renders[0], after, without, before])
    first, second = (drawn[number :: case.per_prompt] for number in range(2))
    return StyleResult(
        truth.stranger.name, found.fine, found.coarse, found.random, truth.content(judge, drawn, case.per_prompt),
        min(1.0, nearest(drawn, training) / nearest(truth.real, training)),
        difference(without, before) / max(1e-6, difference(after, before)),
        difference(first, second) / truth.spread,
        time_to_style(base, truth, trained, first), trained.seconds, trained.pictures_seen,
    )


def write_sheet(path: Path, rows: Sequence[Tensor], columns: int = 10) -> None:
    """Write rows of pictures: real renders, with the LoRA, with the LoRA but without the trigger, without the LoRA.

    A shorter row is white at its end.
    """
    bands = [torch.cat(list(row[:columns]), dim=2) for row in rows]
    width = max(band.shape[2] for band in bands)
    bands = [F.pad(band, (0, width - band.shape[2]), value=255) for band in bands]
    image = Image.fromarray(torch.cat(bands, dim=1).permute(1, 2, 0).numpy())
    write_atomic(path, lambda temporary: image.save(temporary, "PNG"))


def time_to_style(base: Base, truth: Truth, trained: Trained, final: Tensor) -> float:
    """Return the seconds until the first checkpoint with ARRIVED of the style of the final pictures, one a prompt.

    Both are judged on the first CHECKPOINT_PROMPTS prompts.
    """
    scenes = truth.scenes[:CHECKPOINT_PROMPTS]
    enough = ARRIVED * truth.style(final[: len(scenes)]).main
    for step, seconds in sorted(trained.checkpoints.items()):
        drawn = draw_prompts(base, prompts_of(scenes, trigger=True), 1, trained.file_at(step))
        if truth.style(drawn).main >= enough:
            return seconds
    return trained.seconds


def summary(results: Sequence[StyleResult]) -> dict[str, float | None]:
    """Return the mean of every number and, as <name>_spread, its standard deviation over styles and seeds.

    None counts nowhere.
    """
    names = [name for name in StyleResult.__dataclass_fields__ if name != "style"]
    columns = {name: [value for result in results if (value := getattr(result, name)) is not None] for name in names}
    return {name: mean(values) if values else None for name, values in columns.items()} | {
        f"{name}_spread": pstdev(values) if values else None for name, values in columns.items()}
