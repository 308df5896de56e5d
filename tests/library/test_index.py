"""The shelf: what lies in the folder is what is listed, with its name, trigger and family, and broken files say why."""

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
from sdlora.library import index
from sdlora.lora.tools.report import summary
from sdlora.storage import data_folder

ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
OUTPUT = {768: 320, 1024: 320, 128: 128, 2048: 640}
SDXL = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


def tensors(width=768, rank=2, value=0.5, name=None):
    name = name or (SDXL if width == 2048 else ATTENTION)
    return {f"{name}.lora_down.weight": np.full((rank, width), value, np.float16),
            f"{name}.lora_up.weight": np.full((OUTPUT.get(width, 320), rank), value, np.float16),
            f"{name}.alpha": np.array(rank, np.float16)}


def lora(path, metadata=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors(**options), path, metadata=metadata)
    return path


def test_an_empty_shelf():
    assert index.list_loras() == []


@pytest.mark.parametrize("width, family", [(768, "sd1"), (1024, "sd2"), (2048, "sdxl"), (128, "mini")])
def test_a_file_put_there_by_hand_is_listed(width, family):
    told = {"modelspec.title": "Cat style", "modelspec.trigger_phrase": "ctstl", "sdlora_run": "20260101-000000-cat"}
    file = lora(data_folder("loras") / "cat-style.safetensors", told, width=width)
    entry, = index.list_loras()
    assert (entry.id, entry.name, entry.trigger, entry.family, entry.problem) == ("cat-style", "Cat style", "ctstl", family, "")
    assert entry.path == file and entry.file_bytes == file.stat().st_size and entry.run == "20260101-000000-cat"
    assert index.find("cat-style") == entry


def test_the_newest_comes_first_and_a_change_is_seen():
    old, new = (lora(data_folder("loras") / f"{name}.safetensors") for name in ("old", "new"))
    os.utime(old, (1_000_000_000, 1_000_000_000))
    assert [e.id for e in index.list_loras()] == ["new", "old"]
    lora(old, {"ss_output_name": "Renamed"})
    os.utime(old, (2_000_000_000, 2_000_000_000))
    assert [(e.id, e.name) for e in index.list_loras()] == [("old", "Renamed"), ("new", "new")]
    new.unlink()
    assert [e.id for e in index.list_loras()] == ["old"]


def test_sidecars_of_a1111_are_honoured():
    file = lora(data_folder("loras") / "a.safetensors")
    file.with_suffix(".json").write_text(json.dumps({"activation text": "stg, glass", "sd version": "SD1"}), encoding="utf-8-sig")
    Image.new("RGB", (64, 64)).save(data_folder("loras") / "a.preview.png")
    entry, = index.list_loras()
    assert entry.trigger == "stg, glass" and entry.thumbnail.name == "a.preview.png"
    Image.new("RGB", (64, 64)).save(data_folder("loras") / "a.png")
    assert index.list_loras()[0].thumbnail.name == "a.png"


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"activation text": 7, "sdlora": []}', "\udcff"])
def test_a_bad_sidecar_is_only_decoration(text):
    file = lora(data_folder("loras") / "a.safetensors", {"modelspec.title": "A"})
    file.with_suffix(".json").write_text(text, encoding="utf-8", errors="surrogateescape")
    entry, = index.list_loras()
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
    listed = {e.id: e for e in index.list_loras()}
    assert listed["good"].path == good and listed["good"].problem == ""
    assert "bad.safetensors" in listed["bad"].problem and listed["bad"].name == "bad"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_not_added(tmp_path, name):
    (tmp_path / "bad.safetensors").write_bytes(BROKEN[name])
    with pytest.raises(UserError) as refused:
        index.add(tmp_path / "bad.safetensors", "Bad")
    assert "bad.safetensors" in refused.value.message
    assert [file.name for file in data_folder("loras").iterdir() if not file.name.startswith(".")] == []


