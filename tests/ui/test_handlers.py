"""Every handler of the page, called by a stranger with anything at all: a sentence, never a bug (reliability.md 8.6, 135-137)."""

import asyncio
import inspect
import shutil
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from gradio.state_holder import SessionState

import sdlora
from sdlora.config import DrawConfig
from sdlora.dataset import sets, upload
from sdlora.jobs import drawings as draws
from sdlora.ui import drawing, history, page, validation
from sdlora.ui.gallery import mixer, report, rpc
from sdlora.ui.studio import pictures

OURS = str(Path(sdlora.__file__).parent)
HOSTILE = [None, True, 3.7, -1, 2**63, float("nan"), "x" * 10_001, "../../etc/passwd", "1 OR 1=1'; DROP TABLE jobs",
           "<script>alert(1)</script>", "\0",
           "\ud800", [], [[]], {}, {"id": "../x", "step": "7"}, "point:../x:3", "lora:nothing", "a", ""]


@pytest.fixture(scope="module")
def demo():
    return page.build()


@pytest.fixture
def bugs(monkeypatch):
    """The bugs that handlers reported; a test may not leave any."""
    found = []
    monkeypatch.setattr(validation, "log_bug", lambda error: found.append("".join(traceback.format_exception(error))) or "TEST")
    validation.logged_bugs.clear()
    return found


def clear_away(home: Path) -> None:
    """The picture sets that strangers made: with hundreds of them each listing takes longer, and tells nothing more."""
    shutil.rmtree(home / "sets", ignore_errors=True)


async def call(demo: gr.Blocks, session: SessionState, fn, values: list, event: object = None) -> dict | Exception:  # noqa: ANN001
    """One call as Gradio makes it: preprocess, handler, postprocess. Gradio's own refusals come back as exceptions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return await demo.process_api(fn, values, state=session, event_data=gr.EventData(None, event))
        except Exception as error:  # noqa: BLE001 Gradio refuses in its own ways; whose it is, is looked at by the caller
            return error


def test_no_handler_has_a_bug_for_any_value(demo, bugs, monkeypatch, own_home):
    monkeypatch.setattr("sdlora.jobs.worker.spawn", lambda *_: pytest.fail("a stranger's nonsense started a worker"))
    asked = [(fn, value) for fn in demo.fns.values() if fn.fn for value in HOSTILE]

    async def ask_all() -> list:
        session, told = SessionState(demo), []
        for number, (fn, value) in enumerate(asked):
            if number % len(HOSTILE) == 0:
                clear_away(own_home)
            told.append(await call(demo, session, fn, [value] * len(fn.inputs), {"id": value, "step": value}))
        return told

    with ThreadPoolExecutor(1) as apart:  # Playwright leaves an event loop running in the main thread
        answers = apart.submit(asyncio.run, ask_all()).result()
    for (fn, value), answer in zip(asked, answers, strict=True):
        if isinstance(answer, Exception):
            ours = [frame for frame in traceback.extract_tb(answer.__traceback__) if frame.filename.startswith(OURS)]
            assert not ours, f"{fn.fn.__name__} broke on {value!r:.60}: {answer!r}"
    assert not bugs, bugs[0]
    assert len(asked) > 800


def with_event(fn, values: list, event: gr.EventData) -> list:  # noqa: ANN001
    """The values, with the event where the handler takes it."""
    at = next((at for at, p in enumerate(inspect.signature(fn).parameters.values()) if "EventData" in str(p.annotation)), None)
    return values if at is None else [*values[:at], event, *values[at:]]


def test_no_handler_trusts_the_checks_of_gradio(demo, bugs, monkeypatch, own_home):
    """The same values behind Gradio's own checks: single wrong ones among plausible ones, and all wrong."""
    monkeypatch.setattr("sdlora.jobs.worker.spawn", lambda *_: pytest.fail("a stranger's nonsense started a worker"))
    for fn in [fn.fn for fn in demo.fns.values() if fn.fn]:
        amount = max(len(one.inputs) for one in demo.fns.values() if one.fn is fn)
        clear_away(own_home)
        for value in HOSTILE:
            for values in ([value] * amount, [value, *["mini"] * (amount - 1)], [*["mini"] * (amount - 1), value]):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    fn(*with_event(fn, values[:amount], gr.EventData(None, {"id": value, "step": value})))
    assert not bugs, bugs[0]


