"""Drawing beside a training: asked for, watched, cancelled, kept, deleted; with a drawing function that needs no torch."""

import json
import re
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from PIL import Image

from sdlora.config import LoraChoice
from sdlora.draw import grid
from sdlora.errors import UserError
from sdlora.jobs import drawer as drawer_module
from sdlora.jobs import questions
from sdlora.jobs.drawer import Drawer, end_torn_line
from sdlora.jobs.drawings import (
    draw_folder,
    list_pictures,
    submit_draw,
    view_draw,
    write_event,
)
from sdlora.jobs.lock import hold, is_held
from sdlora.jobs.table import Table
from sdlora.storage import home
from tests.jobs.fake_drawing import Loads, Picture, config, fake_draw
from tests.jobs.waiting import wait_for

ROOT = Path(__file__).parents[2]


def test_a_pair_is_one_job_and_every_picture_is_kept_with_its_settings(drawer, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"lora")
    styled = config(loras=(LoraChoice(file=str(tmp_path / "x.safetensors"), strength=0.8),))
    draw = submit_draw([config(), styled], labels=["base", "lora"])
    waiting = view_draw(draw)
    assert (waiting.state, waiting.done, waiting.total) == ("queued", 0, 8)
    assert drawer.turn() and not drawer.turn()
    seen = view_draw(draw)
    assert (seen.state, seen.done, seen.total, seen.problem, seen.preview) == ("done", 8, 8, "", None) and seen.seconds >= 0
    assert [p.item for p in seen.pictures] == ["base"] * 4 + ["lora"] * 4
    assert [p.seed for p in seen.pictures] == [7, 8, 7, 8] * 2
    assert [p.prompt for p in seen.pictures[:4]] == ["a house"] * 2 + ["a boat"] * 2
    last = seen.pictures[-1]
    assert last.settings["loras"] == [styled.loras[0].model_dump()]
    assert last.settings["base"] == "mini"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", last.path.parent.name) and last.path.is_relative_to(home() / "pictures")
    with Image.open(last.path) as image:
        assert image.getpixel((0, 0)) == (8, 0, 0)
        assert image.text["parameters"].startswith("a boat <lora:x:0.8>\nSteps: 3")
    assert drawer.load == ["mini"], "the base stays loaded"


def test_training_is_held_off_only_while_drawing(drawer):
    held = []
    drawer.draw = lambda *a, **k: fake_draw(*a, **k, on_step=lambda: held.append(is_held(home() / "drawing.lock")))
    submit_draw(config())
    drawer.turn()
    assert held and all(held) and not is_held(home() / "drawing.lock")


def test_mistakes_and_bugs_end_one_draw_not_the_drawer(drawer):
    def broken(base, config, *, stop):
        raise UserError("The picture broke.", "Lower the strength.") if config.seed == 1 else ZeroDivisionError("secret")
        yield

    first, second = submit_draw(config(seed=1)), submit_draw(config(seed=2))
    good = submit_draw(config(count=1))
    drawer.draw = broken
    assert drawer.turn() and drawer.turn()
    assert (view_draw(first).state, view_draw(first).problem, view_draw(first).hint) == ("failed", "The picture broke.",
                                                                                       "Lower the strength.")
    assert "code" in view_draw(second).problem and "secret" not in view_draw(second).problem + view_draw(second).hint
    assert "ZeroDivisionError: secret" in (home() / "logs" / "drawer.log").read_text()
    drawer.draw = fake_draw
    assert drawer.turn() and view_draw(good).state == "done"


def test_a_draw_that_kills_its_process_is_tried_once_more_and_then_fails(drawer):
    draw = submit_draw(config(count=1))
    for _ in range(2):
        Table().claim("draw")
        end_torn_line(draw_folder(draw))
        write_event(draw_folder(draw), "started")
        with (draw_folder(draw) / "events.jsonl").open("a") as file:
            file.write('{"event": "prev')
        assert view_draw(draw).state == "queued", "its process is gone; it will be tried again"
        drawer.recover()
    assert drawer.turn()
    assert view_draw(draw).state == "failed" and "twice" in view_draw(draw).problem


def test_one_half_done_is_drawn_again_whole(drawer):
    draw = submit_draw(config(prompts=("x",), count=2))
    Table().claim("draw")
    write_event(draw_folder(draw), "started")
    first = next(made for made in fake_draw("", config(), stop=lambda: False) if isinstance(made, Picture))
    drawer.add_picture(f"{draw}-000", draw_folder(draw), "0", config(), first)
    drawer.recover()
    assert drawer.turn()
    assert [p.seed for p in view_draw(draw).pictures] == [7, 8] and len(list_pictures()) == 2


def test_another_base_takes_the_place_of_the_first(drawer):
    for base in ("mini", "other", "other", "mini"):
        submit_draw(config(base=base, prompts=("x",), count=1))
        drawer.turn()
    assert drawer.load == ["mini", "other", "mini"]


def test_it_leaves_when_the_worker_is_gone(monkeypatch, drawer):
    monkeypatch.setattr(drawer_module, "ALONE_SECONDS", 0.0)
    (home() / "drawer.lock").touch()
    turns, turn = [], drawer.turn
    drawer.turn = lambda: turns.append(1) or turn()
    thread = threading.Thread(target=drawer.run)
    with hold(home() / "worker.lock"):
        thread.start()
        draw = submit_draw(config(prompts=("x",), count=1))
        wait_for(lambda: view_draw(draw).state == "done")
        before = len(turns)
        wait_for(lambda: len(turns) > before + 3 or not thread.is_alive())
        assert thread.is_alive(), "drawing for long is no reason to leave"
    thread.join(3)
    assert not thread.is_alive()


