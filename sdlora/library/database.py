"""The index of the shelf: one SQLite file, which is made again from the LoRA files when it is missing, damaged or old.

Knows nothing about LoRA files, folders or sidecars. Search is by substring: every word of a query occurs somewhere in a row's
`words`. FTS5's trigram index finds those of three characters and more; where SQLite has none, the rows are read instead.
"""

import logging
import sqlite3
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sdlora import __version__
from sdlora.errors import UserError
from sdlora.storage import clean_text, disk_error, home, sqlite_error

VERSION = 1
WAIT_SECONDS = 5
CORRUPT, NO_DATABASE, BUSY, LOCKED = 11, 26, 5, 6  # SQLite's result codes
TRIGRAM = 3  # characters
SCHEMA = """
    CREATE TABLE about (sdlora TEXT NOT NULL) STRICT;
    CREATE TABLE places (
        folder TEXT NOT NULL, place BLOB NOT NULL, mtime_ns INTEGER NOT NULL, PRIMARY KEY (folder, place)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE structures (key BLOB PRIMARY KEY, told TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE files (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        folder TEXT NOT NULL, parent BLOB NOT NULL, place BLOB NOT NULL, id TEXT NOT NULL,
        file_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, created TEXT NOT NULL,
        beside TEXT NOT NULL, cover BLOB NOT NULL,
        facts TEXT NOT NULL DEFAULT '', data_bytes INTEGER NOT NULL DEFAULT 0, embedded INTEGER NOT NULL DEFAULT 0,
        told_hash TEXT NOT NULL DEFAULT '', tensor_hash TEXT NOT NULL DEFAULT '', file_hash TEXT NOT NULL DEFAULT '',
        hash_problem INTEGER NOT NULL DEFAULT 0, gone INTEGER NOT NULL DEFAULT 0, hidden INTEGER NOT NULL DEFAULT 0,
        stem TEXT NOT NULL, name TEXT NOT NULL, alias TEXT NOT NULL DEFAULT '',
        trigger TEXT NOT NULL DEFAULT '', family TEXT NOT NULL DEFAULT '',
        families TEXT NOT NULL DEFAULT '', kind TEXT NOT NULL DEFAULT '', dialect TEXT NOT NULL DEFAULT '',
        rank INTEGER NOT NULL DEFAULT 0, modules INTEGER NOT NULL DEFAULT 0, run TEXT NOT NULL DEFAULT '',
        problem TEXT NOT NULL DEFAULT '', description TEXT NOT NULL DEFAULT '', notes TEXT NOT NULL DEFAULT '',
        tags TEXT NOT NULL DEFAULT '', weight REAL NOT NULL DEFAULT 0, favourite INTEGER NOT NULL DEFAULT 0,
        words TEXT NOT NULL DEFAULT '',
        UNIQUE (folder, place)
    ) STRICT;
    CREATE INDEX files_id ON files (id);
    CREATE INDEX files_parent ON files (folder, parent);
    CREATE INDEX files_created ON files (created);
    CREATE INDEX files_name ON files (name COLLATE NOCASE);
    CREATE INDEX files_unread ON files (n) WHERE facts = '';
    CREATE INDEX files_covered ON files (n) WHERE embedded = 1;
    CREATE INDEX files_gone ON files (folder) WHERE gone = 1;
    CREATE INDEX files_tensor_hash ON files (tensor_hash);
    CREATE INDEX files_data_bytes ON files (data_bytes)
"""
TRIGRAMS = (
    "CREATE VIRTUAL TABLE found USING fts5(words, content='files', content_rowid='n', tokenize='trigram case_sensitive 1')",
    "CREATE TRIGGER found_new AFTER INSERT ON files BEGIN INSERT INTO found(rowid, words) VALUES (new.n, new.words); END",
    "CREATE TRIGGER found_old AFTER DELETE ON files BEGIN "
    "INSERT INTO found(found, rowid, words) VALUES ('delete', old.n, old.words); END",
    "CREATE TRIGGER found_changed AFTER UPDATE OF words ON files WHEN old.words != new.words BEGIN "
    "INSERT INTO found(found, rowid, words) VALUES ('delete', old.n, old.words); "
    "INSERT INTO found(rowid, words) VALUES (new.n, new.words); END")
checked: set[tuple[str, int]] = set()  # (path, inode) of index files that this process has checked


class Busy(UserError):
    """Another process was writing for longer than WAIT_SECONDS."""


def index_path() -> Path:
    return home() / "library.sqlite"


