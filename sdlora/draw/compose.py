"""How several LoRAs act together while a picture is drawn: which of them, where, in which denoising step.

Knows nothing about merging or denoising: it computes the factor of each LoRA's strength.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdlora.errors import UserError
from sdlora.lora.math.blend import Ingredient, strength_at
from sdlora.lora.math.delta import delta

Multipliers = tuple[float | Mapping[str, float], ...]
Scores = Mapping[str, tuple[float, float]]  # {module: (style, subject)}
ALPHA, BETA = 1.5, 0.5  # of K-LoRA: how its weight of the style grows from the first step to the last


@dataclass(frozen=True)
class Mix:
    """One way of mixing the LoRAs: a factor for each while the UNet predicts, and one for each while the prompt is encoded.

    unet: each factor is for all of the UNet, or by module (1 where none is named). A prompt is encoded once, before the first
    step, so start and end do not act on it.
    """
    unet: Multipliers
    text: tuple[float, ...]


def plan(method: str, loras: Sequence[Ingredient], steps: int, switch_every: int,
         scores: Callable[[], Scores] = dict) -> list[tuple[Mix, ...]]:
    """Return for each of `steps` denoising steps the mixes whose predictions are averaged; mostly one.

    "sum": all at once. "switch": one after the other, for `switch_every` steps each, the first one first (LoRA Switch,
    arXiv 2402.16843; strengths stay). "composite": each alone, predictions averaged (LoRA Composite, same paper).
    "style-subject": a style, then a subject; see `klora_choice`. scores(): `klora_scores` of the pair; called for nothing else.
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
    pair_scores = scores() if method == "style-subject" and loras else {}
    all_act = (1.0,) * len(loras)
    planned = []
    for step in range(steps):
        acts = [lora.start <= step / steps < lora.end for lora in loras]
        active = [index for index, is_active in enumerate(acts) if is_active]
        if method == "switch" and active:
            planned.append((only(active[step // switch_every % len(active)], len(loras)),))
        elif method == "composite" and active:
            planned.append(tuple(only(index, len(loras)) for index in active))
        elif method == "style-subject" and len(active) == 2:
            planned.append((Mix(klora_choice(pair_scores, step / steps), all_act),))
        else:
            planned.append((Mix(tuple(map(float, acts)), all_act),))
    return planned


def only(index: int, count: int) -> Mix:
    """Return the mix in which one LoRA of several acts as if the others were absent."""
    factors = tuple(float(number == index) for number in range(count))
    return Mix(factors, factors)


def klora_choice(scores: Scores, t: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return 1 for the one of (style, subject) that acts on each module both change, at share `t` of the denoising; else 0.

    As K-LoRA (arXiv 2502.18461) chooses, own implementation: the one with the larger score, where the style's is multiplied by
    s = alpha t + beta, 0.5 to 2, so that the subject shapes the picture and the style finishes it. The share of the steps
    stands for the paper's count of calls.
    """
    s = ALPHA * t + BETA
    style_wins = {path: s * style > subject for path, (style, subject) in scores.items()}
    return {path: float(won) for path, won in style_wins.items()}, {path: float(not won) for path, won in style_wins.items()}


@torch.no_grad()
def klora_scores(style: Ingredient, subject: Ingredient, weight_of: Callable[[str], Tensor | None]) -> Scores:
    """Return {module of the UNet that both change: (score of the style, of the subject)} (K-LoRA, eq. 3-6).

    weight_of(path): its pristine weight, or None. A score is the sum of the K = r1 x r2 largest |entries| of dW; the subject's
    is divided by gamma, the ratio of all |entries| that both LoRAs change, so that a strong LoRA does not win everywhere.
    """
    tops, totals = {}, [0.0, 0.0]
    for path in sorted(style.adapters.keys() & subject.adapters.keys()):
        weight = weight_of(path) if ":" not in path else None
        if weight is None:
            continue
        k = max(1, style.adapters[path].rank) * max(1, subject.adapters[path].rank)
        pair = []
        for place, lora in enumerate((style, subject)):
            entries = (delta(lora.adapters[path], weight) * strength_at(lora, path)).abs().flatten()
            totals[place] += float(entries.sum())
            pair.append(float(entries.topk(min(k, entries.numel())).values.sum()))
        tops[path] = pair
    gamma = totals[1] / totals[0] if all(totals) else 1.0
    return {path: (of_style, of_subject / gamma) for path, (of_style, of_subject) in tops.items()}
