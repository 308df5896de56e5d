"""What is remembered of pictures: the square cut in the child is the right one, and the cache costs no waiting for the disk."""

import os

import pytest
from PIL import Image

from sdlora.dataset import child, picture_cache
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
    came, real = [], child.call

    def counted(*asked):
        answer = real(*asked)
        came.append(len(answer[1]))
        return answer

    monkeypatch.setattr(child, "call", counted)
    return came


def test_the_square_that_is_kept_is_the_one_that_would_be_cut(photo, payloads):
    seen = picture_cache.picture_info(photo, side=48)
    kept = picture_cache.take_square(photo, "", seen.digest, 48)
    assert payloads == [48 * 48 * 3]
    again = picture_cache.take_square(photo, "", seen.digest, 48)  # it was taken: decoded anew
    expected = square_crop(read_picture(photo).image, 48)
    assert kept.tobytes() == again.tobytes() == expected.tobytes() and (seen.width, seen.height) == (150, 100)


def test_no_pixel_comes_through_the_pipe_when_none_is_asked_for(photo, payloads):
    assert picture_cache.picture_info(photo).digest == read_picture(photo).digest
    assert payloads[0] == 0


def test_a_look_waits_for_no_disk_and_leaves_nothing_half_written(photo, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: pytest.fail("a cache was flushed to the disk"))
    picture_cache.picture_info(photo)
    assert [file.suffix for file in picture_cache.cache_folder().iterdir()] == [".json"]
