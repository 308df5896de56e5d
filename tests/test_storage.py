"""Names that cannot escape, and files that are whole or not there: killed at every point, failing at every call."""

import contextlib
import errno
import itertools
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdlora import storage
from sdlora.errors import DiskFull, UserError
from sdlora.storage import (
    clean_text,
    confine,
    open_regular,
    read_json,
    remove_temporaries,
    slug,
    write_atomic,
    write_json,
)

ROOT = Path(__file__).parents[1]
POINTS = ("before-fsync", "before-rename", "after-rename")
ANY_TEXT = st.text(st.characters(), max_size=100)  # surrogates, controls and all
RESERVED = {"con", "prn", "aux", "nul"} | {f"{n}{d}" for n in ("com", "lpt") for d in range(10)}


@given(ANY_TEXT)
@settings(max_examples=500, deadline=None)
def test_a_slug_is_a_safe_file_name_everywhere(name):
    made = slug(name)
    assert re.fullmatch(r"[a-z0-9-]{1,64}", made) and made.split(".")[0] not in RESERVED and made == slug(name)


@pytest.mark.parametrize("one, other", [("🦊", "🐱"), ("名前", "名"), ("con", "CON "), ("<b>", "<i>"), ("Ж", "Д")])
def test_names_that_lose_their_letters_are_told_apart(one, other):
    assert slug(one) != slug(other)


def test_plain_names_stay_readable():
    assert slug("Stained Glass") == "stained-glass" and slug("Änne's Katzen") == "anne-s-katzen"


@given(ANY_TEXT, st.integers(1, 50))
@settings(max_examples=500, deadline=None)
def test_clean_text_is_one_visible_line_and_stays_as_it_is(text, limit):
    clean = clean_text(text, limit)
    assert len(clean) <= limit and clean_text(clean, limit) == clean
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Co", "Zl", "Zp") for c in clean)
    assert not set(clean) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    clean.encode("utf-8")


def test_clean_text_knows_both_forms_of_a_letter_and_joined_emoji():
    assert clean_text("e\u0301") == "\u00e9" and clean_text("👩\u200d🎨") == "👩\u200d🎨"
    assert clean_text("می\u200cخواهم") == "می\u200cخواهم" and clean_text("\u200d \u200c\u200b") == ""


PARTS = st.sampled_from(["..", ".", "a", "b.png", "", "/", "\\", "~", "%2e%2e", "...", "c:", "\0", "a\u202eb", "x" * 40])


@given(st.one_of(st.lists(PARTS, max_size=6).map("/".join), ANY_TEXT))
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_confine_stays_inside_or_refuses(tmp_path, name):
    with contextlib.suppress(UserError):
        assert confine(tmp_path, name).is_relative_to(tmp_path.resolve())


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "nul\0", "link/x", "x" * 300 + "/../../../x"])
def test_confine_refuses_what_leads_out(tmp_path, name):
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="is not inside inside"):
        confine(tmp_path / "inside", name)


def crashing(path, point, code="write_atomic(Path(sys.argv[1]), b'new' * 100000)"):
    """Run `code` in a process that dies at `point`."""
    program = f"import sys; from pathlib import Path; from sdlora.storage import write_atomic, write_json; {code}"
    return subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT, env={**os.environ, "SDLORA_CRASH_AT": point},
                          timeout=60).returncode


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_point_the_file_is_old_or_new(tmp_path, point):
    path = tmp_path / "a.bin"
    for old in (None, b"old" * 1000):
        if old:
            path.write_bytes(old)
        assert crashing(path, point) != 0
        now = path.read_bytes() if path.exists() else None
        assert now == (b"new" * 100000 if point == "after-rename" else old)
        path.unlink(missing_ok=True)
    leftovers = list(tmp_path.glob(f"{storage.TEMPORARY}*"))
    assert (len(leftovers) == 2) == (point != "after-rename"), "a kill before the rename leaves its temporary"
    assert remove_temporaries(tmp_path, older_than_seconds=-1) == len(leftovers) and list(tmp_path.iterdir()) == []


def test_without_a_crash_point_it_runs_through(tmp_path):
    assert crashing(tmp_path / "a.bin", "nowhere") == 0 and (tmp_path / "a.bin").stat().st_size == 300000


def test_every_crash_point_of_the_project_is_known():
    """A new crash point needs a test: this list is what the tests above and those of its owner go through."""
    found = set()
    for file in (ROOT / "sdlora").rglob("*.py"):
        found |= set(re.findall(r'(?<!def )crash_point\("([^"]+)"\)', file.read_text(encoding="utf-8")))
    assert set(POINTS) <= found


