"""Which words of captions a base knows."""

from pathlib import Path

import pytest

from sdlora.base.words import words_note, words_of
from sdlora.dataset.folder import read_dataset
from sdlora.storage import shipped


def test_captions_of_strange_words_are_told():
    note = words_note("mini", ["qiv, gouache of a harbour with herons", "qiv, herons over a fjord, 1932"], "qiv")
    assert note and note.startswith("Mini (built in) does not know most words of these captions (herons, ")
    assert "qiv" not in note and "1932" not in note and "Stable Diffusion" in note


@pytest.mark.parametrize("captions", [["qiv, a red house, sea, at night", "a blue boat by the sea"], [""], ["qiv"], []])
def test_captions_that_mini_knows_or_that_are_empty_are_fine(captions):
    assert words_note("mini", captions, "qiv") is None


def test_the_example_sets_are_known():
    for folder in sorted(path for path in shipped("assets", "examples").iterdir() if path.is_dir()):
        captions = [example.caption for example in read_dataset(folder, trigger="qiv").examples]
        assert words_note("mini", captions, "qiv") is None, folder.name


def test_words_are_letters_of_any_script():
    assert words_of("Ein Boot, 2 Häuser & 猫_01") == ["ein", "boot", "häuser", "猫"]


def test_other_bases_read_every_word(tmp_path, monkeypatch):
    monkeypatch.setattr("sdlora.base.catalog.resolve", lambda _: Path("x"))
    monkeypatch.setattr("sdlora.base.catalog.read_family", lambda _: type("Family", (), {"key": "sd1"}))
    assert words_note("sd", ["herons over a fjord"]) is None
