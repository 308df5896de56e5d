"""LoRA beside the alternatives of the textbooks: full fine-tuning, prompt engineering and prompt tuning, on the same pictures.

Full fine-tuning and prompt tuning see as many pictures as the LoRA and are given the best of several learning rates, chosen by
the truth; the wording is the best found on the training pictures. Everything is undone afterwards.
"""

import copy
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from sdlora.base.load import Base
from sdlora.bench.ruler import distances
from sdlora.bench.style import Case, Truth, difference, render_all
from sdlora.bench.style_runs import (
    TRIGGER,
    Trained,
    draw_prompts,
    held_out,
    prompts_of,
    train,
    training_scenes,
    write_training_set,
)
from sdlora.lora.formats.reading import read
from sdlora.mini.classifier import Classifier, load_classifier
from sdlora.mini.manners import NOUNS, random_manner
from sdlora.mini.scenes import Scene, caption
from sdlora.mini.strangers import Stranger
from sdlora.train.loss import denoising_loss, make_denoiser
from sdlora.train.optimizer import rate_at

FULL_RATES, EMBEDDING_RATES = (1e-5, 1e-4, 5e-4), (1e-3, 1e-2, 5e-2)
WORDINGS, TRIED_PROMPTS = 60, 4  # wordings tried, each on so many captions of the training set
KEPT = 6  # of the best wordings, tried on all captions

Wording = Callable[[Scene, bool], str]


@dataclass(frozen=True)
class AlternativeResult:
    """style_fine, style_coarse, content, drift: as in StyleResult. numbers: trained; file_bytes: to keep and give away."""

    method: str
    detail: str
    style_fine: float | None
    style_coarse: float | None
    content: float
    drift: float
    seconds: float
    numbers: int
    file_bytes: int


def fine_or_coarse(result: AlternativeResult) -> float:
    """Return the fine style, of a style that has none the coarse."""
    return (result.style_coarse if result.style_fine is None else result.style_fine) or 0.0


def plain_wording(scene: Scene, trigger: bool) -> str:
    """Return the prompt of a scene, with the trigger word in front or without."""
    return prompts_of([scene], trigger)[0]


def measure(base: Base, preset: str, strangers: Sequence[Stranger], folder: Path) -> Iterator[tuple[str, AlternativeResult]]:
    """Train a LoRA of every style and yield its results beside those of the alternatives, with the style's name."""
    case, judge = Case(base.spec, preset), load_classifier()
    scenes = held_out(case.prompts)
    plain = draw_prompts(base, prompts_of(scenes, trigger=False), case.per_prompt)
    for stranger in strangers:
        place = folder / stranger.name.replace(" ", "-")
        pictures = write_training_set(place / "pictures", stranger, case.pictures, case.seed)
        trained = train(pictures, place / "lora.safetensors", case.base, preset, ["--seed", str(case.seed)])
        for result in compare(base, case, Truth(base, stranger, scenes, plain), trained, judge):
            yield stranger.name, result


def compare(base: Base, case: Case, truth: Truth, trained: Trained, judge: Classifier) -> Iterator[AlternativeResult]:
    """Yield the results of LoRA (already trained), full fine-tuning, prompt tuning and prompt engineering."""
    steps = trained.pictures_seen // 4
    scenes = training_scenes(case.pictures, case.seed)
    pictures = render_all(truth.stranger, scenes)

    def scored(method: str, detail: str, seconds: float, sizes: tuple[int, int], wording: Wording = plain_wording,
               file: Path | None = None) -> AlternativeResult:
        drawn, without = (draw_prompts(base, [wording(scene, trigger) for scene in truth.scenes], case.per_prompt, file)
                          for trigger in (True, False))
        found = truth.style(drawn)
        return AlternativeResult(method, detail, found.fine, found.coarse, truth.content(judge, drawn, case.per_prompt),
                                 difference(without, truth.plain) / max(1e-6, difference(drawn, truth.plain)), seconds, *sizes)

    numbers = sum(tensor.numel() for adapter in read(trained.file).adapters.values() for tensor in adapter.tensors.values())
    yield scored("LoRA", case.preset, trained.seconds, (numbers, trained.file.stat().st_size), file=trained.file)
    ways = (("full fine-tuning", FULL_RATES, full_fine_tuning), ("prompt tuning", EMBEDDING_RATES, prompt_tuning))
    for method, rates, learn in ways:
        tried = []
        for rate in rates:
            began = time.monotonic()
            with learn(base, pictures, [plain_wording(scene, True) for scene in scenes], steps, rate) as sizes:
                tried.append(scored(method, f"rate {rate:g}", time.monotonic() - began, sizes))
        yield max(tried, key=lambda each: each.content * fine_or_coarse(each))
    began = time.monotonic()
    words = best_wording(base, pictures, scenes)
    wording: Wording = lambda scene, trigger: worded(words, scene) if trigger else plain_wording(scene, False)  # noqa: E731
    yield scored("prompt engineering", words, time.monotonic() - began, (0, len(words)), wording)


