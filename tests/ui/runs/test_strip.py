"""The strip of samples and the checkpoints behind it."""

import pytest

from sdlora.jobs import run as runs
from sdlora.ui import theme
from sdlora.ui.runs import strip


def test_the_strip_has_a_column_per_step_with_0_first(folder):
    view = runs.view(folder.name)
    shown = strip.strip_data(view, strip.chosen_step(view, None))
    assert [column["step"] for column in shown["columns"]] == [0, 20]
    assert [column["choosable"] for column in shown["columns"]] == [False, True] and shown["columns"][1]["chosen"]
    cells = shown["rows"][0]["cells"]
    assert len(cells) == 2 and cells[0] != cells[1]
    assert all(theme.picture_bytes(cell.removeprefix("sdlora/picture/")) for cell in cells)


@pytest.mark.parametrize("step", [None, 0, 21, True, "20", 10**12])
def test_a_step_without_checkpoint_falls_back_to_the_last(folder, step):
    assert strip.chosen_step(runs.view(folder.name), step) == 20
