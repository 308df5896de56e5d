"""What a run came to, in sentences: did the style arrive, do prompts still work, was a picture copied, which checkpoint to take.

Imports no torch. All numbers are those of `events.Validated`.
"""

from collections.abc import Mapping, Sequence

from sdlora.train.events import Validated

ARRIVED, HARDLY = 60.0, 25.0  # of 100
CONTENT_KEPT = 0.75  # share of the prompts below which they count as lost
COPIED = 0.5  # share of the usual distance below which a sample counts as a copy
AS_GOOD = 3.0  # points of style that an earlier checkpoint may lack
MORE = 5.0  # points of style that a higher strength must bring


def suggested(found: Sequence[Validated]) -> int | None:
    """Return the step of the checkpoint to take: the first with as much style as any that keeps prompts and copies nothing.

    Where none keeps them, the one that keeps most. None when nothing was measured after step 0.
    """
    trained = [each for each in found if each.step > 0]
    if not trained:
        return None
    sound = [each for each in trained if keeps_prompts(each) and not copies(each)]
    if not sound:
        return max(trained, key=lambda each: (each.content or 0.0, each.step)).step
    best = max(each.style or 0.0 for each in sound)
    return next(each.step for each in sound if (each.style or 0.0) >= best - AS_GOOD)


def recommended(found: Mapping[float, Validated]) -> float:
    """Return the strength to draw with, of those that were tried (1 among them): 1 unless another is clearly better.

    Lower where prompts are lost at 1 and work there; higher where that brings more style and loses nothing.
    """
    full = found[1.0]
    lower = [strength for strength in sorted(found, reverse=True) if strength < 1 and keeps_prompts(found[strength])]
    if not keeps_prompts(full) and lower:
        return lower[0]
    higher = [strength for strength, each in sorted(found.items()) if strength > 1 and keeps_prompts(each) and not copies(each)
              and (each.style or 0) > (full.style or 0) + MORE and (each.content or 0) >= (full.content or 0) - 0.05]
    return higher[-1] if higher and keeps_prompts(full) else 1.0


def keeps_prompts(found: Validated) -> bool:
    """Return whether the samples still show what was asked for, as far as that was measured."""
    return found.content is None or found.content >= CONTENT_KEPT


def copies(found: Validated) -> bool:
    """Return whether a sample looks like one of the artist's pictures."""
    return found.copying is not None and found.copying < COPIED


def sentences(found: Sequence[Validated], strength: float = 1.0) -> list[str]:
    """Return the verdict on the last checkpoint, and which one to take with the reason. Empty when nothing was measured.

    strength: the recommended one.
    """
    if (step := suggested(found)) is None:
        return []
    last = found[-1]
    told = [style_sentence(last), *content_sentences(last), *copy_sentences(last)]
    if strength != 1:
        why = "It brings more of the style and keeps the prompts." if strength > 1 else "It keeps the prompts."
        told.append(f"Recommended strength: {strength:g}. {why}")
    chosen = next(each for each in found if each.step == step)
    if step != last.step:
        told.append(f"Suggested checkpoint: step {step}. {reason(chosen, last)}")
    elif len(found) > 2:
        told.append("Suggested checkpoint: the last one.")
    return told


def style_sentence(last: Validated) -> str:
    """Say whether the style arrived."""
    if last.style is None:
        return "Whether the style arrived could not be measured: to the base your pictures look like its own."
    points = f"{max(0, round(last.style))} of 100 (0: the base before training, 100: your pictures among themselves)"
    if last.style >= ARRIVED:
        return f"The style arrived: {points}."
    if last.style >= HARDLY:
        return f"The style arrived in part: {points}. More steps may bring more of it."
    return f"The style hardly arrived: {points}. Train longer, raise the learning rate, or choose a base that can draw it."


def content_sentences(last: Validated) -> list[str]:
    """Say whether prompts still work."""
    if last.content is None:
        return ["Whether prompts still work could not be measured: the base does not know the words of these captions."]
    if keeps_prompts(last):
        return [f"Prompts still work: {last.content:.0%} of what the base recognised before."]
    return [f"Prompts turned to mush: the base recognises {last.content:.0%} of what it did before. "
            "Take an earlier checkpoint or a lower strength, or train again with fewer steps or a lower learning rate."]


def copy_sentences(last: Validated) -> list[str]:
    """Warn when a sample resembles a picture of the artist."""
    return [f"A sample looks like {last.picture}: the style begins to copy."] if copies(last) else []


def reason(chosen: Validated, last: Validated) -> str:
    """Say why a checkpoint is better than the last one."""
    if not keeps_prompts(last) and (chosen.content or 0) > (last.content or 0):
        return f"There prompts work better ({chosen.content:.0%})."
    if copies(last) and not copies(chosen):
        return f"There nothing looks like {last.picture}."
    return f"It has as much of the style ({round(chosen.style or 0)} of 100) after fewer steps."
