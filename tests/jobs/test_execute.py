"""The one run command: how it ends, what it leaves, who may run it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sdlora.config import TrainConfig
from sdlora.errors import UserError
from sdlora.jobs.execute import BUG, DONE, MISTAKE, STOPPED, execute
from sdlora.jobs.lock import hold, is_held
from sdlora.jobs.run import create_run, pause, resume_run, stop, view
from sdlora.jobs.table import Table
from sdlora.storage import home
from sdlora.train import events
from tests.jobs.fake_run import run_training
from tests.jobs.waiting import wait_for

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "tests" / "jobs" / "fake_run.py")]


@pytest.fixture
def run(tmp_path):
    return create_run(TrainConfig(name="Ink", steps=20, save_every=5), tmp_path, tmp_path / "ink.safetensors")


def start(folder, **environment):
    return subprocess.Popen([*COMMAND, str(folder)], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT), "FAKE_SECONDS": "0.05", **environment})


def events_of(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("broken", [events.Step, events.Done])
def test_a_listener_that_raises_does_not_end_the_run(run, broken):
    heard = []

    def listen(event):
        heard.append(event)
        if isinstance(event, broken):
            raise OSError("the terminal is gone")

    assert execute(run, on_event=listen, training=run_training) == DONE
    lines = events_of(run)
    assert lines[-1]["event"] == "done" and isinstance(heard[-1], broken) and "terminal is gone" in (run / "run.log").read_text()
    assert sum("continues unseen" in line.get("message", "") for line in lines) == (broken is events.Step)


def test_a_whole_run(run, tmp_path):
    seen = []
    assert execute(run, on_event=seen.append, training=run_training) == DONE
    assert (tmp_path / "ink.safetensors").read_text() == "20 210"
    assert [events.from_json(line) for line in (run / "events.jsonl").read_text().splitlines()] == seen
    assert events_of(run)[-1] == {"event": "done", "step": 20, "steps": 20, "run": run.name, "seconds": 1.0,
                             "file": str(tmp_path / "ink.safetensors")}
    assert view(run).state == "done" and view(run).checkpoints == (5, 10, 15, 20) and not is_held(run / "lock")
    with pytest.raises(UserError, match="finished"):
        execute(run, training=run_training)


def test_only_one_process_has_a_run(run, monkeypatch):
    monkeypatch.setattr("sdlora.jobs.execute.LOCK_SECONDS", 0.1)
    with hold(run / "lock"), pytest.raises(UserError, match="running already"):
        execute(run, training=run_training)
    assert not (run / "events.jsonl").exists()


@pytest.mark.parametrize("how", ["pause", "stop"])
def test_commands_are_obeyed_before_the_next_step(run, how):
    def command(event):
        if isinstance(event, events.Step) and event.step == 7:
            {"pause": pause, "stop": stop}[how](run.name)

    assert execute(run, on_event=command, training=run_training) == (STOPPED if how == "pause" else DONE)
    seen = view(run)
    assert seen.step == 7 and seen.state == ("stopped" if how == "pause" else "done") and seen.paused == (how == "pause")
    if how == "pause":
        assert execute(run, training=run_training) == STOPPED, "it stays paused until somebody continues it"
        resume_run(run.name)
        assert execute(run, training=run_training) == DONE
        assert Path(view(run).file).read_text() == "20 210"
    else:
        assert Path(seen.file).read_text() == "7 28"


def test_training_waits_while_a_picture_is_drawn(run, monkeypatch):
    drawing = hold(home() / "drawing.lock")
    steps, asked = [], []
    monkeypatch.setattr("sdlora.jobs.execute.is_held", lambda path: asked.append(path) or is_held(path))
    thread = threading.Thread(target=execute, args=(run,), kwargs={"training": run_training, "on_event": steps.append})
    thread.start()
    wait_for(lambda: len(asked) >= 5)
    assert steps and not any(isinstance(event, events.Step) for event in steps)
    drawing.release()
    thread.join(10)
    assert view(run).state == "done"


def test_an_older_claim_gives_way(run, monkeypatch):
    monkeypatch.setattr("sdlora.jobs.execute.FENCE_SECONDS", 0.0)
    table = Table()
    table.submit("train", run.name, idempotency_key="a")
    mine = table.claim("train")

    def taken_over(event):
        if isinstance(event, events.Step) and event.step == 4:
            table.give_back(mine)
            table.claim("train")

    assert execute(run, mine.fence, taken_over, run_training) == STOPPED
    assert view(run).step == 4


def failing(error):
    def training(folder, *, control):
        yield events.Step(1, 20, 1.0, 1.0, 1e-3, 1.0)
        raise error
    return training


def test_mistakes_bugs_and_a_full_disk_end_differently(run):
    assert execute(run, training=failing(UserError("cat.png is gone.", "Put it back."))) == MISTAKE
    assert (view(run).state, view(run).problem, view(run).hint) == ("failed", "cat.png is gone.", "Put it back.")
    assert execute(run, training=failing(ZeroDivisionError("secret detail"))) == BUG
    assert "code" in view(run).problem and "secret" not in (run / "events.jsonl").read_text()
    assert "ZeroDivisionError: secret detail" in (run / "run.log").read_text()
    assert execute(run, training=failing(OSError(errno.ENOSPC, "full"))) == STOPPED
    assert view(run).state == "stopped" and "disk is full" in view(run).warnings[-1]
    assert execute(run, training=failing(MemoryError())) == MISTAKE and "memory" in view(run).problem


def test_a_torn_last_line_is_closed_before_the_next_event(run):
    (run / "events.jsonl").write_text('{"event": "ste')
    assert execute(run, training=run_training) == DONE
    assert view(run).state == "done"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_later(run, number):
    process = start(run)
    wait_for(lambda: view(run).step >= 3)
    process.send_signal(number)
    assert process.wait(5) == STOPPED
    seen = view(run)
    assert seen.state == "stopped" and seen.ended and seen.checkpoints[-1] == seen.step and not seen.paused
    assert start(run, FAKE_SECONDS="0").wait(10) == DONE
    assert Path(view(run).file).read_text() == "20 210"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kill_9_is_seen_at_once_and_costs_at_most_a_save_interval(run):
    process = start(run)
    wait_for(lambda: view(run).step >= 7)
    assert view(run).state == "running"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    seen = view(run)
    assert seen.state == "stopped" and not seen.ended
    assert start(run, FAKE_SECONDS="0").wait(10) == DONE
    steps = [event["step"] for event in events_of(run) if event["event"] == "step"]
    again = [step for number, step in enumerate(steps) if step in steps[:number]]
    assert Path(view(run).file).read_text() == "20 210" and len(again) < 5


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_the_second_signal_ends_at_once(run):
    process = start(run, FAKE_SECONDS="3")
    wait_for((run / "stepping").exists)
    process.send_signal(signal.SIGINT)
    wait_for((run / "signalled").exists)
    assert process.poll() is None, "the first one waits for the step to end"
    process.send_signal(signal.SIGINT)
    assert process.wait(1) == STOPPED


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_second_process_is_told_who_has_the_run(run):
    first = start(run, FAKE_SECONDS="0.3")
    wait_for(lambda: is_held(run / "lock"))
    second = start(run)
    assert second.wait(10) == MISTAKE and "running already" in second.stderr.read()
    first.send_signal(signal.SIGTERM)
    assert first.wait(5) == STOPPED
