"""Folders of other programs are read in place and never modified; what the artist writes about their files outlives the index."""

import json
import os
import shutil

import pytest

from sdlora.errors import UserError
from sdlora.library import edit, folders, scan, search
from sdlora.library.database import index_path
from sdlora.storage import data_folder, home
from tests.library.files import beside, everything, lora


@pytest.fixture
def webui(tmp_path):
    """An A1111 installation with two LoRAs, one in a folder of its own."""
    root = tmp_path / "webui"
    lora(root / "models" / "Lora" / "Glass (v2).safetensors", {"ss_output_name": "glass_v2"})
    lora(root / "models" / "Lora" / "ink" / "Ink.safetensors", width=2048)
    lora(root / "models" / "Stable-diffusion" / "not listed.safetensors")
    return root


def rebuilt():
    for suffix in ("", "-wal", "-shm"):
        index_path().with_name(index_path().name + suffix).unlink(missing_ok=True)
    return search.list_loras(sort="name")


def test_an_installation_stands_for_its_lora_folder(webui):
    folder = folders.add_folder(webui)
    assert folder.path == webui / "models" / "Lora" and folder.here and not folder.own
    assert [(e.name, e.family, e.folder) for e in search.list_loras(sort="name")] == [
        ("glass_v2", "sd1", folder.id), ("Ink", "sdxl", folder.id)]
    assert folders.add_folder(webui / "models" / "Lora").id == folder.id and len(folders.list_folders()) == 2
    assert all("/" not in e.id and str(webui) not in e.id for e in search.list_loras())


def test_nothing_is_ever_written_into_a_foreign_folder(webui):
    before = everything(webui)
    folders.add_folder(webui)
    glass, ink = search.list_loras(sort="name")
    edit.annotate(glass.id, notes="for windows", tags=["glass", "light"], favourite=True, trigger="glss", weight=0.7)
    edit.annotate(glass.id, name="Stained glass")
    edit.delete(ink.id)
    list(scan.scan_library())
    list(scan.hash_files())
    assert everything(webui) == before


def test_notes_on_foreign_files_outlive_the_index(webui):
    folder = folders.add_folder(webui)
    glass = search.list_loras(sort="name")[0]
    edit.annotate(glass.id, name="Stained glass", notes="for windows", tags=["glass", "light"], favourite=True, weight=0.7)
    again = rebuilt()[1]
    assert (again.id, again.name, again.notes, again.tags, again.favourite, again.weight) == (
        glass.id, "Stained glass", "for windows", ("glass", "light"), True, 0.7)
    edit.remove_folder(folder.id)
    assert search.list_loras() == [] and len(folders.list_folders()) == 1 and (webui / "models" / "Lora" / "ink").is_dir()
    folders.add_folder(webui)
    assert search.find(glass.id).notes == "for windows"


def test_notes_on_our_own_files_go_into_their_sidecars():
    file = lora(data_folder("loras") / "a.safetensors", {"modelspec.trigger_phrase": "fromfile"})
    beside(file, ".json", {"activation text": "abc", "negative text": "blurry", "strange": [1]})
    edit.annotate("a", name="Ä", notes="mine", tags=["x"], favourite=True)
    told = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert told["negative text"] == "blurry" and told["strange"] == [1] and told["activation text"] == "abc"
    assert told["notes"] == "mine" and told["sdlora"]["name"] == "Ä"
    entry, = rebuilt()
    assert (entry.name, entry.notes, entry.tags, entry.favourite, entry.trigger) == ("Ä", "mine", ("x",), True, "abc")
    edit.annotate("a", trigger="", notes="")
    entry, = rebuilt()
    assert (entry.trigger, entry.notes, entry.tags) == ("", "", ("x",))


