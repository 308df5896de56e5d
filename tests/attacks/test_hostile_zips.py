"""Hostile zips, made here by code: refused or emptied of their tricks, nothing outside the cache is ever written."""

import stat
import struct
import time
import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sdlora.dataset.archive import unpack
from sdlora.dataset.folder import read_dataset
from sdlora.errors import UserError


def png(seed=0):
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make(path, *entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def files_below(folder):
    return {file for file in folder.rglob("*") if file.is_file()}


NAMES = ["../../evil.png", "..\\..\\evil.png", "/etc/passwd.png", "C:\\x.png", "\\\\server\\share\\x.png", "%2e%2e%2fx.png",
         ".../...//x.png", "a\u202egnp.png", "CON.png", "a.png:evil.png", "x" * 250 + ".png", "\u00e9" * 126 + ".png",
         "new\nline.png", 'quote";|*?.png', "   .png", "name ..png"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_never_become_paths(tmp_path, own_home, name):
    before = files_below(tmp_path)
    archive = make(tmp_path / "a.zip", (name, png()), ("ok.png", png(1)))
    files = unpack(archive).files
    cache = own_home / "cache" / "zips"
    assert len(files) == 2 and all(file.resolve().is_relative_to(cache) and file.stem.isdigit() for file, _ in files)
    for _, shown in files:
        assert ".." not in shown.parts and not shown.is_absolute() and "\\" not in str(shown) and "\u202e" not in str(shown)
    assert {f for f in files_below(tmp_path) - before if not f.is_relative_to(cache)} == {archive}


def test_long_names_keep_their_own_texts(tmp_path):
    long = "the same beginning " * 10
    archive = make(tmp_path / "a.zip", (f"{long}1.png", png()), (f"{long}2.png", png(1)), (f"{long}1.txt", "one"),
                   (f"{long}2.txt", "two"))
    assert {e.caption for e in read_dataset(archive).examples} == {"one", "two"}
    assert all(len(e.name) <= 80 for e in read_dataset(archive).examples)


def test_a_name_with_nul_is_harmless(tmp_path):
    archive = make(tmp_path / "a.zip", ("aXb.png", png()))
    archive.write_bytes(archive.read_bytes().replace(b"aXb.png", b"a\0b.png"))
    listing = unpack(archive)
    assert len(listing.files) + len(listing.skipped) == 1


def test_links_and_inner_archives_are_listed_not_followed(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    inner = make(tmp_path / "inner.zip", ("b.png", png(2)))
    archive = make(tmp_path / "a.zip", ("a.png", png()), (link, "/etc/passwd"), ("inner.zip", inner.read_bytes()))
    dataset = read_dataset(archive)
    assert [e.name for e in dataset.examples] == ["a.png"]
    assert any("is a link" in s.reason for s in dataset.skipped) and any("archive inside" in s.reason for s in dataset.skipped)


def test_a_bomb_of_zeros_is_refused_while_reading(tmp_path, own_home):
    archive = make(tmp_path / "a.zip", ("a.png", b"\0" * 100 * 2**20))
    assert archive.stat().st_size < 200_000
    with pytest.raises(UserError, match="far more than pictures"):
        read_dataset(archive)
    assert sum(file.stat().st_size for file in files_below(own_home)) < 2**20


def test_a_bomb_that_lies_about_its_size(tmp_path):
    """The stated size of the entry is set to 10 bytes in both records: only counting while reading helps."""
    archive = make(tmp_path / "a.zip", ("a.png", b"\0" * 60 * 2**20))
    data = bytearray(archive.read_bytes())
    for magic, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        struct.pack_into("<I", data, data.index(magic) + offset, 10)
    archive.write_bytes(data)
    with pytest.raises(UserError):
        read_dataset(archive)


def test_overlapping_entries_are_bounded(tmp_path, own_home):
    """Fifield's trick in small: many directory entries point at the same bytes."""
    archive = make(tmp_path / "a.zip", ("a.png", b"\0" * 40 * 2**20))
    data = archive.read_bytes()
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    record, count = data[start:end], 500
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(record) * count, start, 0)
    archive.write_bytes(data[:start] + record * count + tail)
    with pytest.raises(UserError):
        read_dataset(archive)
    assert sum(file.stat().st_size for file in files_below(own_home)) < 2**20


def test_too_many_pictures_texts_and_files(tmp_path):
    start = time.process_time()
    for suffix, count, said in ((".png", 2001, "2001 pictures; at most 2000"), (".txt", 6001, "6001 texts"),
                                (".md", 40_001, "more than 40000 files")):
        archive = make(tmp_path / "a.zip", *((f"{n}{suffix}", b"") for n in range(count)), method=zipfile.ZIP_STORED)
        with pytest.raises(UserError, match=said):
            unpack(archive)
    assert time.process_time() - start < 10


def test_a_password_is_named(tmp_path):
    archive = make(tmp_path / "a.zip", ("a.png", png()), method=zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(magic) + offset] |= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match="password"):
        unpack(archive)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packing_methods_are_listed(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png(), method)
        archive.writestr("b.png", png(1), zipfile.ZIP_STORED)
    dataset = read_dataset(tmp_path / "a.zip")
    assert [e.name for e in dataset.examples] == ["b.png"] and "does not read" in dataset.skipped[0].reason


def test_one_damaged_entry_costs_one_picture(tmp_path):
    archive = make(tmp_path / "a.zip", ("a.png", png()), ("b.png", png(1)), method=zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    data[data.index(b"IDAT") + 50] ^= 255
    archive.write_bytes(data)
    dataset = read_dataset(archive)
    assert [e.name for e in dataset.examples] == ["b.png"] and "damaged inside" in dataset.skipped[0].reason


def whole():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", png())
    return buffer.getvalue()


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\3\4" * 20, b"7z\xbc\xaf\x27\x1c" + b"\0" * 50, b"Rar!\x1a\x07\0" + b"\0" * 50,
                                  b"\0" * 600, b"<html>404</html>", whole()[:-30], whole()[:200], whole()[:-22] + b"\xff" * 22,
                                  whole()[:-6] + b"\xff" * 6, b"PK\5\6" + b"\0" * 18], ids=range(12))