def test_a_grid_ends_with_its_sheet_which_stands_for_its_cells(drawer):
    columns, rows = grid.parse("seed=3,4"), grid.parse("guidance=1,5")
    cells = grid.cells(config(prompts=("a house",), count=1), columns, rows)
    asked = {"title": "a house", "axes": [asdict(columns), asdict(rows)]}
    draw = submit_draw([cell.config for cell in cells], labels=[cell.name for cell in cells], sheet=asked)
    assert view_draw(draw).total == 5
    drawer.turn()
    seen = view_draw(draw)
    assert (seen.state, seen.done) == ("done", 5), seen.problem
    assert [picture.item for picture in seen.pictures] == ["00-00", "00-01", "01-00", "01-01", "sheet"]
    with Image.open(seen.pictures[-1].path) as image, Image.open(seen.pictures[0].path) as cell:
        assert image.width > 2 * cell.width and image.height > 2 * cell.height
        assert "X Type: Seed" in image.info["parameters"] and "Script: X/Y/Z plot" in image.info["parameters"]
    assert [picture.item for picture in list_pictures()] == ["sheet"]


@pytest.mark.parametrize("error", [UserError("PLMS cannot draw in 3 steps.", "It needs 8."), ZeroDivisionError("bug")])
def test_a_bad_cell_costs_one_cell(error):
    def draw_some(base, config, *, stop):
        if config.seed in bad:
            raise error
        return fake_draw(base, config, stop=stop)

    axis = grid.parse("seed=3,4,5")
    cells = grid.cells(config(prompts=("a house",), count=1), axis)
    asked = {"configs": [cell.config for cell in cells], "labels": [cell.name for cell in cells],
             "sheet": {"title": "", "axes": [asdict(axis)]}}
    for bad, state in (({4}, "done"), ({3, 4, 5}, "failed")):
        draw = submit_draw(asked["configs"], labels=asked["labels"], sheet=asked["sheet"])
        Drawer(Loads(), draw_some).turn()
        seen = view_draw(draw)
        assert seen.state == state and [item for item, _ in seen.bad] == [f"00-0{seed - 3}" for seed in sorted(bad)]
        assert all("PLMS cannot" in why or "code" in why for _, why in seen.bad)
        if state == "done":
            assert [picture.item for picture in seen.pictures] == ["00-00", "00-02", "sheet"]
    assert "PLMS" in seen.problem or "code" in seen.problem


def test_a_cell_that_was_bad_from_the_start_is_told_and_stands_on_the_sheet(drawer):
    axis = grid.parse("seed=3,x,5")
    cells = grid.cells(config(prompts=("a house",), count=1), axis)
    good, bad = [cell for cell in cells if cell.config], [cell for cell in cells if cell.problem]
    sheet = {"title": "", "axes": [asdict(replace(axis, values=[str(grid.text_of(value)) for value in axis.values]))],
             "bad": {cell.name: (cell.problem.message, cell.problem.hint) for cell in bad}}
    draw = submit_draw([cell.config for cell in good], labels=[cell.name for cell in good], sheet=sheet)
    assert view_draw(draw).total == 3
    drawer.turn()
    seen = view_draw(draw)
    assert [picture.item for picture in seen.pictures] == ["00-00", "00-02", "sheet"] and seen.state == "done"
    assert [item for item, _ in seen.bad] == ["00-01"] and "'x' is no number" in seen.bad[0][1]
    with Image.open(seen.pictures[-1].path) as image:
        assert "X Values: \"3, x, 5\"" in image.info["parameters"]


def test_a_question_is_answered_between_two_cells_of_a_grid(drawer, monkeypatch):
    monkeypatch.setitem(questions.ANSWERS, "report", lambda *_: {})
    asked, states = [], []

    def draw_cell(base, config, *, stop):
        if not asked:
            asked.append(questions.submit("report", {}))
        states.append(questions.view(asked[0]).state)
        return fake_draw(base, config, stop=stop)

    axis = grid.parse("seed=3,4")
    cells = grid.cells(config(prompts=("a house",), count=1), axis)
    sheet = {"title": "", "axes": [asdict(axis)]}
    submit_draw([cell.config for cell in cells], labels=[cell.name for cell in cells], sheet=sheet)
    drawer.draw = draw_cell
    drawer.turn()
    assert states == ["waiting", "done"]


def test_asking_and_watching_need_no_torch():
    code = "import sys, sdlora.jobs.run, sdlora.jobs.drawings, sdlora.jobs.worker, sdlora.jobs.machine, sdlora.jobs.execute, " \
           "sdlora.jobs.drawer; print([m for m in ('torch', 'diffusers', 'transformers', 'gradio') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == []


def test_what_is_old_goes_while_the_process_runs(drawer, monkeypatch):
    swept = []
    for name, value in (("SWEEP_SECONDS", 0.0), ("ALONE_SECONDS", 0.2), ("remove_old_answers", lambda: swept.append(1))):
        monkeypatch.setattr(drawer_module, name, value)
    with hold(home() / drawer_module.DRAWER_LOCK):
        drawer.run()
    assert len(swept) > 1