def test_a_sidecar_that_is_not_ours_to_change_keeps_its_content():
    file = lora(data_folder("loras") / "a.safetensors")
    file.with_suffix(".json").write_text("[1, 2]")
    assert edit.annotate("a", notes="mine").notes == "mine"
    assert file.with_suffix(".json").read_text() == "[1, 2]" and rebuilt()[0].notes == "mine"


def test_notes_follow_a_file_that_is_moved(webui):
    folder = folders.add_folder(webui)
    glass = search.list_loras(sort="name")[0]
    edit.annotate(glass.id, notes="for windows")
    list(scan.hash_files())
    (folder.path / "deep" / "er").mkdir(parents=True)
    shutil.move(glass.path, folder.path / "deep" / "er" / "new name.safetensors")
    moved = next(e for e in search.list_loras() if e.path.stem == "new name")
    assert moved.notes == "for windows" and moved.hash and len(search.list_loras()) == 2
    assert [e.notes for e in rebuilt()] == ["for windows", ""]


def test_two_windows_that_see_the_same_move_lose_no_notes(webui, monkeypatch):
    folder = folders.add_folder(webui)
    edit.annotate(search.list_loras(sort="name")[0].id, notes="for windows")
    before, moves = folders.notes_of(folder), {b"Glass (v2).safetensors": b"glass.safetensors"}
    with monkeypatch.context() as both:
        both.setattr(folders, "notes_of", lambda folder: before)  # what both read before either wrote
        folders.move_notes(folder, moves)
        folders.move_notes(folder, moves)
    assert folders.notes_of(folder)["glass.safetensors"]["notes"] == "for windows"


def test_what_is_hidden_can_be_brought_back(webui):
    folders.add_folder(webui)
    glass = search.list_loras(sort="name")[0]
    edit.delete(glass.id)
    assert [e.name for e in search.list_loras()] == ["Ink"] and glass.path.is_file()
    with pytest.raises(UserError, match="no longer on the shelf"):
        search.find(glass.id)
    assert [e.name for e in rebuilt()] == ["Ink"]
    assert edit.undo_delete(glass.id) == glass and len(search.list_loras()) == 2


def test_an_unplugged_disk_keeps_its_entries(webui, tmp_path):
    folder = folders.add_folder(webui)
    facts = [(e.id, e.family, e.rank) for e in search.list_loras(sort="name")]
    (webui / "models" / "Lora").rename(tmp_path / "away")
    gone = search.list_loras(sort="name")
    assert [(e.id, e.family, e.rank) for e in gone] == facts and not folders.list_folders()[1].here
    assert all("not there now" in e.problem and folder.title in e.problem for e in gone)
    (webui / "models" / "Lora").mkdir()                                     # the empty place of an unmounted disk
    assert [e.id for e in search.list_loras(sort="name")] == [f[0] for f in facts]
    assert "not there now" in search.find(facts[0][0]).problem
    (webui / "models" / "Lora").rmdir()
    (tmp_path / "away").rename(webui / "models" / "Lora")
    assert [(e.id, e.problem) for e in search.list_loras(sort="name")] == [(f[0], "") for f in facts]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_keeps_its_entries(webui):
    folders.add_folder(webui)
    search.list_loras()
    locked = webui / "models" / "Lora" / "ink"
    locked.chmod(0)
    try:
        assert len(search.list_loras()) == 2
    finally:
        locked.chmod(0o700)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_out_of_a_foreign_folder_are_not_read(webui, tmp_path):
    outside = lora(tmp_path / "outside" / "secret.safetensors", {"modelspec.title": "Secret"})
    inside = webui / "models" / "Lora"
    (inside / "link.safetensors").symlink_to(outside)
    (inside / "linked folder").symlink_to(outside.parent)
    (inside / "loop").symlink_to(inside)
    (inside / "nowhere.safetensors").symlink_to(tmp_path / "nothing")
    folders.add_folder(webui)
    found = {e.path.stem: e for e in search.list_loras()}
    assert set(found) == {"Glass (v2)", "Ink", "link", "nowhere", "secret"} and "Secret" not in {e.name for e in found.values()}
    assert all("leads out of the shelf" in found[name].problem for name in ("link", "secret")) and found["nowhere"].problem


