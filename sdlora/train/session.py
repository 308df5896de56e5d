"""A whole training run: run folder in, events out, at the end a verified LoRA file. It joins the stations, in order.

Knows nothing about queues, locks, pages or processes; what to do next it asks `control`. Reads spec.json; writes plan.json,
checkpoints/, samples/, result/ and the file.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import torch

from sdlora.base.load import Base, load_base, pick_device, read_resolution
from sdlora.config import TrainConfig, make
from sdlora.dataset.folder import Dataset, Example, read_dataset
from sdlora.dataset.looks import forget_squares
from sdlora.errors import UserError
from sdlora.storage import read_json, write_json
from sdlora.train import events, loop, publish, samples
from sdlora.train.cache import Items, cache_captions, cache_latents
from sdlora.train.checkpoint import TrainState, newest_checkpoint, resume_check, save_checkpoint
from sdlora.train.layers import Attached, attach
from sdlora.train.loss import Denoiser, alphas_cumprod
from sdlora.train.optimizer import AdamW
from sdlora.train.plan import Speed, expected_speed, fitted, plan, record_speed, refuse_full_disk
from sdlora.train.validation import held_out_index, held_out_loss

Control = Callable[[], str | None]


@dataclass
class Run:
    """What stays the same from the first to the last step of a run, and how far it is."""
    folder: Path
    spec: dict
    config: TrainConfig
    base: Base
    dataset: Dataset
    model: Denoiser
    items: Items
    held_out: tuple[str, Items] | None
    attached: Attached
    state: TrainState
    identity: dict[str, object]
    columns: tuple[int, ...]
    prompts: tuple[str, ...]
    began: float
    asked: str | None = None
    draw_seconds: list[float] = field(default_factory=list)
    pace: float | None = None  # seconds of a step
    first_step: int = 0  # of this process
    saved_step: int | None = None

    def due(self, step: int) -> bool:
        """Whether the point of `step` is saved."""
        return step in self.columns or step % self.config.save_every == 0 or step == self.config.steps

    def checkpoint(self) -> events.Saved:
        """Save the state of this moment and its LoRA file."""
        adapters = self.attached.adapters()
        folder = save_checkpoint(self.folder, self.state.snapshot(), self.identity,
                                 lambda path: publish.write_lora(path, adapters, self.facts()))
        self.saved_step = self.state.step
        return events.Saved(self.state.step, folder.relative_to(self.folder).as_posix())

    def facts(self) -> publish.Facts:
        """What the file says about itself."""
        return publish.Facts(self.config, self.base, self.dataset.examples, self.state.step, self.state.loss_average,
                             self.spec["id"], self.spec["created"])

    def picture_seconds(self) -> float:
        """What a sample picture takes: measured in this run, else expected."""
        if self.draw_seconds:
            return sum(self.draw_seconds) / len(self.draw_seconds)
        speed, _ = expected_speed(self.base.family, self.base.device.type, self.config.batch_size, self.items.size_px)
        return speed.draw_step * self.config.sample_steps


def run_training(folder: Path, *, control: Control) -> Iterator[events.Event]:
    """Train the run of `folder` from its newest usable checkpoint, or from the start; the last event is Done or Stopped.

    control() is asked before every step: None goes on, "pause" saves and rests, "stop" writes the file of this moment.
    It may block. Raises UserError for what an artist can mend: pictures, base, settings, disk, a run out of control.
    """
    folder = Path(folder)
    run = yield from prepare(folder, control)
    try:
        yield from teach(run, control)
        if run.saved_step != run.state.step:
            yield run.checkpoint()
        if run.asked == "pause" and run.state.step < run.config.steps:
            yield events.Stopped(run.state.step, run.config.steps)
        else:
            yield from finish(run)
    finally:
        run.attached.detach()


def read_spec(folder: Path) -> tuple[dict, TrainConfig]:
    """spec.json and the settings in it. Raises UserError."""
    spec = read_json(folder / "spec.json")
    if not isinstance(spec, dict) or spec.get("version") != 1:
        raise UserError(f"The run {folder.name} was made by another version of sdlora.", "Start a new run.")
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in spec["config"].items()}
    return spec, make(TrainConfig, settings)


def prepare(folder: Path, control: Control) -> Iterator[events.Event]:
    """Everything before the first step: pictures, base, latents, captions, the plan, the saved point; returns the Run."""
    began = time.monotonic()
    spec, config = read_spec(folder)
    asked = config
    yield events.Preparing(0, "pictures", 0, 1)
    side = config.resolution or read_resolution(config.base)
    dataset = read_dataset(Path(spec["images"]), trigger=config.trigger, default_caption=config.default_caption, side=side)
    yield events.Preparing(0, "base", 0, 1)
    device = pick_device(config.device)
    base = load_base(config.base, device.type, dtype=samples.training_dtype(device))
    usable, latents, lost = yield from encode_pictures(base, dataset, side)
    dataset = replace(dataset, examples=tuple(usable))
    held = held_out_index([example.digest for example in usable])
    items, held_out = yield from encode_captions(base, usable, latents, side, held)
    notes = [*dataset.notes, *too_long(base, usable)]
    columns, prompts, said = choose_columns(folder, config, base, [example.caption for example in usable])
    samples.sleep(base)
    config, reduced = fitted(asked, len(items.caption_of))
    notes += [*reduced, *said]

    attached = attach(base.unet, config.rank, config.alpha or config.rank, config.seed)
    optimizer = AdamW(attached.parameters, weight_decay=config.weight_decay, clip_norm=config.clip_norm,
                      scaled=base.dtype == torch.float16)
    run = Run(folder, spec, config, base, dataset, Denoiser(base.predict, alphas_cumprod(base.scheduler_config, device),
                                                            base.prediction_type), items, held_out, attached,
              TrainState.fresh(attached.parameters, optimizer, config.seed), identity_of(asked, base, usable, spec["id"]),
              columns, prompts, began)
    yield from continue_from_saved(run)
    skipped = tuple((skip.name, skip.reason) for skip in dataset.skipped) + tuple(lost)
    yield events.Prepared(run.state.step, config.steps, len(items.caption_of), held_out and held_out[0], skipped,
                          round(time.monotonic() - began, 2))
    for note in notes:
        yield events.Notice(run.state.step, note)
    return run


def encode_pictures(base: Base, dataset: Dataset, side: int) -> Iterator[events.Preparing]:
    """Latents of every picture; returns (usable examples, [(mean, std)], [(name, reason)] of those that are not)."""
    usable, latents, lost = [], [], []
    encoded = cache_latents(base, dataset.examples, side)
    for done, (example, entry) in enumerate(zip(dataset.examples, encoded, strict=True), start=1):
        if isinstance(entry, UserError):
            lost.append((example.name, str(entry)))
        else:
            usable.append(example)
            latents.append(entry)
        yield events.Preparing(0, "latents", done, len(dataset.examples))
    forget_squares()
    if not usable:
        raise UserError(f"No picture can be used with {base.title}. {lost[0][1]}", "Try other pictures or another base.")
    return usable, latents, lost


def encode_captions(base: Base, examples: list[Example], latents: list, side: int,
                    held: int | None) -> Iterator[events.Preparing]:
    """Features of every caption; returns (what is trained on, (name, Items) of the picture held out or None)."""
    captions = [*dict.fromkeys(example.caption for example in examples if example.caption), ""]
    rows = []
    for row in cache_captions(base, captions):
        rows.append(row)
        yield events.Preparing(0, "captions", len(rows), len(captions))

    def items(indices: list[int]) -> Items:
        words = [*dict.fromkeys(examples[index].caption for index in indices if examples[index].caption), ""]
        features = {part: torch.cat([rows[captions.index(word)][part] for word in words]).to(base.device) for part in rows[0]}
        mean, std = (torch.cat([latents[index][part] for index in indices]).to(base.device) for part in (0, 1))
        return Items(mean, std, features, [words.index(examples[index].caption) for index in indices],
                     [examples[index].repeats for index in indices], side)

    kept = [index for index in range(len(examples)) if index != held]
    return items(kept), None if held is None else (examples[held].name, items([held]))


def choose_columns(folder: Path, config: TrainConfig, base: Base,
                   captions: list[str]) -> tuple[tuple[int, ...], tuple[str, ...], list[str]]:
    """(steps with samples, prompts, notes on these): planned once and kept in plan.json, so that a resumed run draws the same
    strip.

    Raises UserError when the disk has no room for the run.
    """
    planned = plan(config, len(captions), base.family, device=base.device.type)
    refuse_full_disk(planned, folder)
    path = folder / "plan.json"
    if path.exists():
        kept = read_json(path)
        if kept["steps"] == config.steps:
            return tuple(kept["columns"]), tuple(kept["prompts"]), []
    prompts, notes = samples.sample_prompts(config, captions, planned.prompts_per_sample, base)
    write_json(path, {"steps": config.steps, "columns": planned.samples, "prompts": prompts})
    return planned.samples, prompts, notes


def identity_of(config: TrainConfig, base: Base, examples: list[Example], run: str) -> dict[str, object]:
    """What a resume must find as it was."""
    pictures = json.dumps([(example.digest, example.caption, example.repeats) for example in examples])
    return {"pictures": sha256(pictures.encode()).hexdigest(), "base": base.identity, "device": base.device.type,
            "run": run, "config": config.model_dump(mode="json")}


def continue_from_saved(run: Run) -> Iterator[events.Notice]:
    """Become the newest usable checkpoint, if the run has one."""
    snapshot, _, problems = newest_checkpoint(run.folder, resume_check(run.state, run.identity, len(run.items.repeats)))
    for problem in problems:
        yield events.Notice(snapshot.numbers["step"], problem)
    if snapshot is not None:
        run.state.restore(snapshot)
        run.first_step = run.saved_step = run.state.step


def too_long(base: Base, examples: list[Example]) -> Iterator[str]:
    """A sentence for every caption of which the base reads only the beginning."""
    for example in examples:
        if unread := base.overlong(example.caption):
            yield f"The caption of {example.name} is longer than {base.title} can read: \"{unread[:80]}\" is left out."


def teach(run: Run, control: Control) -> Iterator[events.Event]:
    """The steps of the run with what happens between them: held-out loss, saved points, samples."""
    def stop() -> bool:
        run.asked = run.asked or control()
        return run.asked is not None

    if run.state.step == 0 and run.held_out:
        yield events.Validated(0, held_out_loss(run.model, run.held_out[1]))
    if run.state.step in run.columns:
        yield from draw_column(run, run.prompts, stop)
    for event in loop.train(run.model, run.items, run.config, run.state, stop=stop, due=run.due):
        if not isinstance(event, events.Step):
            yield event
            continue
        if event.step < event.steps:
            run.pace = event.seconds_left / (event.steps - event.step)
        columns = sum(column > event.step for column in run.columns)
        drawing = columns * len(run.prompts) * run.picture_seconds()
        yield replace(event, seconds_left=round(event.seconds_left + drawing, 2))
        if event.step == run.state.step and run.due(event.step):
            yield from settle(run, stop)


def settle(run: Run, stop: Callable[[], bool]) -> Iterator[events.Event]:
    """At a point that is due: judge it, save it, show it. Saved first, so that a crash while drawing costs nothing."""
    if run.held_out:
        loss = held_out_loss(run.model, run.held_out[1])
        if run.state.best is None or loss < run.state.best[1]:
            run.state.best = (run.state.step, loss)
        yield events.Validated(run.state.step, loss)
    yield run.checkpoint()
    if run.state.step in run.columns:
        yield from draw_column(run, run.prompts, stop)


def draw_column(run: Run, prompts: tuple[str, ...], stop: Callable[[], bool]) -> Iterator[events.Event]:
    """Sample pictures of this moment."""
    for told, seconds in samples.draw_samples(run.base, run.config, prompts, run.folder, run.state.step, stop):
        if isinstance(told, events.Sample):
            run.draw_seconds.append(seconds)
        yield told


def finish(run: Run) -> Iterator[events.Event]:
    """Write, read back and prove the file; then and only then Done."""
    if run.state.step not in run.columns:
        yield from draw_column(run, run.prompts[:1], lambda: False)
    adapters = run.attached.adapters()
    run.attached.detach()
    path, warnings = publish.publish(run.folder, run.spec["out"], adapters, run.facts(), run.items)
    for warning in warnings:
        yield events.Notice(run.state.step, warning)
    seconds = time.monotonic() - run.began
    if run.pace and run.draw_seconds and run.first_step == 0:
        drawn, steps = run.draw_seconds, run.state.step
        speed = Speed(run.pace, min(drawn) / run.config.sample_steps, max(1.0, seconds - run.pace * steps - sum(drawn)))
        record_speed(run.base.family, run.base.device.type, run.config.batch_size, run.items.size_px, speed)
    yield events.Done(run.state.step, run.config.steps, run.spec["id"], str(path), round(seconds, 1))
