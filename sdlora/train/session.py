"""A whole training run: run folder in, events out, at the end a verified LoRA file.

Knows nothing about queues, locks, pages or processes. Reads spec.json; writes plan.json, checkpoints/, samples/, result/ and
the LoRA file.
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sdlora.base.load import Base, load_base, pick_device, read_resolution, training_dtype
from sdlora.base.words import words_note
from sdlora.config import TrainConfig, make
from sdlora.dataset.folder import Dataset, Example, read_dataset
from sdlora.errors import UserError
from sdlora.storage import read_json
from sdlora.train import events, loop, publish, review, samples, verdict
from sdlora.train.cache import Items, cache_captions, cache_latents
from sdlora.train.carry import carry_note
from sdlora.train.checkpoint import TrainState, newest_checkpoint, resume_check, run_identity, save_checkpoint
from sdlora.train.layers import Attached, attach
from sdlora.train.loss import Denoiser, held_out_index, make_denoiser
from sdlora.train.optimizer import AdamW
from sdlora.train.plan import fit_settings
from sdlora.train.speed import Speed, expected_speed, record_speed
from sdlora.train.validate import Validator, history

Control = Callable[[], str | None]


@dataclass
class Run:
    """Everything that a run needs between its first and its last step."""
    folder: Path
    spec: dict[str, Any]
    config: TrainConfig
    base: Base
    dataset: Dataset
    model: Denoiser
    items: Items
    held_out: tuple[str, Items] | None
    attached: Attached
    state: TrainState
    identity: dict[str, Any]
    sample_at: tuple[int, ...]  # steps
    prompts: tuple[str, ...]
    began: float
    request: str | None = None  # "pause" or "stop", once control() returned it
    draw_seconds: list[float] = field(default_factory=list)
    look_seconds: float = 0.0  # that the last measurement of sample pictures took
    step_seconds: float | None = None
    first_step: int = 0  # of this process
    saved_step: int | None = None
    validator: Validator | None = None  # from the first sample pictures on

    def checkpoint_due(self, step: int) -> bool:
        """Return whether a checkpoint is saved after `step`."""
        return step in self.sample_at or step % self.config.save_every == 0 or step == self.config.steps

    def save(self) -> events.Saved:
        """Save a checkpoint of the present state, with its LoRA file."""
        adapters = self.attached.adapters()
        folder = save_checkpoint(self.folder, self.state.snapshot(), self.identity,
                                 lambda path: publish.write_lora(path, adapters, self.facts()))
        self.saved_step = self.state.step
        return events.Saved(self.state.step, folder.relative_to(self.folder).as_posix())

    def facts(self) -> publish.Facts:
        """Return what the metadata of the file says."""
        return publish.Facts(self.config, self.base, self.dataset.examples, self.state.step, self.state.loss_average,
                             self.spec["id"], self.spec["created"])

    def picture_seconds(self) -> float:
        """Return the time a sample picture takes: measured in this run, else expected."""
        if self.draw_seconds:
            return sum(self.draw_seconds) / len(self.draw_seconds)
        speed, _ = expected_speed(self.base.family, self.base.device.type, self.config.batch_size, self.items.size_px)
        return speed.draw_step * self.config.sample_steps


def run_training(folder: Path, *, control: Control) -> Iterator[events.Event]:
    """Train the run of `folder` from its newest usable checkpoint, or from the start; the last event is Done or Stopped.

    control() is called before every step, and may block. None: continue. "pause": save a checkpoint and end. "stop": write
    the LoRA file of this moment and end. Raises UserError for what an artist can fix: pictures, base, settings, disk, divergence.
    """
    folder = Path(folder)
    run = yield from prepare(folder)
    try:
        yield from train(run, control)
        if run.saved_step != run.state.step:
            yield run.save()
        if run.request == "pause" and run.state.step < run.config.steps:
            yield events.Stopped(run.state.step, run.config.steps)
        else:
            yield from finish(run)
    finally:
        run.attached.detach()


def read_spec(folder: Path) -> tuple[dict[str, Any], TrainConfig]:
    """Return spec.json and the settings in it. Raises UserError."""
    spec = read_json(folder / "spec.json")
    if not isinstance(spec, dict) or spec.get("version") != 1:
        raise UserError(f"The run {folder.name} was made by another version of sdlora.", "Start a new run.")
    return spec, make(TrainConfig, spec["config"])


def prepare(folder: Path) -> Generator[events.Event, None, Run]:
    """Read pictures and base, encode latents and captions, plan, attach the adapters, restore the newest checkpoint."""
    began = time.monotonic()
    spec, requested = read_spec(folder)
    yield events.Preparing(0, "pictures", 0, 1)
    side = requested.resolution or read_resolution(requested.base)
    dataset = read_dataset(Path(spec["images"]), trigger=requested.trigger, default_caption=requested.default_caption, side=side)
    yield events.Preparing(0, "base", 0, 1)
    device = pick_device(requested.device)
    base = load_base(requested.base, device.type, dtype=training_dtype(device))
    uncarried = carry_note(base, dataset.examples, side)
    usable, latents, skipped = yield from encode_pictures(base, dataset, side)
    dataset = replace(dataset, examples=tuple(usable))
    held = held_out_index([example.digest for example in usable])
    items, held_out = yield from encode_captions(base, usable, latents, side, held)
    notes = [*dataset.notes, *overlong_notes(base, usable)]
    if unknown := words_note(requested.base, [example.caption for example in usable], requested.trigger):
        notes.append(unknown)
    if uncarried:
        notes.append(uncarried)
    sample_at, prompts, sample_notes = samples.plan_samples(folder, requested, base, [example.caption for example in usable])
    samples.unload_encoders(base)
    config, reduced = fit_settings(requested, len(items.caption_of))

    attached = attach(base.unet, config.rank, config.alpha or config.rank, config.seed)
    optimizer = AdamW(attached.parameters, weight_decay=config.weight_decay, clip_norm=config.clip_norm,
                      scaled=base.dtype == torch.float16)
    state = TrainState.fresh(attached.parameters, optimizer, config.seed)
    run = Run(folder, spec, config, base, dataset, make_denoiser(base, config.min_snr_gamma), items, held_out, attached, state,
              run_identity(spec["id"], requested, base, usable), sample_at, prompts, began)
    yield from resume(run)
    skipped = (*((skip.name, skip.reason) for skip in dataset.skipped), *skipped)
    yield events.Prepared(state.step, config.steps, len(items.caption_of), held_out and held_out[0], skipped,
                          round(time.monotonic() - began, 2))
    for note in (*notes, *reduced, *sample_notes):
        yield events.Notice(state.step, note)
    return run


Latents = tuple[torch.Tensor, torch.Tensor]  # mean and std, each (1, c, h/f, w/f)


def encode_pictures(base: Base, dataset: Dataset, side: int
                    ) -> Generator[events.Event, None, tuple[list[Example], list[Latents], list[tuple[str, str]]]]:
    """Encode every picture; return (usable examples, their latents, (name, reason) of the others)."""
    usable, latents, skipped = [], [], []
    encoded = cache_latents(base, dataset.examples, side)
    for done, (example, entry) in enumerate(zip(dataset.examples, encoded, strict=True), start=1):
        if isinstance(entry, UserError):
            skipped.append((example.name, str(entry)))
        else:
            usable.append(example)
            latents.append(entry)
        yield events.Preparing(0, "latents", done, len(dataset.examples))
    if not usable:
        raise UserError(f"No picture can be used with {base.title}. {skipped[0][1]}", "Try other pictures or another base.")
    return usable, latents, skipped


def encode_captions(base: Base, examples: list[Example], latents: list[Latents], side: int, held: int | None
                    ) -> Generator[events.Event, None, tuple[Items, tuple[str, Items] | None]]:
    """Encode every caption; return (what is trained on, (name, Items) of the held-out picture or None)."""
    captions = [*dict.fromkeys(example.caption for example in examples if example.caption), ""]
    rows = []
    for row in cache_captions(base, captions):
        rows.append(row)
        yield events.Preparing(0, "captions", len(rows), len(captions))

    def items(indices: list[int]) -> Items:
        used = [*dict.fromkeys(examples[index].caption for index in indices if examples[index].caption), ""]
        features = {part: torch.cat([rows[captions.index(text)][part] for text in used]).to(base.device) for part in rows[0]}
        mean, std = (torch.cat([latents[index][part] for index in indices]).to(base.device) for part in (0, 1))
        return Items(mean, std, features, [used.index(examples[index].caption) for index in indices],
                     [examples[index].repeats for index in indices], side)

    trained = [index for index in range(len(examples)) if index != held]
    return items(trained), None if held is None else (examples[held].name, items([held]))


def overlong_notes(base: Base, examples: list[Example]) -> Iterator[str]:
    """Yield a sentence for every caption of which the base reads only the beginning."""
    for example in examples:
        if unread := base.overlong(example.caption):
            yield f"The caption of {example.name} is longer than {base.title} can read: \"{unread[:80]}\" is left out."


def resume(run: Run) -> Iterator[events.Event]:
    """Restore the newest usable checkpoint, if there is one."""
    snapshot, problems = newest_checkpoint(run.folder, resume_check(run.state, run.identity, len(run.items.repeats)))
    if snapshot is not None:
        run.state.restore(snapshot)
        run.first_step = run.saved_step = run.state.step
    for problem in problems:
        yield events.Notice(run.state.step, problem)


def train(run: Run, control: Control) -> Iterator[events.Event]:
    """Make the steps of the run, with what belongs between them: held-out loss, checkpoints, samples."""
    def stop() -> bool:
        run.request = run.request or control()
        return run.request is not None

    if run.state.step in run.sample_at:
        yield from draw_samples(run, run.prompts, stop)
        yield from review.validate(run)
    for event in loop.train(run.model, run.items, run.config, run.state, stop=stop, checkpoint_due=run.checkpoint_due):
        if not isinstance(event, events.Step):
            yield event
            continue
        if event.step < event.steps:
            run.step_seconds = event.seconds_left / (event.steps - event.step)
        columns = sum(step > event.step for step in run.sample_at)
        each = len(run.prompts) * run.picture_seconds() + run.look_seconds
        yield replace(event, seconds_left=round(event.seconds_left + columns * each, 2))
        if event.step == run.state.step and run.checkpoint_due(event.step):
            yield from on_checkpoint(run, stop)


def on_checkpoint(run: Run, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Save, draw samples, validate: saved before drawing, so that a crash while drawing loses no step."""
    yield run.save()
    if run.state.step in run.sample_at:
        yield from draw_samples(run, run.prompts, stop)
    yield from review.validate(run)


