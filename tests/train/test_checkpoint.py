"""Saved, killed, damaged and restored: the state of a run without a model."""

import json
import os
import signal
import time
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlora.errors import UserError
from sdlora.train.checkpoint import TrainState, newest_checkpoint, refuse_changes, resume_check, save_checkpoint
from sdlora.train.checkpoint_files import LORA, OK, STATE, checkpoint_folder, checkpoint_steps
from sdlora.train.optimizer import AdamW

IDENTITY = {"pictures": "abc", "base": "def", "device": "cpu", "config": {"rank": 2, "steps": 20}}


def fresh(seed=0):
    weights = [torch.zeros(64, requires_grad=True)]
    return TrainState.fresh(weights, AdamW(weights, weight_decay=0.01, clip_norm=1.0), seed)


def train_steps(state, steps):
    """A run in miniature that uses all a TrainState holds; returns what it saw."""
    seen = []
    for _ in range(steps):
        pictures = state.next_pictures(2, [1, 2, 1])
        target = torch.randn(64, generator=state.noise) + sum(pictures) + float(torch.rand((), generator=state.dropout) < 0.5)
        loss = ((state.parameters[0] - target) ** 2).mean()
        state.optimizer.step(loss, 0.01 * state.rate_factor / (1 + state.step))
        state.step += 1
        seen.append(state.average(loss.item(), state.step))
    return seen


def save(run, state):
    return save_checkpoint(run, state.snapshot(), IDENTITY, lambda path: path.write_bytes(b"lora of %d" % state.step))


def test_what_is_saved_resumes_as_if_never_stopped(tmp_path):
    straight = fresh()
    losses = train_steps(straight, 7) + train_steps(straight, 6)
    first = fresh()
    assert train_steps(first, 7) == losses[:7]
    save(tmp_path, first)
    found = []
    snapshot, problems = newest_checkpoint(tmp_path, lambda snapshot, identity: found.append(identity))
    second = fresh(seed=99)
    second.restore(snapshot)
    assert train_steps(second, 6) == losses[7:] and found == [IDENTITY] and not problems
    assert torch.equal(second.parameters[0], straight.parameters[0])


KEYS = ["lora.0", "adam.mean.0", "adam.square.0", "adam.updates", "rng.noise", "rng.dropout", "rng.shuffle"]


@pytest.mark.parametrize("key", [*KEYS, "step", "queue", "loss_average", "rate_factor"])
def test_leaving_any_part_out_is_noticed(key, tmp_path):
    """The test of the test above (F14): whichever part starts afresh instead, the end is another one."""
    straight = fresh()
    straight.rate_factor = 0.5
    losses = train_steps(straight, 7)
    save(tmp_path, straight)
    losses += train_steps(straight, 6)
    snapshot, _ = newest_checkpoint(tmp_path)
    empty = fresh().snapshot()
    part = "tensors" if key in KEYS else "numbers"
    getattr(snapshot, part)[key] = getattr(empty, part)[key]
    resumed = fresh()
    resumed.restore(snapshot)
    same = train_steps(resumed, 6) == losses[7:] and torch.equal(resumed.parameters[0], straight.parameters[0])
    assert not same


def test_every_picture_comes_as_often_as_it_should():
    state = fresh()
    seen = [index for _ in range(8) for index in state.next_pictures(3, [1, 4, 1])]
    assert [seen.count(index) for index in range(3)] == [4, 16, 4]
    assert seen[:6] != seen[6:12]


def test_a_snapshot_is_nobody_elses(tmp_path):
    state = fresh()
    train_steps(state, 3)
    snapshot = state.snapshot()
    before = snapshot.tensors["lora.0"].clone()
    train_steps(state, 3)
    assert torch.equal(snapshot.tensors["lora.0"], before) and snapshot.numbers["step"] == 3


def test_two_whole_states_and_every_lora_stay(tmp_path):
    state = fresh()
    for _ in range(4):
        train_steps(state, 5)
        save(tmp_path, state)
    assert checkpoint_steps(tmp_path) == [5, 10, 15, 20] and checkpoint_steps(tmp_path, OK) == [15, 20]
    assert not (checkpoint_folder(tmp_path, 5) / STATE).exists()
    assert (checkpoint_folder(tmp_path, 5) / LORA).read_bytes() == b"lora of 5"


def truncate(folder):
    (folder / STATE).write_bytes((folder / STATE).read_bytes()[:-9])


def flip(folder):
    content = bytearray((folder / STATE).read_bytes())
    content[-40] ^= 1
    (folder / STATE).write_bytes(content)


