"""Hostile and broken picture files, made here by code: each costs one sentence, never more."""

import os
import random
import struct
import time
import zipfile
import zlib
from io import BytesIO

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from sdlora.dataset.picture import open_picture
from sdlora.errors import UserError

pillow_heif.register_heif_opener()


def noise(width=96, height=80):
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(kind, **options):
    buffer = BytesIO()
    noise().save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, *chunks, depth=8, colour=2):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def bomb_of_zeros(megabytes):
    return zlib.compress(b"\0" * megabytes * 2**20, 9)


PIXELS = chunk(b"IDAT", zlib.compress(b"\0" * (64 * 3 + 1) * 64))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://evil.example/x.png"/><script>alert(1)</script></svg>'
NESTED = b"<svg>" + b"".join(b'<g id="a%d"><use href="#a%d"/><use href="#a%d"/></g>' % (i, i - 1, i - 1) for i in range(30))
ADAM = encoded("PNG").index(b"IDAT")

HOSTILE = {
    "empty": (b"", "empty file"),
    "one byte": (b"\xff", "not a picture"),
    "jpeg cut at half": (encoded("JPEG")[:len(encoded("JPEG")) // 2], "ends early"),
    "jpeg cut at 90 %": (encoded("JPEG")[:len(encoded("JPEG")) * 9 // 10], "ends early"),
    "png cut at half": (encoded("PNG")[:len(encoded("PNG")) // 2], "damaged"),
    "webp cut": (encoded("WEBP")[:-200], "damaged"),
    "avif cut": (encoded("AVIF")[:-200], "damaged"),
    "heic cut": (encoded("HEIF")[:-200], "damaged"),
    "png without pixels": (png(64, 64), "damaged"),
    "png 0 x 0": (png(0, 0, PIXELS), "damaged"),
    "png wrong checksum of pixels": (encoded("PNG")[:-20] + b"\0\0\0\0" + encoded("PNG")[-16:], "damaged"),
    "png says 30000 x 30000": (png(30_000, 30_000, PIXELS), "too large"),
    "png says 12000 x 9000": (png(12_000, 9_000, PIXELS), "too large"),
    "png says 2147483647 x 2147483647": (png(2**31 - 1, 2**31 - 1, PIXELS), "too large"),
    "png pixel bomb": (png(16_000, 2_000, chunk(b"IDAT", bomb_of_zeros(1)), colour=0), "damaged"),
    "gif": (b"GIF89a" + b"\1\0" * 40, "a GIF"),
    "bmp": (b"BM" + b"\0" * 60, "a BMP"),
    "tiff": (b"II*\0\x08\0\0\0" + b"\0" * 60, "a TIFF"),
    "psd": (b"8BPS\0\1" + b"\0" * 60, "a Photoshop"),
    "ico": (b"\0\0\1\0\1\0" + b"\0" * 60, "an icon"),
    "ppm": (b"P6 64 64 255\n" + b"\0" * 64 * 64 * 3, "a PPM"),
    "jpeg xl": (b"\xff\x0a" + b"\0" * 60, "a JPEG XL"),
    "eps loop": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%BeginBinary: -30\n" * 50, "a PostScript"),
    "svg": (SVG, "vector"),
    "svg behind xml": (b'<?xml version="1.0"?>\n' + SVG, "vector"),
    "svg with nested use": (NESTED, "vector"),
    "web page": (b"\n <!DOCTYPE html><html><body>404</body></html>", "web page"),
    "web page with bom": (b"\xef\xbb\xbf<html>", "web page"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
    "zip": (b"PK\3\4" + b"\0" * 60, "a zip"),
    "text": (b"hello", "not a picture"),
    "video": (b"\0\0\0\x18ftypisom" + b"\0" * 60, "a video"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_with_a_sentence(tmp_path, name):
    data, word = HOSTILE[name]
    path = tmp_path / "sunset.png"
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(UserError, match=word) as refused:
        open_picture(path)
    assert "sunset.png" in refused.value.message and refused.value.hint
    assert time.monotonic() - start < 5


def test_wrong_checksum_at_the_very_end_is_accepted(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("PNG")[:-4] + b"\0\0\0\0")
    assert open_picture(tmp_path / "a.png").size == (96, 80)


def test_a_polyglot_loses_its_tail(tmp_path):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("payload.txt", "PAYLOAD")
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG") + buffer.getvalue())
    again = BytesIO()
    open_picture(tmp_path / "a.jpg").save(again, "JPEG")
    assert b"PAYLOAD" not in again.getvalue() and b"PK\3\4" not in again.getvalue()


def test_the_byte_limit(tmp_path):
    """51 MB is refused before it is read; 49 MB of the same picture is accepted."""
    path = tmp_path / "big.jpg"
    path.write_bytes(encoded("JPEG"))
    os.truncate(path, 49 * 2**20)
    assert open_picture(path).size == (96, 80)
    os.truncate(path, 51 * 2**20)
    with pytest.raises(UserError, match="too large .51 MB"):
        open_picture(path)
    os.truncate(path, 50 * 2**20 + 2**18)
    with pytest.raises(UserError, match="too large .50.2 MB; at most 50 MB"):
        open_picture(path)


def test_things_that_are_not_files(tmp_path):
    with pytest.raises(UserError, match="could not be opened .it is a folder"):
        open_picture(tmp_path)
    with pytest.raises(UserError, match="could not be opened"):
        open_picture(tmp_path / "gone.png")
    with pytest.raises(UserError, match="could not be opened"):
        open_picture(tmp_path / "nul\0.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(UserError, match="could not be opened .it is not an ordinary file"):
            open_picture(tmp_path / "pipe.png")
        (tmp_path / "self.png").symlink_to("self.png")
        with pytest.raises(UserError, match="could not be opened .Too many levels"):
            open_picture(tmp_path / "self.png")


def test_a_name_full_of_tricks_is_shown_clean(tmp_path):
    path = tmp_path / "a\u202egnp.png"
    path.write_bytes(b"")
    with pytest.raises(UserError) as refused:
        open_picture(path)
    assert "\u202e" not in refused.value.message


def with_right_checksums(data):
    """The same PNG with every chunk checksum mended, so that the damage reaches the code behind the checksum."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        if at + 12 + length > len(data):
            break
        out += chunk(bytes(data[at + 4:at + 8]), bytes(data[at + 8:at + 8 + length]))
        at += 12 + length
    return bytes(out + data[at:])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "HEIF"])
@pytest.mark.filterwarnings("ignore")
def test_random_damage_never_gets_past_the_door(tmp_path, kind):
    """Seeded mutations: each file opens or is refused by a UserError; nothing else may come out."""
    rng, path, refused = random.Random(kind), tmp_path / "a.png", 0
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encoded(kind, exif=exif)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 3, 10))):
            data[rng.randrange(min(len(data), rng.choice((64, 400, len(data)))))] = rng.choice((0, 255, rng.randrange(256)))
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)):]
        path.write_bytes(with_right_checksums(data) if kind == "PNG" and rng.random() < 0.8 else data)
        try:
            assert open_picture(path).mode == "RGB"
        except UserError:
            refused += 1
    assert refused > 20, "the damage must have done something"


def progressive(scans, side=96):
    """A flat progressive JPEG whose last scan, with its tables, is repeated."""
    buffer = BytesIO()
    Image.new("L", (side, side), 90).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda")):-2]
    return data[:-2] + last * scans + data[-2:]


def test_a_jpeg_of_ten_thousand_scans_is_refused_at_once(tmp_path):
    (tmp_path / "a.jpg").write_bytes(progressive(10_000, 1000))
    begun = time.monotonic()
    with pytest.raises(UserError, match="a.jpg is drawn in 10006 passes"):
        open_picture(tmp_path / "a.jpg")
    assert time.monotonic() - begun < 3
    (tmp_path / "b.jpg").write_bytes(progressive(100))
    assert open_picture(tmp_path / "b.jpg").size == (96, 96)


def swollen_exif(entries, size):
    """EXIF of so many entries that each claim the same `size` bytes."""
    body = b"".join(struct.pack("<HHII", 0x200 + number, 7, size, 8) for number in range(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + body + b"\0" * (size + 16)


def test_exif_that_unpacks_to_gigabytes_does_not_cost_the_picture(tmp_path):
    exif = chunk(b"eXIf", swollen_exif(60_000, 2**21))  # 120 GB when all of it is read
    (tmp_path / "a.png").write_bytes(encoded("PNG")[:33] + exif + encoded("PNG")[33:])
    assert open_picture(tmp_path / "a.png").tobytes() == noise().tobytes()
