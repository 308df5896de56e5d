"""Text inside picture files: read by Pillow, read back, and no damaged or hostile file is more than a sentence."""

import gzip
import random
import time
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from sdlora.dataset import child
from sdlora.draw.infotext import image_text
from sdlora.errors import UserError

TEXT = "a red house 🏠 голубой дом\nSteps: 20, Seed: 1"


def picture():
    return Image.effect_noise((64, 48), 60).convert("RGB")


def comment_of(path):
    with Image.open(path) as opened:
        return opened.getexif().get_ifd(0x8769)[0x9286]


def type_of_comment(path):
    with Image.open(path) as opened:
        block = opened.info["exif"].removeprefix(b"Exif\0\0")
        directory, file = TiffImagePlugin.ImageFileDirectory_v2(block[:8]), BytesIO(block)
        file.seek(opened.getexif()[0x8769])
        directory.load(file)
        return directory.tagtype[0x9286]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_what_is_written_is_read_here_and_by_pillow(tmp_path, suffix):
    path = image_text.write(tmp_path / f"picture{suffix}", picture(), "parameters", TEXT)
    found = image_text.read(path)
    if suffix == ".png":
        assert found == {"parameters": TEXT}
        with Image.open(path) as opened:
            assert opened.text["parameters"] == TEXT
    else:
        assert found == {"comment": TEXT}
        assert comment_of(path) == b"UNICODE\0" + TEXT.encode("utf-16-be")  # byte for byte as A1111 (piexif) writes it
        assert type_of_comment(path) == 7  # UNDEFINED: piexif reads no other
    with Image.open(path) as opened:
        assert opened.size == (64, 48)


@pytest.mark.parametrize("comment", [
    b"UNICODE\0" + TEXT.encode("utf-16-le"), b"UNICODE\0" + TEXT.encode("utf-16"), b"UNICODE\0" + TEXT.encode("utf-16-be"),
    b"\0" * 8 + TEXT.encode(), b"UTF8\0\0\0\0" + TEXT.encode(), TEXT.encode()])
def test_comments_of_other_programs(tmp_path, comment):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment
    exif[0x0110] = "a camera"
    for suffix in (".jpg", ".webp"):
        picture().save(tmp_path / f"x{suffix}", exif=exif.tobytes())
        assert image_text.read(tmp_path / f"x{suffix}") == {"comment": TEXT}


def test_packed_and_plain_chunks_are_read_also_after_the_pixels(tmp_path):
    info = PngInfo()
    info.add_text("other", "é" * 100)
    info.add_text("zipped", "latin", zip=True)
    info.add_itxt("parameters", TEXT, zip=True)
    info.add(b"tEXt", b"late\0after the pixels", after_idat=True)
    picture().save(tmp_path / "x.png", pnginfo=info)
    assert image_text.read(tmp_path / "x.png") == {"other": "é" * 100, "zipped": "latin", "parameters": TEXT,
                                                 "late": "after the pixels"}


def test_a_text_bomb_is_not_unpacked(tmp_path):
    info = PngInfo()
    info.add_itxt("parameters", "x" * (image_text.MAX_TEXT_BYTES * 20), zip=True)
    picture().save(tmp_path / "bomb.png", pnginfo=info)
    with pytest.raises(UserError, match="bomb.png is damaged"):
        image_text.read(tmp_path / "bomb.png")
    hidden = gzip.compress(b"x" * image_text.MAX_TEXT_BYTES * 40)
    began = time.process_time()
    hide(picture(), hidden, "RGB", b"stealth_rgbcomp").save(tmp_path / "deep.png")
    assert "stealth" not in image_text.read(tmp_path / "deep.png") and time.process_time() - began < 5


def hide(image, payload, channels, signature):
    """Write a text into the lowest bits, column by column, as the extension sd-webui-stealth-pnginfo does."""
    image = image.resize((400, 300)).convert("RGBA")
    values = np.array(image)
    places = [image.getbands().index(channel) for channel in channels]
    bits = np.unpackbits(np.frombuffer(signature + (len(payload) * 8).to_bytes(4) + payload, np.uint8))
    columns = values[:, :, places].swapaxes(0, 1).reshape(-1)
    columns[:len(bits)] = columns[:len(bits)] & 0xFE | bits
    values[:, :, places] = columns.reshape(400, 300, len(channels)).swapaxes(0, 1)
    return Image.fromarray(values, "RGBA").convert("RGBA" if channels == "A" else "RGB")


@pytest.mark.parametrize("signature, channels", [("stealth_pnginfo", "A"), ("stealth_pngcomp", "A"), ("stealth_rgbinfo", "RGB"),
                                                 ("stealth_rgbcomp", "RGB")])
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_text_hidden_in_the_pixels(tmp_path, signature, channels, suffix):
    payload = gzip.compress(TEXT.encode()) if signature.endswith("comp") else TEXT.encode()
    image = hide(picture(), payload, channels, signature.encode())
    image.save(tmp_path / f"x{suffix}", **({"lossless": True, "exact": True} if suffix == ".webp" else {}))
    assert image_text.read(tmp_path / f"x{suffix}") == {"stealth": TEXT}


