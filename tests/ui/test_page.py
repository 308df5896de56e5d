"""Every handler of the page, called by a stranger with anything at all: a sentence, never a bug."""

import asyncio
import inspect
import shutil
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from gradio.state_holder import SessionState

import sdlora
from sdlora.ui import page
from tests.ui.conftest import HOSTILE

OURS = str(Path(sdlora.__file__).parent)


@pytest.fixture(scope="module")
def demo():
    return page.build()


def clear_away(home: Path) -> None:
    """The picture sets that strangers made: with hundreds of them each listing takes longer, and tests nothing more."""
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
    monkeypatch.setattr("sdlora.jobs.worker.spawn", lambda *_: pytest.fail("an invalid call started a worker"))
    asked = [(fn, value) for fn in demo.fns.values() if fn.fn for value in HOSTILE]

    async def ask_all() -> list:
        session, answers = SessionState(demo), []
        for number, (fn, value) in enumerate(asked):
            if number % len(HOSTILE) == 0:
                clear_away(own_home)
            answers.append(await call(demo, session, fn, [value] * len(fn.inputs), {"id": value, "step": value}))
        return answers

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
    monkeypatch.setattr("sdlora.jobs.worker.spawn", lambda *_: pytest.fail("an invalid call started a worker"))
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
