"""The durable queue: what waits, what runs, who may write. One SQLite file in the data folder.

Knows nothing about torch, run folders or processes: a job is a kind, a target and a state. Every claim raises the fence of
its target: whoever holds an older fence has lost the job and must not write any more.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from sdlora.errors import UserError
from sdlora.storage import clean_text, home, sqlite_error

QUESTIONS = ("report", "interference", "save", "convert", "carry")  # answered by the drawing process, see questions.py
DRAWER_KINDS = ("draw", *QUESTIONS)                        # the other kind is "train"
MOST_WAITING = 1000
MIGRATIONS = [
    """
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY,
        once TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL CHECK (kind IN ('train', 'draw')),
        target TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'queued'
            CHECK (state IN ('queued', 'running', 'stopped', 'done', 'failed', 'cancelled')),
        fence INTEGER NOT NULL DEFAULT 0,
        owner TEXT NOT NULL DEFAULT '',
        crashes INTEGER NOT NULL DEFAULT 0,
        crash_step INTEGER NOT NULL DEFAULT -1,
        problem TEXT NOT NULL DEFAULT '',
        created REAL NOT NULL,
        touched REAL NOT NULL
    ) STRICT;
    CREATE INDEX jobs_waiting ON jobs (kind, state, id);
    CREATE UNIQUE INDEX jobs_active ON jobs (kind, target) WHERE state IN ('queued', 'running');
    """,
    "ALTER TABLE jobs ADD COLUMN claimed REAL NOT NULL DEFAULT 0;",
    "ALTER TABLE jobs ADD COLUMN again INTEGER NOT NULL DEFAULT 0;",
    # questions as jobs of their own kinds; a CHECK cannot be altered, so the table is rebuilt
    """
    CREATE TABLE new_jobs (
        id INTEGER PRIMARY KEY,
        idempotency_key TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL CHECK (kind IN ('train', 'draw', 'report', 'interference', 'save', 'convert')),
        target TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'queued'
            CHECK (state IN ('queued', 'running', 'stopped', 'done', 'failed', 'cancelled')),
        fence INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        crash_step INTEGER NOT NULL DEFAULT -1,
        payload TEXT NOT NULL DEFAULT '',
        answer TEXT NOT NULL DEFAULT '',
        problem TEXT NOT NULL DEFAULT '',
        hint TEXT NOT NULL DEFAULT '',
        created REAL NOT NULL,
        claimed REAL NOT NULL DEFAULT 0,
        again INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT INTO new_jobs (id, idempotency_key, kind, target, state, fence, crashes, crash_step, problem, created, claimed, again)
        SELECT id, once, kind, target, state, fence, crashes, crash_step, problem, created, claimed, again FROM jobs;
    DROP TABLE jobs;
    ALTER TABLE new_jobs RENAME TO jobs;
    CREATE INDEX jobs_waiting ON jobs (kind, state, id);
    CREATE UNIQUE INDEX jobs_active ON jobs (kind, target) WHERE state IN ('queued', 'running');
    """,
    # any kind: which ones there are is known here, and a new one must not rebuild the table
    """
    CREATE TABLE new_jobs (
        id INTEGER PRIMARY KEY,
        idempotency_key TEXT NOT NULL UNIQUE,
        kind TEXT NOT NULL,
        target TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'queued'
            CHECK (state IN ('queued', 'running', 'stopped', 'done', 'failed', 'cancelled')),
        fence INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        crash_step INTEGER NOT NULL DEFAULT -1,
        payload TEXT NOT NULL DEFAULT '',
        answer TEXT NOT NULL DEFAULT '',
        problem TEXT NOT NULL DEFAULT '',
        hint TEXT NOT NULL DEFAULT '',
        created REAL NOT NULL,
        claimed REAL NOT NULL DEFAULT 0,
        again INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT INTO new_jobs SELECT * FROM jobs;
    DROP TABLE jobs;
    ALTER TABLE new_jobs RENAME TO jobs;
    CREATE INDEX jobs_waiting ON jobs (kind, state, id);
    CREATE UNIQUE INDEX jobs_active ON jobs (kind, target) WHERE state IN ('queued', 'running');
    """,
]


@dataclass(frozen=True)
class Job:
    """One row. `target`: id of a run, a drawing or a question; times are Unix seconds.

    `crashes`: how often its process died, the last time at step `crash_step`. `payload` and `answer`: JSON of a question.
    """
    id: int
    idempotency_key: str
    kind: str
    target: str
    state: str
    fence: int
    crashes: int
    crash_step: int
    payload: str
    answer: str
    problem: str
    hint: str
    created: float
    claimed: float


COLUMNS = ", ".join(field.name for field in fields(Job))


class Table:
    """The queue of one data folder. Connections are opened per call: cheap, and safe across threads and forks."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "jobs.sqlite"
        with self.connected() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise UserError("The job list was written by a newer sdlora.", "Update sdlora: pip install -U sdlora")
        if version < len(MIGRATIONS):
            self.migrate()

    def migrate(self) -> None:
        """Bring an older (or new) file up to date, all or nothing, whoever else tries at the same time."""
        with self.writing() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            for number, script in enumerate(MIGRATIONS[version:], version + 1):
                for statement in filter(str.strip, script.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {number}")

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Open a connection. Raises UserError for a full or read-only disk and for a damaged file."""
        try:
            with closing(sqlite3.connect(self.path, timeout=5, isolation_level=None)) as db:
                db.execute("PRAGMA busy_timeout = 5000")
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                yield db
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            if of_disk := sqlite_error(error, self.path):
                raise of_disk from error
            if "locked" in str(error) or "busy" in str(error):
                raise UserError("The job list is being written by another process.", "Try again in a moment.") from error
            raise UserError(f"The job list {self.path} is damaged ({error}).",
                            "Remove the file: runs and pictures are kept.") from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Open a short transaction that holds the write lock from its start, so that read-then-write is safe."""
        with self.connected() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def submit(self, kind: str, target: str, *, idempotency_key: str, payload: str = "") -> Job:
        """Queue a job and return it. The same key again, or a target that waits or runs, returns the job there is.

        A job whose process has just stopped, and whose worker has not noticed yet, is queued again as soon as it does.
        Raises UserError when 1000 jobs of a kind wait already.
        """
        key = clean_text(idempotency_key, 100)
        with self.writing() as db:
            known = db.execute(f"SELECT {COLUMNS} FROM jobs WHERE idempotency_key = ? OR (kind = ? AND target = ? AND state IN "
                               "('queued', 'running')) ORDER BY idempotency_key = ? DESC", (key, kind, target, key)).fetchone()
            if known:
                job = Job(*known)
                if job.idempotency_key != key and job.state == "running":
                    db.execute("UPDATE jobs SET again = 1 WHERE id = ?", (job.id,))
                return job
            waiting = db.execute("SELECT count(*) FROM jobs WHERE kind = ? AND state = 'queued'", (kind,)).fetchone()[0]
            if waiting >= MOST_WAITING:
                raise UserError(f"{waiting} jobs are waiting already.", "Wait until some are done, or cancel some.")
            # fences of a target only ever rise, over all its jobs
            row = db.execute("INSERT INTO jobs (idempotency_key, kind, target, fence, payload, created) VALUES (?, ?, ?, (SELECT "
                             "coalesce(max(fence), 0) FROM jobs WHERE kind = ? AND target = ?), ?, ?) "
                             f"RETURNING {COLUMNS}", (key, kind, target, kind, target, payload, time.time())).fetchone()
        return Job(*row)

    def claim(self, kinds: str | Sequence[str]) -> Job | None:
        """Take the oldest waiting job of one kind or several; at most one process gets each."""
        wanted, kinds = of_kinds(kinds)
        oldest = f"SELECT id FROM jobs WHERE {wanted} AND state = 'queued' ORDER BY id LIMIT 1"
        with self.connected() as db:
            if not db.execute(oldest, kinds).fetchone():  # reading takes no lock: processes that wait for work disturb nobody
                return None
            row = db.execute(f"UPDATE jobs SET state = 'running', fence = fence + 1, claimed = ? WHERE id = ({oldest}) "
                             f"RETURNING {COLUMNS}", (time.time(), *kinds)).fetchone()
        return Job(*row) if row else None

    def finish(self, job: Job, state: str, problem: str = "", hint: str = "", answer: str = "") -> bool:
        """End a job as stopped, done, failed or cancelled; False when it was taken away.

        One that stopped and was submitted again in the meantime waits again instead.
        """
        return self._change(job, "state = iif(again AND :state = 'stopped', 'queued', :state), problem = :problem, hint = :hint, "
                            "answer = :answer, again = 0", state=state, problem=clean_text(problem), hint=hint, answer=answer)

    def give_back(self, job: Job, *, crashed_at: int | None = None) -> bool:
        """Queue a claimed job again; `crashed_at` is the step at which its process died."""
        if crashed_at is None:
            return self._change(job, "state = 'queued', again = 0")
        return self._change(job, "state = 'queued', again = 0, crashes = crashes + 1, crash_step = :step", step=crashed_at)

    def _change(self, job: Job, what: str, **values: object) -> bool:
        with self.connected() as db:
            done = db.execute(f"UPDATE jobs SET {what} WHERE id = :id AND fence = :fence AND state = 'running'",
                              {**values, "id": job.id, "fence": job.fence})
            return done.rowcount == 1

    def cancel(self, kind: str, target: str, state: str = "cancelled") -> bool:
        """Take a waiting job out of the queue; False when none waits (it runs already, or never did)."""
        with self.writing() as db:
            db.execute("UPDATE jobs SET again = 0 WHERE kind = ? AND target = ?", (kind, target))
            done = db.execute("UPDATE jobs SET state = ? WHERE kind = ? AND target = ? AND state = 'queued'",
                              (state, kind, target))
            return done.rowcount > 0

    def jobs(self, kinds: str | Sequence[str], *states: str) -> list[Job]:
        """Return all jobs of one kind or several, oldest first; only those in `states` when some are named."""
        wanted, kinds = of_kinds(kinds)
        chosen = f" AND state IN ({', '.join('?' * len(states))})" if states else ""
        with self.connected() as db:
            rows = db.execute(f"SELECT {COLUMNS} FROM jobs WHERE {wanted}{chosen} ORDER BY id", (*kinds, *states)).fetchall()
        return [Job(*row) for row in rows]

    def known(self, idempotency_key: str) -> Job | None:
        """Return the job that was submitted under this key."""
        with self.connected() as db:
            row = db.execute(f"SELECT {COLUMNS} FROM jobs WHERE idempotency_key = ?",
                             (clean_text(idempotency_key, 100),)).fetchone()
        return Job(*row) if row else None

    def fence(self, kind: str, target: str) -> int:
        """Return the newest fence of a target; 0 when it was never claimed."""
        with self.connected() as db:
            return db.execute("SELECT coalesce(max(fence), 0) FROM jobs WHERE kind = ? AND target = ?",
                              (kind, target)).fetchone()[0]

    def remove_ended(self, kinds: str | Sequence[str], older_than_seconds: float) -> None:
        """Remove the rows of jobs that ended and were claimed longer ago."""
        wanted, kinds = of_kinds(kinds)
        with self.connected() as db:
            db.execute(f"DELETE FROM jobs WHERE {wanted} AND state NOT IN ('queued', 'running') AND claimed < ?",
                       (*kinds, time.time() - older_than_seconds))


def of_kinds(kinds: str | Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the SQL condition for jobs of these kinds, and its values."""
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    return f"kind IN ({', '.join('?' * len(kinds))})", kinds
