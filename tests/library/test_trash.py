"""Deleting is undone whole, for 30 days; nothing is ever overwritten by it."""

import json
import os
import shutil
import time

import pytest
from PIL import Image

from sdlora.errors import UserError
from sdlora.library import index, trash
from sdlora.storage import data_folder, home
from tests.library.files import beside, everything, lora


def full(name="a"):
    file = lora(data_folder("loras") / f"{name}.safetensors", {"modelspec.title": name})
    beside(file, ".json", {"activation text": "abc", "sdlora": {"tags": ["t"]}})
    beside(file, ".civitai.info", {"trainedWords": ["x"]})
    Image.new("RGB", (64, 64)).save(file.with_suffix(".png"))
    return file


def test_undo_brings_everything_back():
    full()
    full("b")
    before, entry = everything(data_folder("loras")), index.find("a")
    index.delete("a")
    left = sorted(path.name for path in data_folder("loras").iterdir())
    assert left == ["b.civitai.info", "b.json", "b.png", "b.safetensors"]
    assert index.undo_delete("a") == entry and everything(data_folder("loras")) == before
    assert list((home() / "trash").iterdir()) == []
    with pytest.raises(UserError, match="not in the trash"):
        index.undo_delete("a")


def test_the_last_delete_is_undone_first():
    full()
    index.annotate("a", notes="first")
    index.delete("a")
    lora(data_folder("loras") / "a.safetensors", value=0.25)
    index.annotate("a", notes="second")
    index.delete("a")
    assert index.undo_delete("a").notes == "second"
    again = index.undo_delete("a")
    assert again.id == "a-2" and again.notes == "first" and len(index.list_loras()) == 2


def test_a_sidecar_in_the_way_is_not_overwritten():
    file = full()
    index.delete("a")
    file.with_suffix(".json").write_text("mine")
    again = index.undo_delete("a")
    assert again.id == "a-2" and again.tags == ("t",) and file.with_suffix(".json").read_text() == "mine"
    assert again.thumbnail.name == "a-2.png"


def test_ids_that_end_alike_are_told_apart():
    full("glass")
    full("stained-glass")
    index.delete("stained-glass")
    index.delete("glass")
    assert index.undo_delete("glass").id == "glass" and index.undo_delete("stained-glass").id == "stained-glass"
    for wrong in ("", "glas", "..", "*", "../../etc"):
        with pytest.raises(UserError):
            index.undo_delete(wrong)


def test_what_is_old_is_removed_at_the_next_delete():
    full("old")
    full("new")
    index.delete("old")
    folder, = (home() / "trash").iterdir()
    long_ago = time.time() - 31 * 86400
    os.utime(folder / trash.RECORD, (long_ago, long_ago))
    index.delete("new")
    assert [path.name for path in (home() / "trash").iterdir() if "old" in path.name] == []
    with pytest.raises(UserError, match="30 days"):
        index.undo_delete("old")


def test_a_delete_that_the_disk_refuses_changes_nothing(monkeypatch):
    full()
    before = everything(data_folder("loras"))

    def refuse(self, target):
        raise PermissionError(13, "in use")
    monkeypatch.setattr("pathlib.Path.rename", refuse)
    with pytest.raises(UserError, match="in use"):
        index.delete("a")
    assert everything(data_folder("loras")) == before and list((home() / "trash").iterdir()) == [] and index.find("a")


def test_a_delete_torn_in_the_middle_can_be_undone(monkeypatch):
    file = full()
    moved = []

    def torn(self, target, real=os.rename):
        if moved:
            raise PermissionError(13, "in use")
        moved.append(self)
        real(self, target)
    with monkeypatch.context() as patch, pytest.raises(UserError):
        patch.setattr("pathlib.Path.rename", torn)
        index.delete("a")
    assert not file.exists() and file.with_suffix(".json").exists()
    again = index.undo_delete("a")
    assert again.path.is_file() and index.list_loras() == [again]


@pytest.mark.parametrize("text", ["", "[]", '{"id": "a"}', '{"id": "a", "place": "../../x.safetensors"}'])
def test_a_damaged_record_is_a_sentence_and_leads_nowhere(text):
    full()
    index.delete("a")
    record, = (home() / "trash").glob("*/trash.json")
    record.write_text(text)
    with pytest.raises(UserError):
        index.undo_delete("a")
    assert not (home().parent / "x.safetensors").exists() and list((home() / "trash").glob("*/a.safetensors"))
    shutil.rmtree(home() / "trash")
    assert json.dumps(index.list_loras()) == "[]"