@pytest.mark.parametrize("payload", [b"", b"no gzip", gzip.compress(b"x" * 500)[:-30]])
def test_a_damaged_hidden_text_is_none(tmp_path, payload):
    hide(picture(), payload, "A", b"stealth_pngcomp").save(tmp_path / "x.png")
    assert set(image_text.read(tmp_path / "x.png")) <= {"stealth"}


def test_utf8_in_a_latin_chunk_and_other_tags(tmp_path):
    info = PngInfo()
    info.add(b"tEXt", b"parameters\0" + "голубой".encode())
    info.add(b"tEXt", b"latin\0caf\xe9")
    picture().save(tmp_path / "x.png", pnginfo=info)
    assert image_text.read(tmp_path / "x.png") == {"parameters": "голубой", "latin": "café"}
    exif = Image.Exif()
    exif[0x0110], exif[0x010F], exif[0x0131] = 'prompt:{"1": {}}', 'Workflow: {"nodes": []}', "Some Program"
    picture().save(tmp_path / "x.webp", exif=exif)
    found = image_text.read(tmp_path / "x.webp")
    assert found == {"prompt": '{"1": {}}', "workflow": '{"nodes": []}', "software": "Some Program"}


def test_texts_before_damaged_pixels_are_read(tmp_path):
    path = image_text.write(tmp_path / "x.png", picture(), "parameters", TEXT)
    path.write_bytes(path.read_bytes()[:-600])
    assert image_text.read(path) == {"parameters": TEXT}


def test_content_credentials_name_their_signer(tmp_path):
    info = PngInfo()
    info.add(b"caBX", b"...jumbc2pa...OpenAI OpCo...")
    picture().save(tmp_path / "x.png", pnginfo=info)
    assert image_text.read(tmp_path / "x.png") == {"c2pa": "ChatGPT or DALL-E"}


def test_many_text_bombs_are_not_unpacked_together(tmp_path):
    """20,000 texts of a megabyte each, 20 GB when all are kept."""
    picture().save(tmp_path / "bomb.png")
    data, packed = (tmp_path / "bomb.png").read_bytes(), zlib.compress(b"x" * 2**20)
    chunks = bytearray()
    for number in range(20_000):
        body = b"zTXt" + b"%d\0\0" % number + packed
        chunks += (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
    (tmp_path / "bomb.png").write_bytes(data[:33] + chunks + data[33:])
    begun = time.process_time()
    with pytest.raises(UserError, match="bomb.png is damaged"):
        image_text.read(tmp_path / "bomb.png")
    assert time.process_time() - begun < 5


def test_a_picture_that_never_ends_to_decode_is_refused_here_too(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "LIMIT_S", 1)
    picture().save(tmp_path / "x.png")
    data, empty = (tmp_path / "x.png").read_bytes(), b"\0\0\0\0tEXt" + zlib.crc32(b"tEXt").to_bytes(4)
    (tmp_path / "x.png").write_bytes(data[:33] + empty * 4_000_000 + data[33:])
    with pytest.raises(UserError, match="x.png takes too long to read"):
        image_text.read(tmp_path / "x.png")


def test_a_text_may_have_any_name(tmp_path):
    info = PngInfo()
    info.add_text("refused", "no")
    picture().save(tmp_path / "x.png", pnginfo=info)
    assert image_text.read(tmp_path / "x.png") == {"refused": "no"}


def test_files_without_text_and_files_that_are_none(tmp_path):
    for suffix in (".png", ".jpg", ".webp"):
        picture().save(tmp_path / f"bare{suffix}")
        assert image_text.read(tmp_path / f"bare{suffix}") == {}
    (tmp_path / "fake.png").write_bytes(b"not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\x20tEXt")
    for name in ("fake.png", "cut.png", "empty.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            image_text.read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_damaged_files_are_read_or_refused_but_never_a_traceback(tmp_path, suffix):
    whole = image_text.write(tmp_path / f"whole{suffix}", picture(), "parameters", TEXT).read_bytes()
    dice, path = random.Random(1), tmp_path / f"damaged{suffix}"
    began = time.process_time()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(min(len(data), 400))] = dice.randrange(256)
        path.write_bytes(data[:dice.randrange(1, len(data))] if dice.random() < 0.3 else data)
        try:
            found = image_text.read(path)
        except UserError:
            continue
        assert all(isinstance(text, str) for text in found.values())
    assert time.process_time() - began < 5


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(UserError, match="too long for a JPEG"):
        image_text.write(tmp_path / "x.jpg", picture(), "parameters", "x" * 40_000)
    assert len(image_text.read(image_text.write(tmp_path / "x.webp", picture(), "parameters", "x" * 40_000))["comment"]) == 40_000
    with pytest.raises(UserError, match="no picture format"):
        image_text.write(tmp_path / "x.bmp", picture(), "parameters", TEXT)
    assert [path.name for path in tmp_path.iterdir()] == ["x.webp"]
