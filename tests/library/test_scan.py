"""Reading headers: it may be stopped and goes on, tells how far it is, and a page never waits for thousands of files."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from sdlora.library import background, facts, index, scan
from sdlora.storage import data_folder
from tests.library.files import lora


@pytest.fixture
def many():
    """200 files of two structures."""
    one = lora(data_folder("loras") / "0.safetensors", {"modelspec.title": "One"})
    two = lora(data_folder("loras") / "1.safetensors", width=2048)
    for number in range(2, 200):
        shutil.copyfile(two if number % 2 else one, data_folder("loras") / f"{number}.safetensors")


def test_a_scan_tells_how_far_it_is_stops_and_goes_on(many, monkeypatch):
    steps = index.scan()
    first = next(steps)
    assert (first.stage, first.done, first.total) == ("headers", scan.BATCH, 200) and first.name
    steps.close()
    assert index.state().unread == 200 - scan.BATCH
    read = []
    monkeypatch.setattr(scan, "read_row", lambda *row, real=scan.read_row: read.append(row[1]) or real(*row))
    steps = list(index.scan())
    assert [step.done for step in steps] == [64, 128, 136] and len(read) == 136 and index.state().unread == 0
    assert list(index.scan()) == [] and len(read) == 136                      # nothing is read twice


def test_a_scan_ends_in_time(many):
    assert [step.done for step in index.scan(seconds=0)] == []
    assert index.state().unread == 200


def test_a_listing_shows_what_is_not_read_yet_and_leaves_it_to_a_process(many, monkeypatch):
    started = []
    monkeypatch.setattr(scan, "AT_ONCE_SECONDS", 0.0)
    monkeypatch.setattr(background, "start", lambda: started.append(1))
    found = index.list_loras(sort="name")
    assert len(found) == 200 and started and {entry.name for entry in found} >= {"0", "1", "199"}
    assert all(entry.problem == "" and entry.family == "" for entry in found)
    assert [entry.id for entry in index.list_loras("199")] == ["199"]


def test_a_few_new_files_are_read_at_once_even_beside_a_long_hashing(many, monkeypatch):
    list(index.scan())
    lora(data_folder("loras") / "new.safetensors", {"modelspec.title": "New"})
    with background.alone():
        assert "New" in {entry.name for entry in index.list_loras()}
        for number in range(300, 300 + scan.BATCH + 1):
            shutil.copyfile(data_folder("loras") / "0.safetensors", data_folder("loras") / f"{number}.safetensors")
        assert len(index.list_loras()) == 201 + scan.BATCH + 1 and index.state().unread == scan.BATCH + 1
    monkeypatch.setattr(background, "start", lambda: None)
    assert index.list_loras() and index.state().unread == 0


def test_the_process_reads_and_hashes_and_there_is_one(many):
    assert background.start() and not background.start() and index.state().busy
    process = background.started[scan.home()]
    assert process.wait(timeout=120) == 0
    state = index.state()
    assert (state.files, state.unread, state.unhashed, state.busy) == (200, 0, 0, False)
    assert {entry.name for entry in index.list_loras()} >= {"One"} and len(index.duplicates()) == 2


def test_two_processes_do_not_do_the_same_work(many):
    with background.alone() as mine:
        assert mine and background.is_running()
        subprocess.run([sys.executable, "-m", "sdlora", "library", "scan", "--background"], check=True, timeout=120)
        assert index.state().files == 0
    assert not background.is_running()


def test_a_structure_is_understood_once(many, monkeypatch):
    understood = []
    monkeypatch.setattr(facts, "understood", lambda *a, real=facts.understood: understood.append(a) or real(*a))
    list(index.scan())
    assert len(understood) == 2
    assert {(entry.family, entry.rank, entry.kind, entry.modules) for entry in index.list_loras()} == {
        ("sd1", 2, "LoRA", 1), ("sdxl", 2, "LoRA", 1)}


def test_a_file_that_goes_away_while_it_is_read(many, monkeypatch):
    def vanish(folder, where, beside, known, real=scan.read_row):
        if where == b"7.safetensors":
            (folder.path / "7.safetensors").unlink(missing_ok=True)
        return real(folder, where, beside, known)
    monkeypatch.setattr(scan, "read_row", vanish)
    list(index.scan())
    assert len(index.list_loras()) == 199


def test_a_file_that_changes_while_it_is_read_is_read_again(many, monkeypatch):
    def change(folder, where, beside, known, real=scan.read_row):
        columns = real(folder, where, beside, known)
        if where == b"7.safetensors" and not changed:
            changed.append(1)
            lora(folder.path / "7.safetensors", {"modelspec.title": "Changed"})
            time.sleep(0.01)
        return columns
    changed = []
    monkeypatch.setattr(scan, "read_row", change)
    list(index.scan())
    assert index.find("7").name == "Changed"


@pytest.mark.skipif(sys.platform != "linux", reason="only there may the name of a file be no text")
def test_a_broken_file_whose_name_is_no_text_is_listed():
    lora(data_folder("loras") / "whole.safetensors")
    with open(os.fsencode(data_folder("loras")) + b"/\xff broken.safetensors", "wb") as file:  # noqa: PTH123  pathlib takes no bytes
        file.write(b"this is no safetensors file")
    list(index.scan())
    problems = {entry.name: entry.problem for entry in index.list_loras()}
    assert problems.pop("whole") == "" and "broken.safetensors" in problems.popitem()[1]
