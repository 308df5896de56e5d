"""Scans can be stopped and continue; embedded covers are saved, hostile ones left out; hashes are those of other programs."""

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from PIL import Image
from safetensors.numpy import save_file

from sdlora.library import facts, scan, search
from sdlora.lora.formats.header import header
from sdlora.storage import data_folder
from tests.library.files import lora, tensors


@pytest.fixture
def many():
    """200 files of two structures."""
    one = lora(data_folder("loras") / "0.safetensors", {"modelspec.title": "One"})
    two = lora(data_folder("loras") / "1.safetensors", width=2048)
    for number in range(2, 200):
        shutil.copyfile(two if number % 2 else one, data_folder("loras") / f"{number}.safetensors")


def test_a_scan_tells_how_far_it_is_stops_and_goes_on(many, monkeypatch):
    steps = scan.scan_library()
    first = next(steps)
    assert (first.stage, first.done, first.total) == ("headers", scan.BATCH, 200) and first.name
    steps.close()
    assert search.state().unread == 200 - scan.BATCH
    read = []
    monkeypatch.setattr(scan, "read_row", lambda *row, real=scan.read_row: read.append(row[1]) or real(*row))
    steps = list(scan.scan_library())
    assert [step.done for step in steps] == [64, 128, 136] and len(read) == 136 and search.state().unread == 0
    assert list(scan.scan_library()) == [] and len(read) == 136                      # nothing is read twice


def test_a_scan_ends_in_time(many):
    assert [step.done for step in scan.scan_library(seconds=0)] == []
    assert search.state().unread == 200


def test_a_listing_shows_what_is_not_read_yet_and_leaves_it_to_a_process(many, monkeypatch):
    started = []
    monkeypatch.setattr(scan, "AT_ONCE_SECONDS", 0.0)
    monkeypatch.setattr(scan, "start_background", lambda: started.append(1))
    found = search.list_loras(sort="name")
    assert len(found) == 200 and started and {entry.name for entry in found} >= {"0", "1", "199"}
    assert all(entry.problem == "" and entry.family == "" for entry in found)
    assert [entry.id for entry in search.list_loras("199")] == ["199"]


def test_a_few_new_files_are_read_at_once_even_beside_a_long_hashing(many, monkeypatch):
    list(scan.scan_library())
    lora(data_folder("loras") / "new.safetensors", {"modelspec.title": "New"})
    with scan.background_lock():
        assert "New" in {entry.name for entry in search.list_loras()}
        for number in range(300, 300 + scan.BATCH + 1):
            shutil.copyfile(data_folder("loras") / "0.safetensors", data_folder("loras") / f"{number}.safetensors")
        assert len(search.list_loras()) == 201 + scan.BATCH + 1 and search.state().unread == scan.BATCH + 1
    monkeypatch.setattr(scan, "start_background", lambda: None)
    assert search.list_loras() and search.state().unread == 0


def test_the_process_reads_and_hashes_and_there_is_one(many):
    assert scan.start_background() and not scan.start_background() and search.state().busy
    process = scan.background[scan.home()]
    assert process.wait(timeout=120) == 0
    state = search.state()
    assert (state.files, state.unread, state.unhashed, state.busy) == (200, 0, 0, False)
    assert {entry.name for entry in search.list_loras()} >= {"One"} and len(search.duplicates()) == 2


def test_two_processes_do_not_do_the_same_work(many):
    with scan.background_lock() as mine:
        assert mine and scan.background_is_running()
        subprocess.run([sys.executable, "-m", "sdlora", "library", "scan", "--background"], check=True, timeout=120)
        assert search.state().files == 0
    assert not scan.background_is_running()


def test_a_structure_is_understood_once(many, monkeypatch):
    understood = []
    monkeypatch.setattr(facts, "layout", lambda *a, real=facts.layout: understood.append(a) or real(*a))
    list(scan.scan_library())
    assert len(understood) == 2
    assert {(entry.family, entry.rank, entry.kind, entry.modules) for entry in search.list_loras()} == {
        ("sd1", 2, "LoRA", 1), ("sdxl", 2, "LoRA", 1)}


