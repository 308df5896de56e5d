"""Which part of a picture is trained on: for now the square in its middle.

Knows nothing about files or captions; sizes in px.
"""

from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom


def crop_box(width: int, height: int) -> Box:
    """Return the largest square in the middle of a width x height picture."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def cut_share(width: int, height: int) -> float:
    """Return the share of the picture, 0..1, that `crop_box` leaves out."""
    return 1 - min(width, height) / max(width, height)


def square_crop(image: Image.Image, side: int) -> Image.Image:
    """Return the middle square of `image` at side x side px (LANCZOS)."""
    return image.resize((side, side), Image.Resampling.LANCZOS, box=crop_box(*image.size))
