"""What is dropped: each text goes to its own picture, each picture is kept once and clean, each refusal is listed."""

import json
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from sdlora.dataset import sets, upload
from sdlora.dataset.folder import read_dataset
from sdlora.errors import UserError
from sdlora.storage import data_folder
from tests.dataset.pictures import picture
from tests.dataset.test_sets import captions


def test_kept_copies_hold_no_trace_of_the_camera(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "SecretCamera"
    made = sets.create("x").id
    upload.add_pictures(made, [picture(tmp_path / "a.jpg", exif=exif, quality=95), picture(tmp_path / "b.png", 1, exif=exif)])
    first, second = sets.load(made).pictures
    assert (first.width, first.height) == (64, 80) and first.path.suffix == ".jpg" and second.path.suffix == ".png"
    for file in sets.path(made).rglob("*.*"):
        assert file.is_dir() or b"SecretCamera" not in file.read_bytes()


def test_a_png_is_kept_without_loss_and_a_huge_picture_smaller(tmp_path):
    made = sets.create("x").id
    small = picture(tmp_path / "a.png", 3)
    big = tmp_path / "b.png"
    Image.linear_gradient("L").resize((4200, 3000)).save(big)
    upload.add_pictures(made, [small, big])
    first, second = sets.load(made).pictures
    with Image.open(first.path) as kept, Image.open(small) as original:
        assert np.array_equal(np.asarray(kept), np.asarray(original))
    assert (second.width, second.height) == (2867, 2048)


def test_what_was_skipped_is_there_after_a_reload(drop, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "lonely.txt").write_text("x")
    (tmp_path / "letter.doc").write_text("x")
    made = sets.create("x").id
    odd = [tmp_path / name for name in ("bad.png", "lonely.txt", "letter.doc")]
    _, skipped = upload.add_pictures(made, [*drop, *odd, drop[0]])
    assert {s.name for s in skipped} == {"bad.png", "lonely.txt", "letter.doc", "red house.png"}
    assert set(sets.load(made).skipped) == set(skipped)
    upload.add_pictures(made, [picture(tmp_path / "bad.png", 8)])
    still = {s.name for s in sets.load(made).skipped}
    assert still == {"lonely.txt", "letter.doc", "red house.png"}, "a mended file is no longer listed"
    sets.forget_skipped(made)
    assert sets.load(made).skipped == ()


def test_the_same_picture_is_in_a_set_once(drop):
    made = sets.create("x").id
    upload.add_pictures(made, drop)
    added, skipped = upload.add_pictures(made, drop[:2])
    assert added == [] and ["same picture as" in s.reason for s in skipped] == [True, True]


def test_a_text_dropped_later_finds_its_picture(drop, tmp_path):
    made = sets.create("x").id
    upload.add_pictures(made, drop)
    (tmp_path / "IMG_2.txt").write_text("a cat")
    assert upload.add_pictures(made, [tmp_path / "IMG_2.txt"]) == ([], [])
    assert [p.caption for p in sets.load(made).pictures if p.name == "IMG_2.jpg"] == ["a cat"]


def test_a_zip_is_opened_and_a_broken_one_is_listed(drop, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in drop:
            archive.write(file, f"5_red fox/{file.name}")
    (tmp_path / "b.zip").write_bytes(b"no")
    made = sets.create("x").id
    added, skipped = upload.add_pictures(made, [tmp_path / "a.zip", tmp_path / "b.zip"])
    assert len(added) == 4 and [s.name for s in skipped] == ["b.zip"]
    assert [e.repeats for e in read_dataset(sets.path(made)).examples] == [5] * 4
    assert captions(made)["001"] == "red fox"


def folder_of(path, colour, *names, texts=True):
    for number, name in enumerate(names):
        picture(path / name, sum(map(ord, colour)) + number)
        if texts:
            (path / name).with_suffix(".txt").write_text(f"{colour} {name}")
    return path


def zip_of(folder, path):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


def dropped(folder, path):
    """The files of a folder as a browser hands them over: each alone in a folder of no meaning."""
    files = []
    for file in sorted(folder.iterdir()):
        files.append(path / f"{folder.name}-{file.name}" / file.name)
        files[-1].parent.mkdir(parents=True)
        shutil.copy(file, files[-1])
    return files


@pytest.mark.parametrize("way", ["zips", "zips of one name", "folders", "files of folders", "one drop after another"])
def test_equal_names_keep_their_own_captions(tmp_path, way):
    made = sets.create("x").id
    folders = [folder_of(tmp_path / colour, colour, "1.png", "2.png") for colour in ("red", "blue")]
    drops = {"zips": lambda: [[zip_of(f, tmp_path / f"{f.name}.zip") for f in folders]], "folders": lambda: [folders],
             "zips of one name": lambda: [[zip_of(f, tmp_path / f"{f.name} up" / "set.zip") for f in folders]],
             "files of folders": lambda: [[file for f in folders for file in sorted(f.iterdir())]],
             "one drop after another": lambda: [dropped(f, tmp_path / "up") for f in folders]}
    for files in drops[way]():
        assert upload.add_pictures(made, files)[1] == []
    digests = {read_dataset(f).examples[n].digest: e.caption for f in folders for n, e in enumerate(read_dataset(f).examples)}
    assert {e.digest: e.caption for e in read_dataset(sets.path(made)).examples} == digests and len(digests) == 4


def test_a_text_that_may_be_of_two_pictures_is_named(tmp_path):
    made = sets.create("x").id
    red, blue = (folder_of(tmp_path / colour, colour, "1.png") for colour in ("red", "blue"))
    _, skipped = upload.add_pictures(made, dropped(red, tmp_path / "up") + dropped(blue, tmp_path / "up"))
    assert set(captions(made).values()) == {""} and [s.name for s in skipped] == ["1.txt", "1.txt"]
    _, skipped = upload.add_pictures(made, [red / "1.txt"])
    assert set(captions(made).values()) == {""} and "could belong to 2 pictures" in skipped[0].reason
    assert any("could belong" in s.reason for s in sets.load(made).skipped)


def test_texts_in_folders_of_a_zip_go_to_those_folders(tmp_path):
    made = sets.create("x").id
    for colour in ("red", "blue"):
        upload.add_pictures(made, [folder_of(tmp_path / colour, colour, "1.png", texts=False)])
    with zipfile.ZipFile(tmp_path / "words.zip", "w") as archive:
        for name in ("red/1.txt", "blue/1.txt", "green/1.txt"):
            archive.writestr(name, name)
    _, skipped = upload.add_pictures(made, [tmp_path / "words.zip"])
    assert {p.name: p.caption for p in sets.load(made).pictures} == {"red/1.png": "red/1.txt", "blue/1.png": "blue/1.txt"}
    assert [s.name for s in skipped] == ["words/green/1.txt"]


def test_a_text_whose_picture_is_missing_goes_to_no_picture_of_another_source(tmp_path):
    made = sets.create("x").id
    red, blue = (folder_of(tmp_path / colour, colour, "1.png", "2.png") for colour in ("red", "blue"))
    (red / "1.txt").unlink()
    (blue / "1.png").unlink()
    _, skipped = upload.add_pictures(made, [zip_of(red, tmp_path / "red.zip"), zip_of(blue, tmp_path / "blue.zip")])
    assert {p.name: p.caption for p in sets.load(made).pictures} == {
        "red/1.png": "", "red/2.png": "red 2.png", "blue/2.png": "blue 2.png"}
    assert [s.name for s in skipped] == ["blue/1.txt"]


def test_a_caption_is_replaced_only_by_texts_dropped_alone(tmp_path):
    made = sets.create("x").id
    red, blue = (folder_of(tmp_path / colour, colour, "1.png", "2.png") for colour in ("red", "blue"))
    upload.add_pictures(made, dropped(red, tmp_path / "up"))
    (blue / "2.png").unlink()
    _, skipped = upload.add_pictures(made, dropped(blue, tmp_path / "up"))
    assert [p.caption for p in sets.load(made).pictures] == ["red 1.png", "red 2.png", "blue 1.png"]
    assert [s.name for s in skipped] == ["2.txt"] and "keeps the caption" in skipped[0].reason
    assert upload.add_pictures(made, [blue / "2.txt"])[1] == []
    assert [p.caption for p in sets.load(made).pictures][1] == "blue 2.png"


def test_an_upload_follows_the_rules_of_a_folder(tmp_path):
    made = sets.create("x").id
    up = folder_of(tmp_path / "up", "red", "cafe\u0301.png", "b.png", "b-masklabel.png", texts=False)
    (up / "caf\u00e9.png.caption").write_bytes("caf\u00e9".encode("cp1252"))
    (up / "metadata.csv").write_text("file_name,text\nb.png,a boat\n")
    _, skipped = upload.add_pictures(made, dropped(up, tmp_path / "one by one"))
    now = sets.load(made)
    assert [p.caption for p in now.pictures] == ["a boat", "caf\u00e9"] and [s.name for s in skipped] == ["b-masklabel.png"]
    assert ["Windows-1252" in note for note in now.notes] == [True]


def test_every_reason_is_kept_and_the_notes_of_each_picture(tmp_path):
    made = sets.create("x").id
    (tmp_path / "metadata.jsonl").write_text("no\nneither\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "dark.png")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "dark.png.jpg")
    upload.add_pictures(made, sorted(tmp_path.glob("*.*")))
    now = sets.load(made)
    assert ["Line 1" in now.skipped[0].reason, "Line 2" in now.skipped[1].reason] == [True, True] and len(now.notes) == 2
    sets.remove_picture(made, now.pictures[0].id)
    assert len(sets.load(made).notes) == 1 and sets.load(made).notes[0].startswith(now.pictures[1].name)
    sets.forget_skipped(made)
    assert sets.load(made).notes == sets.load(made).skipped == ()


def test_an_example_folder_becomes_a_set_once(tmp_path):
    folder = tmp_path / "stained-glass"
    for number in range(3):
        picture(folder / f"{number}.png", number)
        (folder / f"{number}.txt").write_text(f"a house {number}")
    (folder / "set.json").write_text(json.dumps({"title": "Stained glass", "trigger": "stglass", "sentence": "Lead and light."}))
    made = upload.from_example(folder)
    assert (made.title, made.trigger, made.sentence, len(made.pictures)) == ("Stained glass", "stglass", "Lead and light.", 3)
    assert [p.resolved for p in made.pictures] == [f"stglass, a house {n}" for n in range(3)]
    assert upload.from_example(folder).id == made.id
    sets.delete(made.id)
    assert len(upload.from_example(folder).pictures) == 3
    assert len(read_dataset(folder, trigger="stglass").examples) == 3, "the shipped folder itself is a dataset too"


def test_pressing_an_example_twice_at_once_makes_one_set(tmp_path):
    picture(tmp_path / "glass" / "a.png")
    (tmp_path / "glass" / "set.json").write_text('{"title": "Glass", "trigger": "g", "sentence": ""}')
    with ThreadPoolExecutor(4) as pool:
        assert len({made.id for made in pool.map(upload.from_example, [tmp_path / "glass"] * 4)}) == 1


def test_a_set_deleted_during_an_upload_stays_deleted(drop, monkeypatch):
    made = sets.create("x").id
    reading = upload.read_picture

    def read_then_lose(path, name):
        sets.delete(made) if name == "IMG_10.webp" else None
        return reading(path, name)
    monkeypatch.setattr(upload, "read_picture", read_then_lose)
    with pytest.raises(UserError, match="no longer there"):
        upload.add_pictures(made, drop)
    assert sets.list_sets() == []


def test_a_file_that_is_dropped_twice_is_no_doubt(drop):
    made = sets.create("Twice")
    added, skipped = upload.add_pictures(made.id, [*drop, *drop])
    assert len(added) == 4 and {one.name for one in skipped} == {file.name for file in drop}
    assert all("was dropped twice" in one.reason for one in skipped)
    assert [p.caption for p in sets.load(made.id).pictures if p.name == "IMG_1.png"] == ["a boat"]


def test_an_unpacked_zip_leaves_the_cache_once_its_pictures_are_in_the_set(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(picture(tmp_path / "red house.png"), "deep/red house.png")
        archive.writestr("deep/red house.txt", "a house")
    made = sets.create("Cats").id
    assert len(upload.add_pictures(made, [tmp_path / "a.zip"])[0]) == 1
    assert not list(data_folder("cache", "zips").iterdir())
    assert [(p.name, p.caption) for p in sets.load(made).pictures] == [("a/deep/red house.png", "a house")]
    assert len(read_dataset(tmp_path / "a.zip").examples) == 1 and list(data_folder("cache", "zips").iterdir())


def test_a_caption_that_comes_with_a_copy_goes_to_the_picture_that_has_none(tmp_path):
    made, picture = sets.create("Mine"), tmp_path / "one" / "1.png"
    for folder, text in (("one", ""), ("two", "a fox"), ("three", "an owl")):
        (tmp_path / folder).mkdir()
        Image.radial_gradient("L").save(tmp_path / folder / "1.png")
        if text:
            (tmp_path / folder / "1.txt").write_text(text)
    assert len(upload.add_pictures(made.id, [picture])[0]) == 1
    for folder, hint in (("two", "got the caption"), ("three", "in the set once.")):
        skipped = upload.add_pictures(made.id, [tmp_path / folder])[1]
        assert any(hint in one.reason for one in skipped)
        assert [one.caption for one in sets.load(made.id).pictures] == ["a fox"]
