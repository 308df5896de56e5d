"""What other programs leave beside the pictures is no training picture, and each of it is named."""

import os
from pathlib import Path, PurePosixPath

import pytest

from sdlora.dataset.listing import display_name, list_folder, name_key, select_files


def kept(*names):
    paths = [PurePosixPath(name) for name in names]
    indices, skipped = select_files(paths)
    return [names[index] for index in indices], {one.name: one.reason for one in skipped}


@pytest.mark.parametrize("folder", ["reg/1_style", "log/run", "model/sample", "sample", "Samples", "masked_loss", "mask",
                                    "validation_images", "_latent_cache", "_controls", "class_images", "conditioning",
                                    "conditioning_images", "control_images"])
def test_folders_of_other_trainers_are_named(folder):
    names, skipped = kept("img/10_fox/a.png", "img/10_fox/a.txt", f"{folder}/b.png", f"{folder}/b.txt")
    top = folder.split("/")[0]
    assert names == ["img/10_fox/a.png", "img/10_fox/a.txt"] and list(skipped) == [top]
    assert f"{top}/ is left out" in skipped[top] and "1 picture)" in skipped[top]


def test_the_folder_that_holds_everything_is_the_root():
    assert kept("sample/a.png", "sample/a.txt") == (["sample/a.png", "sample/a.txt"], {})
    assert kept("top/model/a.png", "top/model/b.png") == (["top/model/a.png", "top/model/b.png"], {})
    names, skipped = kept("top/model/a.png", "top/img/b.png")
    assert names == ["top/img/b.png"] and list(skipped) == ["top/model"]


def test_words_that_only_hold_such_a_name_are_folders_of_pictures():
    names = ["10_model/a.png", "masked ball/b.png", "my samples/c.png", "regatta/d.png"]
    assert kept(*names) == (names, {})


def test_masks_are_named_one_by_one():
    names, skipped = kept("a.png", "a-masklabel.png", "b-condlabel.png", "Cafe\u0301.jpg", "caf\u00e9_MASK.png", "a.txt", "d.png",
                          "d-mask.webp")
    assert names == ["a.png", "Cafe\u0301.jpg", "a.txt", "d.png"]
    assert set(skipped) == {"a-masklabel.png", "b-condlabel.png", "caf\u00e9_MASK.png", "d-mask.webp"}
    assert all(name in reason for name, reason in skipped.items())


def test_a_picture_of_a_mask_is_a_picture():
    names = ["wolf-mask.png", "gas mask.png", "unmask.png", "sub/a.png", "a-mask.png"]
    assert kept(*names) == (names, {})


def test_hidden_pictures_are_named_and_clutter_is_not():
    names, skipped = kept("a.png", ".thumbnails/a.png", "x/.cache/b.png", ".a.png", "__MACOSX/._a.png", "@eaDir/a.png/b.jpg",
                          ".git/config", "Thumbs.db", "x/desktop.ini")
    assert names == ["a.png"] and set(skipped) == {".thumbnails", "x/.cache"}


def test_a_folder_is_read_by_the_same_rule(tmp_path):
    for name in ("img/a.png", "reg/b.png", ".thumbnails/a.png", "img/a-masklabel.png", ".git/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listing = list_folder(tmp_path)
    assert [str(name) for _, name in listing.files] == ["img/a.png"]
    assert {one.name for one in listing.skipped} == {"reg", ".thumbnails", "img/a-masklabel.png"}


def test_the_root_is_called_as_it_was_named(tmp_path, monkeypatch):
    (tmp_path / "10_fox" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "10_fox")
    for path in (tmp_path / "10_fox", Path(), Path("../10_fox/"), Path("x/..")):
        assert list_folder(path).root == "10_fox"


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_itself_costs_itself(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    assert {str(name) for _, name in list_folder(tmp_path).files} == {"a.png", "b.png"}


def test_names_are_compared_without_their_form():
    assert name_key("Cafe\u0301.PNG") == name_key("caf\u00c9.png") == "caf\u00e9.png"
    assert name_key("\u30ac") == name_key("\u30ab\u3099")


def test_a_long_name_is_shown_short_with_its_end():
    assert display_name(PurePosixPath("a/b/c.png")) == "a/b/c.png"
    assert display_name(PurePosixPath("x" * 60, "y" * 30, "c.png")) == "y" * 30 + "/c.png"
    one, other = (display_name(PurePosixPath("x" * 90 + number + ".png")) for number in "12")
    assert one != other and one.endswith(".png") and len(one) <= 80
