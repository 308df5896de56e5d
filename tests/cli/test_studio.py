"""`sdlora doctor` tells the truth about this computer; `sdlora studio` opens the page's one door."""

import json
import sys
import types

import pytest

from sdlora.cli import main, studio
from sdlora.jobs.machine import Advice
from sdlora.storage import home


@pytest.fixture
def sdlora(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sdlora", *arguments])
        with pytest.raises(SystemExit) as left:
            main.run()
        return int(left.value.code or 0), *capsys.readouterr()
    return run


def checks(told):
    return {check["name"]: check for check in json.loads(told)["checks"]}


def test_a_healthy_computer(sdlora):
    code, told, _ = sdlora("doctor", "--json")
    found = checks(told)
    assert code == 0 and json.loads(told)["ok"] and {check["state"] for check in found.values()} <= {"ok", "warning"}
    assert set(found) == {"versions", "graphics card", "device", "data folder", "job list", "disk space", "cache",
                          "embedded base", "presets"}
    assert str(home()) in found["data folder"]["text"] and "tensors" in found["embedded base"]["text"]
    assert "quick" in found["presets"]["text"] and list(home().glob("doctor-*")) == []


def test_a_damaged_job_list_is_a_problem(sdlora):
    (home() / "jobs.sqlite").write_bytes(b"SQLite format 3\0" + b"\7" * 4096)
    code, told, _ = sdlora("doctor", "--json")
    found = checks(told)["job list"]
    assert code == 1 and found["state"] == "problem" and "damaged" in found["text"] and "Remove" in found["mend"]


def test_for_people(sdlora):
    code, told, _ = sdlora("doctor")
    assert code == 0 and told.strip().endswith("Everything that sdlora needs is here.")


def test_an_unused_card_is_a_warning_with_one_command(sdlora, monkeypatch):
    advice = Advice("2.13.0+cpu", "cpu", "NVIDIA RTX 4070", "The card is not used.", "pip install torch --index-url X")
    monkeypatch.setattr("sdlora.jobs.machine.device_advice", lambda: advice)
    code, told, _ = sdlora("doctor", "--json")
    card = checks(told)["graphics card"]
    assert code == 0 and (card["state"], card["text"], card["mend"]) == ("warning", "The card is not used.", advice.command)


def test_what_is_broken_is_told_and_the_exit_code_says_so(sdlora, monkeypatch, tmp_path):
    monkeypatch.setattr("sdlora.base.catalog.shipped", lambda *parts: tmp_path, raising=False)
    monkeypatch.setattr("sdlora.storage.shipped", lambda *parts: tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: types.SimpleNamespace(free=100 * 2**20))
    code, told, _ = sdlora("doctor", "--json")
    found = checks(told)
    assert code == 1 and not json.loads(told)["ok"]
    assert found["embedded base"]["state"] == "problem" and found["embedded base"]["mend"]
    assert found["disk space"]["state"] == "warning"


def test_studio_opens_the_one_door(sdlora, monkeypatch):
    opened = []
    door = types.ModuleType("sdlora.ui.launch")
    door.main = lambda *arguments: opened.append(arguments)
    monkeypatch.setitem(sys.modules, "sdlora.ui.launch", door)
    assert sdlora("studio", "--port", "7999", "--data", "/x/y")[0] == 0
    assert sdlora("studio", "--library", "/a", "--library", "/b")[0] == 0
    assert sdlora("studio", "--password-file", "/p", "--proxy", "10.0.0.1", "--proxy", "::1")[0] == 0
    assert opened == [("127.0.0.1", 7999, "/x/y", None, None, [], []), ("127.0.0.1", 7860, None, None, None, ["/a", "/b"], []),
                      ("127.0.0.1", 7860, None, None, "/p", [], ["10.0.0.1", "::1"])]
    assert sdlora("studio", "--port", "99999")[0] == 2


def test_a_check_that_cannot_even_look_is_a_problem():
    def fails():
        raise OSError("no such device")
    assert studio.attempt(fails).state == "problem"
