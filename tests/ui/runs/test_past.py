"""Past runs: the list, the settings of one, the form as it had it."""

from sdlora.jobs import run as runs
from sdlora.ui.runs import past
from sdlora.ui.studio import train


def test_a_run_is_listed_with_its_settings_and_a_strip_that_only_shows(folder):
    run, menu, facts, strip, _ = past.show()
    assert run == folder.name and menu.props["data"]["cards"][0]["line"].startswith("Paused · step 20 of 40 · ")
    rows = dict(facts.props["data"]["rows"])
    assert rows["Steps"] == "40" and rows["Network rank"] == "16" and rows["Pictures"] == "11 (cat.png held out)"
    assert not any(column["choosable"] for column in strip.props["data"]["columns"])


def test_the_form_gets_the_settings_of_a_run_and_a_deleted_one_is_gone(folder):
    _, name, trigger, base, preset, _, *expert = past.settings_of(folder.name)
    assert (name, trigger, base, preset) == ("Hatching <b>", "htchng", "mini", "quick")
    assert dict(zip(train.SETTINGS, expert, strict=True))["steps"] == "40"
    assert past.delete(folder.name)[0] is None and not runs.list_runs()
