"""Making, queueing, pausing, stopping and deleting runs; the state of a run follows from its lock, its events and the queue."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdlora.config import TrainConfig
from sdlora.errors import UserError
from sdlora.jobs.lock import hold
from sdlora.jobs.run import create_run, delete, list_runs, pause, resume_run, start_run, stop, view
from sdlora.jobs.table import Table
from sdlora.train import events
from tests.jobs.test_run_log import step, write

CONFIG = TrainConfig(name="Ink & water", steps=20)


@pytest.fixture
def run(tmp_path):
    return create_run(TrainConfig(name="Stained glass", steps=40), tmp_path)


def test_ids_are_safe_and_never_the_same(tmp_path):
    folders = [create_run(CONFIG, tmp_path, tmp_path / "x.safetensors", "set-1") for _ in range(3)]
    assert len({folder.name for folder in folders}) == 3
    spec = json.loads((folders[0] / "spec.json").read_text())
    assert spec["id"] == folders[0].name and spec["set"] == "set-1" and spec["out"] == str(tmp_path / "x.safetensors")
    assert TrainConfig(**{**spec["config"], "sample_prompts": ()}) == CONFIG


def test_two_clicks_start_one_run(tmp_path):
    first = start_run(CONFIG, tmp_path, idempotency_key="click")
    assert start_run(CONFIG, tmp_path, idempotency_key="click") == first
    assert len(list_runs()) == 1 and len(Table().jobs("train")) == 1


def test_pausing_a_waiting_run_takes_it_out_of_the_queue(tmp_path):
    run = start_run(CONFIG, tmp_path, idempotency_key="a")
    pause(run)
    assert view(run).state == "stopped" and view(run).paused
    assert Table().claim("train") is None
    with pytest.raises(UserError, match="not running"):
        pause(run)
    resume_run(run)
    resume_run(run)
    assert view(run).state == "queued" and not view(run).paused and len(Table().jobs("train", "queued")) == 1


def test_commands_to_a_running_run_are_flags(tmp_path):
    folder = create_run(CONFIG, tmp_path)
    with hold(folder / "lock"):
        pause(folder.name)
        assert view(folder).command == "pause"
        stop(folder.name)
        assert view(folder).command == "stop" and not (folder / "pause").exists()
        with pytest.raises(UserError, match="still running"):
            delete(folder.name)
    assert view(folder).command is None


def test_stopping_a_resting_run_queues_it_to_write_its_file(tmp_path):
    folder = create_run(CONFIG, tmp_path)
    with pytest.raises(UserError, match="no checkpoint"):
        stop(folder.name)
    point = folder / "checkpoints" / "step-000010"
    point.mkdir(parents=True)
    (point / "state.json").write_text("{}")
    stop(folder.name)
    assert view(folder).state == "queued" and view(folder).command == "stop" and view(folder).checkpoints == (10,)


def test_a_finished_run_is_left_alone(tmp_path):
    folder = create_run(CONFIG, tmp_path)
    (folder / "events.jsonl").write_text(events.to_json(events.Done(20, 20, folder.name, "/f", 1.0)) + "\n")
    for act in (resume_run, stop, pause):
        with pytest.raises(UserError):
            act(folder.name)
    delete(folder.name)
    assert list_runs() == [] and not folder.exists()


def test_deleting_a_waiting_run_cancels_it(tmp_path):
    run = start_run(CONFIG, tmp_path, idempotency_key="a")
    delete(run)
    assert Table().claim("train") is None


def test_five_presses_at_once_are_one_run(tmp_path):
    """Each press of a page that has already got the answer of the one before comes with a fresh one-time id."""
    with ThreadPoolExecutor(5) as pool:
        runs = set(pool.map(lambda number: start_run(CONFIG, tmp_path, idempotency_key=f"press-{number}"), range(5)))
    assert len(runs) == 1 and len(list_runs()) == 1 and len(Table().jobs("train")) == 1


def test_a_clock_that_was_set_back_makes_no_twins(tmp_path, monkeypatch):
    first = start_run(CONFIG, tmp_path, idempotency_key="before")
    now = time.time()
    monkeypatch.setattr("sdlora.jobs.run.time.time", lambda: now - 3600)
    assert start_run(CONFIG, tmp_path, idempotency_key="after") != first


def test_another_order_or_a_later_one_is_a_run_of_its_own(tmp_path, monkeypatch):
    first = start_run(CONFIG, tmp_path, idempotency_key="a")
    other = start_run(CONFIG.model_copy(update={"seed": CONFIG.seed + 1}), tmp_path, idempotency_key="b")
    elsewhere = start_run(CONFIG, tmp_path, idempotency_key="c", out=tmp_path / "x.safetensors")
    monkeypatch.setattr("sdlora.jobs.run.TWIN_SECONDS", 0.0)
    later = start_run(CONFIG, tmp_path, idempotency_key="d")
    assert len({first, other, elsewhere, later}) == 4


@pytest.mark.parametrize("name", ["nothing", "", " ", ".", "..", "../runs", "a/b", "a\\b", "C:\\x", "a\0b", "\udcff", "*"])
def test_what_is_no_id_is_no_run(tmp_path, name):
    start_run(CONFIG, tmp_path, idempotency_key="a")
    for what in (view, pause, stop, resume_run, delete):
        with pytest.raises(UserError, match="There is no run"):
            what(name)


def test_a_new_run_rests_and_shows_its_settings(run, tmp_path):
    seen = view(run.name)
    assert (seen.state, seen.step, seen.steps, seen.name) == ("stopped", 0, 40, "Stained glass")
    assert seen.images == str(tmp_path) and seen.id == run.name and not seen.paused and seen.command is None


def test_states_follow_lock_events_and_queue(run):
    Table().submit("train", run.name, idempotency_key="1")
    assert view(run).state == "queued"
    job = Table().claim("train")
    assert view(run).state == "queued", "claimed, its process is on the way"
    lock = hold(run / "lock")
    write(run, step(3))
    assert (view(run).state, view(run).step, view(run).seconds_left) == ("running", 3, 18.5)
    lock.release()
    Table().finish(job, "stopped")
    assert view(run).state == "stopped" and view(run).seconds_left is None and not view(run).ended
    write(run, events.Failed(3, 40, "It broke.", "Fix it."))
    assert (view(run).state, view(run).problem, view(run).hint) == ("failed", "It broke.", "Fix it.")
    write(run, step(4))
    assert view(run).state == "stopped", "continued after a failure, then killed"
    write(run, events.Done(40, 40, run.name, "/x/y.safetensors", 12.5))
    assert (view(run).state, view(run).file, view(run).seconds) == ("done", "/x/y.safetensors", 12.5)


def test_runs_are_listed_newest_first_and_a_damaged_one_does_not_hide_them(tmp_path):
    ids = [start_run(TrainConfig(name=name), tmp_path, idempotency_key=name) for name in ("one", "two", "three")]
    damaged = create_run(TrainConfig(name="bad"), tmp_path)
    (damaged / "spec.json").write_text("{}")
    assert {seen.id for seen in list_runs()} == set(ids)
    assert all(seen.state == "queued" for seen in list_runs())


@pytest.mark.parametrize("wanted", [None, 0, 21, True, "20", 10**12])
def test_a_step_without_a_checkpoint_falls_back_to_the_last(run, wanted):
    assert view(run).usable_step(wanted) is None
    for step_saved in (10, 20):
        checkpoint = run / "checkpoints" / f"step-{step_saved:06d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "state.json").touch()
    assert view(run).usable_steps == {10, 20} and view(run).usable_step(wanted) == 20 and view(run).usable_step(10) == 10
