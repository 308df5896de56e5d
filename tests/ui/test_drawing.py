"""A draw is shown from its queueing to its end, with what has no effect and what could not be drawn."""

from dataclasses import replace

from sdlora.config import DrawConfig
from sdlora.jobs import drawings as draws
from sdlora.ui import drawing


def test_what_has_no_effect_and_what_could_not_be_drawn_is_shown(monkeypatch):
    notes = []
    monkeypatch.setattr(drawing.gr, "Info", notes.append)
    job = draws.submit_draw(DrawConfig(prompts=("a <hypernet:x:1> [cat|dog]",)))
    drawing.show_new(job)
    drawing.show(job)
    assert len(notes) == 2 and notes[0].startswith("&lt;hypernet:x:1&gt; is left out")
    view = replace(draws.view_draw(job), bad=(("01-00", "PLMS cannot draw in 3 steps."),))
    assert drawing.bad_cells(view.bad)["note"] == "Row 2, column 1: PLMS cannot draw in 3 steps."


def test_a_page_that_loads_follows_the_newest_draw_that_fits():
    first, second = (draws.submit_draw(DrawConfig(), labels=[label]) for label in ("one", "two"))
    assert drawing.resume(drawing.labelled("one"))[0] == first and drawing.resume(drawing.labelled("two"))[0] == second
    assert drawing.resume(drawing.labelled("none")) == drawing.gr.skip()
    shown = drawing.progress_of(first)
    assert shown["draw"] == first and shown["state"] == "queued" and shown["left"] == "" and shown["percent"] == 0
    assert drawing.progress_of("gone") is None and drawing.progress_of("../x") is None