def draw_samples(run: Run, prompts: tuple[str, ...], stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Draw the sample pictures of this step, and remember how long each took."""
    for event, seconds in samples.draw_samples(run.base, run.config, prompts, run.folder, run.state.step, stop):
        if isinstance(event, events.Sample):
            run.draw_seconds.append(seconds)
        yield event


def finish(run: Run) -> Iterator[events.Event]:
    """Write the LoRA file, read it back and measure that it changes the picture; only then Done."""
    if run.state.step not in run.sample_at:
        yield from draw_samples(run, run.prompts[:1], lambda: False)
        samples.unload_encoders(run.base)
    strength = yield from review.find_strength(run)
    adapters = run.attached.adapters()
    run.attached.detach()
    path, warnings = publish.publish(run.folder, run.spec["out"], adapters, replace(run.facts(), strength=strength), run.items)
    for warning in warnings:
        yield events.Notice(run.state.step, warning)
    found = history(run.folder, run.state.step)
    if (best := verdict.suggested(found)) is not None:
        yield events.Verdict(run.state.step, best, tuple(verdict.sentences(found, strength)))
    seconds = time.monotonic() - run.began
    if run.step_seconds and run.draw_seconds and run.first_step == 0:
        rest = seconds - run.step_seconds * run.state.step - sum(run.draw_seconds)
        speed = Speed(run.step_seconds, min(run.draw_seconds) / run.config.sample_steps, max(1.0, rest))
        record_speed(run.base.family, run.base.device.type, run.config.batch_size, run.items.size_px, speed)
    yield events.Done(run.state.step, run.config.steps, run.spec["id"], str(path), round(seconds, 1))
