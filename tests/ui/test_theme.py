"""Pictures of the page: addresses without paths, and sizes that fit."""

from PIL import Image

from sdlora.ui import theme


def test_addresses_of_pictures_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(theme, "MOST_ADDRESSES", 3)
    monkeypatch.setattr(theme, "addresses", type(theme.addresses)())
    for number in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
        theme.picture_url(tmp_path / f"{number}.png", 64)
    assert len(theme.addresses) == 3


def test_large_pictures_are_made_smaller_and_small_ones_enlarged_by_whole_steps():
    for size, side, meant in (((600, 300), 128, (128, 64)), ((64, 32), 256, (256, 128)), ((100, 50), 256, (200, 100)),
                              ((16, 16), 256, (64, 64)), ((200, 200), 256, (200, 200))):
        assert theme.fitted(Image.new("RGB", size), side).size == meant
