"""Questions to the drawing process: asked, answered in order, looked up by id, forgotten after a day. No torch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdlora.errors import UserError
from sdlora.jobs import desk, tasks
from sdlora.storage import home, read_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def answers(monkeypatch):
    """A kind of question that tells what it was asked."""
    asked = []
    monkeypatch.setitem(tasks.ANSWERS, "echo", lambda payload, folder, base: asked.append(payload) or {"said": payload})
    return asked


def no_base(spec: str, device: str) -> None:
    raise AssertionError("no question here needs a base")


def test_questions_are_answered_in_the_order_they_were_asked(answers):
    first, second = desk.submit("echo", {"n": 1}), desk.submit("echo", {"n": 2})
    assert desk.view(first).state == desk.view(second).state == "waiting"
    assert tasks.answer_all(no_base) and answers == [{"n": 1}, {"n": 2}]
    seen = desk.view(second)
    assert (seen.state, seen.kind, seen.result) == ("done", "echo", {"said": {"n": 2}})
    assert not desk.waiting() and not tasks.answer_all(no_base)


def test_a_mistake_and_a_bug_fail_one_question_only(answers, monkeypatch):
    def mistaken(payload, folder, base):
        raise UserError("It is no LoRA.", "Choose another.")

    monkeypatch.setitem(tasks.ANSWERS, "wrong", mistaken)
    monkeypatch.setitem(tasks.ANSWERS, "bug", lambda *_: {}["secret"])
    wrong, bug, fine = desk.submit("wrong", {}), desk.submit("bug", {}), desk.submit("echo", {"value": float(2)})
    tasks.answer_all(no_base)
    seen = desk.view(wrong)
    assert (seen.state, seen.problem, seen.hint) == ("failed", "It is no LoRA.", "Choose another.")
    assert "code" in desk.view(bug).problem and "secret" not in desk.view(bug).problem
    assert "secret" in (home() / "logs" / "drawer.log").read_text()
    assert desk.view(fine).state == "done"


def test_what_json_cannot_hold_becomes_null(monkeypatch):
    monkeypatch.setitem(tasks.ANSWERS, "odd", lambda *_: {"a": float("nan"), 3: (1, float("inf"))})
    odd = desk.submit("odd", {})
    tasks.answer_all(no_base)
    assert desk.view(odd).result == {"a": None, "3": [1, None]}


def test_a_question_that_kills_the_process_is_tried_once_more_and_then_fails(answers, monkeypatch):
    class Died(BaseException):
        pass

    def dies(*_):
        raise Died

    monkeypatch.setitem(tasks.ANSWERS, "dies", dies)
    question = desk.submit("dies", {})
    for _ in range(2):
        with pytest.raises(Died):
            tasks.answer_all(no_base)
        assert desk.view(question).state == "waiting"
    tasks.answer_all(no_base)
    assert desk.view(question).state == "failed" and "twice" in desk.view(question).problem


def test_what_is_half_written_or_damaged_disturbs_nobody(answers):
    question = desk.submit("echo", {})
    (desk.waiting()[0].parent / ".sdlora-tmp-1-2.json").write_text("{")
    damaged = desk.submit("echo", {})
    desk.waiting()[1].write_text("{half")
    assert len(desk.waiting()) == 2
    tasks.answer_all(no_base)
    assert desk.view(question).state == "done" and desk.view(damaged).state == "failed" and not desk.waiting()


def test_a_look_at_the_moment_of_the_answer_finds_it(answers, monkeypatch):
    """The drawing process answers between the two questions to the disk that a look is made of."""
    question = desk.submit("echo", {})
    looked, is_file = [], Path.is_file

    def meanwhile(path: Path) -> bool:
        found = is_file(path)
        if not looked:
            looked.append(path)
            tasks.answer_all(no_base)
        return found
    monkeypatch.setattr(Path, "is_file", meanwhile)
    assert desk.view(question).state in ("waiting", "done") and looked
    assert desk.view(question).state == "done"


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "waiting", "1234567890123-abcdefgh", "x" * 500])
def test_ids_of_somebody_else_lead_nowhere(name):
    desk.submit("echo", {})
    with pytest.raises(UserError):
        desk.view(name)


def test_a_flood_is_refused_with_a_sentence(monkeypatch):
    monkeypatch.setattr(desk, "MOST_WAITING", 3)
    for _ in range(3):
        desk.submit("echo", {})
    with pytest.raises(UserError, match="too much"):
        desk.submit("echo", {})


def test_answers_of_days_gone_by_are_swept(answers):
    old, new = desk.submit("echo", {}), desk.submit("echo", {})
    tasks.answer_all(no_base)
    os.utime(desk.view(old).folder, (time.time() - 2 * 86400,) * 2)
    desk.sweep_answers()
    assert desk.view(new).state == "done"
    with pytest.raises(UserError):
        desk.view(old)


def test_the_question_is_kept_as_asked():
    question = desk.submit("echo", {"file": "a/ü.safetensors"})
    assert read_json(desk.waiting()[0]) == {"kind": "echo", "payload": {"file": "a/ü.safetensors"}, "tries": 0}
    assert desk.waiting()[0].stem == question


def test_asking_needs_no_torch():
    code = "import sys, sdlora.jobs.desk, sdlora.jobs.tasks; sys.exit(bool({'torch', 'diffusers', 'gradio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