def test_a_file_that_goes_away_while_it_is_read(many, monkeypatch):
    def vanish(folder, where, beside, known, real=scan.read_row):
        if where == b"7.safetensors":
            (folder.path / "7.safetensors").unlink(missing_ok=True)
        return real(folder, where, beside, known)
    monkeypatch.setattr(scan, "read_row", vanish)
    list(scan.scan_library())
    assert len(search.list_loras()) == 199


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
    list(scan.scan_library())
    assert search.find("7").name == "Changed"


@pytest.mark.skipif(sys.platform != "linux", reason="only there may the name of a file be no text")
def test_a_broken_file_whose_name_is_no_text_is_listed():
    lora(data_folder("loras") / "whole.safetensors")
    with open(os.fsencode(data_folder("loras")) + b"/\xff broken.safetensors", "wb") as file:  # noqa: PTH123  pathlib takes no bytes
        file.write(b"this is no safetensors file")
    list(scan.scan_library())
    problems = {entry.name: entry.problem for entry in search.list_loras()}
    assert problems.pop("whole") == "" and "broken.safetensors" in problems.popitem()[1]


def encoded(color="red", side=96, kind="JPEG"):
    held = io.BytesIO()
    Image.new("RGB", (side, side), color).save(held, kind)
    return base64.b64encode(held.getvalue()).decode()


def color_of(path):
    with Image.open(path) as image:
        return image.convert("RGB").getpixel((5, 5))


@pytest.mark.parametrize("said", [{"modelspec.thumbnail": "data:image/jpeg;base64," + encoded()},
                                  {"ssmd_cover_images": json.dumps([encoded(kind="PNG"), encoded("blue")])},
                                  {"ssmd_cover_images": json.dumps(["%%%" * 99, 7, encoded(kind="WEBP", side=900)])}])
def test_an_embedded_cover(said):
    lora(data_folder("loras") / "a.safetensors", said)
    cover = search.find("a").thumbnail
    assert cover == scan.cover_path("a") and color_of(cover)[0] > 240 and color_of(cover)[1] < 20
    with Image.open(cover) as image:
        assert max(image.size) <= scan.COVER_SIDE


def test_a_picture_beside_the_file_comes_first():
    file = lora(data_folder("loras") / "a.safetensors", {"modelspec.thumbnail": "data:image/jpeg;base64," + encoded()})
    Image.new("RGB", (64, 64)).save(file.with_suffix(".png"))
    assert search.find("a").thumbnail == file.with_suffix(".png") and not scan.cover_path("a").exists()
    file.with_suffix(".png").unlink()
    assert search.find("a").thumbnail == scan.cover_path("a") and scan.cover_path("a").is_file()


def test_a_changed_file_gets_its_new_cover_and_a_lost_cache_is_filled():
    file = lora(data_folder("loras") / "a.safetensors", {"modelspec.thumbnail": "data:image/png;base64," + encoded(kind="PNG")})
    assert color_of(search.find("a").thumbnail)[0] > 240
    lora(file, {"modelspec.thumbnail": "data:image/png;base64," + encoded("#0000ff", kind="PNG"), "x": "y"})
    assert color_of(search.find("a").thumbnail)[2] > 240
    scan.cover_path("a").unlink()
    assert [step.stage for step in scan.scan_library()] == ["covers"] and scan.cover_path("a").is_file()


def test_two_threads_take_each_its_own_cover(monkeypatch):
    """A page and the look beside it take covers out at the same time: neither gets the other's picture."""
    red, blue = (lora(data_folder("loras") / f"{color}.safetensors",
                      {"modelspec.thumbnail": f"base64,{encoded(color, kind='PNG')}"}) for color in ("red", "blue"))
    shrink, others = scan.thumbnail, []

    def meanwhile(path, side):
        if not others:
            others.append(threading.Thread(target=scan.save_cover, args=(blue, scan.cover_path("blue"))))
            others[0].start()
            others[0].join()
        return shrink(path, side)
    monkeypatch.setattr(scan, "thumbnail", meanwhile)
    assert scan.save_cover(red, scan.cover_path("red"))
    assert color_of(scan.cover_path("red"))[0] > 240 and color_of(scan.cover_path("blue"))[2] > 240


