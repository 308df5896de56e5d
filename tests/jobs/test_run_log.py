"""Reading the events of a run: half a line is no line, what was written again replaces the first, only new lines are read."""

import pytest

from sdlora.config import TrainConfig
from sdlora.jobs.run import create_run, view
from sdlora.jobs.run_log import RunLog
from sdlora.train import events


def write(folder, *happened):
    with (folder / "events.jsonl").open("a") as file:
        file.writelines(events.to_json(event) + "\n" for event in happened)


def step(number, loss=1.0, steps=40):
    return events.Step(number, steps, loss, loss, 1e-3, (steps - number) * 0.5)


@pytest.fixture
def run(tmp_path):
    return create_run(TrainConfig(name="Stained glass", steps=40), tmp_path)


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


def test_steps_written_again_after_a_kill_replace_the_first_ones(run):
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


def test_only_new_lines_are_read(run, monkeypatch):
    write(run, *[step(n, steps=20000) for n in range(1, 20001)])
    assert len(view(run).losses) == 20000
    added, add = [], RunLog.add
    monkeypatch.setattr(RunLog, "add", lambda log, event: added.append(event.step) or add(log, event))
    view(run)
    write(run, events.Saved(20000, "checkpoints/step-020000"))
    view(run)
    assert added == [20000]
