"""Every event survives its line of JSON; other lines are refused."""

import json
import typing

import pytest

from sdlora.train import events

EXAMPLES = [
    events.Preparing(0, "latents", 3, 12), events.Prepared(0, 600, 11, "a.png", (("b.png", "damaged"),), 1.5),
    events.Step(12, 600, 0.25, 0.5, 1e-4, 33.0), events.Sample(100, 1, "a \u2028 cat", 7, "samples/000100-1.png"),
    events.Saved(100, "checkpoints/step-000100"), events.Validated(100, 0.125, 60.0, 0.9, 1.0, 2, "a.png"),
    events.Verdict(100, 80, ("The style arrived.", "Take it.")), events.Rewound(9, 5, 5e-5, "not finite"),
    events.Notice(3, "Two pictures are equal."), events.Stopped(5, 600), events.Failed(5, 600, "No memory.", "Close programs."),
    events.Done(600, 600, "run", "/loras/a.safetensors", 12.5)]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_every_event_survives_its_line(event):
    line = events.to_json(event)
    assert "\n" not in line and json.loads(line)["event"] in events.EVENTS
    assert events.from_json(line) == event


def test_no_kind_of_event_is_left_out():
    assert {type(event) for event in EXAMPLES} == set(events.EVENTS.values()) == set(typing.get_args(events.Event))


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"event": "party"}', '{"step": 1}', '{"event": "step", "step": 1'])
def test_a_line_that_is_no_event_is_refused(line):
    with pytest.raises(ValueError):
        events.from_json(line)
