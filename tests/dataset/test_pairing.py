"""Texts find their pictures by whole names; what could belong to two is given to neither and named."""

import json
import unicodedata
from pathlib import Path, PurePosixPath

import pytest

from sdlora.dataset.listing import Listing
from sdlora.dataset.pairing import pair, pairing_notes


@pytest.fixture
def pairing(tmp_path):
    """Pair pictures (names) with texts ({name: text or bytes}); a name may be in the list twice, as in a zip."""
    def call(pictures, texts, root=""):
        files = [(Path("unopened"), PurePosixPath(name)) for name in pictures]
        for number, (name, text) in enumerate(texts if isinstance(texts, list) else texts.items()):
            file = tmp_path / str(number)
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
            files.append((file, PurePosixPath(name)))
        return pair(Listing(root, files))
    return call


def captions(findings):
    return {one.name: one.text for one in findings.found}


@pytest.mark.parametrize("name", ["a.txt", "a.caption", "a.png.txt", "a.png.caption", "A.TXT", "A.PNG.Caption"])
def test_names_of_texts(pairing, name):
    findings = pairing(["a.png", "b.png"], {name: "a fox"})
    assert captions(findings) == {"a.png": "a fox", "b.png": None} and not findings.skipped and not findings.notes


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
@pytest.mark.parametrize("word", ["caf\u00e9", "ガラス", "\ud55c\uae00", "Åse"])
def test_two_forms_of_unicode_are_one_name(pairing, word, forms):
    picture, text = (unicodedata.normalize(form, word) for form in forms)
    texts = ({f"{text}.txt": "a fox"}, {f"{text}.png.caption": "a fox"}, {"metadata.csv": f"file_name,text\n{text}.png,a fox\n"},
             {"metadata.jsonl": json.dumps({"file_name": f"{text}.png", "text": "a fox"})})
    for given in texts:
        findings = pairing([f"{picture}.png"], given)
        assert [one.text for one in findings.found] == ["a fox"] and not findings.skipped


def test_folders_keep_equal_names_apart(pairing):
    deep = "a/b/c/d/e/f"
    findings = pairing([f"x/{deep}/1.png", f"y/{deep}/1.png"], {f"x/{deep}/1.txt": "x", f"y/{deep}/1.txt": "y", "1.txt": "z"})
    assert [one.text for one in findings.found] == ["x", "y"] and [text.origin for text in findings.loose_texts] == ["1.txt"]


@pytest.mark.parametrize("pictures", [["1.png", "1.png"], ["1.png", "1.jpg"], ["1.PNG", "1.webp"],
                                      ["e\u0301.png", "\u00c9.png"]])
def test_a_text_of_two_pictures_goes_to_none_and_is_named(pairing, pictures):
    text = "1.txt" if pictures[0][0] == "1" else "\u00e9.txt"
    findings = pairing(pictures, {text: "whose?"})
    assert {one.text for one in findings.found} == {None} and findings.loose_texts == []
    assert [one.name for one in findings.skipped] == [text] and "could belong to" in findings.skipped[0].reason


def test_the_whole_name_of_a_picture_is_no_doubt(pairing):
    findings = pairing(["1.png", "1.jpg"], {"1.png.txt": "one", "metadata.jsonl": '{"file_name": "1.jpg", "text": "two"}'})
    assert captions(findings) == {"1.jpg": "two", "1.png": "one"} and not findings.skipped


def test_several_texts_of_one_picture(pairing):
    findings = pairing(["a.png", "b.png"], {"a.caption": "third", "a.txt": "second", "b.txt": "", "b.caption": "not empty",
                                            "metadata.jsonl": '{"file_name": "a.png", "text": "first"}'})
    assert captions(findings) == {"a.png": "first", "b.png": "not empty"} and not findings.skipped
    assert any("a.caption" in note and "a.txt" in note and "Not used" in note for note in findings.notes)
    findings = pairing(["a.png"], [("a.txt", "one"), ("a.txt", "two")])
    assert captions(findings) == {"a.png": None} and "texts that differ" in findings.skipped[0].reason
    assert captions(pairing(["a.png"], [("a.txt", "one"), ("a.txt", "one")])) == {"a.png": "one"}


