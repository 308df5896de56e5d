"""Runs that were paused, killed between two events, changed or damaged: the same tensors, or a sentence that says why not."""

import json
import random
import shutil
import subprocess
import sys

import pytest
import torch

from sdlora.errors import UserError
from sdlora.storage import home
from sdlora.train import events
from sdlora.train.checkpoint_files import OK, checkpoint_folder, checkpoint_steps
from tests.train.test_session import folders, make, named, same_plan, tensors, train

__all__ = ["folders", "make", "same_plan"]


def straight(make):
    return train(make("straight"))


@pytest.mark.parametrize("at", [(events.Prepared, 0), (events.Step, 2), (events.Saved, 3)])
def test_paused_and_resumed_it_is_the_same_file(make, at):
    """F13 with everything on: samples, validation, files, other objects. At Saved 3 the pause comes while samples are drawn."""
    expected = straight(make)
    folder = make("paused")
    first = train(folder, at=at)
    assert isinstance(first[-1], events.Stopped) and first[-1].step == at[1]
    second = train(folder)
    losses = [event.loss for event in named(first + second, events.Step)]
    assert losses == [event.loss for event in named(expected, events.Step)]
    one, other = tensors(expected[-1]), tensors(second[-1])
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    drawn = [sorted((path.name, path.read_bytes()) for path in (home() / "runs" / name / "samples").iterdir())
             for name in ("straight", "paused")]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3


def test_left_alone_between_two_events_it_goes_on(make):
    """A kill: the generator is dropped where it stands, nothing is saved on the way out."""
    expected = straight(make)
    folder = make("killed")
    from sdlora.train.session import run_training
    for event in run_training(folder, control=lambda: None):
        if isinstance(event, events.Step) and event.step == 5:
            break
    second = train(folder)
    assert [event.step for event in named(second, events.Step)] == [4, 5, 6]
    assert all(torch.equal(value, tensors(expected[-1])[name]) for name, value in tensors(second[-1]).items())


def test_drawing_samples_changes_nothing_of_the_training(make):
    often, seldom = train(make("often", sample_every=1)), train(make("seldom", sample_every=100))
    assert len(named(often, events.Sample)) > len(named(seldom, events.Sample))
    one, other = tensors(often[-1]), tensors(seldom[-1])
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_changed_pictures_are_refused(make, folders, tmp_path):
    images = tmp_path / "pictures"
    shutil.copytree(folders[1], images)
    folder = make(images=images)
    train(folder, at=(events.Step, 1))
    (images / "00.txt").write_text("something else")
    with pytest.raises(UserError, match="pictures or captions of this run changed"):
        train(folder)


@pytest.mark.parametrize(("change", "ends"), [({"rank": 4}, None), ({"seed": 9}, None), ({"steps": 8}, 8), ({"steps": 3}, 3)])
def test_changed_settings(make, change, ends):
    """F19: what decides the tensors is refused, more steps go on, fewer than done finish now."""
    folder = make()
    assert train(folder, at=(events.Saved, 3))[-1].step == 3
    spec = json.loads((folder / "spec.json").read_text())
    spec["config"] |= change
    (folder / "spec.json").write_text(json.dumps(spec))
    if ends is None:
        with pytest.raises(UserError, match=f"setting {next(iter(change))} changed"):
            train(folder)
    else:
        assert train(folder)[-1].step == ends


def test_a_broken_point_is_passed_over_with_a_warning(make):
    expected = tensors(straight(make)[-1])
    folder = make("broken")
    train(folder, at=(events.Step, 1))
    train(folder, at=(events.Saved, 3))
    assert checkpoint_steps(folder, OK) == [1, 3]
    (checkpoint_folder(folder, 3) / "state.safetensors").write_bytes(b"x")
    found = train(folder)
    assert any("step-000003" in warning.message for warning in named(found, events.Notice))
    assert named(found, events.Step)[0].step == 2
    assert all(torch.equal(value, expected[name]) for name, value in tensors(found[-1]).items())


RUN = """
import sys, torch
torch.set_num_threads(2)
from pathlib import Path
from sdlora.train import events, session
for event in session.run_training(Path(sys.argv[1]), control=lambda: None):
    print(events.to_json(event), flush=True)
"""


@pytest.mark.slow
def test_killed_processes_end_in_the_same_tensors(make):
    """F15: kill -9 at random moments, a new process each time, until one gets to the end."""
    expected = straight(make)
    folder = make("killed")
    dice, losses, attempts = random.Random(1), {}, 0
    while True:
        attempts += 1
        child = subprocess.Popen([sys.executable, "-c", RUN, str(folder)], stdout=subprocess.PIPE, text=True)
        patience = dice.randrange(3, 9) if attempts < 5 else 1000
        for line in child.stdout:
            event = events.from_json(line)
            if isinstance(event, events.Step):
                losses[event.step] = event.loss
            patience -= isinstance(event, (events.Step, events.Sample, events.Saved))
            if patience == 0:
                child.kill()
                break
        if child.wait() == 0:
            break
    assert attempts == 5
    assert losses == {event.step: event.loss for event in named(expected, events.Step)}
    assert all(torch.equal(value, tensors(expected[-1])[name]) for name, value in tensors(event).items())
