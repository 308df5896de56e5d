"""A grid is one job; a bad value costs its cells only."""

import pytest

from sdlora.errors import UserError
from sdlora.ui.gallery import grid
from tests.ui.gallery.conftest import form_values, put, queued, row


def test_a_grid_is_one_job_with_its_sheet():
    put("one", "two")
    grid.draw("strength", "0, 1", "lora", "none | two", *form_values(row("one")))
    items, sheet = queued()
    assert sorted(label for label, _ in items) == ["00-00", "00-01", "01-00", "01-01"]
    made = dict(items)
    assert [choice.strength for choice in made["01-01"].loras] == [1.0, 1.0] and len(made["00-01"].loras) == 1
    assert sheet["title"] == "a house" and [len(side["labels"]) for side in sheet["axes"]] == [2, 2]
    grid.draw_strip(*form_values(row("one")))
    assert len(queued()[0]) == 5
    grid.draw_pairs(*form_values(row("one")))
    assert len(queued()[0]) == 8
    with pytest.raises(UserError):
        grid.draw_pairs(*form_values())
    with pytest.raises(UserError):
        grid.draw("", "", "seed", "1-3", *form_values(row("one")))


def test_a_bad_value_costs_its_cells_and_is_told_when_the_grid_is_queued(monkeypatch):
    put("one", "two")
    warned = []
    monkeypatch.setattr(grid.gr, "Warning", warned.append)
    for x, values, y, rows, prompt, bad in (
            ("strength", "0, 1, 9", "seed", "1, 2", "a house", {"00-02", "01-02"}),
            ("lora", "none | two | <nope>", "", "", "a house", {"00-02"}),
            ("replace", "<lora:nope:1> | <lora:two:0.5>", "", "", "a house <lora:nope:1>", {"00-00"}),
            ("blocks", "style only | nope", "", "", "a house", {"00-01"})):
        grid.draw(x, values, y, rows, *form_values(row("one"), prompt=prompt))
        items, sheet = queued()
        assert set(sheet["bad"]) == bad and not bad & {label for label, _ in items} and items
        assert "could not be drawn" in warned[-1] and "<nope>" not in warned[-1]
        assert sum(len(side["values"]) for side in sheet["axes"]) == sum(len(side["labels"]) for side in sheet["axes"])
    assert "strength must be" in warned[0] and "nope" in warned[1] and len(warned) == 4
    with pytest.raises(UserError, match="strength must be"):
        grid.draw("strength", "8, 9", "", "", *form_values(row("one")))
    with pytest.raises(UserError, match="nope"):
        grid.draw("seed", "1, 2", "", "", *form_values(row("one"), prompt="a house <lora:nope:1>"))