def test_a_peft_file_keeps_its_strength_on_the_shelf(tmp_path):
    path = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file({f"{path}.lora_A.weight": np.ones((2, 768), np.float16), f"{path}.lora_B.weight": np.ones((320, 2), np.float16)},
              tmp_path / "a.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 6}')
    entry = index.add(tmp_path / "a.safetensors", "A")
    assert summary(entry.path)["effective_scale"] == 3.0
    assert index.add(tmp_path / "a.safetensors", "B").id == entry.id


def test_burnt_and_far_too_large_files_are_not_added(tmp_path):
    with pytest.raises(UserError, match="burnt"):
        index.add(lora(tmp_path / "a.safetensors", value=np.nan), "A")
    with (tmp_path / "b.safetensors").open("wb") as handle:
        handle.truncate(3 * 2**30)
    with pytest.raises(UserError, match="3.2 GB; a LoRA has 2 GB at most"):
        index.add(tmp_path / "b.safetensors", "B")
    with pytest.raises(UserError, match="could not be opened"):
        index.add(tmp_path / "gone.safetensors", "C")


def test_what_a_file_calls_its_tensors_does_not_decide_whether_it_is_added(tmp_path):
    save_file(tensors() | {"another burnt style": np.ones(1, np.float16)}, tmp_path / "a.safetensors")
    assert index.add(tmp_path / "a.safetensors", "A").problem == ""


def test_only_files_of_equal_size_are_compared_with_an_upload(tmp_path, monkeypatch):
    for rank in (1, 3, 4):
        lora(data_folder("loras") / f"{rank}.safetensors", rank=rank)
    read, digest = [], index.digest
    monkeypatch.setattr(index, "digest", lambda path: read.append(path.name) or digest(path))
    monkeypatch.setattr(index, "list_loras", None)
    assert index.add(lora(tmp_path / "x.safetensors", rank=3), "Twin").id == "3" and read == ["x.safetensors", "3.safetensors"]


def test_an_upload_gets_a_name_of_ours_and_keeps_its_own(tmp_path):
    source = lora(tmp_path / "x (1).safetensors", {"modelspec.trigger_phrase": "abc", "modelspec.title": "Not this"})
    entry = index.add(source, "../Änne's <b>Style</b>")
    assert entry.path.parent == data_folder("loras") and entry.name == "../Änne's <b>Style</b>" and entry.trigger == "abc"
    assert entry.path.read_bytes() == source.read_bytes() and entry.family == "sd1" and "/" not in entry.id
    card = json.loads(entry.path.with_suffix(".json").read_text())
    assert card["sd version"] == "SD1" and card["activation text"] == "abc"
    assert index.list_loras() == [entry]


def test_another_file_of_the_same_name_gets_a_number_and_the_same_file_is_kept_once(tmp_path):
    first = index.add(lora(tmp_path / "a.safetensors"), "Glass")
    second = index.add(lora(tmp_path / "b.safetensors", value=0.25), "Glass")
    assert (first.id, second.id) == ("glass", "glass-2")
    assert index.add(tmp_path / "a.safetensors", "Other name") == first
    assert len(index.list_loras()) == 2


def test_a_sidecar_that_is_there_is_never_overwritten(tmp_path):
    (data_folder("loras") / "glass.json").write_text("mine")
    entry = index.add(lora(tmp_path / "a.safetensors"), "Glass")
    assert entry.id == "glass-2" and (data_folder("loras") / "glass.json").read_text() == "mine"


@pytest.mark.parametrize("stem", ["My Style v2.5", "🦊", "A", "a" * 70, "名前", "x.y.z"])
def test_any_file_name_has_a_stable_id_of_ours(stem):
    lora(data_folder("loras") / f"{stem}.safetensors")
    entry, = index.list_loras()
    assert 1 <= len(entry.id) <= 64 and set(entry.id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert index.find(entry.id).path.stem == stem


def test_names_that_look_alike_are_told_apart():
    names = ["Glass.safetensors", "glass.safetensors", "g l a s s.safetensors", "glass.SAFETENSORS", "G-lass.safetensors"]
    for name in names:
        lora(data_folder("loras") / name)
    assert len({e.id for e in index.list_loras()}) == len(list(data_folder("loras").iterdir()))


@pytest.mark.parametrize("wrong", ["", "gone", "../loras/a", "a.safetensors", "A"])
def test_other_ids_find_nothing(wrong):
    lora(data_folder("loras") / "a.safetensors")
    for call in (index.find, index.delete):
        with pytest.raises(UserError, match="no longer on the shelf"):
            call(wrong)


def test_delete_takes_the_sidecars_along_and_nothing_else(tmp_path):
    first, second = index.add(lora(tmp_path / "a.safetensors"), "A"), index.add(lora(tmp_path / "b.safetensors", value=1), "A b")
    Image.new("RGB", (64, 64)).save(first.path.with_suffix(".png"))
    index.delete(first.id)
    assert [e.id for e in index.list_loras()] == [second.id]
    assert sorted(f.name for f in data_folder("loras").iterdir() if f.name != ".lock") == ["a-b.json", "a-b.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_out_of_the_shelf_is_reported_not_read(tmp_path):
    lora(tmp_path / "secret.safetensors", {"modelspec.title": "Secret"})
    (data_folder("loras") / "a.safetensors").symlink_to(tmp_path / "secret.safetensors")
    entry, = index.list_loras()
    assert "leads out of the shelf" in entry.problem and entry.name == "a"
    index.delete("a")
    assert (tmp_path / "secret.safetensors").is_file() and index.list_loras() == []


def test_metadata_is_text_and_cut(tmp_path):
    said = {"modelspec.title": "<img onerror=x>\u202e" + "y" * 10_000, "modelspec.trigger_phrase": "a\nb"}
    lora(data_folder("loras") / "a.safetensors", said)
    entry, = index.list_loras()
    assert len(entry.name) == 80 and "\u202e" not in entry.name and entry.trigger == "a b"


def test_a_thousand_files_list_in_no_time_once_known():
    source = lora(data_folder("loras") / "0.safetensors")
    for number in range(1, 1000):
        shutil.copyfile(source, data_folder("loras") / f"{number}.safetensors")
    start = time.monotonic()
    assert len(index.list_loras()) == 1000
    first, start = time.monotonic() - start, time.monotonic()
    assert len(index.list_loras()) == 1000 and time.monotonic() - start < 3 and first < 30


def test_the_shelf_needs_no_torch():
    code = "import sys; from sdlora.library import index; index.list_loras(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60).returncode == 0