@contextlib.contextmanager
def fail_nth(monkeypatch, n, persistent):
    """The n-th of open, write_bytes, fsync, replace (and, if persistent, all after it) raises EIO."""
    state = {"calls": 0, "fired": False}

    def wrapped(original):
        def call(*args, **kwargs):
            state["calls"] += 1
            if state["calls"] == n or (persistent and state["calls"] > n):
                state["fired"] = True
                raise OSError(errno.EIO, "test")
            return original(*args, **kwargs)
        return call
    with monkeypatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "open"), (Path, "write_bytes"), (Path, "open"), (Path, "mkdir")):
            patch.setattr(owner, name, wrapped(getattr(owner, name)))
        yield state


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("writer", [b"new" * 5000, lambda path: path.write_bytes(b"new" * 5000)])
def test_every_failing_call_leaves_the_old_or_the_new_file(tmp_path, monkeypatch, persistent, writer):
    path, seen = tmp_path / "folder" / "a.bin", []
    for n in itertools.count(1):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"old")
        with fail_nth(monkeypatch, n, persistent) as state:
            try:
                write_atomic(path, writer)
                said = ""
            except UserError as error:
                said = error.message
        assert path.read_bytes() in (b"old", b"new" * 5000)
        assert list(path.parent.glob(f"{storage.TEMPORARY}*")) == []
        if not state["fired"]:
            assert said == "" and path.read_bytes() == b"new" * 5000
            break
        assert "a.bin could not be written" in said
        seen.append(path.read_bytes())
    assert len(seen) >= 5 and b"old" in seen


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    """RLIMIT_FSIZE stands in for a full disk: a real short write in a real process."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    code = """
import resource, signal, sys
from pathlib import Path
from sdlora.errors import UserError
from sdlora.storage import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), b"x" * 100_000)
except UserError as error:
    sys.exit(7 if "could not be written" in str(error) and error.hint else 1)
"""
    assert subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, timeout=60).returncode == 7
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_random_kills_leave_no_broken_file(tmp_path):
    """Each kill hits a loop that overwrites one file as fast as it can."""
    path = tmp_path / "a.json"
    code = ("import sys, itertools; from pathlib import Path; from sdlora.storage import write_json\n"
            "for n in itertools.count(): write_json(Path(sys.argv[1]), {'n': n, 'text': 'x' * 50_000, 'end': n})")
    for pause in (0.0, 0.003, 0.011, 0.017, 0.029):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(pause)
        process.kill()
        process.wait()
        kept = json.loads(path.read_text())
        assert kept["n"] == kept["end"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_hold_files_is_a_sentence(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="could not be written"):
        write_atomic(tmp_path / place / "x.png", b"new")
    assert (tmp_path / "file").read_text() == "in the way"


def test_json_round_trip_and_its_refusals(tmp_path):
    value = {"a": [1, 2.5, None, "ä\u2028"]}
    assert read_json(write_json(tmp_path / "a.json", value)) == value
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()
    for damage in (b"{", b"\xff", b""):
        (tmp_path / "a.json").write_bytes(damage)
        with pytest.raises(UserError, match="a.json could not be read"):
            read_json(tmp_path / "a.json")
    with pytest.raises(UserError):
        read_json(tmp_path / "gone.json")


def test_nested_json_that_exhausts_the_parser_is_a_user_error(tmp_path):
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="could not be read"):
        read_json(tmp_path / "a.json")


def test_sweep_takes_only_our_old_leftovers(tmp_path):
    mine, young, theirs = tmp_path / "d" / f"{storage.TEMPORARY}1", tmp_path / f"{storage.TEMPORARY}2", tmp_path / "theirs.tmp"
    for file in (mine, young, theirs):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    os.utime(mine, (time.time() - 7200,) * 2)
    assert remove_temporaries(tmp_path) == 1 and young.exists() and theirs.exists() and not mine.exists()


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    def broken(folder):
        (folder / "a").write_text("1")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="The disk is full"):
        storage.write_folder(tmp_path / "out", broken)
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "home"])
    made = storage.write_folder(tmp_path / "out", lambda folder: (folder / "a").write_text("2"))
    assert [file.read_text() for file in made.iterdir()] == ["2"]
    with pytest.raises(UserError, match="already"):
        storage.write_folder(made, lambda folder: (folder / "a").write_text("3"))
    assert (made / "a").read_text() == "2"
    old = tmp_path / f"{storage.TEMPORARY}9"
    storage.write_folder(old, lambda folder: (folder / "a").touch())
    os.utime(old, (time.time() - 7200,) * 2)
    assert remove_temporaries(tmp_path) == 1 and not old.exists()


def test_home_is_where_it_was_asked_for(own_home, monkeypatch, tmp_path):
    assert storage.home() == own_home and storage.data_folder("runs", "a").is_dir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("SDLORA_HOME", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="cannot be made"):
        storage.home()


def test_what_ships_is_found():
    assert storage.shipped("presets", "quick.toml").is_file()


def test_an_ordinary_file_is_opened_also_through_a_link(tmp_path):
    file, link = tmp_path / "a.txt", tmp_path / "link.txt"
    file.write_bytes(b"green")
    link.symlink_to(file)
    for path in (file, link, str(file)):
        with open_regular(path) as handle:
            assert handle.read() == b"green"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX file kinds")
@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder", "self", "circle", "missing", "nul", "half a letter"])
def test_what_is_no_ordinary_file_is_an_oserror_at_once(tmp_path, kind):
    path = {"device": Path("/dev/zero"), "nul": Path("a\0b"), "half a letter": Path("\ud800")}.get(kind, tmp_path / "x.png")
    with contextlib.ExitStack() as stack:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        elif kind == "folder":
            path.mkdir()
        elif kind in ("self", "circle"):
            other = path if kind == "self" else tmp_path / "y.png"
            path.symlink_to(other)
            other.is_symlink() or other.symlink_to(path)
        began = time.monotonic()
        with pytest.raises(OSError):
            open_regular(path)
    assert time.monotonic() - began < 1


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX file kinds")
def test_a_file_exchanged_for_a_pipe_after_the_first_look_is_refused(tmp_path, monkeypatch):
    path, real = tmp_path / "x.png", os.open
    path.write_bytes(b"picture")

    def exchanged(target, flags, *rest, **more):
        path.unlink()
        os.mkfifo(path)
        return real(target, flags, *rest, **more)

    monkeypatch.setattr(os, "open", exchanged)
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else None
    with pytest.raises(OSError, match="not an ordinary file"):
        open_regular(path)
    assert before is None or len(list(Path("/proc/self/fd").iterdir())) == before


def sqlite_error(statement, *before, path=":memory:"):
    """The error that SQLite itself raises for a statement."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for each in before:
            db.execute(each)
        try:
            db.execute(statement)
        except sqlite3.Error as error:
            return error
    raise AssertionError("it was done")


