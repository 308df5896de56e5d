"""The worker: runs outlive it, crashes do not loop, it ends when nobody needs it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sdlora.config import TrainConfig
from sdlora.errors import DiskFull, UserError
from sdlora.jobs import worker as worker_module
from sdlora.jobs.backends.local import Local
from sdlora.jobs.lock import hold, is_held
from sdlora.jobs.run import list_runs, pause, resume_run, start_run, stop, view
from sdlora.jobs.table import Table
from sdlora.jobs.worker import announce_web, ensure_worker, work
from sdlora.storage import home
from tests.jobs.waiting import wait_for

ROOT = Path(__file__).parents[2]
FAKE = str(ROOT / "tests" / "jobs" / "fake_run.py")
CODE = f"""
import subprocess, sys
from sdlora.jobs.backends.local import Local
from sdlora.jobs.worker import work
sys.exit(work(Local(({FAKE!r},)), float(sys.argv[1]), lambda folder: subprocess.Popen([sys.executable, "-c", ""])))
"""
pytestmark = pytest.mark.skipif(os.name == "nt", reason="ends processes with POSIX signals")


def wait_for_a_turn():
    """Wait until the worker has looked at the queue: it takes a job whose run is gone out of it."""
    job = Table().submit("train", "gone", idempotency_key=f"turn-{time.monotonic_ns()}")
    wait_for(lambda: Table().known(job.idempotency_key).state == "cancelled")


def new_run(name="Ink", steps=20):
    return start_run(TrainConfig(name=name, steps=steps, save_every=5), ROOT, idempotency_key=name)


@pytest.fixture
def start(own_home):
    """Starts workers with the fake training; at the end every process of the test is ended."""
    begun = []

    def begin(linger=30.0, **environment):
        process = subprocess.Popen([sys.executable, "-c", CODE, str(linger)], cwd=ROOT, start_new_session=True,
                                   env={**os.environ, "PYTHONPATH": str(ROOT), "FAKE_SECONDS": "0.05", **environment})
        begun.append(process)
        wait_for(lambda: is_held(home() / "worker.lock") or process.poll() is not None)
        return process

    yield begin
    for seen in list_runs():
        (seen.folder / "suspend").touch()
    for process in begun:
        process.kill()
        process.wait()
    for seen in list_runs():
        wait_for(lambda folder=seen.folder: not is_held(folder / "lock"))


def test_queued_runs_are_done_one_after_the_other_and_then_it_ends(start):
    runs = [new_run(name) for name in ("one", "two")]
    worker = start(linger=0.5, FAKE_SECONDS="0.01")
    wait_for(lambda: view(runs[1]).state == "done")
    first, second = [view(run) for run in runs]
    assert Path(first.file).read_text() == Path(second.file).read_text() == "20 210"
    assert first.folder.joinpath("events.jsonl").stat().st_mtime <= second.folder.joinpath("run.log").stat().st_mtime + 60
    assert worker.wait(5) == 0 and not is_held(home() / "worker.lock")
    wait_for(lambda: [job.state for job in Table().jobs("train")] == ["done", "done"])


def test_a_run_outlives_its_worker_and_the_next_one_finds_it(start):
    run = new_run(steps=60)
    first = start()
    wait_for(lambda: view(run).step >= 3)
    first.kill()
    first.wait()
    step = view(run).step
    assert view(run).state == "running"
    start()
    wait_for(lambda: view(run).state == "done")
    written = view(run).folder.joinpath("events.jsonl").read_text()
    assert written.count('"prepared"') == 1 and view(run).step == 60 > step, "one process trained all of it"
    wait_for(lambda: Table().jobs("train")[0].state == "done")


def test_everything_killed_then_restarted_goes_on_but_not_what_was_paused(start):
    run = new_run(steps=60)
    paused = new_run("rests")
    pause(paused)
    first = start()
    wait_for(lambda: view(run).step >= 7)
    first.kill()
    first.wait()
    os.kill(pid_of(run), signal.SIGKILL)
    wait_for(lambda: view(run).state in ("stopped", "queued"))
    start(FAKE_SECONDS="0.005")
    wait_for(lambda: view(run).state == "done")
    assert Path(view(run).file).read_text() == "60 1830" and view(paused).state == "stopped"
    resume_run(paused)
    wait_for(lambda: view(paused).state == "done")


def pid_of(run):
    """The process that holds the lock of a run, from /proc."""
    lock = str(home() / "runs" / run)
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes().split(b"\0")
        except OSError:
            continue
        if lock.encode() in words:
            return int(command.parent.name)
    pytest.skip("no /proc to find the process in")


def test_a_run_that_dies_twice_at_the_same_step_fails_and_the_next_one_runs(start):
    bad = new_run("bad")
    start(FAKE_CRASH_AT="7", FAKE_SECONDS="0.01")
    wait_for(lambda: view(bad).state == "failed")
    seen = view(bad)
    assert "died again at step 7" in seen.problem and seen.hint and seen.checkpoints == (5,)
    assert seen.folder.joinpath("events.jsonl").read_text().count('"prepared"') == 2
    good = new_run("good", steps=6)
    wait_for(lambda: view(good).state == "done")
    wait_for(lambda: [job.state for job in Table().jobs("train")] == ["failed", "done"])


def test_pause_continue_and_stop_through_the_worker(start):
    run = new_run(steps=400)
    start()
    wait_for(lambda: view(run).step >= 2)
    pause(run)
    wait_for(lambda: view(run).state == "stopped")
    assert view(run).paused
    # at once, before the worker has looked
    resume_run(run)
    wait_for(lambda: view(run).state == "running")
    stop(run)
    wait_for(lambda: view(run).state == "done")
    step = view(run).step
    assert 2 <= step < 400 and Path(view(run).file).read_text() == f"{step} {step * (step + 1) // 2}"


def test_sigterm_saves_the_runs_and_the_next_worker_continues_them(start):
    run = new_run(steps=60)
    first = start()
    wait_for(lambda: view(run).step >= 3)
    first.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0
    assert view(run).ended and view(run).checkpoints[-1] == view(run).step
    assert view(run).state == "queued" and not view(run).paused, "it is for the next worker"
    start(FAKE_SECONDS="0.005")
    wait_for(lambda: view(run).state == "done")


def test_it_stays_while_a_web_process_lives_and_a_second_worker_leaves(start):
    web = subprocess.Popen([sys.executable, "-c", "import time; from sdlora.jobs.worker import announce_web; announce_web(); "
                            "print('here', flush=True); time.sleep(60)"], cwd=ROOT, stdout=subprocess.PIPE)
    web.stdout.readline()
    worker = start(linger=0.01)
    assert start(linger=0.01).wait(10) == 0
    for _ in range(3):
        wait_for_a_turn()
    assert worker.poll() is None
    web.kill()
    web.wait()
    web.stdout.close()
    assert worker.wait(5) == 0


def test_it_ends_when_the_data_folder_is_gone(start):
    worker = start()
    folder = home()
    wait_for_a_turn()
    gone = folder.with_name("gone")
    folder.rename(gone)
    assert worker.wait(10) == 0
    assert not folder.exists(), "it is not made anew, empty"


def test_ensure_worker_starts_one_and_only_when_there_is_none(monkeypatch):
    spawned = []

    class Alive:
        def poll(self):
            return None

    monkeypatch.setattr(worker_module, "started", [])
    monkeypatch.setattr(worker_module, "spawn", lambda command, log: spawned.append(command) or Alive())
    with hold(home() / "worker.lock"):
        assert not ensure_worker()
    assert spawned == []
    assert ensure_worker() and ensure_worker() and spawned == [["-m", "sdlora", "worker"]], "one on its way is enough"


def test_announcing_twice_is_one_lock():
    announce_web()
    announce_web()
    assert len(list((home() / "web").glob("*.lock"))) == 1
    assert worker_module.web_is_alive(home())
    for lock in worker_module.held_for_life:
        lock.release()
    worker_module.held_for_life.clear()
    assert not worker_module.web_is_alive(home())


def test_a_deleted_run_is_dropped_from_the_queue():
    Table().submit("train", "gone", idempotency_key="a")
    thread = threading.Thread(target=work, args=(Local(), 0.1, lambda folder: subprocess.Popen([sys.executable, "-c", ""])))
    thread.start()
    thread.join(10)
    assert Table().jobs("train")[0].state == "cancelled"


def test_an_open_page_starts_a_killed_worker_again_within_seconds(start, monkeypatch):
    """What the tick of every open page calls; it costs next to nothing while a worker lives."""
    spawned = []
    monkeypatch.setattr(worker_module, "spawn", lambda *_: spawned.append(start()) or spawned[-1])
    monkeypatch.setattr(worker_module, "kept_at", [-10.0])
    worker_module.started.clear()
    first = start()
    worker_module.keep_worker()
    assert not spawned
    run = new_run(steps=3)
    first.kill()
    first.wait()
    killed = time.monotonic()
    while not spawned:
        worker_module.keep_worker()
        time.sleep(0.05)
    wait_for(lambda: view(run).state == "done")
    assert time.monotonic() - killed < 12 and len(spawned) == 1


class Refusing(Local):
    """A backend whose processes cannot be started."""

    def start(self, folder, fence):
        raise UserError("A process of sdlora could not be started (no memory).", "Close other programs, then try again.")


def test_a_job_whose_process_cannot_be_started_goes_back_and_at_last_fails_with_the_reason(own_home, monkeypatch):
    monkeypatch.setattr(worker_module, "START_AGAIN_SECONDS", 0.0)
    run = new_run()
    made = worker_module.Worker(Refusing(), 1.0, lambda folder: subprocess.Popen([sys.executable, "-c", ""]))
    made.begin(made.table.claim("train"))
    assert [job.state for job in Table().jobs("train")] == ["queued"] and view(run).state == "queued"
    while job := made.table.claim("train"):
        made.begin(job)
    seen = view(run)
    assert seen.state == "failed" and "could not be started" in seen.problem and seen.resumable


def test_the_end_of_a_run_that_cannot_be_written_down_is_written_later(own_home, monkeypatch):
    run = new_run()
    sleeping = [sys.executable, "-c", "import time; time.sleep(30)"]
    made = worker_module.Worker(Local(), 1.0, lambda folder: subprocess.Popen(sleeping))
    job = made.table.claim("train")
    made.ended.append((job, 3))
    with monkeypatch.context() as full:
        full.setattr(Table, "finish", lambda *_: (_ for _ in ()).throw(DiskFull("The disk is full.")))
        with pytest.raises(DiskFull):
            made.turn()
    made.turn()
    assert [job.state for job in Table().jobs("train")] == ["stopped"] and view(run).resumable
    made.drawer.kill()
    made.drawer.wait()


def test_a_damaged_job_list_is_told_once_starts_nothing_and_keeps_no_worker(own_home, monkeypatch, caplog):
    drawers = []
    monkeypatch.setattr(worker_module, "POLL_SECONDS", 0.01)
    busy = worker_module.Worker(Local(), 0.3, lambda folder: drawers.append(folder))
    (home() / "worker.lock").touch()
    for path in home().glob("jobs.sqlite*"):
        path.unlink()
    (home() / "jobs.sqlite").write_bytes(b"no list " * 1000)
    monkeypatch.setattr(busy, "recover", lambda: None)
    thread = threading.Thread(target=busy.run, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive() and not drawers
    assert caplog.text.count("is damaged") == 1
