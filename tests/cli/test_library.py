"""`sdlora library`: what it says is what the shelf holds, as text and as JSON, with exit codes as everywhere."""

import json
import sys

import pytest

from sdlora.cli import library, main
from sdlora.library import scan, search
from sdlora.storage import data_folder
from tests.library.files import beside, everything, lora


@pytest.fixture
def sdlora(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sdlora", "library", *arguments])
        with pytest.raises(SystemExit) as left:
            main.run()
        return int(left.value.code or 0), *capsys.readouterr()
    return run


@pytest.fixture
def folder(tmp_path):
    glass = lora(tmp_path / "webui" / "models" / "Lora" / "Glass.safetensors")
    beside(glass, ".json", {"activation text": "glss", "notes": "windows"})
    lora(tmp_path / "webui" / "models" / "Lora" / "sub" / "Copy.safetensors", {"ss_x": "y"})
    return tmp_path / "webui"


def test_an_id_is_never_cut_because_remove_takes_it(sdlora, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lora(tmp_path / "Lora" / "A style with a rather long name for a terminal.safetensors")
    sdlora("add", str(tmp_path / "Lora"))
    entry = json.loads(sdlora("list", "--json")[1])[0]
    assert entry["id"] in sdlora("list")[1]


def test_a_folder_is_added_listed_searched_and_removed(sdlora, folder):
    before = everything(folder)
    code, told, _ = sdlora("add", str(folder), "--json")
    added = json.loads(told)
    assert code == 0 and added["files"] == 2 and added["path"].endswith("Lora")
    code, told, _ = sdlora("list", "--json", "--sort", "name")
    entries = json.loads(told)
    assert [entry["name"] for entry in entries] == ["Copy", "Glass"] and entries[1]["trigger"] == "glss"
    assert {"id", "name", "family", "kind", "rank", "dialect", "file_bytes", "tags", "favourite", "hash"} <= set(entries[0])
    code, told, _ = sdlora("search", "wind", "gla", "--json")
    assert code == 0 and [entry["name"] for entry in json.loads(told)] == ["Glass"]
    code, told, _ = sdlora("folders", "--json")
    assert [(entry["id"], entry["files"]) for entry in json.loads(told)] == [("loras", 0), (added["id"], 2)]
    code, told, _ = sdlora("remove", str(folder / "models" / "Lora"))
    assert code == 0 and "untouched" in told and json.loads(sdlora("list", "--json")[1]) == [] and everything(folder) == before


def test_for_people(sdlora, folder):
    assert "as lora-" in sdlora("add", str(folder))[1]
    code, told, _ = sdlora("list")
    assert code == 0 and "Glass" in told and "glss" in told and "sd1" in told
    assert "No file on the shelf" in sdlora("search", "nothing", "such")[1]
    assert "2 files" in sdlora("folders")[1]
    code, told, _ = sdlora("scan", "--hash")
    assert code == 0 and "2 files are on the shelf, 0 are still to be read, 0 are not hashed" in told
    code, told, _ = sdlora("duplicates")
    assert code == 0 and "2 files" in told and "Glass.safetensors" in told and "Copy.safetensors" in told


def test_a_file_is_copied_removed_and_restored(sdlora, tmp_path):
    file = lora(tmp_path / "My Style.safetensors")
    code, told, _ = sdlora("add", str(file), "--json")
    entry, = json.loads(told)
    assert code == 0 and entry["id"] == "my-style" and file.is_file()
    assert (data_folder("loras") / "my-style.safetensors").is_file()
    code, told, _ = sdlora("remove", "my-style")
    assert code == 0 and "restore my-style" in told and search.list_loras() == []
    assert json.loads(sdlora("restore", "my-style", "--json")[1])[0]["name"] == "My Style"
    assert [each.id for each in search.list_loras()] == ["my-style"]


def test_mistakes_are_sentences(sdlora, tmp_path):
    for arguments, why in ((("add", str(tmp_path / "gone")), "not a folder"), (("remove", "gone"), "no longer on the shelf"),
                           (("list", "--sort", "x"), "sorted by"), (("restore", "gone"), "not in the trash"),
                           (("remove", "loras"), "own styles")):
        code, _, said = sdlora(*arguments)
        assert code == 2 and why in said and "Traceback" not in said, arguments


def test_a_stopped_scan_says_so_and_goes_on(sdlora, monkeypatch):
    lora(data_folder("loras") / "a.safetensors")

    def stopped(steps, stage="headers"):
        raise KeyboardInterrupt
    monkeypatch.setattr(library, "watch", stopped)
    code, _, said = sdlora("scan")
    assert code == 3 and "continues from here" in said


def test_the_background_leaves_the_work_to_the_one_that_has_it(sdlora, monkeypatch):
    lora(data_folder("loras") / "a.safetensors")
    monkeypatch.setattr("os.nice", lambda by: by)
    with scan.background_lock():
        assert sdlora("scan", "--background")[0] == 0 and search.state().files == 0
    assert sdlora("scan", "--background")[0] == 0
    state = search.state()
    assert (state.files, state.unread, state.unhashed) == (1, 0, 0)
    assert json.loads(sdlora("scan", "--json")[1])["files"] == 1
