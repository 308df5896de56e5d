"""Pictures inside headers become thumbnails in our own cache; pictures beside a file come first; hostile ones are left out."""

import base64
import io
import json
import threading

import pytest
from PIL import Image

from sdlora.library import covers, index
from sdlora.storage import data_folder
from tests.library.files import lora


def encoded(color="red", side=96, kind="JPEG"):
    held = io.BytesIO()
    Image.new("RGB", (side, side), color).save(held, kind)
    return base64.b64encode(held.getvalue()).decode()


def color_of(path):
    with Image.open(path) as image:
        return image.convert("RGB").getpixel((5, 5))


@pytest.mark.parametrize("said", [{"modelspec.thumbnail": "data:image/jpeg;base64," + encoded()},
                                  {"ssmd_cover_images": json.dumps([encoded(kind="PNG"), encoded("blue")])},
                                  {"ssmd_cover_images": json.dumps(["%%%" * 99, 7, encoded(kind="WEBP", side=900)])}])
def test_an_embedded_cover(said):
    lora(data_folder("loras") / "a.safetensors", said)
    cover = index.find("a").thumbnail
    assert cover == covers.kept("a") and color_of(cover)[0] > 240 and color_of(cover)[1] < 20
    with Image.open(cover) as image:
        assert max(image.size) <= covers.SIDE_PX


def test_a_picture_beside_the_file_comes_first():
    file = lora(data_folder("loras") / "a.safetensors", {"modelspec.thumbnail": "data:image/jpeg;base64," + encoded()})
    Image.new("RGB", (64, 64)).save(file.with_suffix(".png"))
    assert index.find("a").thumbnail == file.with_suffix(".png") and not covers.kept("a").exists()
    file.with_suffix(".png").unlink()
    assert index.find("a").thumbnail == covers.kept("a") and covers.kept("a").is_file()


def test_a_changed_file_gets_its_new_cover_and_a_lost_cache_is_filled():
    file = lora(data_folder("loras") / "a.safetensors", {"modelspec.thumbnail": "data:image/png;base64," + encoded(kind="PNG")})
    assert color_of(index.find("a").thumbnail)[0] > 240
    lora(file, {"modelspec.thumbnail": "data:image/png;base64," + encoded("#0000ff", kind="PNG"), "x": "y"})
    assert color_of(index.find("a").thumbnail)[2] > 240
    covers.kept("a").unlink()
    assert [step.stage for step in index.scan()] == ["covers"] and covers.kept("a").is_file()


def test_two_threads_take_each_its_own_cover(monkeypatch):
    """A page and the look beside it take covers out at the same time: neither gets the other's picture."""
    red, blue = (lora(data_folder("loras") / f"{color}.safetensors",
                      {"modelspec.thumbnail": f"base64,{encoded(color, kind='PNG')}"}) for color in ("red", "blue"))
    shrink, others = covers.thumbnail, []

    def meanwhile(path, side):
        if not others:
            others.append(threading.Thread(target=covers.take_out, args=(blue, covers.kept("blue"))))
            others[0].start()
            others[0].join()
        return shrink(path, side)
    monkeypatch.setattr(covers, "thumbnail", meanwhile)
    assert covers.take_out(red, covers.kept("red"))
    assert color_of(covers.kept("red"))[0] > 240 and color_of(covers.kept("blue"))[2] > 240


HOSTILE = {"text": "x" * 500, "not a picture": base64.b64encode(b"<svg onload=alert(1)>" * 20).decode(),
           "huge": "QUFB" * 3_000_000, "tiny": encoded(side=8), "cut": encoded()[:300], "path": "/etc/passwd" + " " * 200}


@pytest.mark.parametrize("how", HOSTILE)
@pytest.mark.parametrize("key", covers.COVER_KEYS)
def test_what_is_no_picture_is_left_out(how, key):
    text = "data:image/jpeg;base64," + HOSTILE[how] if key == covers.COVER_KEYS[0] else json.dumps([HOSTILE[how]])
    lora(data_folder("loras") / "a.safetensors", {key: text})
    entry = index.find("a")
    assert entry.thumbnail is None and entry.problem == "" and list(index.scan()) == []
    assert not (data_folder("library", "covers")).exists() or list(data_folder("library", "covers").iterdir()) == []
