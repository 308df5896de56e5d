"""Reading a run folder: the state follows from it, half a line is no line, the newest telling counts."""

import pytest

from sdlora.config import TrainConfig
from sdlora.errors import UserError
from sdlora.jobs.lock import hold
from sdlora.jobs.run import create_run, list_runs, start_run, view
from sdlora.jobs.table import Table
from sdlora.jobs.watch import Story
from sdlora.train import events


def write(folder, *told):
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(events.to_json(event) + "\n" for event in told)


def step(number, loss=1.0, steps=40):
    return events.Step(number, steps, loss, loss, 1e-3, (steps - number) * 0.5)


@pytest.fixture
def run(tmp_path):
    return create_run(TrainConfig(name="Stained glass", steps=40), tmp_path)


def test_a_new_run_rests_and_shows_its_settings(run, tmp_path):
    seen = view(run.name)
    assert (seen.state, seen.step, seen.steps, seen.name) == ("stopped", 0, 40, "Stained glass")
    assert seen.images == str(tmp_path) and seen.id == run.name and not seen.paused and seen.wish is None


def test_states_follow_lock_events_and_queue(run):
    Table().submit("train", run.name, once="1")
    assert view(run).state == "queued"
    job = Table().claim("train")
    assert view(run).state == "queued", "claimed, its process is on the way"
    lock = hold(run / "lock")
    write(run, step(3))
    assert (view(run).state, view(run).step, view(run).seconds_left) == ("running", 3, 18.5)
    lock.release()
    Table().finish(job, "stopped")
    assert view(run).state == "stopped" and view(run).seconds_left is None and not view(run).ended
    write(run, events.Failed(3, 40, "It broke.", "Mend it."))
    assert (view(run).state, view(run).problem, view(run).hint) == ("failed", "It broke.", "Mend it.")
    write(run, step(4))
    assert view(run).state == "stopped", "continued after a failure, then killed"
    write(run, events.Done(40, 40, run.name, "/x/y.safetensors", 12.5))
    assert (view(run).state, view(run).file, view(run).seconds) == ("done", "/x/y.safetensors", 12.5)


def test_half_a_line_is_left_for_later(run):
    whole = events.to_json(step(2)) + "\n"
    write(run, step(1))
    with (run / "events.jsonl").open("a") as file:
        file.write(whole[:30])
        file.flush()
        assert view(run).step == 1
        file.write(whole[30:])
    assert view(run).step == 2
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "step", "st\xff\n')
    write(run, step(3))
    assert view(run).step == 3, "a line torn by a power cut does not hide what follows"


def test_what_is_told_again_after_a_kill_replaces_the_first_telling(run):
    write(run, *[step(n, 1.0) for n in range(1, 8)], events.Sample(7, 0, "p", 1, "samples/000007-0.png"))
    write(run, events.Preparing(0, "base", 0, 1))
    assert view(run).step == 7 and view(run).phase is None
    write(run, step(5, 2.0))
    seen = view(run)
    assert seen.losses == ((1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0), (5, 2.0)) and seen.samples == ()
    write(run, events.Rewound(5, 3, 5e-4, "The loss was not a number."))
    assert view(run).step == 3 and len(view(run).losses) == 3 and "step 3" in view(run).warnings[0]


def test_the_strip_is_in_order(run):
    write(run, events.Prepared(0, 40, 12, "cat.png", (("bad.png", "damaged"),), 1.0),
          *[events.Sample(s, p, f"p{p}", 1, f"samples/{s}-{p}.png") for s in (0, 20) for p in (1, 0)])
    seen = view(run)
    assert [(s.step, s.prompt_index) for s in seen.samples] == [(0, 0), (0, 1), (20, 0), (20, 1)]
    assert (seen.pictures, seen.held_out, seen.skipped) == (12, "cat.png", (("bad.png", "damaged"),))


def test_looking_again_reads_only_what_is_new(run, monkeypatch):
    write(run, *[step(n, steps=20000) for n in range(1, 20001)])
    assert len(view(run).losses) == 20000
    folded, fold = [], Story.fold
    monkeypatch.setattr(Story, "fold", lambda story, event: folded.append(event.step) or fold(story, event))
    view(run)
    write(run, events.Saved(20000, "checkpoints/step-020000"))
    view(run)
    assert folded == [20000]


def test_runs_are_listed_newest_first_and_a_damaged_one_does_not_hide_them(tmp_path):
    ids = [start_run(TrainConfig(name=name), tmp_path, once=name) for name in ("one", "two", "three")]
    damaged = create_run(TrainConfig(name="bad"), tmp_path)
    (damaged / "spec.json").write_text("{}")
    assert {seen.id for seen in list_runs()} == set(ids)
    assert all(seen.state == "queued" for seen in list_runs())


@pytest.mark.parametrize("name", ["nothing", "", "..", "../..", "a/b", "a\\b"])
def test_there_is_no_such_run(name):
    with pytest.raises(UserError, match="There is no run"):
        view(name)
