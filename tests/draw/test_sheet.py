"""Sheets: every picture in its place, labels that can be read, bounded size."""

import numpy as np
import pytest
from PIL import Image

from sdlora.dataset.decode import check_size
from sdlora.draw.sheet import font_for, missing, sheet, unreadable, wrapped
from sdlora.errors import UserError

COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta")


def share_of(image, colour):
    """How many pixels of the sheet have this colour."""
    return int((np.asarray(image) == Image.new("RGB", (1, 1), colour).getpixel((0, 0))).all(2).sum())


def test_every_picture_is_in_its_place():
    places = [(column, row) for row in range(2) for column in range(3)]
    pictures = {place: Image.new("RGB", (96, 64), colour) for place, colour in zip(places, COLOURS, strict=True)}
    made = sheet(pictures, ["strength 0", "strength 0.5", "strength 1"], ["seed 1", "seed 2"], "a red house")
    assert [share_of(made, colour) for colour in COLOURS] == [96 * 64] * 6
    centres = [np.argwhere((np.asarray(made) == Image.new("RGB", (1, 1), c).getpixel((0, 0))).all(2)).mean(0) for c in COLOURS]
    assert centres[0][0] == centres[2][0] < centres[3][0] and centres[0][1] == centres[3][1] < centres[1][1] < centres[2][1]
    above = np.asarray(made.convert("L"))[:int(centres[0][0]) - 32]
    assert (above < 80).sum() > 100  # there is ink in the labels


def test_labels_move_nothing_and_are_all_drawn():
    pictures = {(0, 0): Image.new("RGB", (96, 96), "red"), (1, 0): Image.new("RGB", (96, 96), "lime")}
    plain, long = (sheet(pictures, [text, "b"]) for text in ("a", "many words that do not fit into a line of this column"))
    assert long.height > plain.height and long.width == plain.width and share_of(long, "red") == 96 * 96


def test_files_are_opened_one_by_one_and_gaps_stay_grey(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    made = sheet({(1, 0): tmp_path / "a.png"}, ["x", "y"])
    assert share_of(made, "red") == 64 * 64 and made.getpixel((made.width // 4, made.height - 40)) == (0xe8,) * 3
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="bad.png"):
        sheet({(0, 0): Image.new("RGB", (64, 64)), (1, 0): tmp_path / "bad.png"}, ["x", "y"])


def test_other_sizes_fit_whole_into_their_cell():
    made = sheet({(0, 0): Image.new("RGB", (100, 50), "red"), (1, 0): Image.new("RGB", (100, 200), "lime")}, ["x", "y"])
    assert share_of(made, "red") == 100 * 50 and share_of(made, "lime") == 25 * 50


def test_a_long_strip_goes_on_below():
    made = sheet({(at, 0): Image.new("RGB", (64, 64), "red") for at in range(20)}, [f"s {at}" for at in range(20)])
    assert share_of(made, "red") == 20 * 64 * 64 and made.width < 8 * made.height
    assert made.getpixel((made.width - 40, made.height - 40)) == (255, 255, 255)  # 20 are 7, 7 and 6: no grey field at the end


def test_a_part_of_a_long_strip_that_has_only_texts_is_there_too():
    columns = [f"s {at}" for at in range(16)]
    drawn = {(at, 0): Image.new("RGB", (64, 64), "red") for at in range(8)}
    for begun, bad in ((drawn, range(8, 16)), ({(at + 8, 0): image for (at, _), image in drawn.items()}, range(8))):
        made = sheet(begun | {(at, 0): "strength must be 4" for at in bad}, columns)
        assert share_of(made, "red") == 8 * 64 * 64 and share_of(made, "#e8e8e8") > 8 * 64 * 64 / 2


def test_a_sheet_stays_within_what_the_picture_door_takes():
    picture = Image.new("RGB", (2048, 2048), "red")
    made = sheet({(column, row): picture for column in range(4) for row in range(3)}, [f"strength {at}" for at in range(4)],
                 [f"a rather long prompt number {at}" for at in range(3)], "a title " * 40)
    check_size("The sheet", *made.size)
    with pytest.raises(UserError, match="too large"):
        sheet({(0, 0): picture}, ["x"] * 400, ["y"] * 400)
    with pytest.raises(UserError, match="no picture"):
        sheet({}, ["x"])


def test_lines_break_between_words_and_end_in_dots():
    font = font_for(["a"], 14)
    lines = wrapped("a red house " * 30, font, 100)
    assert len(lines) == 4 and lines[-1].endswith("…") and all(font.getlength(line) <= 100 for line in lines)
    assert all(font.getlength(line) <= 100 for line in wrapped("w" * 10_000, font, 100)) and wrapped("", font, 100) == []
    assert " ".join(wrapped("one two three four", font, 60)) == "one two three four"


def test_characters_that_no_font_has_are_named():
    assert unreadable(["strength 0.5 · seed 1 …", "é ß ñ"]) == ""
    assert "\uffff" in unreadable(["a\uffff"]) and "a" not in unreadable(["a\uffff"])
    assert missing(font_for(["abc"], 14), frozenset("abc")) == frozenset()


def test_a_text_stands_where_a_picture_could_not_be_drawn():
    there = Image.new("RGB", (128, 128), "red")
    with_text = sheet({(0, 0): "DPM2 a cannot draw in 2 steps", (1, 0): there}, ["2", "3"])
    without = sheet({(1, 0): there}, ["2", "3"])
    assert with_text.size == without.size and with_text.tobytes() != without.tobytes()
    with pytest.raises(UserError, match="no picture"):
        sheet({(0, 0): "broken"}, ["2"])