def test_what_is_no_whole_zip_is_refused(tmp_path, data):
    (tmp_path / "pictures.zip").write_bytes(data)
    with pytest.raises(UserError) as refused:
        read_dataset(tmp_path / "pictures.zip")
    assert "pictures.zip" in refused.value.message and refused.value.hint


def test_clutter_of_a_mac_is_left_out_without_a_word(tmp_path):
    archive = make(tmp_path / "a.zip", ("a.png", png()), ("__MACOSX/._a.png", b"x"), (".DS_Store", b"x"), ("f/._b.png", b"x"))
    dataset = read_dataset(archive)
    assert len(dataset.examples) == 1 and dataset.skipped == ()
    assert not any("MACOSX" in note or "DS_Store" in note or "._" in note for note in dataset.notes)


def test_the_same_name_twice_keeps_both(tmp_path):
    with pytest.warns(UserWarning):
        archive = make(tmp_path / "a.zip", ("a.png", png()), ("a.png", png(1)))
    assert len(read_dataset(archive).examples) == 2


def test_random_damage_is_a_refusal_or_a_dataset(tmp_path):
    rng, good = np.random.default_rng(0), whole()
    path, refused = tmp_path / "a.zip", 0
    for _ in range(120):
        data = bytearray(good)
        for _ in range(int(rng.choice([1, 4]))):
            at = rng.integers(len(data) - 120, len(data)) if rng.random() < 0.6 else rng.integers(60)
            data[int(at)] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            assert len(read_dataset(path).examples) <= 1
        except UserError:
            refused += 1
    assert refused > 20
