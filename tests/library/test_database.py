"""The index may be lost, damaged, old or busy: the shelf is the same afterwards."""

import logging
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sdlora.errors import UserError
from sdlora.library import database, edit, scan, search
from sdlora.storage import data_folder, home
from tests.library.files import lora

ROOT = Path(__file__).parents[2]


@pytest.fixture
def entry():
    lora(data_folder("loras") / "a.safetensors", {"modelspec.title": "A"})
    return edit.annotate("a", notes="kept", favourite=True)


DAMAGE = {
    "text": lambda path: path.write_text("this is no database, only a text that somebody wrote"),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "zeros in the middle": lambda path: path.write_bytes(path.read_bytes()[:4096] + bytes(8192) + path.read_bytes()[12288:]),
    "gone": lambda path: path.unlink(),
    "other tables": lambda path: run_sql(path, "DROP TABLE files"),
    "older": lambda path: run_sql(path, "PRAGMA user_version = 0"),
}


def run_sql(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def settle():
    """Bring the write-ahead log into the file, and forget that this process looked it through."""
    run_sql(database.index_path(), "PRAGMA wal_checkpoint(TRUNCATE)")
    database.checked.clear()


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_index_is_made_anew_and_nothing_is_lost(entry, how, caplog):
    settle()
    with caplog.at_level(logging.WARNING, "sdlora"):
        DAMAGE[how](database.index_path())
        database.checked.clear()
        again, = search.list_loras()
    assert (again.id, again.name, again.notes, again.favourite) == ("a", "A", "kept", True)
    assert how == "gone" or "made again" in caplog.text


def test_an_index_that_breaks_in_use_is_a_sentence_once(entry):
    settle()
    search.list_loras()
    content = database.index_path().read_bytes()
    with database.index_path().open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(len(content) - 4096))
    for suffix in ("-wal", "-shm"):
        database.index_path().with_name(database.index_path().name + suffix).unlink(missing_ok=True)
    for _ in range(2):
        try:
            found = search.list_loras()
        except UserError as refused:
            assert "made again" in refused.message
    assert [e.notes for e in found] == ["kept"]


def test_an_index_of_a_newer_version_is_left_alone(entry):
    settle()
    run_sql(database.index_path(), "PRAGMA user_version = 99")
    database.checked.clear()
    with pytest.raises(UserError, match="newer sdlora"):
        search.list_loras()
    assert database.index_path().stat().st_size > 0


def test_what_another_version_understood_is_read_again(entry):
    list(scan.hash_files())
    settle()
    run_sql(database.index_path(), "UPDATE about SET sdlora = '0.0.1'", "UPDATE files SET name = 'stale'")
    database.checked.clear()
    again, = search.list_loras()
    assert again.name == "A" and again.notes == "kept" and len(again.hash) == 64


def test_a_folder_in_its_place_is_a_sentence(own_home):
    (home() / "library.sqlite").mkdir()
    with pytest.raises(UserError, match=r"library\.sqlite"):
        search.list_loras()


def test_a_listing_does_not_wait_for_a_writer(entry, monkeypatch):
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.05)
    with closing(sqlite3.connect(database.index_path(), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        lora(data_folder("loras") / "b.safetensors")
        assert [e.id for e in search.list_loras()] == ["a"]                 # as it was, at once
        with pytest.raises(database.Busy):
            edit.delete("a")
        other.execute("ROLLBACK")
    assert {e.id for e in search.list_loras()} >= {"b"}


def test_many_processes_at_once(entry):
    code = ("import sys; from sdlora.library import edit, search\n"
            "for number in range(4):\n"
            "    name = f'{sys.argv[1]}-{number}'\n"
            "    edit.annotate('a', **{'weight': 1.5} if sys.argv[1] == 'x' else {'tags': ['y']})\n"
            "    search.list_loras(name); edit.annotate(name, notes=name)\n")
    for who in "xy":
        for number in range(4):
            lora(data_folder("loras") / f"{who}-{number}.safetensors")
    running = [subprocess.Popen([sys.executable, "-c", code, who], cwd=ROOT, stderr=subprocess.PIPE) for who in "xy"]
    said = [process.communicate(timeout=120)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert sorted(e.notes for e in search.list_loras() if e.id != "a") == sorted(f"{who}-{n}" for who in "xy" for n in range(4))
    both = search.find("a")
    assert (both.notes, both.weight, both.tags, both.favourite) == ("kept", 1.5, ("y",), True)
