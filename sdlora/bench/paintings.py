"""What becomes of sets as strangers bring them: eight paintings of things that the base does not know, in words it never read.

The style must arrive, and a prompt that the base knows must still show what it asks for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor

from sdlora.base.load import Base
from sdlora.bench.ruler import distances, scores
from sdlora.bench.style import HEADS_OF_CONTENT, write_sheet
from sdlora.bench.style_runs import TRIGGER, draw_prompts, held_out, prompts_of, through_vae, train
from sdlora.mini.classifier import Classifier, accuracy, classifier_input, load_classifier
from sdlora.mini.paintings import PAINTINGS, Paintings
from sdlora.mini.pictures import as_tensor
from sdlora.mini.scenes import OBJECTS
from sdlora.storage import write_atomic

TRAINED, UNSEEN = 8, 32  # paintings
PROMPTS = 24
NEW_SCENE = "a red boat, sea, at sunset"


@dataclass(frozen=True)
class PaintingResult:
    """style_fine, style_coarse: as in StyleResult, towards unseen paintings of the set. content: right answers about prompts that
    the base knows, drawn with the trigger / without the LoRA. boats: share of eight pictures of NEW_SCENE with the trigger that
    show a boat. verdict: what the run said of itself.
    """

    set: str
    style_fine: float | None
    style_coarse: float | None
    content: float
    boats: float
    seconds: float
    verdict: tuple[str, ...]


def measure(base: Base, preset: str, arguments: tuple[str, ...], folder: Path) -> Iterator[PaintingResult]:
    """Train and measure every set; files and `sheet.png` stay in `folder`."""
    scenes, judge = held_out(PROMPTS), load_classifier()
    known = prompts_of(scenes, trigger=True)
    before = accuracy(judge, draw_prompts(base, prompts_of(scenes, trigger=False), 1), scenes)
    for painted in PAINTINGS:
        place = folder / painted.name
        trained = train(write_set(painted, place / "pictures"), place / "lora.safetensors", base.spec, preset, arguments)
        captions = [painted.caption(number).replace("[trigger]", TRIGGER) for number in range(TRAINED, TRAINED + UNSEEN)]
        real = as_tensor(painted.picture(number).resize((128, 128)) for number in range(TRAINED, TRAINED + UNSEEN))
        plain, drawn = (draw_prompts(base, captions, 1, file) for file in (None, trained.file))
        found = scores(distances(drawn, real), distances(plain, real), distances(through_vae(base, real[::2]), real[1::2]))
        shown = draw_prompts(base, known, 1, trained.file)
        after = accuracy(judge, shown, scenes)
        boats = draw_prompts(base, [f"{TRIGGER}, {NEW_SCENE}"], 8, trained.file)
        write_sheet(place / "sheet.png", [real, drawn, shown, boats])
        content = mean(after[head] / before[head] for head in HEADS_OF_CONTENT)
        yield PaintingResult(painted.name, found.fine, found.coarse, content, share_of(judge, boats, "boat"), trained.seconds,
                             trained.verdict)


def write_set(painted: Paintings, folder: Path) -> Path:
    """Write the paintings that are trained on, as an artist has them; return the folder."""
    for number in range(TRAINED):
        path = folder / f"{number:02d}.png"
        write_atomic(path, lambda temporary, number=number: painted.picture(number).save(temporary, "PNG"))
        write_atomic(path.with_suffix(".txt"), painted.caption(number).encode())
    return folder


@torch.no_grad()
def share_of(judge: Classifier, pictures: Tensor, name: str) -> float:
    """Return the share of pictures (n, 3, s, s) uint8 whose object the judge takes for `name`."""
    return (judge(classifier_input(pictures))["object"].argmax(1) == OBJECTS.index(name)).float().mean().item()
