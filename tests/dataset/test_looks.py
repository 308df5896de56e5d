"""What is remembered of pictures: the square cut in the child is the right one, and the cache costs no waiting for the disk."""

import os

import pytest
from PIL import Image

from sdlora.dataset import child, looks
from sdlora.dataset.crop import square_crop
from sdlora.dataset.picture import read_picture


@pytest.fixture
def photo(tmp_path):
    file = tmp_path / "photo.png"
    Image.radial_gradient("L").resize((150, 100)).convert("RGB").save(file)
    return file


@pytest.fixture
def payloads(monkeypatch):
    """How many bytes came back for each file that was asked about."""
    came, real = [], child.ask

    def counted(*asked):
        answer = real(*asked)
        came.append(len(answer[1]))
        return answer

    monkeypatch.setattr(child, "ask", counted)
    return came


def test_the_square_that_is_kept_is_the_one_that_would_be_cut(photo, payloads):
    seen = looks.look(photo, side=48)
    kept = looks.take_square(photo, "", seen.digest, 48)
    assert payloads == [48 * 48 * 3]
    again = looks.take_square(photo, "", seen.digest, 48)  # it was taken: decoded anew
    expected = square_crop(read_picture(photo).image, 48)[0]
    assert kept.tobytes() == again.tobytes() == expected.tobytes() and (seen.width, seen.height) == (150, 100)


def test_no_pixel_comes_through_the_pipe_when_none_is_asked_for(photo, payloads):
    assert looks.look(photo).digest == read_picture(photo).digest
    assert payloads[0] == 0


def test_a_look_waits_for_no_disk_and_leaves_nothing_half_written(photo, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: pytest.fail("a cache was flushed to the disk"))
    looks.look(photo)
    assert [file.suffix for file in looks.folder().iterdir()] == [".json"]