@contextmanager
def connected() -> Iterator[sqlite3.Connection]:
    """Yield a connection to the index, which is created when it is missing, damaged or old. Cheap, one per call.

    Raises Busy and UserError; an index that turns out damaged while in use is removed, so that the next call creates it.
    """
    path = index_path()
    try:
        prepare(path)
        with closing(opened(path)) as db:
            yield db
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            raise
        code = code_of(error)
        if code in (BUSY, LOCKED):
            raise Busy("The list of the shelf is being written by another window.", "Try again in a moment.") from error
        if code in (CORRUPT, NO_DATABASE):
            remove_index(path, error)
            raise UserError("The list of the shelf was damaged and is made again.",
                            "Try again: your files are untouched.") from error
        raise sqlite_error(error, path) or UserError(f"The list of the shelf {path} could not be used ({error}).",
                                                          "Try again.") from error


@contextmanager
def writing() -> Iterator[sqlite3.Connection]:
    """Yield a connection in a short transaction that holds the write lock from its start."""
    with connected() as db:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")


def opened(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def code_of(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 where the error has none."""
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def prepare(path: Path) -> None:
    """Check the index once per process, and create it where none can be used."""
    if path.is_file() and (str(path), path.stat().st_ino) in checked:
        return
    try:
        with FileLock(path.with_suffix(".lock"), timeout=60):
            if path.is_file() and (reason := unusable(path)):
                remove_index(path, reason)
            if not path.exists():
                create_index(path)
            checked.add((str(path), path.stat().st_ino))
    except Timeout as error:
        raise Busy("The list of the shelf is being made again by another window.", "Try again in a moment.") from error
    except OSError as error:
        raise disk_error(error, path) from error


def unusable(path: Path) -> str:
    """Return why an index must be created again; "" for a sound one. What another version read from the headers is dropped.

    Raises UserError for an index that a newer sdlora made.
    """
    try:
        with closing(opened(path)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise UserError("The list of the shelf was written by a newer sdlora.", "Update sdlora: pip install -U sdlora")
            if version < VERSION:
                return "it is of an older version"
            result = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            db.execute("SELECT 1 FROM files, places, structures LIMIT 0")
            if result == "ok" and db.execute("SELECT sdlora FROM about").fetchone() != (__version__,):
                for statement in ("BEGIN IMMEDIATE", "UPDATE files SET facts = ''", "DELETE FROM structures",
                                  f"UPDATE about SET sdlora = '{__version__}'", "COMMIT"):
                    db.execute(statement)
            return "" if result == "ok" else result
    except sqlite3.DatabaseError as error:
        if code_of(error) in (CORRUPT, NO_DATABASE) or "no such" in str(error):
            return str(error)
        raise


def create_index(path: Path) -> None:
    """Create an empty index, all or nothing."""
    with closing(opened(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.split(";"):
            db.execute(statement)
        db.execute("INSERT INTO about VALUES (?)", (__version__,))
        if has_trigrams():
            for statement in TRIGRAMS:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")


def has_trigrams() -> bool:
    """Return whether this SQLite has FTS5 with the trigram tokenizer (3.34 and newer, where it was built in)."""
    with closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute(TRIGRAMS[0].replace("content='files', content_rowid='n', ", ""))
        except sqlite3.OperationalError:
            return False
    return True


def remove_index(path: Path, reason: object) -> None:
    """Remove an index that cannot be used; all it holds is read from the files again."""
    logging.getLogger("sdlora").warning("The index of the shelf is made again: %s", reason)
    checked.discard((str(path), path.stat().st_ino) if path.exists() else ("", 0))
    try:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} is damaged and cannot be removed ({error.strerror}).", "Close sdlora and remove it.") from error


def folded(text: str) -> str:
    """Return text as it is searched: without case and accents."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not unicodedata.combining(c))


def words_condition(db: sqlite3.Connection, query: str) -> tuple[str, list[str]]:
    """Return (SQL condition, its values) for rows in which every word of `query` occurs."""
    words = folded(clean_text(query, 200)).split()
    indexed = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'found'").fetchone()
    long = [word for word in words if indexed and len(word) >= TRIGRAM]
    parts, values = [], []
    if long:
        parts.append("n IN (SELECT rowid FROM found WHERE found MATCH ?)")
        values.append(" AND ".join('"' + word.replace('"', '""') + '"' for word in long))
    for word in words:
        if word not in long:
            parts.append("instr(words, ?)")
            values.append(word)
    return " AND ".join(parts) or "1", values
