"""What the tests of picture sets share."""

import pytest

from tests.dataset.pictures import picture


@pytest.fixture
def drop(tmp_path):
    """Four pictures as a browser drops them, one with its caption."""
    files = [picture(tmp_path / "up" / name, number) for number, name in
             enumerate(("red house.png", "IMG_1.png", "IMG_2.jpg", "IMG_10.webp"))]
    (tmp_path / "up" / "IMG_1.txt").write_text("a boat")
    return [*files, tmp_path / "up" / "IMG_1.txt"]
