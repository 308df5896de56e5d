"""The queue: every job once, fences that rise, nothing lost when a writer dies."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from sdlora.errors import UserError
from sdlora.jobs import table as table_module
from sdlora.jobs.table import MIGRATIONS, Table

ROOT = Path(__file__).parents[2]


def test_two_clicks_are_one_job():
    first = Table().submit("train", "run-a", idempotency_key="click-1")
    assert Table().submit("train", "run-b", idempotency_key="click-1") == first
    assert Table().submit("train", "run-a", idempotency_key="click-2") == first, "a run that waits is not queued twice"
    assert [job.target for job in Table().jobs("train")] == ["run-a"]


def test_claim_is_first_come_and_per_kind():
    table = Table()
    for number in range(3):
        table.submit("train", f"run-{number}", idempotency_key=f"t{number}")
    table.submit("draw", "draw-0", idempotency_key="d0")
    assert [table.claim("train").target for _ in range(3)] == ["run-0", "run-1", "run-2"]
    assert table.claim("train") is None
    table.submit("report", "question-0", idempotency_key="q0")
    assert [table.claim(("report", "draw")).target for _ in range(2)] == ["draw-0", "question-0"]
    assert [job.target for job in table.jobs(("draw", "report"), "running")] == ["draw-0", "question-0"]


def test_an_old_claim_cannot_write_any_more():
    table = Table()
    table.submit("train", "run", idempotency_key="a")
    old = table.claim("train")
    assert table.give_back(old)
    new = table.claim("train")
    assert new.fence > old.fence
    assert not table.give_back(old) and not table.finish(old, "done")
    assert table.finish(new, "done")
    table.submit("train", "run", idempotency_key="b")
    assert table.claim("train").fence > new.fence, "fences rise over all jobs of a run"
    assert table.fence("train", "run") == new.fence + 1


def test_one_that_stopped_and_was_wanted_again_before_the_worker_noticed_waits_again():
    table = Table()
    table.submit("train", "run", idempotency_key="a")
    job = table.claim("train")
    assert table.submit("train", "run", idempotency_key="b").id == job.id
    assert table.finish(job, "stopped") and table.jobs("train")[0].state == "queued"
    job = table.claim("train")
    assert table.finish(job, "stopped") and table.jobs("train")[0].state == "stopped", "once asked, once queued"
    table.submit("train", "run", idempotency_key="c")
    job = table.claim("train")
    table.submit("train", "run", idempotency_key="d")
    table.cancel("train", "run")
    assert table.finish(job, "stopped") and table.jobs("train")[-1].state == "stopped", "paused after all"
    table.submit("train", "run", idempotency_key="e")
    job = table.claim("train")
    table.submit("train", "run", idempotency_key="f")
    assert table.finish(job, "done") and table.jobs("train")[-1].state == "done"


def test_cancel_takes_only_what_waits():
    table = Table()
    table.submit("draw", "a", idempotency_key="a")
    table.submit("draw", "b", idempotency_key="b")
    running = table.claim("draw")
    assert not table.cancel("draw", "a")
    assert table.cancel("draw", "b")
    assert table.claim("draw") is None
    assert table.finish(running, "done")


def claim_all(path: str, out: multiprocessing.Queue) -> None:
    table, mine = Table(Path(path)), []
    while job := table.claim("train"):
        mine.append(job.target)
    out.put(mine)


def test_eight_claimers_get_each_job_once(tmp_path):
    path = tmp_path / "jobs.sqlite"
    table = Table(path)
    for number in range(200):
        table.submit("train", f"r{number}", idempotency_key=f"r{number}")
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "fork")
    out = context.Queue()
    claimers = [context.Process(target=claim_all, args=(str(path), out)) for _ in range(8)]
    for claimer in claimers:
        claimer.start()
    got = [name for _ in claimers for name in out.get(timeout=30)]
    for claimer in claimers:
        claimer.join()
    assert len(got) == 200 and len(set(got)) == 200


def test_eight_processes_may_make_the_file_at_once(tmp_path):
    code = "import sys; from pathlib import Path; from sdlora.jobs.table import Table; t = Table(Path(sys.argv[1])); " \
           "t.submit('draw', sys.argv[2], idempotency_key=sys.argv[2])"
    makers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "new.sqlite"), f"d{n}"], cwd=ROOT) for n in range(8)]
    assert [maker.wait(30) for maker in makers] == [0] * 8
    assert len(Table(tmp_path / "new.sqlite").jobs("draw")) == 8


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_writers_leave_a_consistent_table(tmp_path):
    code = "import sys; from pathlib import Path; from sdlora.jobs.table import Table\nt = Table(Path(sys.argv[1]))\n" \
           "print('go', flush=True)\nn = 0\n" \
           "while True:\n n += 1\n name = f'{sys.argv[2]}{n}'\n t.submit('draw', name, idempotency_key=name)\n" \
           " t.finish(t.claim('draw'), 'done')"
    for life in range(4):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "t.sqlite"), str(life)], cwd=ROOT,
                                  stdout=subprocess.PIPE)
        writer.stdout.readline()
        time.sleep(0.03 * (life + 1))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        while job := Table(tmp_path / "t.sqlite").claim("draw"):
            Table(tmp_path / "t.sqlite").finish(job, "done")
    with sqlite3.connect(tmp_path / "t.sqlite") as db:
        assert db.execute("PRAGMA quick_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM jobs").fetchone()[0] > 4


def test_a_damaged_or_newer_file_is_a_sentence(tmp_path):
    (tmp_path / "bad.sqlite").write_bytes(b"SQLite format 3\0" + b"garbage" * 2000)
    with pytest.raises(UserError, match="is damaged"):
        Table(tmp_path / "bad.sqlite").jobs("train")
    with sqlite3.connect(tmp_path / "new.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="newer sdlora"):
        Table(tmp_path / "new.sqlite")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_file_keeps_its_rows(tmp_path, version):
    """Version 3 is the newest with two kinds of jobs, owners and times of a last sign of life."""
    rows = [(1, "click-1", "train", "run-a", "done", 2), (2, "click-2", "train", "run-b", "running", 1),
            (5, "click-3", "draw", "draw-a", "queued", 0)]
    with closing(sqlite3.connect(tmp_path / "old.sqlite", isolation_level=None)) as db:
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        db.executemany("INSERT INTO jobs (id, once, kind, target, state, fence, owner, crashes, crash_step, problem, created, "
                       "touched) VALUES (?, ?, ?, ?, ?, ?, 'host:1', 1, 7, 'why', 1e9, 2e9)", rows)
        if version == 3:
            db.execute("UPDATE jobs SET claimed = 1.5e9, again = 1 WHERE target = 'run-b'")
        db.execute(f"PRAGMA user_version = {version}")
    table = Table(tmp_path / "old.sqlite")
    jobs = table.jobs(("train", "draw"))
    assert [(job.id, job.idempotency_key, job.kind, job.target, job.state, job.fence) for job in jobs] == rows
    assert {(job.crashes, job.crash_step, job.problem, job.created, job.payload) for job in jobs} == {(1, 7, "why", 1e9, "")}
    assert jobs[1].claimed == (1.5e9 if version == 3 else 0)
    assert table.finish(jobs[1], "stopped") and table.known("click-2").state == ("queued" if version == 3 else "stopped")
    assert table.submit("train", "run-a", idempotency_key="click-4").id == 6 and table.claim("draw").fence == 1
    assert table.submit("report", "question", idempotency_key="q", payload="{}").payload == "{}"
    with closing(sqlite3.connect(table.path)) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO jobs (idempotency_key, kind, target, created) VALUES ('x', 'train', 'run-a', 1)")


def test_a_file_of_version_4_keeps_answers_and_takes_new_kinds(tmp_path):
    with closing(sqlite3.connect(tmp_path / "old.sqlite", isolation_level=None)) as db:
        for script in MIGRATIONS[:4]:
            db.executescript(script)
        db.execute("INSERT INTO jobs VALUES (7, 'k', 'report', 'q', 'done', 3, 1, 2, '{}', '[1]', 'why', 'do', 1e9, 1.5e9, 1)")
        db.execute("PRAGMA user_version = 4")
    table = Table(tmp_path / "old.sqlite")
    job = table.known("k")
    assert (job.id, job.target, job.state, job.fence, job.crashes, job.crash_step) == (7, "q", "done", 3, 1, 2)
    assert (job.payload, job.answer, job.problem, job.hint, job.created, job.claimed) == ("{}", "[1]", "why", "do", 1e9, 1.5e9)
    assert table.submit("carry", "another", idempotency_key="n", payload="{}").id == 8


def test_only_jobs_that_ended_long_ago_are_removed():
    table = Table()
    for target in ("old", "new", "runs", "waits"):
        table.submit("report", target, idempotency_key=target)
    for _ in range(2):
        table.finish(table.claim("report"), "done")
    table.claim("report")
    with closing(sqlite3.connect(table.path, isolation_level=None)) as db:
        db.execute("UPDATE jobs SET claimed = claimed - 100 WHERE target != 'new'")
    table.remove_ended("draw", 50)
    table.remove_ended("report", 50)
    assert [job.target for job in table.jobs("report")] == ["new", "runs", "waits"]


def test_tables_are_strict(tmp_path):
    table = Table(tmp_path / "t.sqlite")
    table.submit("train", "a", idempotency_key="a")
    with sqlite3.connect(table.path) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute("UPDATE jobs SET fence = 'many'")
    with sqlite3.connect(table.path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_queue_has_an_end(monkeypatch):
    monkeypatch.setattr(table_module, "MOST_WAITING", 3)
    for number in range(3):
        Table().submit("draw", f"d{number}", idempotency_key=f"d{number}")
    with pytest.raises(UserError, match="waiting"):
        Table().submit("draw", "d4", idempotency_key="d4")