def test_lines_of_metadata_end_only_at_line_ends(pairing):
    line = json.dumps({"file_name": "a.png", "text": "a\u2028red\u0085house"}, ensure_ascii=False)
    findings = pairing(["a.png"], {"metadata.jsonl": f"{line}\r\n"})
    assert captions(findings) == {"a.png": "a red house"} and not findings.skipped


@pytest.mark.parametrize("content", [
    'file_name,text\na.png,"a fox, red"\nb.png,"two\nlines"\n', "file_name;text\r\na.png;a fox, red\r\nb.png;two lines\r\n",
    "text\tfile_name\na fox, red\ta.png\n\ntwo lines\tb.png\n",
    "\ufeff File_Name ,caption\na.png,\"a fox, red\"\nb.png,two lines"])
def test_metadata_csv(pairing, content):
    findings = pairing(["a.png", "b.png"], {"metadata.csv": content})
    assert captions(findings) == {"a.png": "a fox, red", "b.png": "two lines"} and not findings.skipped


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "file_name,text\n,x\n", "file_name,text\nb.png\n",
                                     "file_name,text\ngone.png,x\n", "file_name,text\na.png," + "x" * 200_000,
                                     "file_name,text\n../../etc/a.png,x\n"])
def test_a_bad_metadata_csv_is_named(pairing, content):
    findings = pairing(["a.png"], {"metadata.csv": content})
    assert captions(findings) == {"a.png": None}
    assert content == "" or any("metadata.csv" in one.reason for one in findings.skipped)


def test_guesses_are_told(pairing):
    findings = pairing(["a.png", "b.png", "c.png"], {"a.txt": "été".encode("cp1252"), "b.txt": "红色房子".encode("gbk"),
                                                     "c.txt": "a tree".encode("utf-16-le")})
    assert captions(findings) == {"a.png": "été", "b.png": "红色房子", "c.png": "a tree"}
    for file, encoding in (("a.txt", "Windows-1252"), ("b.txt", "GBK"), ("c.txt", "UTF-16")):
        assert any(file in note and encoding in note for note in findings.notes)


def test_the_root_is_a_kohya_folder_too(pairing):
    found = {one.name: (one.repeats, one.concept) for one in pairing(["a.png", "3_boat/b.png"], {}, "10_red fox").found}
    assert found == {"a.png": (10, "red fox"), "3_boat/b.png": (3, "boat")}


def test_what_is_left_is_noted(pairing):
    notes = " ".join(pairing_notes(pairing(["a.png"], {"b.txt": "x", "c.zip": "x", "d.md": "x"})))
    assert "b.txt" in notes and "c.zip" in notes and "d.md" in notes and "Archives" in notes


def test_a_text_that_fits_several_encodings_is_read_like_the_others_beside_it(pairing):
    doubtful = "可爱".encode("gb18030")
    alone = pairing(["a.png"], {"a.txt": doubtful})
    assert captions(alone) == {"a.png": None} and "a.txt is not readable text" in alone.skipped[0].reason
    told = pairing(["a.png", "b.png"], {"a.txt": doubtful, "b.txt": "彩色玻璃窗户".encode("gb18030")})
    assert captions(told) == {"a.png": "可爱", "b.png": "彩色玻璃窗户"} and not told.skipped
    assert any("GBK: b.txt, a.txt" in note for note in told.notes)
    mixed = pairing(["a.png", "b.png", "c.png"], {"a.txt": doubtful, "b.txt": "彩色玻璃窗户".encode("gb18030"),
                                                  "c.txt": "caf\xe9".encode("latin-1")})
    assert captions(mixed)["a.png"] is None and [one.name for one in mixed.skipped] == ["a.txt"]
