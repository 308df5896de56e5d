"""Runs on this computer: started, adopted, polled, stopped."""

import os
from pathlib import Path

import pytest

from sdlora.config import TrainConfig
from sdlora.jobs.backends.local import DIED, Local
from sdlora.jobs.execute import DONE, MISTAKE, STOPPED
from sdlora.jobs.lock import hold, is_held
from sdlora.jobs.run import create_run, view
from sdlora.train import events
from tests.jobs.test_run_log import write
from tests.jobs.waiting import wait_for

FAKE = str(Path(__file__).parents[1] / "fake_run.py")


@pytest.fixture
def run(tmp_path):
    return create_run(TrainConfig(name="Ink", steps=10, save_every=5), tmp_path)


def test_a_run_is_started_and_its_exit_code_polled(run, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.001")
    backend = Local((FAKE,))
    handle = backend.start(run, fence=0)
    assert backend.slots() == 0
    wait_for(lambda: backend.handles == [] or backend.poll(handle) == DONE)
    assert backend.slots() == 1 and view(run).state == "done"


@pytest.mark.skipif(os.name == "nt", reason="ends processes with POSIX signals")
@pytest.mark.parametrize("now", [False, True])
def test_a_stopped_run_is_resumable(run, monkeypatch, now):
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    backend = Local((FAKE,))
    handle = backend.start(run, fence=0)
    wait_for(lambda: is_held(run / "lock") and (run / "stepping").exists())
    backend.stop(handle, now=now)
    code = handle.process.wait(10)
    assert backend.poll(handle) == code and (code == STOPPED) != now and view(run).resumable


@pytest.mark.parametrize(("last", "code"), [
    (events.Done(10, 10, "run", "/f", 1.0), DONE), (events.Failed(3, 10, "It broke.", ""), MISTAKE),
    (events.Stopped(3, 10), STOPPED), (events.Saved(3, "checkpoints/step-000003"), DIED)])
def test_a_run_of_an_earlier_worker_is_watched_by_its_lock_and_ends_as_its_events_say(run, last, code):
    backend = Local(("-c", "raise SystemExit('a second process was started')"))
    with hold(run / "lock"):
        handle = backend.start(run, fence=1)
        assert handle.process is None and backend.poll(handle) is None
        write(run, last)
    assert backend.poll(handle) == code and backend.slots() == 1
