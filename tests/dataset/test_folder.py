"""Folders and zips of every convention become the same Dataset; nothing is left out in silence."""

import json
import os
import socket
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from sdlora.dataset import archive
from sdlora.dataset.folder import read_dataset
from sdlora.errors import UserError


def picture(path, seed=0, size=(80, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def zipped(folder, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, str(file.relative_to(folder)))
    return path


@pytest.fixture
def loose(tmp_path):
    folder = tmp_path / "loose"
    for number, name in enumerate(("red house.png", "IMG_0001.png", "IMG_0002.jpg", "IMG_0010.webp")):
        picture(folder / name, number)
    (folder / "IMG_0001.txt").write_text("a boat\n")
    return folder


@pytest.fixture
def kohya(tmp_path):
    folder = tmp_path / "kohya"
    picture(folder / "10_pinefox style" / "1.png", 1)
    picture(folder / "2_sketches" / "1.png", 2)
    (folder / "2_sketches" / "1.txt").write_text("a fox")
    picture(folder / "2024_summer" / "1.png", 3)
    return folder


@pytest.fixture
def imagefolder(tmp_path):
    folder = tmp_path / "hf"
    lines = []
    for number, key in enumerate(("text", "caption", "prompt")):
        picture(folder / "train" / f"{number}.png", number)
        lines.append(json.dumps({"file_name": f"train/{number}.png", key: f"caption {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8-sig")
    return folder


def facts(dataset):
    return [(e.name, e.caption, e.repeats, e.width, e.height, e.digest) for e in dataset.examples]


def test_loose_pictures_in_natural_order_with_their_texts(loose):
    dataset = read_dataset(loose, trigger="stg", default_caption="a picture")
    assert [(e.name, e.caption) for e in dataset.examples] == [
        ("IMG_0001.png", "stg, a boat"), ("IMG_0002.jpg", "stg, a picture"), ("IMG_0010.webp", "stg, a picture"),
        ("red house.png", "stg, a picture")]
    assert dataset.skipped == () and all(e.path.is_file() and e.repeats == 1 for e in dataset.examples)
    assert [e.caption for e in read_dataset(loose).examples][-1] == "red house"


def test_kohya_folders_give_repeats_and_words(kohya):
    assert [(e.name, e.repeats, e.caption) for e in read_dataset(kohya).examples] == [
        ("2_sketches/1.png", 2, "a fox"), ("10_pinefox style/1.png", 10, "pinefox style"), ("2024_summer/1.png", 1, "")]


def test_metadata_under_each_of_its_names(imagefolder):
    assert [e.caption for e in read_dataset(imagefolder).examples] == ["caption 0", "caption 1", "caption 2"]


@pytest.mark.parametrize("kind", ["loose", "kohya", "imagefolder"])
def test_a_zip_is_the_same_as_its_folder(kind, tmp_path, request):
    folder = request.getfixturevalue(kind)
    archive = zipped(folder, tmp_path / "a.zip")
    assert facts(read_dataset(archive)) == facts(read_dataset(folder))
    first = [e.path for e in read_dataset(archive).examples]
    assert all(path.is_file() for path in first) and [e.path for e in read_dataset(archive).examples] == first


def test_one_bad_picture_costs_one_picture(loose):
    (loose / "bad.png").write_bytes(b"")
    (loose / "page.jpg").write_bytes(b"<html>")
    (loose / "old.gif").write_bytes(b"GIF89a")
    dataset = read_dataset(loose)
    assert len(dataset.examples) == 4
    reasons = {s.name: s.reason for s in dataset.skipped}
    assert "empty" in reasons["bad.png"] and "web page" in reasons["page.jpg"] and "PNG or JPEG" in reasons["old.gif"]
    assert all(name in reason for name, reason in reasons.items())


def test_exact_copies_are_kept_once(loose):
    (loose / "z copy.png").write_bytes((loose / "red house.png").read_bytes())
    dataset = read_dataset(loose)
    assert len(dataset.examples) == 4
    assert [s.reason for s in dataset.skipped] == ["z copy.png is the same picture as red house.png."]


def test_an_unreadable_caption_is_listed_and_its_picture_kept(loose):
    (loose / "IMG_0002.txt").write_bytes(b"K\xff\x81se")
    dataset = read_dataset(loose, default_caption="a picture")
    assert [e.caption for e in dataset.examples if e.name == "IMG_0002.jpg"] == ["a picture"]
    assert [s.name for s in dataset.skipped] == ["IMG_0002.txt"] and "not readable" in dataset.skipped[0].reason


def test_names_that_differ_in_case_or_form_stay_two_pictures(tmp_path):
    folder = tmp_path / "f"
    for number, name in enumerate(("A.png", "a.png", "\u00e9.png", "e\u0301.png")):
        picture(folder / name, number)
    if len(list(folder.iterdir())) < 4:
        pytest.skip("this disk does not tell letters apart")
    for name in ("A", "a"):
        (folder / f"{name}.txt").write_text(f"caption {name}")
    dataset = read_dataset(folder)
    assert len(dataset.examples) == 4
    assert {e.path.name: e.caption for e in dataset.examples if "caption" in e.caption} == {
        "A.png": "caption A", "a.png": "caption a"}


def test_a_text_of_other_case_still_finds_its_picture(tmp_path):
    picture(tmp_path / "f" / "IMG_1.JPG")
    (tmp_path / "f" / "img_1.TXT").write_text("a boat")
    assert read_dataset(tmp_path / "f").examples[0].caption == "a boat"


def test_what_is_left_alone_is_said(loose):
    (loose / "notes.md").write_text("x")
    (loose / "lonely.txt").write_text("x")
    (loose / ".DS_Store").write_text("x")
    picture(loose / ".thumbnails" / "000.png", 50)
    dataset = read_dataset(loose)
    notes = " ".join(dataset.notes)
    assert "notes.md" in notes and "lonely.txt" in notes and "DS_Store" not in notes
    assert len(dataset.examples) == 4 and [s.name for s in dataset.skipped] == [".thumbnails"]


@pytest.mark.parametrize("about", ['{"pictures": ["a.png"]}', '{"pictures": [{"file": "x.png"}]}', "[]", '{"title": "x"}',
                                   '{"pictures": [{"file": 1, "name": 2, "repeats": "3"}]}'])
def test_a_set_json_of_another_program_is_no_set(loose, about):
    (loose / "set.json").write_text(about)
    assert len(read_dataset(loose).examples) == 4


def test_a_set_json_cannot_name_files_elsewhere(loose, tmp_path):
    picture(tmp_path / "secret.png", 77)
    named = ("../secret.png", str(tmp_path / "secret.png"), "red house.png")
    entries = [{"file": name, "name": "a", "repeats": 1} for name in named]
    (loose / "set.json").write_text(json.dumps({"pictures": entries}))
    dataset = read_dataset(loose)
    assert [e.path.name for e in dataset.examples] == ["red house.png"]


def test_long_pictures_and_missing_captions_are_noted(tmp_path):
    picture(tmp_path / "f" / "1.png", size=(400, 100))
    notes = " ".join(read_dataset(tmp_path / "f").notes)
    assert "75% of it is cut off" in notes and "no caption" in notes and "One picture alone" in notes


@pytest.mark.parametrize("line, word", [("not json", "Line 2"), ("[]", "Line 2"), ('{"text": "x"}', "Line 2"),
                                        ("[" * 10_000, "Line 2"),
                                        ('{"file_name": "gone.png", "text": "x"}', "gone.png"),
                                        ('{"file_name": "../../etc/passwd", "text": "x"}', "passwd"),
                                        (json.dumps({"file_name": "train/0.png", "text": "x" * 2001}), "longer")])
def test_bad_lines_of_metadata_are_listed(imagefolder, line, word):
    good, *rest = (imagefolder / "metadata.jsonl").read_text(encoding="utf-8-sig").splitlines()
    (imagefolder / "metadata.jsonl").write_text("\n".join([good, line, *rest]))
    dataset = read_dataset(imagefolder)
    assert len(dataset.examples) == 3 and any(word in s.reason for s in dataset.skipped)


def test_a_caption_of_metadata_is_cleaned(imagefolder):
    (imagefolder / "metadata.jsonl").write_text('{"file_name": "train/0.png", "text": "a\\udcff b\\u0000c"}')
    assert read_dataset(imagefolder).examples[0].caption == "a b c"


def test_nothing_left_names_each_reason(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"(?s)bad.png is an empty file.*page.jpg is a web page"):
        read_dataset(tmp_path)


def test_no_pictures_no_folder_one_picture(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        read_dataset(tmp_path / "empty")
    with pytest.raises(UserError, match="no folder or zip"):
        read_dataset(tmp_path / "gone")
    with pytest.raises(UserError, match="single picture"):
        read_dataset(picture(tmp_path / "a.png"))


def test_too_many_pictures_are_refused_before_one_is_opened(tmp_path, monkeypatch):
    for number in range(2001):
        (tmp_path / f"{number}.png").touch()
    monkeypatch.setattr("sdlora.dataset.folder.picture_info", lambda *_: pytest.fail("opened a picture"))
    with pytest.raises(UserError, match="2001 pictures; at most 2000"):
        read_dataset(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_that_leads_out_is_listed_not_followed(tmp_path, loose):
    secret = picture(tmp_path / "secret" / "private.png", 99)
    (loose / "link.png").symlink_to(secret)
    (loose / "inside.png").symlink_to(loose / "red house.png")
    (loose / "whole").symlink_to(tmp_path / "secret")
    (loose / "loop").symlink_to(loose)
    dataset = read_dataset(loose)
    assert len(dataset.examples) == 4
    assert ["link.png is a link that leads out of the folder."] == [s.reason for s in dataset.skipped if "is a link" in s.reason]
    for name in ("whole", "loop"):
        assert f"{name} leads to another folder (a link): what lies there is not used." in [s.reason for s in dataset.skipped]
    assert not any("private" in e.name or "private" in str(e.path.resolve()) for e in dataset.examples)


def pipe(path):
    os.mkfifo(path)


def open_socket(path):
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))


def own_link(path):
    path.symlink_to(path.name)


def circle(path):
    path.symlink_to(path.with_suffix(".other"))
    path.with_suffix(".other").symlink_to(path.name)


def lost_link(path):
    path.symlink_to("gone")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX file kinds")
@pytest.mark.parametrize("special", [pipe, open_socket, own_link, circle, lost_link])
@pytest.mark.parametrize("name", ["odd.png", "IMG_0001.txt", "metadata.jsonl", "set.json", "odd.xyz", "inside/odd.jpg"])
def test_what_is_no_ordinary_file_costs_only_itself(loose, special, name):
    (loose / name).unlink(missing_ok=True)
    (loose / name).parent.mkdir(exist_ok=True)
    special(loose / name)
    begun = time.monotonic()
    dataset = read_dataset(loose)
    assert time.monotonic() - begun < 5 and len(dataset.examples) == 4
    if not name.endswith(("set.json", ".xyz")):
        assert any(name in skip.reason for skip in dataset.skipped), dataset.skipped


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX file kinds")
@pytest.mark.parametrize("special", [pipe, open_socket, own_link, lost_link])
def test_a_dataset_that_is_no_ordinary_file_is_refused_at_once(tmp_path, special):
    special(tmp_path / "mine.zip")
    begun = time.monotonic()
    with pytest.raises(UserError, match="mine.zip"):
        read_dataset(tmp_path / "mine.zip")
    assert time.monotonic() - begun < 2


def test_a_zip_that_is_exchanged_while_it_is_read_is_the_one_that_was_opened(tmp_path, loose, kohya, monkeypatch):
    path, other = zipped(loose, tmp_path / "a.zip"), zipped(kohya, tmp_path / "b.zip")
    real = archive.hash_of

    def exchanged(*arguments):
        digest = real(*arguments)
        os.replace(other, path)
        return digest

    monkeypatch.setattr(archive, "hash_of", exchanged)
    assert "red house.png" in {example.name for example in read_dataset(path).examples}


def test_a_metadata_file_without_end_is_not_read(loose):
    with (loose / "metadata.jsonl").open("wb") as file:
        file.truncate(2**33)
    dataset = read_dataset(loose)
    assert len(dataset.examples) == 4 and any("metadata.jsonl is larger than 8 MB" in skip.reason for skip in dataset.skipped)


@pytest.mark.parametrize("texts", [{"2.txt": "a fox"}, {"2.txt": "a fox", "3.txt": "an owl"},
                                   {"1.txt": "a fox", "2.txt": "a fox"}])
def test_of_equal_pictures_one_with_a_caption_is_kept(tmp_path, texts):
    for name in ("1.png", "2.png", "3.png"):
        Image.radial_gradient("L").save(tmp_path / name)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    dataset = read_dataset(tmp_path)
    assert [one.caption for one in dataset.examples] == ["a fox"]
    lost = "an owl" in texts.values()
    assert [one.reason.endswith("Its own caption is not used.") for one in dataset.skipped] == [False, lost]


def test_a_document_with_fonts_is_no_caption(loose):
    (loose / "red house.txt").write_text(r"{\rtf1\ansi\deff0 a red house}")
    assert any("red house.txt is a document with fonts" in one.reason for one in read_dataset(loose).skipped)