@contextmanager
def full_fine_tuning(base: Base, pictures: Tensor, captions: Sequence[str], steps: int, rate: float) -> Iterator[tuple[int, int]]:
    """Train every weight of the UNet; inside the block the base draws with them. Yields (numbers trained, bytes in fp16)."""
    before = copy.deepcopy(base.unet.state_dict())
    features = base.encode_text(captions)
    parameters = list(base.unet.requires_grad_(True).parameters())
    fit(base, pictures, lambda chosen: {part: values[chosen] for part, values in features.items()}, parameters, steps, rate)
    base.unet.requires_grad_(False)
    numbers = sum(parameter.numel() for parameter in parameters)
    try:
        yield numbers, 2 * numbers
    finally:
        base.unet.load_state_dict(before)


@contextmanager
def prompt_tuning(base: Base, pictures: Tensor, captions: Sequence[str], steps: int, rate: float) -> Iterator[tuple[int, int]]:
    """Learn the embeddings of the trigger's tokens (Gal et al. 2022, arXiv 2208.01618); inside the block it has them."""
    encoder: Any = base.text_encoders[0]
    embedding = encoder.get_input_embeddings()
    trigger = base.tokenizers[0](TRIGGER, add_special_tokens=False).input_ids
    learned = torch.nn.Parameter(embedding.weight[trigger].clone())

    def put(_module: torch.nn.Module, given: tuple, output: Tensor) -> Tensor:
        rows = output.clone()
        for number, ids in enumerate(given[0].tolist()):
            for place in range(len(ids)):
                if ids[place : place + len(trigger)] == trigger:
                    rows[number, place : place + len(trigger)] = learned
        return rows

    def features_of(chosen: list[int]) -> dict[str, Tensor]:
        with torch.enable_grad():
            return inspect.unwrap(Base.encode_text)(base, [captions[place] for place in chosen])

    hook = embedding.register_forward_hook(put)
    try:
        fit(base, pictures, features_of, [learned], steps, rate)
        yield learned.numel(), len(save({"emb_params": learned.detach().half()}))
    finally:
        hook.remove()


def fit(base: Base, pictures: Tensor, features_of: Callable[[list[int]], dict[str, Tensor]], parameters: list[Tensor], steps: int,
        rate: float) -> None:
    """Train parameters with AdamW, batches of 4 and a cosine schedule on pictures (n, 3, s, s) uint8."""
    model, side = make_denoiser(base), pictures.shape[-1]
    mean, std = base.encode_pictures(pictures.float() / 127.5 - 1)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    gen = torch.Generator().manual_seed(1)
    for step in range(steps):
        chosen = torch.randint(len(mean), (4,), generator=gen)
        latents = mean[chosen] + std[chosen] * torch.randn(mean[chosen].shape, generator=gen)
        noise = torch.randn(latents.shape, generator=gen)
        timesteps = torch.randint(len(model.abar), (4,), generator=gen)
        loss = denoising_loss(model, latents, noise, timesteps, features_of(chosen.tolist()), side)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, rate, 20, "cosine")
        optimizer.step()


def worded(words: str, scene: Scene) -> str:
    """Return the prompt of a scene in words for a style: "black ink on white paper, hatched drawing of a red house"."""
    return f"{words} of {caption(scene, styled=False)}"


def best_wording(base: Base, pictures: Tensor, scenes: Sequence[Scene]) -> str:
    """Return, of WORDINGS descriptions in words that the base was taught, the one whose drawings are nearest to the pictures."""
    rng = Random(3)
    candidates = [f"{', '.join(random_manner(rng).words())} {rng.choice(NOUNS)}" for _ in range(WORDINGS)]

    def away(words: str, count: int) -> float:
        found = distances(draw_prompts(base, [worded(words, scene) for scene in scenes[:count]], 1), pictures)
        return found.fine + found.coarse

    best = sorted(candidates, key=lambda words: away(words, TRIED_PROMPTS))[:KEPT]
    return min(best, key=lambda words: away(words, len(scenes)))
