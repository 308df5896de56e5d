"""Names in zips: whatever program packed them, a picture and its text keep one name, and a guess is told."""

import struct
import time
import unicodedata
import zipfile
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sdlora.dataset.archive import unpack
from sdlora.dataset.folder import read_dataset
from sdlora.dataset.pairing import pair
from sdlora.errors import UserError


def png(seed=0):
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Raw(zipfile.ZipInfo):
    """An entry whose name is written as these bytes, without the UTF-8 flag."""
    def __init__(self, raw, extra=b""):
        super().__init__(raw.hex())
        self.raw, self.extra = raw, extra

    def _encodeFilenameFlags(self):
        return self.raw, self.flag_bits


def unicode_path(raw, name):
    content = b"\1" + struct.pack("<I", zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(content)) + content


@pytest.fixture
def pack(tmp_path):
    def call(*entries, name="a.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for entry, data in entries:
                archive.writestr(entry, data)
        return tmp_path / name
    return call


def both(stem, codec):
    """A picture and its caption under a name in an old encoding."""
    return [(Raw(f"{stem}{suffix}".encode(codec)), data) for suffix, data in ((".png", png()), (".txt", "mine"))]


@pytest.mark.parametrize("stem", ["maison à l'été", "水彩の家", "a\u0308 house"])
def test_names_that_are_utf_8_without_the_flag(pack, stem):
    listing = unpack(pack(*both(stem, "utf-8")))
    assert {name.stem for _, name in listing.files} == {unicodedata.normalize("NFC", stem)} and listing.notes == []


@pytest.mark.parametrize("stem, codec, said", [("größe", "cp437", "code page 437"), ("水彩の家", "cp932", "Shift-JIS"),
                                               ("表の家", "cp932", "Shift-JIS"), ("红色房子", "gbk", "GBK"),
                                               ("красный дом", "cp866", "code page 866"),
                                               ("côte d’azur", "cp1252", "Windows-1252")])
def test_names_in_a_code_page_are_guessed_and_told(pack, stem, codec, said):
    dataset = read_dataset(pack(*both(stem, codec)))
    assert [(e.name, e.caption) for e in dataset.examples] == [(f"{stem}.png", "mine")]
    assert any(said in note and stem in note for note in dataset.notes)


def test_the_unicode_path_field_counts_where_its_checksum_fits(pack):
    raw = "红色.png".encode("gbk")
    listing = unpack(pack((Raw(raw, unicode_path(raw, "紅色.png")), png()),
                          (Raw(b"x.png", unicode_path(b"y.png", "z.png")), png(1)),
                          (Raw(b"#U6c34.png", unicode_path(b"#U6c34.png", "水.png")), png(2))))
    assert [str(name) for _, name in listing.files] == ["紅色.png", "x.png", "水.png"] and listing.notes == []


def test_a_zip_of_a_trainers_folder_is_read_as_the_folder(pack):
    dataset = read_dataset(pack(("k/img/7_fox/a.png", png()), ("k/img/7_fox/a.txt", "a fox"), ("k/reg/1_x/b.png", png(1)),
                                ("k/img/7_fox/a-masklabel.png", png(2)), ("k/.thumbnails/a.png", png(3)), ("k/log/e.txt", "x")))
    assert [(e.name, e.caption, e.repeats) for e in dataset.examples] == [("k/img/7_fox/a.png", "a fox", 7)]
    assert {s.name for s in dataset.skipped} == {"k/reg", "k/log", "k/.thumbnails", "k/img/7_fox/a-masklabel.png"}


def test_the_name_of_a_zip_is_a_kohya_folder_too(pack):
    dataset = read_dataset(pack(("a.png", png()), name="10_red fox.zip"))
    assert [(e.repeats, e.caption) for e in dataset.examples] == [(10, "red fox")]


def test_equal_names_deep_in_a_zip(pack):
    folders = [f"{letter}/" + "a long name of a folder that is cut/" * 5 for letter in "xyz"]
    entries = [(f"{folder}1{suffix}", data) for number, folder in enumerate(folders)
               for suffix, data in ((".png", png(number)), (".txt", str(number)))]
    assert [e.caption for e in read_dataset(pack(*entries)).examples] == ["0", "1", "2"]


def test_captions_and_clutter_do_not_count_as_pictures(pack):
    """The limit is one of pictures: 1,000 of them with captions, caches and what a Mac adds are 5,000 entries."""
    entries = [(f"p/{n}{suffix}", data) for n in range(40) for suffix, data in ((".png", b"x"), (".txt", "x"))]
    clutter = [(f"__MACOSX/p/._{n}.png", b"x") for n in range(2500)] + [(f"p/{n}.npz", b"x") for n in range(2500)]
    findings = pair(unpack(pack(*entries, *clutter)))
    assert len(findings.found) == 40 and len(findings.others) == 2500 and findings.skipped == []


def test_a_zip_whose_unpacked_files_are_lost_is_unpacked_again(pack):
    archive = pack(("a.png", png()), ("a.txt", "a fox"), ("b.md", "x"))
    first = [file for file, _ in unpack(archive).files]
    times = [file.stat().st_mtime_ns for file in first[:2]]
    assert [file.stat().st_mtime_ns for file, _ in unpack(archive).files[:2]] == times, "unpacked once"
    first[0].write_bytes(b"")
    first[1].unlink()
    assert [e.caption for e in read_dataset(archive).examples] == ["a fox"]


def test_what_is_no_picture_is_told_as_in_a_folder(pack):
    dataset = read_dataset(pack(("a.png", png()), ("a_sdxl.npz", b"x"), ("config.json", b"{}"), ("b.gif", b"GIF89a"),
                                ("set.json", b"1")))
    assert [s.name for s in dataset.skipped] == ["b.gif"]
    assert any("a_sdxl.npz" in note and "config.json" in note and "set.json" not in note for note in dataset.notes)


def test_an_entry_without_a_name_costs_only_itself(pack):
    path = pack((Raw(b""), png(1)), (Raw(b"a.png"), png(2)), (Raw(b"/"), b""))
    assert [one.name for one in read_dataset(path).examples] == ["a.png"]


def test_a_comment_that_looks_like_the_end_of_a_zip_is_not_taken_for_it(pack):
    path = pack(("a.png", png()))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\5\6 said the fox" + b"!" * 60
    with pytest.raises(UserError, match="damaged or not a zip"):  # zipfile itself falls for it
        unpack(path)


def test_names_in_thousands_of_folders_are_read_in_no_time_and_told_apart(pack):
    deep = [b"/".join([start, *[b"d"] * 5000, b"a"]) for start in (b"one", b"two")]
    began = time.monotonic()
    findings = pair(unpack(pack(*((Raw(name + suffix), data) for name, text in zip(deep, (b"a fox", b"an owl"), strict=True)
                                  for suffix, data in ((b".png", png(len(text))), (b".txt", text))))))
    assert sorted(one.text for one in findings.found) == ["a fox", "an owl"] and time.monotonic() - began < 2


def test_a_set_of_an_older_trainer_keeps_its_captions_in_json(pack):
    found = read_dataset(pack(("10_fox/a.png", png()), ("meta_cap.json", '{"10_fox/a": {"caption": "a fox"}}')))
    assert [(one.caption, one.repeats) for one in found.examples] == [("a fox", 10)]