def from_the_future(folder):
    (folder / "state.json").write_text((folder / "state.json").read_text().replace('"version": 1', '"version": 2'))


DAMAGES = [truncate, flip, from_the_future, lambda folder: (folder / "state.json").write_text("{"),
           lambda folder: (folder / "state.json").write_text("[]"), lambda folder: (folder / STATE).unlink()]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_newest_checkpoint_is_passed_over_and_named(damage, tmp_path):
    state = fresh()
    for _ in range(2):
        train_steps(state, 5)
        newest = save(tmp_path, state)
    damage(newest)
    snapshot, problems = newest_checkpoint(tmp_path)
    assert snapshot.numbers["step"] == 5 and len(problems) == 1 and "step-000010" in problems[0]
    damage(checkpoint_folder(tmp_path, 5))
    with pytest.raises(UserError, match="cannot continue"):
        newest_checkpoint(tmp_path)


def test_without_ok_it_never_happened(tmp_path):
    state = fresh()
    for _ in range(2):
        train_steps(state, 5)
        newest = save(tmp_path, state)
    (newest / OK).unlink()
    assert newest_checkpoint(tmp_path)[0].numbers["step"] == 5
    (checkpoint_folder(tmp_path, 5) / OK).unlink()
    assert newest_checkpoint(tmp_path) == (None, [])


