"""What a run shows: a bar and sentences for people, nothing but events for programs."""

import json
import sys

import pytest

from sdlora.cli.progress import clock
from sdlora.jobs.run import list_runs
from tests.jobs import fake_run


def test_people_see_what_happens(sdlora, pictures):
    code, told, _ = sdlora("train", pictures, "--preset", "quick", "--set", "steps=20")
    assert code == 0 and "4 pictures" in told and "Skipped bad.png: damaged" in told
    assert list_runs()[0].name == "stained glass", "named after the folder"
    assert str(list_runs()[0].file) in told.replace("\n", "")


def test_what_libraries_print_does_not_get_between_the_events(sdlora, pictures, monkeypatch):
    def chatty(folder, *, control):
        print("hello from a library")
        yield from fake_run.run_training(folder, control=control)

    monkeypatch.setattr(sys.modules["sdlora.train.session"], "run_training", chatty)
    code, told, said = sdlora("train", pictures, "--set", "steps=20", "--json")
    assert code == 0 and "hello" in said and all(json.loads(line) for line in told.splitlines())


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3725, "1:02:05")])
def test_the_time_left_has_hours_only_where_there_are_any(seconds, shown):
    assert clock(seconds) == shown
