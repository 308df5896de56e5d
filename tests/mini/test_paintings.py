"""Sets as strangers bring them: pictures that are always the same, and words that mini never read."""

import pytest
from PIL import ImageChops, ImageStat

from sdlora.base.words import words_note
from sdlora.mini.paintings import FIGURES, PAINTINGS


@pytest.mark.parametrize("painted", PAINTINGS, ids=lambda painted: painted.name)
def test_a_set_is_deterministic_varied_and_unknown(painted):
    first, again, other = painted.picture(0, 96), painted.picture(0, 96), painted.picture(len(FIGURES), 96)
    assert first.size == (96, 96) and not ImageChops.difference(first, again).getbbox()
    assert sum(ImageStat.Stat(ImageChops.difference(first, other)).mean) > 10, "the same figure, but another picture"
    captions = [painted.caption(number) for number in range(8)]
    assert all(caption.startswith("[trigger] ") for caption in captions) and len(set(captions)) > 4
    assert words_note("mini", [caption.replace("[trigger]", "qiv") for caption in captions], "qiv")
