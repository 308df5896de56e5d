"""The live view is rebuilt from the run folder: any page that loads shows the same, and sends nothing twice."""

import errno
import json
from threading import Event, Thread

import gradio as gr
import pytest
from PIL import Image

from sdlora.jobs import run as runs
from sdlora.train import events
from sdlora.ui import polling, theme
from sdlora.ui.runs import run_view


def tick_of(tab):
    """The tick of a browser that has drawn all it was sent."""
    stamp, step = run_view.browser_state(tab.sent)
    return gr.EventData(None, {"stamp": stamp, "step": step})


def test_a_loaded_page_shows_the_newest_run_and_a_second_tick_sends_nothing(folder, monkeypatch):
    monkeypatch.setattr(run_view, "checkpoint_row", lambda view, step: [step] * 3)
    tab = run_view.TabState()
    run_view.load(tab)
    assert tab.run == folder.name and run_view.tick(tab, tick_of(tab)) == gr.skip()
    (folder / "events.jsonl").open("a").write(events.to_json(events.Step(21, 40, 0.1, 0.2, 1e-3, 90.0)) + "\n")
    polling.lists.clear()
    later = run_view.tick(tab, tick_of(tab))
    assert later != gr.skip() and later[3] == gr.skip(), "progress moves, the strip does not"


def test_the_progress_of_a_paused_run(folder):
    shown = run_view.progress(runs.view(folder.name))
    assert shown["title"] == "Hatching <b> · Paused" and shown["percent"] == 50.0 and shown["left"] == "step 20 of 40"
    assert any("cat.png" in note for note in shown["notes"])
    pause, stop, resume = run_view.buttons(runs.view(folder.name))
    assert (pause["visible"] if isinstance(pause, dict) else pause.visible) is False
    assert (resume["visible"] if isinstance(resume, dict) else resume.visible) is True


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (3, "about 5 s left"),
                                               (44, "about 45 s left"), (130, "about 2 min left")])
def test_time_left(seconds, text):
    assert run_view.time_left(seconds) == text


def test_progress_is_read_without_gradio_and_its_stamp_changes_with_the_rest(folder):
    first = run_view.live_progress(folder.name)
    assert first["progress"]["run"] == folder.name and first["progress"]["percent"] == 50.0 and first["pill"] == {}
    with (folder / "events.jsonl").open("a") as log:
        log.write(events.to_json(events.Step(21, 40, 0.1, 0.2, 1e-3, 90.0)) + "\n")
    step = run_view.progress(runs.view(folder.name))
    assert step["left"] != first["progress"]["left"] and step["stamp"] == first["progress"]["stamp"], "only the bar moves"
    with (folder / "events.jsonl").open("a") as log:
        log.write(events.to_json(events.Sample(30, 0, "htchng, a cat", 1, "samples/000020-0.png")) + "\n")
    assert run_view.progress(runs.view(folder.name))["stamp"] != step["stamp"]
    runs.resume_run(folder.name)
    queued = run_view.progress(runs.view(folder.name))
    assert queued["state"] == "queued" and queued["stamp"] != step["stamp"]


@pytest.mark.parametrize("run", ["gone", "../x", "a" * 500])
def test_a_run_that_is_none_has_no_progress_and_a_tab_without_one_gets_the_newest(run, folder):
    assert run_view.live_progress(run) == {"progress": {}, "pill": {}}
    assert run_view.live_progress("")["progress"]["run"] == folder.name


@pytest.mark.parametrize("refusal", [OSError(errno.EAGAIN, "Resource temporarily unavailable"), OSError(errno.ENOSPC, "full"),
                                     OSError(errno.EACCES, "Permission denied")])
def test_a_worker_that_cannot_be_started_hides_no_progress_and_is_reported_at_every_tick(folder, monkeypatch, refusal):
    def no_process(*_, **__):
        raise refusal

    monkeypatch.setattr("sdlora.jobs.worker.kept_at", [-10.0])
    monkeypatch.setattr("sdlora.jobs.worker.started", [])
    monkeypatch.setattr("sdlora.processes.subprocess.Popen", no_process)
    before = run_view.progress(runs.view(folder.name))
    for _ in range(3):
        shown = run_view.live_progress(folder.name)["progress"]
        assert shown["percent"] == 50.0 and shown["note"].startswith(before["note"])
        assert "The worker of the studio could not be started" in shown["note"] and shown["stamp"] == before["stamp"]
    why = {errno.EAGAIN: "Close other programs", errno.ENOSPC: "The disk is full", errno.EACCES: "Permission denied"}
    assert why[refusal.errno] in shown["note"]
    monkeypatch.setattr(run_view, "keep_worker", lambda: None)
    assert run_view.live_progress(folder.name)["progress"]["note"] == before["note"]