CRASHES = ["before-fsync", "before-rename", "after-rename", "state-written", "lora-written", "numbers-written", "ok-written",
           "old-unmarked"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
@pytest.mark.parametrize("crash", CRASHES)
def test_kill_at_every_point_of_a_save(crash, tmp_path, monkeypatch):
    """F02: a checkpoint that was whole before stays; what is found is one of the states that were saved, bit for bit."""
    state, expected = fresh(), {}
    for _ in range(3):
        train_steps(state, 5)
        expected[state.step] = state.snapshot().tensors["lora.0"]
        if state.step < 15:
            save(tmp_path, state)
    monkeypatch.setenv("SDLORA_CRASH_AT", crash)
    child = in_child(lambda: save(tmp_path, state))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    monkeypatch.delenv("SDLORA_CRASH_AT")
    snapshot, problems = newest_checkpoint(tmp_path)
    step = snapshot.numbers["step"]
    assert step == (15 if crash in ("ok-written", "old-unmarked") else 10) and not problems
    assert torch.equal(snapshot.tensors["lora.0"], expected[step])
    save(tmp_path, state)
    assert newest_checkpoint(tmp_path)[0].numbers["step"] == 15


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_kill_at_any_moment(tmp_path):
    """F15 without a model: 15 processes that save as fast as they can are killed; the newest state is whole each time."""
    state = fresh()
    train_steps(state, 1)
    save(tmp_path, state)
    for attempt in range(15):
        before = newest_checkpoint(tmp_path)[0].numbers["step"]
        reader, writer = os.pipe()
        child = in_child(lambda writer=writer: save_for_ever(tmp_path, state, writer))
        os.read(reader, 1)  # it has saved once more
        time.sleep(0.001 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
        snapshot, problems = newest_checkpoint(tmp_path)
        assert snapshot.numbers["step"] > before and not problems


def in_child(work):
    """Fork and do `work`; whatever happens there, the child never comes back into pytest."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    return child


def save_for_ever(run, state, writer):
    state.restore(newest_checkpoint(run)[0])
    while True:
        state.step += 1
        save(run, state)
        os.write(writer, b".")


def test_a_disk_that_lies_is_noticed_before_ok(tmp_path, monkeypatch):
    state = fresh()
    train_steps(state, 5)
    save(tmp_path, state)
    train_steps(state, 5)
    write = lambda path: (path.write_bytes(b"lora"), truncate(path.parent))  # noqa: E731
    with pytest.raises(UserError, match="read back damaged"):
        save_checkpoint(tmp_path, state.snapshot(), IDENTITY, write)
    assert newest_checkpoint(tmp_path)[0].numbers["step"] == 5


def test_adapters_of_another_shape_are_refused(tmp_path):
    state = fresh()
    snapshot = state.snapshot()
    snapshot.tensors["lora.0"] = torch.zeros(32)
    with pytest.raises(UserError, match="does not fit"):
        state.restore(snapshot)


def test_the_saved_file_is_plain_safetensors(tmp_path):
    state = fresh()
    train_steps(state, 5)
    assert set(KEYS) < set(load_file(save(tmp_path, state) / STATE))


@pytest.mark.parametrize("change", [{"pictures": "other"}, {"base": "other"}, {"device": "cuda"},
                                    {"config": {"rank": 4, "steps": 20}}, {"config": {"rank": 2, "steps": 20, "alpha": 1.0}}])
def test_what_may_not_change_is_refused(change):
    with pytest.raises(UserError, match="since (it|the run) stopped"):
        refuse_changes(IDENTITY, {**IDENTITY, **change})


def test_more_steps_are_welcome():
    refuse_changes(IDENTITY, {**IDENTITY, "config": {"rank": 2, "steps": 500}})


def rewritten(folder, change):
    """Change what a checkpoint says, with all its hashes put right: as another program, or another run, would leave it."""
    saved = json.loads((folder / "state.json").read_text())
    tensors = load_file(folder / STATE)
    change(saved, tensors)
    save_file(tensors, folder / STATE)
    saved["files"][STATE] = sha256((folder / STATE).read_bytes()).hexdigest()
    written = json.dumps(saved).encode()
    (folder / "state.json").write_bytes(written)
    (folder / OK).write_text(sha256(written).hexdigest())


def number(name, value):
    return lambda saved, tensors: saved["numbers"].update({name: value})


SECOND = "adam.square.0"
LIES = {
    "a step of 1e9": (number("step", 10**9), "impossible step"), "half a step": (number("step", 10.5), "impossible step"),
    "a negative step": (number("step", -1), "impossible step"), "a step as text": (number("step", "10"), "impossible step"),
    "true as step": (number("step", True), "impossible step"),
    "another step": (number("step", 9), "impossible step"),
    "a loss of NaN": (number("loss_average", float("nan")), "impossible loss"),
    "a rate of 0": (number("rate_factor", 0), "impossible learning rate"),
    "an infinite rate": (number("rate_factor", float("inf")), "impossible learning rate"),
    "rewinds below 0": (number("rewinds", -1), "impossible count of rewinds"),
    "a queue that is none": (number("queue", [0, -1]), "impossible order"),
    "a picture that is not there": (number("queue", [0, 3]), "pictures that are not there"),
    "another run": (lambda saved, tensors: saved["identity"].update(run="20260101-000000-other"), "belongs to the run"),
    "another shape": (lambda saved, tensors: tensors.update({"lora.0": torch.zeros(32)}), "adapters of another shape"),
    "NaN weights": (lambda saved, tensors: tensors["lora.0"].fill_(float("nan")), "values that are no numbers"),
    "weights of another type": (lambda saved, tensors: tensors.update({"lora.0": tensors["lora.0"].half()}), "another type"),
    "Adam in whole numbers": (lambda saved, tensors: tensors.update({SECOND: tensors[SECOND].int()}), "another type"),
    "Adam below 0": (lambda saved, tensors: tensors[SECOND].fill_(-1), "impossible values of Adam"),
    "a loss scale of 0": (lambda saved, tensors: tensors["adam.scale"].fill_(0), "impossible values of Adam"),
    "NaN in Adam": (lambda saved, tensors: tensors[SECOND].fill_(float("nan")), "values that are no numbers"),
    "no generator": (lambda saved, tensors: tensors.pop("rng.noise"), "random generators"),
    "a generator of noise": (lambda saved, tensors: tensors["rng.shuffle"].fill_(255), "random generators"),
    "a generator of another type": (lambda saved, tensors: tensors.update({"rng.noise": tensors["rng.noise"].int()}),
                                    "random generators"),
    "numbers that are a list": (lambda saved, tensors: saved.update(numbers=[]), "unreadable"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_impossible_checkpoint_is_passed_over_for_the_one_before(lie, tmp_path):
    change, says = LIES[lie]
    state = fresh()
    for _ in range(2):
        train_steps(state, 5)
        newest = save(tmp_path, state)
    rewritten(newest, change)
    snapshot, problems = newest_checkpoint(tmp_path, resume_check(fresh(), IDENTITY | {"run": "mine"}, 3))
    assert snapshot.numbers["step"] == 5 and len(problems) == 1 and "step-000010" in problems[0] and says in problems[0]


def test_a_checkpoint_of_this_run_or_of_an_older_version_is_trusted(tmp_path):
    state = fresh()
    train_steps(state, 5)
    folder = save(tmp_path, state)
    for run in (None, "mine"):
        if run:
            rewritten(folder, lambda saved, tensors: saved["identity"].update(run="mine"))
        snapshot, problems = newest_checkpoint(tmp_path, resume_check(fresh(), IDENTITY | {"run": "mine"}, 3))
        assert snapshot.numbers["step"] == 5 and not problems
