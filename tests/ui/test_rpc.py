"""Questions and other calls of a hostile browser are answered with a sentence."""

import pytest

from sdlora.ui import history, rpc
from sdlora.ui.gallery import mixer, report
from sdlora.ui.studio import pictures
from tests.ui.conftest import HOSTILE

ROWS = [{"id": "nothing", "on": True, "strength": 1, "text": None, "start": 0, "end": 1, "blocks": ""}]


@pytest.mark.parametrize("value", [*HOSTILE, [None] * 3, ["../x", "000", "text"], ["my-set", "../../000", "text"], ["a", "b", 3]])
def test_server_functions_answer_with_a_sentence(value, bugs):
    for function in (pictures.save_caption, history.full_picture, *report.SERVER, *rpc.server_functions(mixer.QUESTIONS)):
        assert set(function(value)) == {"problem"}
    assert not bugs


@pytest.mark.parametrize("value", [*HOSTILE, ["a"] * 3, [{"on": True}], ROWS, ROWS * 40, [{**ROWS[0], "strength": "9"}],
                                   {"rows": ROWS, "name": "x", "way": "concat"}, {"rows": [], "name": [], "way": []}])
def test_questions_of_strangers_are_answered_with_a_sentence(value, bugs, monkeypatch):
    monkeypatch.setattr("sdlora.jobs.worker.spawn", lambda *_: pytest.fail("an invalid question started a worker"))
    for kinds, ask in ((mixer.QUESTIONS, rpc.server_functions(mixer.QUESTIONS)[0]), (report.QUESTIONS, report.SERVER[1])):
        for kind in kinds:
            assert set(ask([kind, value])) == {"problem"}, kind
    assert not bugs
