"""Requesting pictures, watching them come, cancelling, the history; drawn by a function that needs no torch."""

import os
import time

import pytest
from PIL import Image

from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.jobs.drawings import (
    cancel_draw,
    delete_picture,
    draw_folder,
    fail_waiting,
    find_picture,
    list_pictures,
    submit_draw,
    sweep_draws,
    view_draw,
)
from sdlora.jobs.lock import hold
from sdlora.jobs.table import Table
from sdlora.storage import home
from tests.jobs.fake_drawing import config, fake_draw


def test_history_is_newest_first_and_pictures_can_be_deleted(drawer):
    first, second = submit_draw(config(count=1)), submit_draw(config(count=1, seed=50))
    assert drawer.turn() and drawer.turn()
    history = list_pictures()
    assert len(history) == 4 and {p.draw for p in history} == {first, second}
    assert [p.id for p in history] == sorted((p.id for p in history), reverse=True) and len(list_pictures(limit=3)) == 3
    gone = history[0]
    delete_picture(gone.id)
    assert gone.id not in [p.id for p in list_pictures()] and not gone.path.with_suffix(".json").exists()
    with pytest.raises(UserError, match="gone"):
        delete_picture(gone.id)
    assert len(view_draw(gone.draw).pictures) == 1, "its draw is still shown, without it"
    history[1].path.with_suffix(".json").write_text("{half")
    assert find_picture(history[1].id).settings == {}


@pytest.mark.parametrize("name", ["../../etc/passwd", "20260101-000000-abcdef-000/../x", "", "20260101-000000-ABCDEF-000",
                                  "x" * 500])
def test_ids_of_somebody_else_lead_nowhere(name):
    with pytest.raises(UserError):
        find_picture(name)
    with pytest.raises(UserError):
        delete_picture(name)
    with pytest.raises(UserError):
        view_draw(name)


def test_two_clicks_draw_once(drawer):
    assert submit_draw(config(), idempotency_key="click") == submit_draw(config(), idempotency_key="click")
    assert len(Table().jobs("draw")) == 1


def test_a_missing_lora_is_refused_before_it_is_queued(tmp_path):
    with pytest.raises(UserError, match="nothere.safetensors is gone"):
        submit_draw(config(loras=(LoraChoice(file=str(tmp_path / "nothere.safetensors")),)))
    assert Table().jobs("draw") == []


def test_a_prompt_that_cannot_be_drawn_is_refused_when_it_is_asked_for():
    with pytest.raises(UserError, match=r'"\(a:99\)" cannot be drawn'):
        submit_draw(config(prompts=("a house", "(a:99)")))
    assert not Table().jobs("draw", "queued")


def test_cancel_before_and_while_drawing(drawer):
    waiting = submit_draw(config())
    cancel_draw(waiting)
    assert view_draw(waiting).state == "cancelled" and not drawer.turn()
    running = submit_draw(config())
    steps = []

    def on_step():
        steps.append(view_draw(running).state)
        if len(steps) == 5:
            cancel_draw(running)

    drawer.draw = lambda *a, **k: fake_draw(*a, **k, on_step=on_step)
    with hold(home() / "drawer.lock"):
        assert drawer.turn()
    seen = view_draw(running)
    assert seen.state == "cancelled" and seen.done == 1 and len(steps) == 5 and set(steps) == {"running"}
    assert Table().jobs("draw")[-1].state == "cancelled" and len(list_pictures()) == 1, "what was drawn stays"


def test_progress_and_preview_are_seen_while_it_draws(drawer):
    draw = submit_draw(config(prompts=("x",), count=1))
    seen = []
    drawer.draw = lambda *a, **k: fake_draw(*a, **k, on_step=lambda: seen.append(view_draw(draw)))
    with hold(home() / "drawer.lock"):
        drawer.turn()
    assert [(view.step, view.steps) for view in seen] == [(0, 0), (1, 3), (2, 3)]
    assert seen[1].preview == draw_folder(draw) / "preview.png" and Image.open(seen[1].preview).size == (64, 64)


def test_nobody_to_draw_is_told():
    draw = submit_draw(config())
    fail_waiting("The drawing process does not start.", "See the log.")
    assert (view_draw(draw).state, view_draw(draw).problem) == ("failed", "The drawing process does not start.")


def test_old_draws_are_swept_their_pictures_stay(drawer):
    draw = submit_draw(config(count=1))
    drawer.turn()
    os.utime(draw_folder(draw), (time.time() - 3 * 86400,) * 2)
    sweep_draws()
    assert len(list_pictures()) == 2
    with pytest.raises(UserError):
        view_draw(draw)