def test_every_handler_is_guarded(demo):
    """A bug in any handler must become a code: each is wrapped, and none is public."""
    for fn in demo.fns.values():
        if fn.fn is None or fn.fn.__module__.startswith("gradio"):
            continue
        assert hasattr(fn.fn, "__wrapped__"), fn.fn.__qualname__
        assert fn.api_visibility == "private", fn.fn.__qualname__


@pytest.mark.parametrize("value", [*HOSTILE, [None] * 3, ["../x", "000", "text"], ["my-set", "../../000", "text"], ["a", "b", 3]])
def test_server_functions_answer_with_a_sentence(value, bugs):
    for function in (pictures.save_caption, history.full_picture, *report.SERVER, *rpc.server_functions(mixer.QUESTIONS)):
        assert set(function(value)) == {"problem"}
    assert not bugs


ROWS = [{"id": "nothing", "on": True, "strength": 1, "text": None, "start": 0, "end": 1, "blocks": ""}]


@pytest.mark.parametrize("value", [*HOSTILE, ["a"] * 3, [{"on": True}], ROWS, ROWS * 40, [{**ROWS[0], "strength": "9"}],
                                   {"rows": ROWS, "name": "x", "way": "concat"}, {"rows": [], "name": [], "way": []}])
def test_questions_of_strangers_are_answered_with_a_sentence(value, bugs, monkeypatch):
    monkeypatch.setattr("sdlora.jobs.worker.spawn", lambda *_: pytest.fail("a stranger's nonsense started a worker"))
    for kinds, ask in ((mixer.QUESTIONS, rpc.server_functions(mixer.QUESTIONS)[0]), (report.QUESTIONS, report.SERVER[1])):
        for kind in kinds:
            assert set(ask([kind, value])) == {"problem"}, kind
    assert not bugs


def test_a_bug_becomes_a_code_and_its_traceback_stays_in_the_log(own_home):
    @validation.guarded_server
    def broken(data: object) -> dict:
        return {}["secret"]

    said = broken(None)["problem"]
    code = said.split("code ")[1][:4]
    assert "secret" not in said and code in (own_home / "logs" / "page.log").read_text()
    assert "KeyError: 'secret'" in (own_home / "logs" / "page.log").read_text()


def test_a_caption_is_saved_as_typed_and_nothing_else_changes(tmp_path):
    from PIL import Image

    chosen = sets.create("Garden")
    for number in range(2):
        Image.new("RGB", (90, 70 + number), (200, 30 * number, 9)).save(tmp_path / f"red-house-{number}.png")
    upload.add_pictures(chosen.id, sorted(tmp_path.glob("*.png")))
    first, second = sets.load(chosen.id).pictures
    assert pictures.save_caption([chosen.id, first.id, "<b>a red house</b> & ${7*7}"]) == {}
    after = sets.load(chosen.id).pictures
    assert after[0].caption == "<b>a red house</b> & ${7*7}" and after[1].caption == second.caption
    shown = pictures.grid_of(sets.load(chosen.id))["pictures"]
    assert [card["caption"] for card in shown] == [after[0].caption, after[1].caption]
    assert shown[0]["src"].startswith("sdlora/picture/") and shown[0]["src"] != shown[1]["src"]
    assert shown[0]["crop"] == [10 / 90, 0, 80 / 90, 1]


@pytest.mark.parametrize("value", [True, None, "3", 3.7, float("nan"), -1, 2**63, [1]])
def test_whole_numbers_are_whole(value):
    with pytest.raises(validation.UserError):
        validation.whole_number(value, 0, 2**32 - 1, "seed")
    assert validation.whole_number(3.0, 0, 9, "seed") == 3


def test_what_does_not_act_and_what_could_not_be_drawn_is_told(monkeypatch):
    told = []
    monkeypatch.setattr(drawing.gr, "Info", told.append)
    job = draws.submit_draw(DrawConfig(prompts=("a <hypernet:x:1> [cat|dog]",)))
    drawing.show_new(job)
    drawing.show(job)
    assert len(told) == 2 and told[0].startswith("&lt;hypernet:x:1&gt; is left out")
    view = replace(draws.view_draw(job), bad=(("01-00", "PLMS cannot draw in 3 steps."),))
    assert drawing.bad_cells(view.bad)["note"] == "Row 2, column 1: PLMS cannot draw in 3 steps."
