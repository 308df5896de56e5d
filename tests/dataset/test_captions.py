"""Captions: never guessed, the trigger in every one of them once; words come from file names that artists gave."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlora.dataset.captions import read_caption, resolve_caption, trigger_notes, words_in_name
from sdlora.errors import UserError


def test_own_text_wins_then_the_default_then_the_name():
    assert resolve_caption("a boat", "red house.png", "a picture") == "a boat"
    assert resolve_caption("", "red house.png", "a picture") == "a picture"
    assert resolve_caption(None, "red house.png", "") == "red house"
    assert resolve_caption(None, "IMG_1.png", "") == ""


@pytest.mark.parametrize("text, wanted", [
    ("a boat", "stg, a boat"), ("", "stg"), ("[trigger] boat", "stg boat"), ("a boat in [Trigger] style", "a boat in stg style"),
    ("stg, a boat", "stg, a boat"), ("a boat, STG", "a boat, STG"), ("stgx boat", "stg, stgx boat"),
    ("[trigger], [trigger], a boat", "stg, a boat"), ("stg, [trigger], a boat", "stg, a boat")])
def test_the_trigger_comes_in_once(text, wanted):
    assert resolve_caption(text, "IMG_1.png", "", "stg") == wanted


def test_without_a_trigger_its_place_vanishes():
    assert resolve_caption("[trigger], a boat", "a.png") == "a boat"
    assert resolve_caption("a boat in [trigger] style", "a.png") == "a boat in style"


def test_a_trigger_full_of_special_letters_is_text():
    assert resolve_caption("[trigger] boat", "a.png", "", r"\1(.*)$") == r"\1(.*)$ boat"
    assert resolve_caption("a boat", "a.png", "", "(((") == "(((, a boat"


@given(text=st.text(max_size=80), default=st.text(max_size=40), trigger=st.text(max_size=20), name=st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_resolving_is_stable_and_holds_the_trigger(text, default, trigger, name):
    once = resolve_caption(text, name, default, trigger)
    assert "\n" not in once and "\0" not in once
    assert resolve_caption(once, name, default, trigger) == once or "[trigger]" in once.lower()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark_are_read(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("ein Haus, 桜".encode(encoding))
    assert read_caption(tmp_path / "a.txt") == ("ein Haus, 桜", "")


@pytest.mark.parametrize("order", ["le", "be"])
def test_both_orders_of_utf_16(tmp_path, order):
    mark = {"le": b"\xff\xfe", "be": b"\xfe\xff"}[order]
    (tmp_path / "a.txt").write_bytes(mark + "桜".encode(f"utf-16-{order}"))
    assert read_caption(tmp_path / "a.txt") == ("桜", "")


def caption(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    return read_caption(tmp_path / "a.txt")[0]


def test_a_guess_is_told_and_what_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("Käse und Brot".encode("latin-1"))
    assert read_caption(tmp_path / "a.txt") == ("Käse und Brot", "Windows-1252")
    with pytest.raises(UserError, match="a.txt is not readable text"):
        caption(tmp_path, b"ok \xff")


@pytest.mark.parametrize("text", ["", "  \n\t ", "\u200b\u200b", "\u200d", "\ufeff"])
def test_nothing_visible_is_no_caption(tmp_path, text):
    assert caption(tmp_path, text.encode()) == ""


def test_many_lines_become_one_and_controls_vanish(tmp_path):
    assert caption(tmp_path, b"a red\r\nhouse\0 \x1b[31mby night") == "a red house [31mby night"
    assert caption(tmp_path, "a\u202egnp b\u2066c\u2028d".encode()) == "a gnp b c d"


def test_composed_and_decomposed_letters_are_one_caption(tmp_path):
    assert caption(tmp_path, "e\u0301".encode()) == caption(tmp_path, "\u00e9".encode())


def test_the_length_limit(tmp_path):
    assert len(caption(tmp_path, b"x" * 2000)) == 2000
    for letters in (2001, 9000, 2**20):
        with pytest.raises(UserError, match="longer than 2000 characters"):
            caption(tmp_path, b"x" * letters)


def test_a_trigger_that_is_no_good_word_is_noted():
    assert trigger_notes("stglass") == []
    assert "comma" in trigger_notes("a, b")[0] and "everyday" in trigger_notes("House")[0]


CAMERA = [
    "IMG_2041.jpg", "img_20240501_101112.jpg", "IMG-20230801-WA0007.jpg", "DSC01234.JPG", "DSC_0042.NEF.jpg", "_DSC1234.jpg",
    "DSCN0001.jpg", "DSCF1234.jpg", "PXL_20230101_123456789.MP.jpg", "MVIMG_20190101.jpg", "P1010042.JPG", "_MG_1234.jpg",
    "DJI_0123.jpg", "GOPR0042.jpg", "SAM_0123.jpg", "CIMG0042.jpg", "100_0042.jpg", "DSC 1.jpg", "E1A2B3C4.jpg",
    "Screenshot 2024-05-01 at 10.22.33.png", "Screenshot_20240501_instagram.png", "Screen Shot 2024-05-01.png",
    "Bildschirmfoto 2024-05-01 um 10.22.33.png", "Capture d’écran 2024-05-01.png", "WhatsApp Image 2024-05-01 at 10.22.33.jpeg",
    "signal-2024-05-01-101112.jpg", "FB_IMG_1589.jpg", "received_1234567890.jpeg", "photo_2024-05-01_10-11-12.jpg",
    "d41d8cd98f00b204e9800998ecf8427e.png", "deadbeef.png", "550e8400-e29b-41d4-a716-446655440000.png", "FvQ3sWkXoAE1z2.jpg",
    "00001-1234567890.png", "ComfyUI_00001_.png", "20240501.jpg", "1.png", "0042.png", "2024-05-01 10.22.33.jpg", "image.png",
    "images (3).jpg", "Untitled-1.png", "unnamed.jpg", "download (2).png", "photo.jpg", "picture 12.png", "scan0001.png",
    "final.png", "final_final_v2.png", "copy of image.png", ".png", "", "qwrtzpsdf.png", "a.png", "x1.png", "128x128.png",
]
WORDS = {
    "red house.png": "red house", "red-house_01.png": "red house", "RedHouseByTheSea.png": "Red House By The Sea",
    "a_boat_at_sunset.jpg": "a boat at sunset", "003 lighthouse.webp": "lighthouse", "cat (2).png": "cat",
    "my_cat_copy.png": "my cat", "Kirschblüte.jpg": "Kirschblüte", "桜と橋.png": "桜と橋", "дом у моря.jpg": "дом у моря",
    "sunset.final.png": "sunset", "tree-1024x768.png": "tree", "sketch of a bird.heic": "sketch of a bird",
    "imagination.png": "imagination", "Samantha.png": "Samantha", "panorama of a lake.png": "panorama of a lake",
    "folder\\blue boat.png": "blue boat", "10_x/green tree.png": "green tree", "l'été.png": "l'été", "sky.png": "sky",
    "house with 3 windows.png": "house with 3 windows", "portrait 12.png": "portrait",
}


@pytest.mark.parametrize("name", CAMERA)
def test_names_of_cameras_and_programs_are_never_captions(name):
    assert words_in_name(name) == ""


@pytest.mark.parametrize("name", WORDS)
def test_names_that_are_words_are_captions(name):
    assert words_in_name(name) == WORDS[name]


@given(st.text(max_size=120))
@settings(max_examples=500, deadline=None)
def test_any_file_name_gives_words_or_nothing(name):
    words = words_in_name(name)
    assert words == "" or any(c.isalpha() for c in words)
