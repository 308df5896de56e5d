"""Pictures for the tests of what reads and keeps them."""

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 40), (30, 40, 210), (230, 220, 40)


def corners(width=96, height=64):
    """Four colours: red top left, green top right, blue bottom left, yellow bottom right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(YELLOW, (width // 2, height // 2, width, height))
    return image


def noise(width=80, height=72, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def close(pixel, wanted, tolerance):
    return max(abs(a - b) for a, b in zip(pixel, wanted, strict=True)) <= tolerance


def picture(path, seed=0, size=(80, 64), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path, **options)
    return path