@pytest.mark.skipif(os.name == "nt", reason="pipes and links need another system")
@pytest.mark.parametrize("own", [True, False])
def test_one_bad_entry_never_takes_the_listing_down(webui, own):
    folder = data_folder("loras") if own else folders.add_folder(webui).path
    lora(folder / "good.safetensors")
    for suffix in (".json", ".metadata.json", ".civitai.info", ".png"):
        os.mkfifo(folder / f"good{suffix}")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "self.safetensors").symlink_to("self.safetensors")
    (folder / "one.safetensors").symlink_to("two.safetensors")
    (folder / "two.safetensors").symlink_to("one.safetensors")
    (folder / "folder.safetensors").mkdir()
    (folder / "device.safetensors").symlink_to("/dev/zero")
    (folder / "self").symlink_to("self")
    for _ in range(2):
        found = {e.path.stem: e for e in search.list_loras() if e.path.parent == folder}
        assert found["good"].problem == "" and found["good"].thumbnail is None and not found.keys() & {"self dir", "folder"}
        assert all(found[name].problem for name in ("pipe", "self", "one", "two", "device"))
        assert "not an ordinary file" in found["pipe"].problem
    assert list(scan.hash_files()) and not list(scan.hash_files())


def test_folders_that_cannot_be_shown(webui, tmp_path):
    folder = folders.add_folder(webui)
    file = lora(tmp_path / "x.safetensors")
    for wrong, why in ((tmp_path / "gone", "not a folder"), (file, "not a folder"), (home(), "data folder"),
                       (home().parent, "data folder"), (data_folder("loras"), "data folder"),
                       (folder.path / "ink", "lie in each other"), (webui / "models", "lie in each other")):
        with pytest.raises(UserError, match=why):
            folders.add_folder(wrong)
    with pytest.raises(UserError, match="not on the shelf"):
        edit.remove_folder("gone")
    with pytest.raises(UserError, match="own styles"):
        edit.remove_folder("loras")
    assert len(folders.list_folders()) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"path": 7}', '{"version": 1}'])
def test_a_damaged_record_hides_its_folder_and_is_left_alone(webui, text):
    folder = folders.add_folder(webui)
    record = home() / "library" / f"{folder.id}.json"
    lora(data_folder("loras") / "own.safetensors")
    search.list_loras()
    record.write_text(text)
    assert [e.id for e in search.list_loras()] == ["own"] and record.read_text() == text


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="their file names are text")
def test_names_that_are_no_text(webui):
    folder = folders.add_folder(webui)
    path = lora(folder.path / "x.safetensors")
    hostile = os.fsencode(folder.path) + b"/\xff\x1b[31m<b>\n.safetensors"
    path.rename(os.fsdecode(hostile))
    found = next(e for e in search.list_loras() if os.fsencode(e.path) == hostile)
    assert found.problem == "" and "\x1b" not in found.name and "\n" not in found.name and found.id.isascii()
    edit.annotate(found.id, notes="odd")
    assert search.find(found.id).notes == "odd" and folders.notes_of(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_ordinary_file_is_named_and_stops_nothing(webui):
    inside = webui / "models" / "Lora"
    os.mkfifo(inside / "pipe.safetensors")
    os.mkfifo(inside / "Ink.json")
    (inside / "self.safetensors").symlink_to("self.safetensors")
    (inside / "around").symlink_to(inside)
    folders.add_folder(webui)
    found = {entry.path.stem: entry.problem for entry in search.list_loras()}
    assert set(found) == {"Glass (v2)", "Ink", "pipe", "self"} and not found["Ink"]
    assert "not an ordinary file" in found["pipe"] and "could not be opened" in found["self"]
    assert len(search.list_loras()) == 4                        # the same at every look
