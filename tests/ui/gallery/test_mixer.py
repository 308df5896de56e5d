"""The rows of the mixer become settings, and what was measured and saved is shown in names and numbers."""

import pytest
from PIL import Image

from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs import questions
from sdlora.library import search
from sdlora.storage import data_folder, write_json
from sdlora.ui import words
from sdlora.ui.gallery import mixer
from tests.ui.gallery.conftest import put, row


def test_the_rows_come_back_with_the_page_less_what_is_gone():
    put("one", "two")
    left = [row("one", strength=0.4, text=0.2, on=False), {**row("two"), "id": "gone"}, {**row("two"), "strength": 99},
            row("two")]
    back = mixer.restore(left)
    assert back.value == [left[0], left[3]] and set(back.props["data"]["cards"]) == {"one", "two"}
    for nothing in (None, [], "x", [3], [left[1]]):
        assert mixer.restore(nothing).value == []


def test_rows_become_choices_in_their_order():
    put("one", "two", "three")
    rows = [row("two", strength=-0.5, text=0.25, start=0.2, end=0.8, blocks="style only"), row("one"), row("three", on=False)]
    found = mixer.rows_of(rows)
    assert [each.entry.id for each in found] == ["two", "one"]
    assert found[0].choice == LoraChoice(file=str(search.find("two").path), strength=-0.5, text_strength=0.25, start=0.2, end=0.8,
                                         blocks="style only")
    with pytest.raises(UserError, match="ends before it starts"):
        mixer.rows_of([row("one", start=0.8, end=0.2)])
    with pytest.raises(UserError):
        mixer.rows_of([row("one", strength=4.5)])


def test_a_measurement_is_shown_in_names_and_numbers():
    put("one", "two")
    rows = [{"name": name, "push": push, "suggested": 0.5, "suggested_text": 0.4, "balanced": 0.6, "balanced_text": None}
            for name, push in (("one", 0.2), ("two", 0.8))]
    found = {"ids": ["one", "two"], "together": True, "rows": rows, "push": 0.9, "stretch": 2.0, "warning": "x",
             "pairs": [{"one": 0, "other": 1, "cosine": -0.5, "shared": 0.1, "blocks": {}}]}
    shown = mixer.interference_data(questions.Answer("", "interference", "done", found, "", "", data_folder("questions")))
    assert shown["changes"]["one"]["text"] == "change 20%" and shown["changes"]["two"]["percent"] == 100
    assert any("one and two work against each other (50%)" in line for line in shown["lines"])
    assert shown["suggested"] == {name: {"strength": 0.5, "text": 0.4} for name in ("one", "two")}
    assert shown["balanced"] == {name: {"strength": 0.6, "text": None} for name in ("one", "two")}
    assert shown["warning"].startswith("Together")
    apart = found | {"together": False}
    apart = mixer.interference_data(questions.Answer("", "interference", "done", apart, "", "", data_folder("questions")))
    assert apart["warning"].startswith("One of these") and not any("Together" in line for line in apart["lines"])
    calm = found | {"warning": "", "pairs": []}
    calm = mixer.interference_data(questions.Answer("", "interference", "done", calm, "", "", data_folder("questions")))
    assert "warning" not in calm and "suggested" not in calm


def test_a_saved_blend_gets_a_picture_drawn_with_it_as_its_cover(tmp_path):
    put("one", "two")
    loras = mixer.save_payload({"rows": [row("one")], "method": "sum", "name": "Blend", "way": "svd 16"})
    assert (loras["method"], loras["rank"], loras["name"]) == ("svd", 16, "Blend")
    picture = draws.picture_path("20260101-000000-abcdef-000")
    Image.new("RGB", (64, 64), "teal").save(data_folder("pictures", "2026-01-01") / picture.name)
    write_json(picture.with_suffix(".json"), {"item": "blend", "settings": {"loras": loras["loras"]}})
    search.find("two").path.rename(data_folder("questions", "made") / "blend.safetensors")
    found = {"file": "blend.safetensors", "name": "Blend", "loras": loras["loras"], "together": False, "energy": 0.987,
             "notes": ["A note."]}
    shown = mixer.add_saved(questions.Answer("", "save", "done", found, "", "", data_folder("questions", "made")))
    assert "98.7%" in shown["text"] and shown["text"].endswith("A note.") and words.SAVED_AS_SUM in shown["text"]
    with Image.open(search.find("blend").thumbnail) as cover:
        assert cover.getpixel((1, 1)) == (0, 128, 128)
