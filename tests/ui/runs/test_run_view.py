"""The live view is rebuilt from the run folder: any page that loads shows the same, and says nothing twice."""

import errno
from threading import Event, Thread

import gradio as gr
import pytest
from PIL import Image

from sdlora.config import from_preset
from sdlora.jobs import run as runs
from sdlora.train import events
from sdlora.ui import lists, theme
from sdlora.ui.runs import run_view, strip


@pytest.fixture
def folder(tmp_path):
    """A run of 40 rounds with samples at 0 and 20 and a saved point at 20, told by its events alone."""
    config = from_preset("quick", "mini", 12, name="Hatching <b>", trigger="htchng", steps=40)
    made = runs.create_run(config, tmp_path)
    (made / "samples").mkdir()
    told = [events.Prepared(0, 40, 11, "cat.png", (), 1.0)]
    for step in (0, 20):
        Image.new("RGB", (128, 128), (step * 5, 90, 60)).save(made / "samples" / f"{step:06d}-0.png")
        told.append(events.Sample(step, 0, "htchng, a cat", 1, f"samples/{step:06d}-0.png"))
    point = made / "checkpoints" / "step-000020"
    point.mkdir(parents=True)
    for name in ("state.json", "lora.safetensors"):
        (point / name).write_text("{}")
    told.append(events.Step(20, 40, 0.1, 0.2, 1e-3, 95.0))
    (made / "events.jsonl").write_text("".join(events.to_json(event) + "\n" for event in told))
    return made


def told_by(tab):
    """The tick of a browser that has drawn all it was sent."""
    stamp, step = run_view.shown_after(tab.sent)
    return gr.EventData(None, {"stamp": stamp, "step": step})


def test_a_loaded_page_shows_the_newest_run_and_a_second_look_says_nothing(folder, monkeypatch):
    monkeypatch.setattr(run_view, "points_of", lambda view, step: [step] * 3)
    tab = run_view.Showing()
    run_view.first(tab)
    assert tab.run == folder.name and run_view.glance(tab, told_by(tab)) == gr.skip()
    (folder / "events.jsonl").open("a").write(events.to_json(events.Step(21, 40, 0.1, 0.2, 1e-3, 90.0)) + "\n")
    lists.made.clear()
    later = run_view.glance(tab, told_by(tab))
    assert later != gr.skip() and later[3] == gr.skip(), "progress moves, the strip does not"


def test_what_a_paused_run_says(folder):
    told = run_view.told(runs.view(folder.name))
    assert told["title"] == "Hatching <b> · Paused" and told["percent"] == 50.0 and told["left"] == "round 20 of 40"
    assert any("cat.png" in note for note in told["notes"])
    pause, stop, resume = run_view.buttons(runs.view(folder.name))
    assert (pause["visible"] if isinstance(pause, dict) else pause.visible) is False
    assert (resume["visible"] if isinstance(resume, dict) else resume.visible) is True


def test_the_strip_has_a_column_per_point_with_step_0_first(folder):
    view = runs.view(folder.name)
    shown = strip.strip_of(view, strip.chosen_step(view, None))
    assert [column["step"] for column in shown["columns"]] == [0, 20]
    assert [column["choosable"] for column in shown["columns"]] == [False, True] and shown["columns"][1]["chosen"]
    cells = shown["rows"][0]["cells"]
    assert len(cells) == 2 and cells[0] != cells[1] and all(theme.picture(cell.removeprefix("sdlora/picture/")) for cell in cells)


@pytest.mark.parametrize("point", [None, 0, 21, True, "20", 10**12])
def test_a_point_that_is_none_falls_back_to_the_last(folder, point):
    assert strip.chosen_step(runs.view(folder.name), point) == 20


@pytest.mark.parametrize(("seconds", "said"), [(None, ""), (3, "about 5 s left"),
                                               (44, "about 45 s left"), (130, "about 2 min left")])
def test_time_left(seconds, said):
    assert run_view.said_left(seconds) == said


def test_what_moves_is_told_without_gradio_and_its_stamp_changes_with_the_rest(folder):
    first = run_view.moving(folder.name)
    assert first["progress"]["run"] == folder.name and first["progress"]["percent"] == 50.0 and first["pill"] == {}
    with (folder / "events.jsonl").open("a") as story:
        story.write(events.to_json(events.Step(21, 40, 0.1, 0.2, 1e-3, 90.0)) + "\n")
    step = run_view.told(runs.view(folder.name))
    assert step["left"] != first["progress"]["left"] and step["stamp"] == first["progress"]["stamp"], "only the bar moves"
    with (folder / "events.jsonl").open("a") as story:
        story.write(events.to_json(events.Sample(30, 0, "htchng, a cat", 1, "samples/000020-0.png")) + "\n")
    assert run_view.told(runs.view(folder.name))["stamp"] != step["stamp"]
    runs.resume_run(folder.name)
    queued = run_view.told(runs.view(folder.name))
    assert queued["state"] == "queued" and queued["stamp"] != step["stamp"]


