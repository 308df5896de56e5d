"""How several LoRAs act together while a picture is drawn: which of them, where, in which denoising step.

Knows nothing about weights in place or denoising: it only says by what each LoRA's strength is to be multiplied.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient, strength_at
from sdlora.lora.math.delta import delta

Multipliers = tuple[float | Mapping[str, float], ...]
Scores = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Mix:
    """One way of mixing the LoRAs: a factor for each while the UNet predicts (for all of it, or by module, 1 where none is
    named), and one for each while the prompt is read. A prompt is read once, before the first step, so start and end do not
    act on it.
    """
    unet: Multipliers
    text: tuple[float, ...]


def plan(method: str, loras: Sequence[Ingredient], steps: int, switch_every: int,
         scores: Callable[[], Scores] | None) -> list[tuple[Mix, ...]]:
    """For each of `steps` denoising steps the mixes whose predictions are averaged; mostly one.

    "sum": all at once. "switch": one after the other, for `switch_every` steps each, the first one first (LoRA Switch,
    arXiv 2402.16843; strengths are kept). "composite": each alone, predictions averaged (LoRA Composite, same paper).
    "style-subject": a style, then a subject; see `duel`. scores(): what `scored` says of the pair; asked for nothing else.
    Raises UserError for a LoRA that never acts and for a style-subject that is not a pair.
    """
    idle = next((lora for lora in loras if lora.start >= lora.end), None)
    if idle:
        raise UserError(f"{idle.name} never acts: it starts at {idle.start:g} and ends at {idle.end:g} of the denoising.",
                        "Let it end after it starts.")
    if method == "style-subject" and len(loras) not in (0, 2):
        chosen = "only one is" if len(loras) == 1 else f"{len(loras)} are"
        raise UserError(f"Style and subject need two LoRAs, the style first; {chosen} chosen.",
                        "Choose two, or another way to combine them.")
    wants = scores() if method == "style-subject" and loras else {}
    everyone = (1.0,) * len(loras)
    planned = []
    for step in range(steps):
        acting = [lora.start <= step / steps < lora.end for lora in loras]
        there = [index for index, acts in enumerate(acting) if acts]
        if method == "switch" and there:
            planned.append((alone(there[step // switch_every % len(there)], len(loras)),))
        elif method == "composite" and there:
            planned.append(tuple(alone(index, len(loras)) for index in there))
        elif method == "style-subject" and len(there) == 2:
            planned.append((Mix(duel(wants, step / steps), everyone),))
        else:
            planned.append((Mix(tuple(map(float, acting)), everyone),))
    return planned


def alone(index: int, count: int) -> Mix:
    """One LoRA of several acts, as if the others were not there."""
    only = tuple(float(number == index) for number in range(count))
    return Mix(only, only)


def duel(scores: Scores, share: float) -> tuple[dict[str, float], dict[str, float]]:
    """1 for the one of (style, subject) that acts on each module both change, when `share` of the denoising is done; else 0.

    As K-LoRA (arXiv 2502.18461) chooses, own implementation: the one with the larger score, the style's growing from
    0.5 to 2 times, so that the subject shapes the picture and the style finishes it. The share of the steps stands for
    the paper's count of calls.
    """
    growth = 1.5 * share + 0.5
    wins = {path: growth * style > subject for path, (style, subject) in scores.items()}
    return {path: float(won) for path, won in wins.items()}, {path: float(not won) for path, won in wins.items()}


@torch.no_grad()
def scored(style: Ingredient, subject: Ingredient, weight_of: Callable[[str], Tensor | None]) -> Scores:
    """{module of the UNet that both change: how much style and subject want it}. weight_of(path): its pristine weight, or None.

    The sum of the r1 x r2 largest absolute entries of the weight change; the subject's divided by gamma, the ratio of what
    both LoRAs change in all of these modules, so that a loud LoRA does not win everywhere (K-LoRA, eq. 3-6).
    """
    tops, totals = {}, [0.0, 0.0]
    for path in sorted(style.adapters.keys() & subject.adapters.keys()):
        weight = weight_of(path) if ":" not in path else None
        if weight is None:
            continue
        count = max(1, style.adapters[path].rank) * max(1, subject.adapters[path].rank)
        pair = []
        for place, lora in enumerate((style, subject)):
            entries = (delta(lora.adapters[path], weight) * strength_at(lora, path)).abs().flatten()
            totals[place] += float(entries.sum())
            pair.append(float(entries.topk(min(count, entries.numel())).values.sum()))
        tops[path] = tuple(pair)
    gamma = totals[1] / totals[0] if all(totals) else 1.0
    return {path: (mine, theirs / gamma) for path, (mine, theirs) in tops.items()}
