"""What a run is measured by between its steps: its held-out picture, its sample pictures, other strengths.

No measurement is worth a run: one that fails is a Notice. Changes nothing that trains.
"""

import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from sdlora.train import events, samples, verdict
from sdlora.train.loss import held_out_loss
from sdlora.train.validate import Validator, has_samples, history, samples_of

if TYPE_CHECKING:
    from sdlora.train.session import Run

STRENGTHS = (0.8, 1.2)  # tried beside 1 at the end of a run
STRENGTH_SHARE = 0.1  # of the run's time, at most


def validate(run: "Run") -> Iterator[events.Event]:
    """Measure this step: the loss of the held-out picture, and what the sample pictures show when all of them are there."""
    step, problem = run.state.step, ""
    loss = held_out_loss(run.model, run.held_out[1]) if run.held_out else None
    found = None if loss is None else events.Validated(step, loss)
    if all(has_samples(run.folder, at, len(run.prompts)) for at in (0, step)):
        try:
            found = look(run, loss)
        except Exception as error:  # noqa: BLE001  no measurement is worth a run
            problem = f"The sample pictures could not be measured. {samples.reason_of(error)}"
    if problem:
        samples.free_memory()
        yield events.Notice(step, problem)
    samples.unload_encoders(run.base)
    if found:
        yield found


def look(run: "Run", loss: float | None) -> events.Validated:
    """Return what the sample pictures of this step show."""
    samples.reload_encoders(run.base)
    with run.attached.at(0):
        if run.validator is None:
            names = [each.name for each in run.dataset.examples if not run.held_out or each.name != run.held_out[0]]
            run.validator = Validator(run.base, run.folder, run.prompts, run.config.trigger, names, run.items.mean)
        began = time.monotonic()
        found = run.validator.validate(run.state.step, loss)
        run.look_seconds = time.monotonic() - began
        return found


def find_strength(run: "Run") -> Generator[events.Event, None, float]:
    """Draw the sample prompts with other strengths, where that is a small part of the run; return the strength to recommend."""
    full = history(run.folder, run.state.step)[-1:]
    seconds = len(STRENGTHS) * len(run.prompts) * run.picture_seconds()
    if not full or full[0].step != run.state.step or seconds > STRENGTH_SHARE * (time.monotonic() - run.began):
        return 1.0
    found = {1.0: full[0]}
    try:
        for strength in STRENGTHS:
            found[strength] = try_strength(run, strength)
    except Exception as error:  # noqa: BLE001  no recommendation is worth a run
        yield events.Notice(run.state.step, f"Other strengths could not be tried. {samples.reason_of(error)}")
    samples.unload_encoders(run.base)
    return verdict.recommended(found)


def try_strength(run: "Run", strength: float) -> events.Validated:
    """Draw the sample prompts with a strength and return what the pictures show."""
    for index, prompt in enumerate(run.prompts):
        with run.attached.at(strength):
            samples.draw_sample(run.base, run.config, prompt, run.folder / samples.sample_path(run.state.step, index, strength),
                                lambda: False)
    assert run.validator
    with run.attached.at(0):
        return run.validator.look(run.state.step, None, samples_of(run.folder, run.state.step, len(run.prompts), strength))