HOSTILE = {"text": "x" * 500, "not a picture": base64.b64encode(b"<svg onload=alert(1)>" * 20).decode(),
           "huge": "QUFB" * 3_000_000, "tiny": encoded(side=8), "cut": encoded()[:300], "path": "/etc/passwd" + " " * 200}


@pytest.mark.parametrize("how", HOSTILE)
@pytest.mark.parametrize("key", scan.COVER_KEYS)
def test_what_is_no_picture_is_left_out(how, key):
    text = "data:image/jpeg;base64," + HOSTILE[how] if key == scan.COVER_KEYS[0] else json.dumps([HOSTILE[how]])
    lora(data_folder("loras") / "a.safetensors", {key: text})
    entry = search.find("a")
    assert entry.thumbnail is None and entry.problem == "" and list(scan.scan_library()) == []
    assert not (data_folder("library", "covers")).exists() or list(data_folder("library", "covers").iterdir()) == []


def test_the_two_hashes(tmp_path):
    file = lora(tmp_path / "a.safetensors", {"ss_x": "y"})
    data = file.read_bytes()
    start = header(file).data_start
    assert scan.file_hashes(file, start) == (hashlib.sha256(data[start:]).hexdigest(), hashlib.sha256(data).hexdigest())
    assert scan.file_hashes(tmp_path / "gone", 8) == ("", "")
    assert scan.file_hashes(file, start, lambda: True) is None


def test_the_tensor_hash_is_what_kohya_writes(tmp_path):
    """kohya's precalculate_safetensors_hashes: SHA-256 of all behind the header of a file with only ss_* metadata."""
    file = lora(data_folder("loras") / "a.safetensors", {"ss_x": "y", "modelspec.title": "T"})
    alone = tmp_path / "alone.safetensors"
    save_file(tensors(), alone, {"ss_x": "y"})
    data = alone.read_bytes()
    theirs = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little"):]).hexdigest()
    list(scan.scan_library())
    list(scan.hash_files())
    assert search.find("a").hash == theirs and file.is_file()


def test_those_that_may_be_equal_come_first():
    for name, width in (("small", 768), ("twin-1", 2048), ("middle", 1024), ("twin-2", 2048)):
        lora(data_folder("loras") / f"{name}.safetensors", width=width)
    search.list_loras()
    steps = list(scan.hash_files())
    assert {step.name for step in steps[:2]} == {"twin-1.safetensors", "twin-2.safetensors"}
    assert [(step.done, step.total) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)] and list(scan.hash_files()) == []


def test_hashing_may_be_left_and_goes_on():
    for number in range(5):
        lora(data_folder("loras") / f"{number}.safetensors", value=number)
    search.list_loras()
    next(scan.hash_files())
    assert search.state().unhashed == 4
    assert list(scan.hash_files(seconds=0)) == [] and search.state().unhashed == 4
    assert len(list(scan.hash_files())) == 4 and search.duplicates() == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_left_out():
    file = lora(data_folder("loras") / "a.safetensors")
    search.list_loras()
    file.chmod(0)
    assert len(list(scan.hash_files())) == 1 and list(scan.hash_files()) == [] and search.find("a").hash == ""
    file.chmod(0o600)


def test_files_that_cannot_be_used_have_hashes_too_when_they_have_tensors():
    lora(data_folder("loras") / "wide.safetensors", width=999)
    (data_folder("loras") / "broken.safetensors").write_bytes(b"broken")
    search.list_loras()
    assert [step.name for step in scan.hash_files()] == ["wide.safetensors"]
