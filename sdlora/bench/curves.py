"""A style's way through a training: the truth at every checkpoint, beside what the run itself said there.

It shows whether the numbers of a run can be trusted, and whether the checkpoint that it suggests is better than its last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import pandas

from sdlora.base.load import Base
from sdlora.bench.style_runs import Trained, draw_prompts, prompts_of
from sdlora.mini.classifier import Classifier

if TYPE_CHECKING:
    from sdlora.bench.style import Truth

PROMPTS = 16


@dataclass(frozen=True)
class Point:
    """One checkpoint. style, content: the truth, as in StyleResult; told_style, told_content: what the run said."""

    step: int
    seconds: float
    style: float
    content: float
    told_style: float | None
    told_content: float | None


@dataclass(frozen=True)
class Curve:
    """The checkpoints of one training with sample pictures, in order; suggested: the step that the run suggests."""

    style: str
    points: list[Point]
    suggested: int | None

    @property
    def gained(self) -> float | None:
        """Return how much better the suggested checkpoint is than the last one, in points of style times content."""
        at = {point.step: point.style * point.content for point in self.points}
        return at[self.suggested] - at[max(at)] if self.suggested in at else None


def measure_curve(base: Base, truth: "Truth", trained: Trained, judge: Classifier) -> Curve:
    """Draw PROMPTS prompts with every checkpoint that had sample pictures, and score them."""
    prompts = prompts_of(truth.scenes[:PROMPTS], trigger=True)
    points = []
    for step, seconds in sorted(trained.checkpoints.items()):
        told = trained.validated.get(step)
        if told is None:
            continue
        drawn = draw_prompts(base, prompts, 1, trained.file_at(step))
        style, content = truth.style(drawn).main, truth.content(judge, drawn, 1)
        points.append(Point(step, seconds, style, content, told["style"], told["content"]))
    return Curve(truth.stranger.name, points, trained.suggested)


def agreement(curves: Sequence[Curve], name: str) -> float | None:
    """Return the rank correlation of what runs said about `name` (style or content) with the truth: mean of those of each run."""
    found = []
    for curve in curves:
        pairs = [(getattr(point, name), told) for point in curve.points if (told := getattr(point, f"told_{name}")) is not None]
        if len(pairs) > 2 and len({told for _, told in pairs}) > 1:
            found.append(rank_correlation(*zip(*pairs, strict=True)))
    return mean(found) if found else None


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 when all values of one side are equal."""
    found = pandas.DataFrame({"a": a, "b": b}).corr(method="spearman").iloc[0, 1]
    return 0.0 if pandas.isna(found) else float(found)


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Draw style and content over the seconds of every training, with the suggested checkpoints, as a PNG.

    Raises ImportError without matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, name, top in zip(figure.subplots(1, 2), ("style", "content"), (100, 1), strict=True):
        for curve in curves:
            line = axes.plot([p.seconds for p in curve.points], [getattr(p, name) for p in curve.points], label=curve.style)[0]
            axes.plot([p.seconds for p in curve.points if p.step == curve.suggested],
                      [getattr(p, name) for p in curve.points if p.step == curve.suggested], "o", color=line.get_color())
        axes.axhline(top, color="grey", linewidth=0.5)
        axes.set(xlabel="seconds", title=f"{name} (dot: suggested checkpoint)", ylim=(0, 1.1 * top))
    axes.legend(fontsize="small")
    figure.savefig(path)
