"""What was added, removed, changed or moved by hand is seen at the next listing, and a large shelf is not asked file by file."""

import os
import shutil
import threading
import time

import pytest

from sdlora.library import changes, database, edit, folders, scan, search
from sdlora.storage import data_folder
from tests.library.files import beside, lora


@pytest.fixture
def large(monkeypatch, tmp_path):
    """A foreign folder that counts as a large shelf, long at rest; full looks only when asked for."""
    monkeypatch.setattr(scan, "SMALL", 0)
    monkeypatch.setattr(scan, "FULL_EVERY_SECONDS", 1e9)
    for name in ("a", "sub/b", "sub/deep/c", "other/d"):
        lora(tmp_path / "Lora" / f"{name}.safetensors")
    old = time.time() - 100
    for path in [data_folder("loras"), tmp_path / "Lora", *(tmp_path / "Lora").rglob("*")]:
        os.utime(path, (old, old))
    folder = folders.add_folder(tmp_path / "Lora")
    list(scan.scan_library())
    scan.full_checks[scan.home()] = time.monotonic()
    return folder


def names():
    return sorted(entry.path.stem for entry in search.list_loras())


def test_a_look_at_rest_opens_no_folder(large, monkeypatch):
    asked = []
    monkeypatch.setattr(changes, "list_directory", lambda root, where: asked.append(where) or ([], []))
    assert names() == ["a", "b", "c", "d"] and asked == []


def test_added_removed_and_renamed_files_are_seen_at_once(large):
    lora(large.path / "sub" / "new.safetensors")
    assert names() == ["a", "b", "c", "d", "new"]
    (large.path / "a.safetensors").unlink()
    (large.path / "sub" / "b.safetensors").rename(large.path / "sub" / "e.safetensors")
    assert names() == ["c", "d", "e", "new"]
    lora(large.path / "fresh" / "er" / "f.safetensors")
    shutil.rmtree(large.path / "sub")
    assert names() == ["d", "f"]
    shutil.rmtree(large.path / "fresh" / "er")
    assert names() == ["d"]


def test_two_changes_within_one_tick_of_the_clock_are_both_seen(large):
    for name in ("x", "y"):
        lora(large.path / "other" / f"{name}.safetensors")
        now = time.time()
        os.utime(large.path / "other", (now, now))
        assert name in names()
        os.utime(large.path / "other", (now, now))


def test_a_file_written_in_place_is_seen_by_the_look_beside(large, monkeypatch):
    file = large.path / "a.safetensors"
    with file.open("r+b") as handle:
        handle.write(lora(large.path.parent / "z.safetensors", {"modelspec.title": "New"}).read_bytes())
    assert "New" not in [entry.name for entry in search.list_loras()]
    monkeypatch.setattr(scan, "FULL_EVERY_SECONDS", 0)
    deadline = time.monotonic() + 10
    while "New" not in [entry.name for entry in search.list_loras()] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "New" in [entry.name for entry in search.list_loras()]
    while scan.checking.locked() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_what_was_made_from_the_bytes_goes_with_them():
    file = lora(data_folder("loras") / "a.safetensors")
    list(scan.hash_files())
    known = search.find("a").hash
    beside(file, ".json", {"notes": "only a note"})
    assert search.find("a").hash == known and search.find("a").notes == "only a note"
    lora(file, value=0.25)
    assert search.find("a").hash == ""
    list(scan.hash_files())
    assert search.find("a").hash not in ("", known)


def test_hidden_files_and_folders_and_other_files_are_not_listed():
    for name in (".hidden.safetensors", ".cache/x.safetensors", "notes.txt", "model.ckpt", "folder.safetensors/inner.txt"):
        file = data_folder("loras") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    assert search.list_loras() == []


def test_our_own_folder_may_have_folders_too():
    lora(data_folder("loras") / "a.safetensors")
    lora(data_folder("loras") / "set" / "a.safetensors")
    found = search.list_loras()
    assert len({entry.id for entry in found}) == 2 and "a" in {entry.id for entry in found}
    inner = next(entry for entry in found if entry.id != "a")
    edit.annotate(inner.id, notes="inner")
    assert search.find(inner.id).notes == "inner" and search.find("a").notes == ""
    edit.delete(inner.id)
    assert [entry.id for entry in search.list_loras()] == ["a"]
    assert edit.undo_delete(inner.id).path == data_folder("loras") / "set" / "a.safetensors"


def test_looks_at_the_same_time_agree(large):
    for number in range(20):
        lora(large.path / "other" / f"{number}.safetensors")
    own = folders.find_folder(large.id)
    threads = [threading.Thread(target=changes.update_folder, args=(own,), kwargs={"full": True}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.connected() as db:
        assert db.execute("SELECT count(*), count(DISTINCT place) FROM files").fetchone() == (24, 24)
