"""The shelf lists what lies in the folder; adding, notes, deleting and restoring change nothing else."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save, save_file

from sdlora.errors import UserError
from sdlora.library import edit, search
from sdlora.lora.tools.report import summary
from sdlora.storage import data_folder, home
from tests.library.files import ATTENTION, beside, everything, lora, tensors


def test_an_empty_shelf():
    assert search.list_loras() == []


@pytest.mark.parametrize("width, family", [(768, "sd1"), (1024, "sd2"), (2048, "sdxl"), (128, "mini")])
def test_a_file_put_there_by_hand_is_listed(width, family):
    metadata = {"modelspec.title": "Cat style", "modelspec.trigger_phrase": "ctstl", "sdlora_run": "20260101-000000-cat"}
    file = lora(data_folder("loras") / "cat-style.safetensors", metadata, width=width)
    entry, = search.list_loras()
    assert (entry.id, entry.name, entry.trigger, entry.family, entry.problem) == ("cat-style", "Cat style", "ctstl", family, "")
    assert entry.path == file and entry.file_bytes == file.stat().st_size and entry.run == "20260101-000000-cat"
    assert search.find("cat-style") == entry


def test_the_newest_comes_first_and_a_change_is_seen():
    old, new = (lora(data_folder("loras") / f"{name}.safetensors") for name in ("old", "new"))
    os.utime(old, (1_000_000_000, 1_000_000_000))
    assert [e.id for e in search.list_loras()] == ["new", "old"]
    lora(old, {"ss_output_name": "Renamed"})
    os.utime(old, (2_000_000_000, 2_000_000_000))
    assert [(e.id, e.name) for e in search.list_loras()] == [("old", "Renamed"), ("new", "new")]
    new.unlink()
    assert [e.id for e in search.list_loras()] == ["old"]


def test_sidecars_of_a1111_are_honoured():
    file = lora(data_folder("loras") / "a.safetensors")
    file.with_suffix(".json").write_text(json.dumps({"activation text": "stg, glass", "sd version": "SD1"}), encoding="utf-8-sig")
    Image.new("RGB", (64, 64)).save(data_folder("loras") / "a.preview.png")
    entry, = search.list_loras()
    assert entry.trigger == "stg, glass" and entry.thumbnail.name == "a.preview.png"
    Image.new("RGB", (64, 64)).save(data_folder("loras") / "a.png")
    assert search.list_loras()[0].thumbnail.name == "a.png"


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"activation text": 7, "sdlora": []}', "\udcff"])
def test_a_bad_sidecar_is_only_decoration(text):
    file = lora(data_folder("loras") / "a.safetensors", {"modelspec.title": "A"})
    file.with_suffix(".json").write_text(text, encoding="utf-8", errors="surrogateescape")
    entry, = search.list_loras()
    assert (entry.name, entry.trigger, entry.problem) == ("A", "", "")


BROKEN = {
    "empty": b"", "web page": b"<!DOCTYPE html><html>", "half": save(tensors())[:-100], "pickle": b"\x80\x04\x95" + b"\0" * 50,
    "flux": save({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": np.ones((2, 8), np.float16),
                  "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": np.ones((8, 2), np.float16)}),
    "loha": save({f"{ATTENTION}.hada_w1_a": np.ones((8, 2), np.float16)}),
    "strange width": save(tensors(width=999)), "only alphas": save({f"{ATTENTION}.alpha": np.ones(1, np.float16)}),
    "half a pair": save({f"{ATTENTION}.lora_down.weight": np.ones((2, 768), np.float16)}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_listed_with_its_problem(name):
    good = lora(data_folder("loras") / "good.safetensors")
    (data_folder("loras") / "bad.safetensors").write_bytes(BROKEN[name])
    listed = {e.id: e for e in search.list_loras()}
    assert listed["good"].path == good and listed["good"].problem == ""
    assert "bad.safetensors" in listed["bad"].problem and listed["bad"].name == "bad"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_not_added(tmp_path, name):
    (tmp_path / "bad.safetensors").write_bytes(BROKEN[name])
    with pytest.raises(UserError) as refused:
        edit.add(tmp_path / "bad.safetensors", "Bad")
    assert "bad.safetensors" in refused.value.message
    assert [file.name for file in data_folder("loras").iterdir() if not file.name.startswith(".")] == []


def test_a_peft_file_keeps_its_strength_on_the_shelf(tmp_path):
    path = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file({f"{path}.lora_A.weight": np.ones((2, 768), np.float16), f"{path}.lora_B.weight": np.ones((320, 2), np.float16)},
              tmp_path / "a.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 6}')
    entry = edit.add(tmp_path / "a.safetensors", "A")
    assert summary(entry.path)["effective_scale"] == 3.0
    assert edit.add(tmp_path / "a.safetensors", "B").id == entry.id


def test_broken_and_far_too_large_files_are_not_added(tmp_path):
    with pytest.raises(UserError, match="is broken: .*NaN"):
        edit.add(lora(tmp_path / "a.safetensors", value=np.nan), "A")
    with (tmp_path / "b.safetensors").open("wb") as handle:
        handle.truncate(3 * 2**30)
    with pytest.raises(UserError, match="3.2 GB; a LoRA has 2 GB at most"):
        edit.add(tmp_path / "b.safetensors", "B")
    with pytest.raises(UserError, match="could not be opened"):
        edit.add(tmp_path / "gone.safetensors", "C")


def test_what_a_file_calls_its_tensors_does_not_decide_whether_it_is_added(tmp_path):
    save_file(tensors() | {"another name": np.ones(1, np.float16)}, tmp_path / "a.safetensors")
    assert edit.add(tmp_path / "a.safetensors", "A").problem == ""


def test_only_files_of_equal_size_are_compared_with_an_upload(tmp_path, monkeypatch):
    for rank in (1, 3, 4):
        lora(data_folder("loras") / f"{rank}.safetensors", rank=rank)
    read, digest = [], edit.file_digest
    monkeypatch.setattr(edit, "file_digest", lambda path: read.append(path.name) or digest(path))
    monkeypatch.setattr(search, "list_loras", None)
    assert edit.add(lora(tmp_path / "x.safetensors", rank=3), "Twin").id == "3" and read == ["x.safetensors", "3.safetensors"]


def test_an_upload_gets_a_name_of_ours_and_keeps_its_own(tmp_path):
    source = lora(tmp_path / "x (1).safetensors", {"modelspec.trigger_phrase": "abc", "modelspec.title": "Not this"})
    entry = edit.add(source, "../Änne's <b>Style</b>")
    assert entry.path.parent == data_folder("loras") and entry.name == "../Änne's <b>Style</b>" and entry.trigger == "abc"
    assert entry.path.read_bytes() == source.read_bytes() and entry.family == "sd1" and "/" not in entry.id
    card = json.loads(entry.path.with_suffix(".json").read_text())
    assert card["sd version"] == "SD1" and card["activation text"] == "abc"
    assert search.list_loras() == [entry]


def test_another_file_of_the_same_name_gets_a_number_and_the_same_file_is_kept_once(tmp_path):
    first = edit.add(lora(tmp_path / "a.safetensors"), "Glass")
    second = edit.add(lora(tmp_path / "b.safetensors", value=0.25), "Glass")
    assert (first.id, second.id) == ("glass", "glass-2")
    assert edit.add(tmp_path / "a.safetensors", "Other name") == first
    assert len(search.list_loras()) == 2


def test_a_sidecar_that_is_there_is_never_overwritten(tmp_path):
    (data_folder("loras") / "glass.json").write_text("mine")
    entry = edit.add(lora(tmp_path / "a.safetensors"), "Glass")
    assert entry.id == "glass-2" and (data_folder("loras") / "glass.json").read_text() == "mine"


@pytest.mark.parametrize("stem", ["My Style v2.5", "🦊", "A", "a" * 70, "名前", "x.y.z"])
def test_any_file_name_has_a_stable_id_of_ours(stem):
    lora(data_folder("loras") / f"{stem}.safetensors")
    entry, = search.list_loras()
    assert 1 <= len(entry.id) <= 64 and set(entry.id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert search.find(entry.id).path.stem == stem


def test_names_that_look_alike_are_told_apart():
    names = ["Glass.safetensors", "glass.safetensors", "g l a s s.safetensors", "glass.SAFETENSORS", "G-lass.safetensors"]
    for name in names:
        lora(data_folder("loras") / name)
    assert len({e.id for e in search.list_loras()}) == len(list(data_folder("loras").iterdir()))


@pytest.mark.parametrize("wrong", ["", "gone", "../loras/a", "a.safetensors", "A"])
def test_other_ids_find_nothing(wrong):
    lora(data_folder("loras") / "a.safetensors")
    for call in (search.find, edit.delete):
        with pytest.raises(UserError, match="no longer on the shelf"):
            call(wrong)


def test_delete_takes_the_sidecars_along_and_nothing_else(tmp_path):
    first, second = edit.add(lora(tmp_path / "a.safetensors"), "A"), edit.add(lora(tmp_path / "b.safetensors", value=1), "A b")
    Image.new("RGB", (64, 64)).save(first.path.with_suffix(".png"))
    edit.delete(first.id)
    assert [e.id for e in search.list_loras()] == [second.id]
    assert sorted(f.name for f in data_folder("loras").iterdir() if f.name != ".lock") == ["a-b.json", "a-b.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_out_of_the_shelf_is_reported_not_read(tmp_path):
    lora(tmp_path / "secret.safetensors", {"modelspec.title": "Secret"})
    (data_folder("loras") / "a.safetensors").symlink_to(tmp_path / "secret.safetensors")
    entry, = search.list_loras()
    assert "leads out of the shelf" in entry.problem and entry.name == "a"
    edit.delete("a")
    assert (tmp_path / "secret.safetensors").is_file() and search.list_loras() == []


def test_metadata_is_text_and_cut(tmp_path):
    said = {"modelspec.title": "<img onerror=x>\u202e" + "y" * 10_000, "modelspec.trigger_phrase": "a\nb"}
    lora(data_folder("loras") / "a.safetensors", said)
    entry, = search.list_loras()
    assert len(entry.name) == 80 and "\u202e" not in entry.name and entry.trigger == "a b"


def test_a_thousand_files_list_in_no_time_once_known():
    source = lora(data_folder("loras") / "0.safetensors")
    for number in range(1, 1000):
        shutil.copyfile(source, data_folder("loras") / f"{number}.safetensors")
    start = time.monotonic()
    assert len(search.list_loras()) == 1000
    first, start = time.monotonic() - start, time.monotonic()
    assert len(search.list_loras()) == 1000 and time.monotonic() - start < 3 and first < 30


def test_the_shelf_needs_no_torch():
    code = "import sys; from sdlora.library import search; search.list_loras(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60).returncode == 0


def full(name="a"):
    file = lora(data_folder("loras") / f"{name}.safetensors", {"modelspec.title": name})
    beside(file, ".json", {"activation text": "abc", "sdlora": {"tags": ["t"]}})
    beside(file, ".civitai.info", {"trainedWords": ["x"]})
    Image.new("RGB", (64, 64)).save(file.with_suffix(".png"))
    return file


def test_undo_brings_everything_back():
    full()
    full("b")
    before, entry = everything(data_folder("loras")), search.find("a")
    edit.delete("a")
    left = sorted(path.name for path in data_folder("loras").iterdir())
    assert left == ["b.civitai.info", "b.json", "b.png", "b.safetensors"]
    assert edit.undo_delete("a") == entry and everything(data_folder("loras")) == before
    assert list((home() / "trash").iterdir()) == []
    with pytest.raises(UserError, match="not in the trash"):
        edit.undo_delete("a")


def test_the_last_delete_is_undone_first():
    full()
    edit.annotate("a", notes="first")
    edit.delete("a")
    lora(data_folder("loras") / "a.safetensors", value=0.25)
    edit.annotate("a", notes="second")
    edit.delete("a")
    assert edit.undo_delete("a").notes == "second"
    again = edit.undo_delete("a")
    assert again.id == "a-2" and again.notes == "first" and len(search.list_loras()) == 2


def test_a_sidecar_in_the_way_is_not_overwritten():
    file = full()
    edit.delete("a")
    file.with_suffix(".json").write_text("mine")
    again = edit.undo_delete("a")
    assert again.id == "a-2" and again.tags == ("t",) and file.with_suffix(".json").read_text() == "mine"
    assert again.thumbnail.name == "a-2.png"


def test_ids_that_end_alike_are_told_apart():
    full("glass")
    full("stained-glass")
    edit.delete("stained-glass")
    edit.delete("glass")
    assert edit.undo_delete("glass").id == "glass" and edit.undo_delete("stained-glass").id == "stained-glass"
    for wrong in ("", "glas", "..", "*", "../../etc"):
        with pytest.raises(UserError):
            edit.undo_delete(wrong)


def test_what_is_old_is_removed_at_the_next_delete():
    full("old")
    full("new")
    edit.delete("old")
    folder, = (home() / "trash").iterdir()
    long_ago = time.time() - 31 * 86400
    os.utime(folder / edit.TRASH_RECORD, (long_ago, long_ago))
    edit.delete("new")
    assert [path.name for path in (home() / "trash").iterdir() if "old" in path.name] == []
    with pytest.raises(UserError, match="30 days"):
        edit.undo_delete("old")


def test_a_delete_that_the_disk_refuses_changes_nothing(monkeypatch):
    full()
    before = everything(data_folder("loras"))

    def refuse(self, target):
        raise PermissionError(13, "in use")
    monkeypatch.setattr("pathlib.Path.rename", refuse)
    with pytest.raises(UserError, match="in use"):
        edit.delete("a")
    assert everything(data_folder("loras")) == before and list((home() / "trash").iterdir()) == [] and search.find("a")


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
        edit.delete("a")
    assert not file.exists() and file.with_suffix(".json").exists()
    again = edit.undo_delete("a")
    assert again.path.is_file() and search.list_loras() == [again]


@pytest.mark.parametrize("text", ["", "[]", '{"id": "a"}', '{"id": "a", "place": "../../x.safetensors"}'])
def test_a_damaged_record_is_a_sentence_and_leads_nowhere(text):
    full()
    edit.delete("a")
    record, = (home() / "trash").glob("*/trash.json")
    record.write_text(text)
    with pytest.raises(UserError):
        edit.undo_delete("a")
    assert not (home().parent / "x.safetensors").exists() and list((home() / "trash").glob("*/a.safetensors"))
    shutil.rmtree(home() / "trash")
    assert json.dumps(search.list_loras()) == "[]"
