"""The shipped example sets are what their code draws."""

import json

import pytest
from PIL import ImageChops

from sdlora.dataset.picture import open_picture
from sdlora.mini.examples import CONTENT, SETS, SIZE_PX, example
from sdlora.storage import shipped

EXAMPLES = shipped("assets", "examples")


@pytest.mark.parametrize("example_set", SETS, ids=lambda s: s.name)
def test_example_set_is_complete(example_set):
    folder = EXAMPLES / example_set.name
    pictures = sorted(folder.glob("*.png"))
    assert 12 <= len(pictures) <= 16
    about = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    assert about == {"title": example_set.title, "trigger": example_set.trigger, "sentence": example_set.sentence}
    for path in pictures:
        text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        assert text.startswith("[trigger] a") and example_set.trigger not in text
        assert open_picture(path).size == (SIZE_PX, SIZE_PX)


@pytest.mark.parametrize("example_set", SETS, ids=lambda s: s.name)
def test_example_set_is_what_its_code_draws(example_set):
    first, words = example(example_set, 0)
    path = sorted((EXAMPLES / example_set.name).glob("*.png"))[0]
    assert path.with_suffix(".txt").read_text(encoding="utf-8").strip() == words
    # Another Pillow may round an edge differently; a changed drawing differs by far more.
    difference = ImageChops.difference(first, open_picture(path)).convert("L")
    assert sum(difference.histogram()[32:]) < 0.01 * SIZE_PX**2
    assert len(CONTENT) == len(list((EXAMPLES / example_set.name).glob("*.png")))
