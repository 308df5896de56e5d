"""The durable queue: who waits, who runs, who may write. One SQLite file in the data folder.

Knows nothing about torch, run folders or processes: a job is a kind, a target id and a state.
Every claim raises the job's fence; whoever holds an older fence has lost the job and must not write any more.
"""

import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from sdlora.errors import UserError
from sdlora.storage import clean_text, home, sqlite_error

LEASE_SECONDS = 60.0
HEARTBEAT_SECONDS = 5.0
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
]


@dataclass(frozen=True)
class Job:
    """One row. `target` is a run id or a draw id, `owner` is "host:pid" of the last claimer, times are Unix seconds."""
    id: int
    once: str
    kind: str
    target: str
    state: str
    fence: int
    owner: str
    crashes: int
    crash_step: int
    problem: str
    created: float
    touched: float
    claimed: float


COLUMNS = ", ".join(field.name for field in fields(Job))


def myself() -> str:
    """The owner name of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


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
        """A connection; what the disk or a damaged file says becomes a sentence."""
        try:
            with closing(sqlite3.connect(self.path, timeout=5, isolation_level=None)) as db:
                db.execute("PRAGMA busy_timeout = 5000")
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")
                yield db
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            if told := sqlite_error(error, self.path):
                raise told from error
            if "locked" in str(error) or "busy" in str(error):
                raise UserError("The job list is being written by another process.", "Try again in a moment.") from error
            raise UserError(f"The job list {self.path} is damaged ({error}).",
                            "Remove the file: runs and pictures are kept.") from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A short transaction that holds the write lock from its start, so that read-then-write is safe."""
        with self.connected() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def submit(self, kind: str, target: str, *, once: str) -> Job:
        """Queue a job. The same `once` again, or a target that already waits or runs, gives back the job there is.

        A job whose process has just stopped, and whose worker has not noticed yet, is queued again as soon as it does.
        """
        once = clean_text(once, 100)
        with self.writing() as db:
            known = db.execute(f"SELECT {COLUMNS} FROM jobs WHERE once = ? OR (kind = ? AND target = ? AND state IN "
                               "('queued', 'running')) ORDER BY once = ? DESC", (once, kind, target, once)).fetchone()
            if known:
                job = Job(*known)
                if job.once != once and job.state == "running":
                    db.execute("UPDATE jobs SET again = 1 WHERE id = ?", (job.id,))
                return job
            waiting = db.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
            if waiting >= MOST_WAITING:
                raise UserError(f"{waiting} jobs are waiting already.", "Wait until some are done, or cancel some.")
            now = time.time()
            # fences of a target only ever rise, over all its jobs
            row = db.execute("INSERT INTO jobs (once, kind, target, fence, created, touched) VALUES (?, ?, ?, (SELECT "
                             "coalesce(max(fence), 0) FROM jobs WHERE kind = ? AND target = ?), ?, ?) "
                             f"RETURNING {COLUMNS}", (once, kind, target, kind, target, now, now)).fetchone()
        return Job(*row)

    def claim(self, kind: str, owner: str = "") -> Job | None:
        """Take the oldest waiting job of a kind; at most one process gets each."""
        with self.connected() as db:
            row = db.execute(
                "UPDATE jobs SET state = 'running', fence = fence + 1, owner = ?2, touched = ?1, claimed = ?1 WHERE id = "
                "(SELECT id FROM jobs WHERE kind = ?3 AND state = 'queued' ORDER BY id LIMIT 1) AND state = 'queued' "
                f"RETURNING {COLUMNS}", (time.time(), owner or myself(), kind)).fetchone()
        return Job(*row) if row else None

    def heartbeat(self, job: Job) -> bool:
        """Say that the job is alive; False when it was taken away (cancelled, or claimed by someone else)."""
        return self._change(job, "state = 'running'")

    def finish(self, job: Job, state: str, problem: str = "") -> bool:
        """End a job as stopped, done, failed or cancelled; False when it was taken away.

        One that stopped and was submitted again in the meantime waits again instead.
        """
        return self._change(job, "state = iif(again AND ?1 = 'stopped', 'queued', ?1), problem = ?2, again = 0",
                            state, clean_text(problem))

    def give_back(self, job: Job, *, crashed_at: int | None = None) -> bool:
        """Queue a claimed job again; `crashed_at` is the step at which its process died."""
        if crashed_at is None:
            return self._change(job, "state = 'queued', again = 0")
        return self._change(job, "state = 'queued', again = 0, crashes = crashes + 1, crash_step = ?1", crashed_at)

    def _change(self, job: Job, what: str, *values: object) -> bool:
        with self.connected() as db:
            after = len(values)
            done = db.execute(f"UPDATE jobs SET {what}, touched = ?{after + 1} "
                              f"WHERE id = ?{after + 2} AND fence = ?{after + 3} AND state = 'running'",
                              (*values, time.time(), job.id, job.fence))
            return done.rowcount == 1

    def cancel(self, kind: str, target: str, state: str = "cancelled") -> bool:
        """Take a waiting job out of the queue; False when none waits (it runs already, or never did)."""
        with self.writing() as db:
            db.execute("UPDATE jobs SET again = 0 WHERE kind = ? AND target = ?", (kind, target))
            done = db.execute("UPDATE jobs SET state = ?, touched = ? WHERE kind = ? AND target = ? AND state = 'queued'",
                              (state, time.time(), kind, target))
            return done.rowcount > 0

    def jobs(self, kind: str, *states: str) -> list[Job]:
        """All jobs of a kind, oldest first; only those in `states` when some are named."""
        chosen = f" AND state IN ({', '.join('?' * len(states))})" if states else ""
        with self.connected() as db:
            rows = db.execute(f"SELECT {COLUMNS} FROM jobs WHERE kind = ?{chosen} ORDER BY id", (kind, *states)).fetchall()
        return [Job(*row) for row in rows]

    def known(self, once: str) -> Job | None:
        """The job that was submitted under this one-time id."""
        with self.connected() as db:
            row = db.execute(f"SELECT {COLUMNS} FROM jobs WHERE once = ?", (clean_text(once, 100),)).fetchone()
        return Job(*row) if row else None

    def fence(self, kind: str, target: str) -> int:
        """The newest fence of a target; 0 when it was never claimed."""
        with self.connected() as db:
            return db.execute("SELECT coalesce(max(fence), 0) FROM jobs WHERE kind = ? AND target = ?",
                              (kind, target)).fetchone()[0]

    def lost(self, kind: str) -> list[Job]:
        """Running jobs whose owner may be gone: those of this machine (their locks tell at once), and those of
        another machine that gave no heartbeat for 60 s."""
        host, now = socket.gethostname(), time.time()
        return [job for job in self.jobs(kind, "running")
                if job.owner.rpartition(":")[0] == host or now - job.touched > LEASE_SECONDS]
