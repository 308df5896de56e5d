"""The shelf on the page: a page of cards at a time, searched and narrowed."""

import gradio as gr

from sdlora.library import edit, folders, search
from sdlora.storage import data_folder
from sdlora.ui import loras
from sdlora.ui.gallery import mixer, shelf
from tests.ui.gallery.conftest import put, row


def test_the_shelf_sends_a_page_of_cards_at_a_time(monkeypatch):
    put(*(f"style-{number}" for number in range(7)))
    monkeypatch.setattr(shelf, "PAGE", 3)
    first = shelf.shelf_data(most=3)
    assert len(first["cards"]) == 3 and first["more"]
    _, most = shelf.more("", "", "new", False, "", 3)
    assert most == 6 and len(shelf.shelf_data(most=9)["cards"]) == 7 and not shelf.shelf_data(most=9)["more"]
    assert [card["title"] for card in shelf.shelf_data("style-4")["cards"]] == ["style-4"]
    assert shelf.shelf_data("nothing")["none"] != shelf.shelf_data()["none"]


def test_loras_of_one_name_are_told_apart_on_shelf_and_mixer_and_in_the_menu():
    put("ink", "wood", "sea")
    for name in ("ink", "wood"):
        edit.annotate(search.find(name).id, name="Öl <b>")
    meant = {"Öl <b> (ink)", "Öl <b> (wood)", "sea"}
    assert {card["title"] for card in shelf.shelf_data()["cards"]} == meant
    assert {title for title, _ in loras.newest()} == meant
    rows = [row(name) for name in ("ink", "wood")]
    assert {card["title"] for card in mixer.show_rows(rows).props["data"]["cards"].values()} == meant - {"sea"}
    assert [card["title"] for card in mixer.show_rows(rows[:1]).props["data"]["cards"].values()] == ["Öl <b>"]


def test_the_shelf_is_narrowed_to_a_tag_or_a_folder(tmp_path):
    put("one", "two")
    assert [value for _, value in shelf.places()] == [""], "with one folder and no tags there is nothing to choose"
    edit.annotate("one", tags=("trees", "a: b"))
    (tmp_path / "others").mkdir()
    (data_folder("loras") / "two.safetensors").rename(tmp_path / "others" / "two.safetensors")
    folder = folders.add_folder(tmp_path / "others").id
    assert {value for _, value in shelf.places()} == {"", "tag:trees", "tag:a: b", "folder:loras", f"folder:{folder}"}

    def titles(where: str) -> list[str]:
        return [card["title"] for card in shelf.show("", "", "name", False, where, 60).props["data"]["cards"]]

    assert titles("tag:a: b") == ["one"] and titles(f"folder:{folder}") == ["two"] and titles("") == ["one", "two"]
    assert titles("tag:none") == [] and titles("path:/etc") == ["one", "two"]
    assert shelf.show_places("tag:trees").value == "tag:trees" and shelf.show_places("tag:gone").value == ""


def test_a_refused_file_keeps_no_other_out_and_leaves_the_box(monkeypatch, tmp_path):
    put("good")
    good = search.find("good").path.rename(tmp_path / "good.safetensors")
    (tmp_path / "fake.safetensors").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    said = []
    monkeypatch.setattr(shelf, "uploads", lambda files: files)
    monkeypatch.setattr(gr, "Warning", said.append)
    shown, box = shelf.add([tmp_path / "fake.safetensors", good], "", "", "new", False, "", 60)
    assert [card["title"] for card in shown.props["data"]["cards"]] == ["good"] and box is None
    assert len(said) == 1 and "fake.safetensors" in said[0]
