"""Opened pictures: what comes out is upright, sRGB, 8 bit, on white, without metadata."""

from io import BytesIO

import pytest
from PIL import Image, PngImagePlugin

from sdlora.dataset.picture import open_picture, read_picture, thumbnail
from sdlora.errors import UserError
from tests.dataset.pictures import BLUE, GREEN, RED, YELLOW, close, corners, noise, saved


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.heic"])
def test_every_format_opens(tmp_path, name):
    path = saved(tmp_path, corners(), name, format="HEIF" if name.endswith("heic") else None)
    image = open_picture(path)
    assert image.mode == "RGB" and image.size == (96, 64)
    for point, colour in (((8, 8), RED), ((88, 8), GREEN), ((8, 56), BLUE), ((88, 56), YELLOW)):
        assert close(image.getpixel(point), colour, 24)


def test_camera_and_place_stay_outside(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0xA431] = "SecretCamera", "SERIAL123"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", "<script>alert(1)</script>")
    for path in (saved(tmp_path, noise(), "a.jpg", exif=exif), saved(tmp_path, noise(), "a.png", exif=exif, pnginfo=notes)):
        image = open_picture(path)
        assert image.info == {} and not image.getexif()
        buffer = BytesIO()
        image.save(buffer, "PNG")
        assert b"Secret" not in buffer.getvalue() and b"script" not in buffer.getvalue() and b"eXIf" not in buffer.getvalue()


def test_the_digest_is_of_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    first = read_picture(saved(tmp_path, noise(), "a.png")).digest
    assert read_picture(saved(tmp_path, noise(), "b.png", exif=exif, compress_level=1)).digest == first
    assert read_picture(saved(tmp_path, noise(seed=1), "c.png")).digest != first


def test_thumbnail_is_small_and_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert thumbnail(saved(tmp_path, noise(400, 200), "a.jpg", exif=exif), 100).size == (50, 100)


@pytest.mark.parametrize(("data", "says"), [
    (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "is a video"), (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "is a video"),
    (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "is a camera raw file"), (b"RIFF\x24\0\0\0AVI LIST", "is a video or a sound"),
    (b"\x1a\x45\xdf\xa3\x9f\x42\x86", "is a video"), (b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000 file"),
    (b"Rar!\x1a\7\1\0", "is an archive"),
    (b"7z\xbc\xaf\x27\x1c", "is an archive"), (b"gimp xcf v011\0", "is a GIMP file"),
    (b"\0\5\x16\7\0\2\0\0Mac OS X", "is the second half of a file of a Mac")])
def test_files_of_other_kinds_are_called_what_they_are(tmp_path, data, says):
    (tmp_path / "a.jpg").write_bytes(data + bytes(200))
    with pytest.raises(UserError, match=rf"a\.jpg {says}"):
        read_picture(tmp_path / "a.jpg")