def test_without_runs_there_is_no_progress():
    assert run_view.live_progress("") == {"progress": {}, "pill": {}} == run_view.live_progress("gone")


def test_a_tick_sends_only_what_changed(folder, monkeypatch):
    monkeypatch.setattr(run_view, "checkpoint_row", lambda view, step: [step] * 3)
    tab = run_view.TabState()
    run_view.load(tab)
    with (folder / "events.jsonl").open("a") as log:
        log.write(events.to_json(events.Step(21, 40, 0.1, 0.2, 1e-3, 90.0)) + "\n")
    polling.lists.clear()
    later = run_view.tick(tab, tick_of(tab))
    assert later[4:7] == (gr.skip(),) * 3 and later[10] == gr.skip(), "buttons and the plot stay"


@pytest.mark.parametrize("shows", [{"stamp": "older"}, {"step": 0}, {"stamp": None, "step": None}])
def test_a_browser_that_shows_something_else_is_sent_all_again(folder, monkeypatch, shows):
    monkeypatch.setattr(run_view, "checkpoint_row", lambda view, step: [step] * 3)
    tab = run_view.TabState()
    everything = run_view.load(tab)
    event = tick_of(tab)
    event._data |= shows
    assert [type(part) for part in run_view.tick(tab, event)] == [type(part) for part in everything]


def test_a_choice_waits_for_a_tick_that_is_being_answered_and_is_sent_last(folder, monkeypatch):
    monkeypatch.setattr(run_view, "checkpoint_row", lambda view, step: [step] * 3)
    monkeypatch.setattr(runs.RunView, "usable_steps", {0, 20})
    tab, reading, chosen = run_view.TabState(), Event(), Event()
    run_view.load(tab)
    tick, steps, updates = tick_of(tab), [], run_view.updates

    def slow(run_id):
        reading.set()
        chosen.wait(0.5)  # the choice is made meanwhile
        return runs.view(folder.name)

    def watched(tab, view):
        steps.append(tab.step)
        return updates(tab, view)

    monkeypatch.setattr(run_view, "recent", slow)
    monkeypatch.setattr(run_view, "updates", watched)
    ticking = Thread(target=lambda: run_view.tick(tab, tick))
    ticking.start()
    reading.wait(5)
    run_view.choose(tab, gr.EventData(None, {"step": 0}))
    chosen.set()
    ticking.join(5)
    assert tab.step == 0 and tab.sent["strip"][3] == 0
    assert steps == [None, 0], "the tick had its turn before the choice"


def test_the_strip_has_a_column_per_step_with_0_first(folder):
    view = runs.view(folder.name)
    shown = run_view.strip_data(view, view.usable_step(None))
    assert [column["step"] for column in shown["columns"]] == [0, 20]
    assert [column["choosable"] for column in shown["columns"]] == [False, True] and shown["columns"][1]["chosen"]
    cells = shown["rows"][0]["cells"]
    assert len(cells) == 2 and cells[0] != cells[1]
    assert all(theme.picture_bytes(cell.removeprefix("sdlora/picture/")) for cell in cells)


def test_the_verdict_is_shown_with_the_suggested_checkpoint_and_the_copied_picture(folder, tmp_path):
    pictures = tmp_path / "mine"
    pictures.mkdir()
    Image.new("RGB", (64, 64), (200, 10, 10)).save(pictures / "cat.png")
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**spec, "images": str(pictures), "set": None}))
    plain = run_view.progress(runs.view(folder.name))
    assert plain["verdict"] == [] == plain["copied"]
    with (folder / "events.jsonl").open("a") as log:
        log.write(events.to_json(events.Validated(20, 0.1, 80.0, 1.0, 0.2, 0, "cat.png")) + "\n")
        log.write(events.to_json(events.Verdict(20, 20, ("The style arrived.", "Look."))) + "\n")
    view = runs.view(folder.name)
    shown = run_view.progress(view)
    assert shown["verdict"] == ["The style arrived.", "Look."] and [item["alt"] for item in shown["copied"]][1] == "cat.png"
    assert all(theme.picture_bytes(item["src"].removeprefix("sdlora/picture/")) for item in shown["copied"])
    assert [column["mark"] for column in run_view.strip_data(view, None)["columns"]] == ["", "suggested"]
    (pictures / "cat.png").unlink()
    assert run_view.progress(runs.view(folder.name))["copied"] == [], "a picture that is gone"
