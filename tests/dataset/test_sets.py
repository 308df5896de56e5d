"""Picture sets: saved as they are dropped and typed, by several hands at once, and read back as a dataset."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from sdlora.dataset import sets, upload
from sdlora.dataset.folder import read_dataset
from sdlora.errors import UserError
from tests.dataset.pictures import picture


def captions(set_id):
    return {each.id: each.caption for each in sets.load(set_id).pictures}


def test_a_set_is_there_after_a_reload(drop):
    made = sets.create("My Cats")
    added, skipped = upload.add_pictures(made.id, drop)
    assert len(added) == 4 and skipped == []
    again = sets.load(made.id)
    assert again.title == "My Cats" and [s.id for s in sets.list_sets()] == [made.id]
    assert [(p.name, p.caption) for p in again.pictures] == [
        ("IMG_1.png", "a boat"), ("IMG_2.jpg", ""), ("IMG_10.webp", ""), ("red house.png", "")]
    assert again.pictures[3].resolved == "red house" and again.pictures[0].box == (8, 0, 72, 64)
    for p in again.pictures:
        with Image.open(p.thumbnail) as small:
            assert max(small.size) <= 256


def test_there_can_be_several_of_one_name():
    ids = [sets.create("Cats").id, sets.create("cats").id, sets.create("C@ts!").id]
    assert len(set(ids)) == 3 and len({s.title.casefold() for s in sets.list_sets()}) == 3
    assert [s.id for s in sets.list_sets()] == ids[::-1], "the newest first"


@pytest.mark.parametrize("name", ["", "  ", "\u200b", "x" * 81, "x" * 10**6])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(UserError, match="1 to 80 characters"):
        sets.create(name)


@pytest.mark.parametrize("name", ["🦊🦊", "../../evil", "<b>x</b>", "CON", "名前", "a\u202eb", "x" * 80, ".", "a/b\\c:d"])
def test_any_other_name_is_data_and_not_a_path(own_home, name):
    made = sets.create(name)
    assert sets.path(made.id).parent == own_home / "sets" and "\u202e" not in made.title
    assert {p.parent for p in own_home.parent.rglob("set.json")} == {sets.path(made.id)}


@pytest.mark.parametrize("wrong", ["", "..", "../sets", "A", "x" * 65, "a/b", "gone", ".locks", "a\0"])
def test_ids_that_are_not_ours_are_refused(wrong):
    sets.create("x")
    for call in (sets.load, sets.path, sets.delete, lambda i: upload.add_pictures(i, []),
                 lambda i: sets.set_caption(i, "000", "")):
        with pytest.raises(UserError, match="no longer there"):
            call(wrong)


def test_removing_one_picture_leaves_the_other_captions(drop):
    made = sets.create("x").id
    upload.add_pictures(made, drop)
    for number, p in enumerate(sets.load(made).pictures):
        sets.set_caption(made, p.id, f"caption {number}")
    sets.remove_picture(made, "001")
    assert captions(made) == {"000": "caption 0", "002": "caption 2", "003": "caption 3"}
    upload.add_pictures(made, [picture(drop[0].parent / "new.png", 9)])
    assert list(captions(made).items())[-1] == ("004", "")
    assert not list(sets.path(made).rglob("001.*"))


def test_training_reads_what_the_page_shows(drop):
    made = sets.create("x").id
    upload.add_pictures(made, drop)
    sets.set_settings(made, trigger="stg", default_caption="a picture")
    sets.set_caption(made, "001", "a boat by [trigger]")
    now = sets.load(made)
    dataset = read_dataset(sets.path(made), trigger=now.trigger, default_caption=now.default_caption)
    assert [(e.name, e.caption) for e in dataset.examples] == [(p.name, p.resolved) for p in now.pictures]
    assert [e.caption for e in dataset.examples][1] == "a boat by stg" and dataset.skipped == ()


def test_a_file_that_is_not_in_set_json_is_not_trained_on(drop):
    """What an upload leaves when it is killed between the picture and set.json."""
    made = sets.create("x").id
    upload.add_pictures(made, drop)
    picture(sets.path(made) / "777.png", 77)
    assert len(read_dataset(sets.path(made)).examples) == 4


def test_notes_leave_with_their_picture(tmp_path):
    made = sets.create("x").id
    Image.new("RGB", (64, 64)).save(tmp_path / "dark.png")
    upload.add_pictures(made, [tmp_path / "dark.png"])
    assert "dark.png is flat" in sets.load(made).notes[0]
    sets.remove_picture(made, "000")
    assert sets.load(made).notes == ()


def test_captions_are_cleaned_and_limited(drop):
    made = sets.create("x").id
    upload.add_pictures(made, drop)
    sets.set_caption(made, "000", "  a\r\nboat\0 \udcff\u202e ")
    assert captions(made)["000"] == "a boat"
    with pytest.raises(UserError, match="longer than 2000"):
        sets.set_caption(made, "000", "x" * 2001)
    with pytest.raises(UserError, match="no longer in the set"):
        sets.set_caption(made, "../000", "x")
    sets.set_caption(made, "000", "")
    assert captions(made)["000"] == "" and not (sets.path(made) / "000.txt").exists()


def test_rename_and_settings_and_delete(drop):
    made, other = sets.create("x"), sets.create("y")
    upload.add_pictures(made.id, drop)
    sets.rename(made.id, "Foxes")
    with pytest.raises(UserError, match="already a set called"):
        sets.rename(other.id, "foxes")
    sets.set_settings(made.id, trigger="a\nb" + "c" * 100)
    assert sets.load(made.id).title == "Foxes" and len(sets.load(made.id).trigger) == 60
    sets.delete(made.id)
    assert [s.id for s in sets.list_sets()] == [other.id] and not (sets.path(other.id).parent / made.id).exists()


def test_many_hands_at_once(tmp_path):
    """Threads of the web process add, type and remove in one set; nothing is lost and every id is given once."""
    made = sets.create("x").id
    upload.add_pictures(made, [picture(tmp_path / "first.png", 1000)])
    files = [picture(tmp_path / "many" / f"{n}.png", n, (64, 64)) for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        typed = [pool.submit(sets.set_caption, made, "000", f"typed {n}") for n in range(10)]
        adding = [pool.submit(upload.add_pictures, made, files[n::6]) for n in range(6)]
        for done in (*typed, *adding):
            done.result()
    now = sets.load(made)
    assert len(now.pictures) == 25 and len({p.id for p in now.pictures}) == 25
    assert {p.name for p in now.pictures} == {"first.png"} | {f.name for f in files}
    assert now.pictures[0].caption.startswith("typed ")


def test_two_processes_add_to_one_set(tmp_path):
    made = sets.create("x").id
    code = "import sys; from sdlora.dataset import upload; upload.add_pictures(sys.argv[1], sys.argv[2:])"
    files = [str(picture(tmp_path / f"{n}.png", n, (64, 64))) for n in range(8)]
    running = [subprocess.Popen([sys.executable, "-c", code, made, *part], cwd=Path(__file__).parents[2])
               for part in (files[:4], files[4:])]
    assert [process.wait(30) for process in running] == [0, 0]
    assert len({p.id for p in sets.load(made).pictures}) == 8


def test_a_damaged_set_does_not_hide_the_others():
    good, bad = sets.create("good"), sets.create("bad")
    for damage in ("{", "[]", "{}", json.dumps({"trigger": 1, "default_caption": "", "pictures": [{}]})):
        (sets.path(bad.id) / "set.json").write_text(damage)
        listed = {s.id: s for s in sets.list_sets()}
        assert listed[good.id].notes == () and "damaged" in listed[bad.id].notes[0]
