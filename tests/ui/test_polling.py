"""What open tabs ask for each second: made once for all, sent only when it changed, forgotten with the tab."""

import asyncio
import threading
import time

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from sdlora.errors import UserError
from sdlora.ui import polling, theme


async def other(_request):
    return PlainTextResponse("page")


def client(**answers):
    routes = [Route("/{path:path}", other, methods=["GET", "POST"])]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(polling.Polling, answers=answers)]))


def test_the_answer_is_by_name_and_id_and_is_not_sent_twice():
    moving = {"value": 1}
    with client(run=lambda run: {"of": run, **moving}, draw=lambda draw: None, shelf=lambda _: "stamp") as tab:
        answer = tab.get("/sdlora/poll?run=&draw=a&draw=b&foreign=x")
        assert answer.json() == {"run": {"": {"of": "", "value": 1}}, "draw": {"a": None, "b": None}, "shelf": {}}
        assert answer.headers["cache-control"] == "no-cache"
        again = tab.get("/sdlora/poll?run=&draw=a&draw=b", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert tab.get("/sdlora/poll?run=1", headers={"if-none-match": answer.headers["etag"]}).status_code == 200
        assert tab.get("/other").text == "page" and tab.post("/sdlora/poll").text == "page"
        many = "&".join(f"draw={number}" for number in range(50))
        assert len(tab.get(f"/sdlora/poll?{many}").json()["draw"]) == polling.MOST_QUESTIONS


def test_many_tabs_at_once_are_one_question():
    asked = []

    def slow(key):
        asked.append(key)
        time.sleep(0.05)
        return key

    async def crowd():
        shared = polling.SharedAnswers(slow, seconds=60)
        first = await asyncio.gather(*(shared.get("a") for _ in range(100)))
        return first, await shared.get("a"), await shared.get("b")

    assert asyncio.run(crowd()) == (["a"] * 100, "a", "b") and asked == ["a", "b"]


def test_an_answer_is_made_again_after_its_time_and_old_ones_are_dropped(monkeypatch):
    monkeypatch.setattr(polling, "MOST_ANSWERS", 3)

    async def crowd():
        shared = polling.SharedAnswers(lambda key: time.monotonic_ns(), seconds=0)
        answers = [await shared.get("a") for _ in range(3)]
        for key in "bcdefg":
            await shared.get(key)
        return answers, list(shared.made)

    answers, kept = asyncio.run(crowd())
    assert len(set(answers)) == 3 and kept == ["e", "f", "g"]


def test_a_tab_that_leaves_does_not_take_the_answer_from_the_others():
    release = threading.Event()

    async def crowd():
        shared = polling.SharedAnswers(lambda key: release.wait(5) and key)
        leaving, staying = (asyncio.ensure_future(shared.get("a")) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        release.set()
        return await staying

    assert asyncio.run(crowd()) == "a"


def test_a_picture_is_found_by_its_address_and_by_no_other(tmp_path):
    file = tmp_path / "secret name.png"
    Image.new("RGB", (600, 300), (9, 200, 30)).save(file)
    address = theme.picture_url(file, 128)
    assert "secret" not in address and address == theme.picture_url(file, 128) != theme.picture_url(file, 64)
    with client() as tab:
        answer = tab.get(f"/{address}")
        assert answer.headers["content-type"] == "image/webp" and "immutable" in answer.headers["cache-control"]
        assert Image.open(answer).size == (128, 64)
        for wrong in ("/sdlora/picture/", "/sdlora/picture/../x", f"/sdlora/picture/{file}", f"/{address[:-1]}", f"/{address}0"):
            assert tab.get(wrong).status_code in (200, 404) and b"WEBP" not in tab.get(wrong).content, wrong
        file.write_bytes(b"no picture at all")
        broken = theme.picture_url(file, 128)
        assert broken not in ("", address) and tab.get(f"/{broken}").status_code == 404
        assert theme.picture_url(file, 128) == "", "the next list leaves its place empty"
        file.unlink()
        assert theme.picture_url(file, 128) == ""


class Queue:
    def __init__(self):
        self.pending_messages_per_session, self.pending_event_ids_session = {}, {}


@pytest.fixture
def tabs(monkeypatch):
    """(middleware, its app with 10 sessions, a function that opens and closes a tab)."""
    monkeypatch.setattr(polling, "MOST_CLOSED", 3)
    sessions = {name: {str(number): number for number in range(10)} for name in ("session_data", "time_last_used")}
    holder = type("Holder", (), sessions)()
    blocks = type("Blocks", (), {"_queue": Queue()})()
    app = type("App", (), {"state_holder": holder, "get_blocks": lambda self: blocks})()

    async def heartbeat(scope, receive, send):
        await receive()

    middleware = polling.Polling(heartbeat, {})

    async def visit(session, until):
        scope = {"type": "http", "method": "GET", "path": f"/gradio_api/heartbeat/{session}", "app": app}
        await middleware(scope, until.wait, None)

    return middleware, holder, visit


def test_of_closed_tabs_the_last_few_are_kept_and_open_ones_always(tabs):
    middleware, holder, visit = tabs

    async def visits():
        open_end, end = asyncio.Event(), asyncio.Event()
        end.set()
        staying = asyncio.create_task(visit("0", open_end))
        await asyncio.sleep(0)
        for session in "123456":
            await visit(session, end)
        await visit("4", end)  # came back and left again: the youngest now
        await visit("7", end)
        assert sorted(holder.session_data) == ["0", "4", "6", "7", "8", "9"] == sorted(holder.time_last_used)
        open_end.set()
        await staying
        assert list(middleware.closed) == ["4", "7", "0"] and not middleware.open

    asyncio.run(visits())


def test_lists_are_made_once_while_the_shelf_stays_the_same(own_home):
    made = []
    for _ in range(5):
        assert polling.shared_list(("list", "a"), lambda: made.append(1) or len(made)) == 1
    assert polling.shared_list(("list", "b"), lambda: "other") == "other" and made == [1]
    (own_home / "loras").mkdir(exist_ok=True)
    (own_home / "loras" / "new.safetensors").write_bytes(b"x")
    assert polling.shared_list(("list", "a"), lambda: made.append(1) or len(made)) == 2, "a file that appears is seen at once"


def test_lists_that_fail_are_not_kept():
    with pytest.raises(ValueError, match="once"):
        polling.shared_list(("failing",), lambda: (_ for _ in ()).throw(ValueError("once")))
    assert polling.shared_list(("failing",), lambda: 7) == 7


def test_a_slow_list_does_not_hold_up_another_kind():
    inside, release = threading.Event(), threading.Event()
    slow = threading.Thread(target=polling.shared_list, args=(("slow",), lambda: inside.set() or release.wait(5)))
    slow.start()
    inside.wait(5)
    began = time.monotonic()
    polling.shared_list(("quick",), lambda: 1, of_shelf=False)
    assert time.monotonic() - began < 1
    release.set()
    slow.join()


def test_a_file_is_made_when_it_is_downloaded_and_sent_under_its_name(tmp_path):
    asked = []

    def file(key):
        asked.append(key)
        if key != "run/400":
            raise UserError("There is no checkpoint at step 7.", "Choose another checkpoint of the strip.")
        (tmp_path / "ink-step-000400.safetensors").write_bytes(b"lora")
        return tmp_path / "ink-step-000400.safetensors"
    routes = [Route("/{path:path}", other, methods=["GET", "POST"])]
    with TestClient(Starlette(routes=routes, middleware=[Middleware(polling.Polling, answers={}, file=file)])) as tab:
        assert not asked
        answer = tab.get("/sdlora/file/run/400")
        assert answer.content == b"lora" and "ink-step-000400.safetensors" in answer.headers["content-disposition"]
        refused = tab.get("/sdlora/file/run/7")
        assert refused.status_code == 404 and "no checkpoint at step 7" in refused.text
        assert asked == ["run/400", "run/7"]