@pytest.mark.parametrize("run", ["gone", "../x", "a" * 500])
def test_a_run_that_is_none_does_not_move_and_a_tab_without_one_gets_the_newest(run, folder):
    assert run_view.moving(run) == {"progress": {}, "pill": {}} and run_view.moving("")["progress"]["run"] == folder.name


@pytest.mark.parametrize("refusal", [OSError(errno.EAGAIN, "Resource temporarily unavailable"), OSError(errno.ENOSPC, "full"),
                                     OSError(errno.EACCES, "Permission denied")])
def test_a_worker_that_cannot_be_started_hides_no_progress_and_is_told_at_every_tick(folder, monkeypatch, refusal):
    def no_process(*_, **__):
        raise refusal

    monkeypatch.setattr("sdlora.jobs.worker.kept_at", [-10.0])
    monkeypatch.setattr("sdlora.jobs.worker.started", [])
    monkeypatch.setattr("sdlora.storage.subprocess.Popen", no_process)
    before = run_view.told(runs.view(folder.name))
    for _ in range(3):
        told = run_view.moving(folder.name)["progress"]
        assert told["percent"] == 50.0 and told["note"].startswith(before["note"])
        assert "The worker of the studio could not be started" in told["note"] and told["stamp"] == before["stamp"]
    why = {errno.EAGAIN: "Close other programs", errno.ENOSPC: "The disk is full", errno.EACCES: "Permission denied"}
    assert why[refusal.errno] in told["note"]
    monkeypatch.setattr(run_view, "keep_worker", lambda: None)
    assert run_view.moving(folder.name)["progress"]["note"] == before["note"]


def test_where_there_is_no_run_nothing_moves():
    assert run_view.moving("") == {"progress": {}, "pill": {}} == run_view.moving("gone")


def test_a_tick_says_only_what_changed(folder, monkeypatch):
    monkeypatch.setattr(run_view, "points_of", lambda view, step: [step] * 3)
    tab = run_view.Showing()
    run_view.first(tab)
    with (folder / "events.jsonl").open("a") as story:
        story.write(events.to_json(events.Step(21, 40, 0.1, 0.2, 1e-3, 90.0)) + "\n")
    lists.made.clear()
    later = run_view.glance(tab, told_by(tab))
    assert later[4:7] == (gr.skip(),) * 3 and later[10] == gr.skip(), "buttons and the plot stay"


@pytest.mark.parametrize("shows", [{"stamp": "older"}, {"step": 0}, {"stamp": None, "step": None}])
def test_a_browser_that_shows_something_else_is_sent_all_again(folder, monkeypatch, shows):
    monkeypatch.setattr(run_view, "points_of", lambda view, step: [step] * 3)
    tab = run_view.Showing()
    everything = run_view.first(tab)
    event = told_by(tab)
    event._data |= shows
    assert [type(part) for part in run_view.glance(tab, event)] == [type(part) for part in everything]


def test_a_choice_waits_for_a_tick_that_is_being_answered_and_is_sent_last(folder, monkeypatch):
    monkeypatch.setattr(run_view, "points_of", lambda view, step: [step] * 3)
    monkeypatch.setattr(strip, "choosable", lambda view: {0, 20})
    tab, reading, chosen = run_view.Showing(), Event(), Event()
    run_view.first(tab)
    tick, points, updates = told_by(tab), [], run_view.updates

    def slow(run_id):
        reading.set()
        chosen.wait(0.5)  # the choice is made meanwhile
        return runs.view(folder.name)

    def watched(tab, view):
        points.append(tab.point)
        return updates(tab, view)

    monkeypatch.setattr(run_view, "recent", slow)
    monkeypatch.setattr(run_view, "updates", watched)
    ticking = Thread(target=lambda: run_view.glance(tab, tick))
    ticking.start()
    reading.wait(5)
    run_view.choose(tab, gr.EventData(None, {"step": 0}))
    chosen.set()
    ticking.join(5)
    assert tab.point == 0 and tab.sent["strip"][2] == 0
    assert points == [None, 0], "the tick had its turn before the choice"
