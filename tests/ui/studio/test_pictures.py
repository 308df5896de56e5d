"""Act 1 saves what is typed, and shows sets as the store has them."""

from PIL import Image

from sdlora.dataset import sets, upload
from sdlora.dataset.picture import PICTURE_SUFFIXES
from sdlora.ui.studio import pictures


def test_a_caption_is_saved_as_typed_and_nothing_else_changes(tmp_path):
    chosen = sets.create("Garden")
    for number in range(2):
        Image.new("RGB", (90, 70 + number), (200, 30 * number, 9)).save(tmp_path / f"red-house-{number}.png")
    upload.add_pictures(chosen.id, sorted(tmp_path.glob("*.png")))
    first, second = sets.load(chosen.id).pictures
    assert pictures.save_caption([chosen.id, first.id, "<b>a red house</b> & ${7*7}"]) == {}
    after = sets.load(chosen.id).pictures
    assert after[0].caption == "<b>a red house</b> & ${7*7}" and after[1].caption == second.caption
    shown = pictures.grid_of(sets.load(chosen.id))["pictures"]
    assert [card["caption"] for card in shown] == [after[0].caption, after[1].caption]
    assert shown[0]["src"].startswith("sdlora/picture/") and shown[0]["src"] != shown[1]["src"]
    assert shown[0]["crop"] == [10 / 90, 0, 80 / 90, 1]


def test_the_page_takes_every_kind_of_picture_that_the_reader_takes():
    assert set(PICTURE_SUFFIXES) < set(pictures.FILE_TYPES)


def test_a_page_that_loads_opens_the_set_it_had_else_the_newest():
    first, second = sets.create("Garden"), sets.create("Sea")
    newest = sets.list_sets()[0].id
    for opened, meant in ((first.id, first.id), (second.id, second.id), ("gone", newest), (None, newest), ([], newest)):
        assert pictures.load(opened)[0].value == meant
    for one in (first, second):
        pictures.delete_set(one.id)
    assert pictures.load(first.id)[0].value is None
