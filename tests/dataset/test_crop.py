"""The square that is trained on, and the box the page shows for it."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from sdlora.dataset.crop import crop_box, cut_share, square_crop


@pytest.mark.parametrize("size, box", [((64, 64), (0, 0, 64, 64)), ((100, 64), (18, 0, 82, 64)), ((64, 101), (0, 18, 64, 82))])
def test_the_box_is_the_middle_square(size, box):
    assert crop_box(*size) == box


def test_the_crop_is_the_box_resized():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8))
    cropped = square_crop(image, 32)
    assert crop_box(*image.size) == (30, 0, 120, 90)
    reference = ImageOps.fit(image, (32, 32), Image.Resampling.LANCZOS)  # Pillow's own centre crop
    assert np.array_equal(np.asarray(cropped), np.asarray(reference))


def test_a_small_picture_is_enlarged():
    assert square_crop(Image.new("RGB", (64, 70)), 128).size == (128, 128)


def test_the_share_that_is_cut_off():
    assert cut_share(100, 100) == 0 and cut_share(400, 100) == 0.75 and cut_share(100, 400) == 0.75