def test_a_database_that_finds_no_room_says_that_the_disk_is_full(tmp_path):
    filled = "INSERT INTO t VALUES (zeroblob(100000))"
    error = sqlite_error(filled, "PRAGMA max_page_count = 3", "CREATE TABLE t (x)")
    told = storage.sqlite_error(error, tmp_path / "jobs.sqlite")
    assert isinstance(told, DiskFull) and "The disk is full" in told.message and "damaged" not in str(told)


def test_a_read_only_database_is_named_as_such(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "a.sqlite")) as db:
        db.execute("CREATE TABLE t (x)")
    error = sqlite_error("INSERT INTO t VALUES (1)", "PRAGMA query_only = 1", path=tmp_path / "a.sqlite")
    assert "read-only" in storage.sqlite_error(error, tmp_path / "a.sqlite").message
    missing = sqlite_error("SELECT * FROM nothing")
    assert storage.sqlite_error(missing, tmp_path / "a.sqlite") is None


@pytest.mark.parametrize(("number", "kind", "says"), [
    (errno.ENOSPC, DiskFull, "disk is full"), (errno.EROFS, UserError, "cannot be written"),
    (errno.EIO, UserError, "could not be written")])
def test_what_the_disk_refuses_is_a_sentence(tmp_path, number, kind, says):
    def refuse(path):
        raise OSError(number, os.strerror(number))
    with pytest.raises(UserError, match=says) as caught:
        storage.write_atomic(tmp_path / "a.txt", refuse)
    assert type(caught.value) is kind


def test_the_cache_lets_go_of_what_was_not_used_for_the_longest_time(own_home):
    for number, name in enumerate(("latents/old", "captions/middle", "latents/new")):
        file = storage.data_folder("cache", name.split("/")[0]) / name.split("/")[1]
        file.write_bytes(bytes(1000))
        os.utime(file, (1000 + number, 1000 + number))
    unpacked = storage.data_folder("cache", "zips", "a")
    (unpacked / "1.png").write_bytes(bytes(500))
    os.utime(unpacked, (1, 1))
    assert storage.prune_cache(10_000) == 0
    assert storage.prune_cache(2000) == 1500 and not unpacked.exists()
    assert sorted(path.name for path, _, _ in storage.cache_entries()) == ["middle", "new"]
