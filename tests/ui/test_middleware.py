"""The door: foreign hosts, foreign origins, too much, wrong passwords (reliability.md 8.6, 124-132, 142)."""

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from sdlora.ui import middleware


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def client(host: str = "127.0.0.1", base: str = "http://127.0.0.1:7860") -> TestClient:
    routes = [Route("/{path:path}", echo, methods=["GET", "POST"])]
    app = Starlette(routes=routes, middleware=[Middleware(middleware.Gate, host=host)])
    return TestClient(app, base_url=base)


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost:9999", "[::1]:7860"])
def test_this_computer_is_let_in(host):
    answer = client().post("/x", content=b"abc", headers={"host": host, "origin": f"http://{host}"})
    assert (answer.status_code, answer.text) == (200, "3")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "192.168.1.4", "", "\xfcx"])
def test_foreign_host_names_are_refused(host):
    assert client().get("/", headers={"host": host.encode("latin-1")}).status_code == 421


def test_an_open_page_answers_under_addresses_but_no_foreign_domain():
    for host, status in (("192.168.1.4:7860", 200), ("10.0.0.2", 200), ("evil.example", 421), ("evil.example:7860", 421)):
        assert client("0.0.0.0").get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1234", "http://127.0.0.1:7861", ""])
def test_foreign_origins_cannot_post(origin):
    for path, kind in (("/gradio_api/queue/join", "application/json"), ("/gradio_api/upload", "multipart/form-data; boundary=x")):
        answer = client().post(path, content=b"{}", headers={"origin": origin, "content-type": kind})
        assert answer.status_code == 403


def test_programs_without_an_origin_may_post():
    assert client().post("/x", content=b"abc").status_code == 200


def test_a_body_over_the_cap_is_refused_by_its_length_and_while_it_arrives():
    too_much = b"x" * (middleware.BODY_BYTES + 1)
    assert client().post("/gradio_api/queue/join", content=too_much).status_code == 413
    chunks = (b"x" * 1_000_000 for _ in range(9))
    assert client().post("/gradio_api/queue/join", content=chunks).status_code == 413
    assert client().post("/gradio_api/upload", content=too_much).status_code == 200
    assert client().post("/x", content=b"a", headers={"content-length": "lots"}).status_code == 413


def test_every_answer_carries_the_headers():
    for answer in (client().get("/"), client().get("/", headers={"host": "evil.example"})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
        assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/file=https://evil.example/x", "/gradio_api/file=http://evil.example", "/gradio_api/file/HTTPS://a.b",
                                  "/gradio_api/proxy=https://x.hf.space/y", "/proxy=x", "/gradio_api/file=//evil.example/share",
                                  "/gradio_api/file=%5C%5Cevil.example%5Cshare", "/gradio_api/file=ftp://evil.example/x",
                                  "/gradio_api/file=https:%2F%2Fevil.example", "/x/gradio_api/file=file:///etc/passwd"])
def test_paths_that_lead_to_other_machines_are_refused(path):
    answer = client().get(path)
    assert answer.status_code == 403 and "nothing from other machines" in answer.text


@pytest.mark.parametrize("path", ["/gradio_api/file=/tmp/a/b.png", "/gradio_api/file=C:/Temp/a.png", "/files", "/a?b=/file=https://x"])
def test_paths_of_this_machine_are_not(path):
    assert client().get(path).status_code == 200


def slow_answer(body, monkeypatch, seconds=0.2, rate=10_000):
    """The answer to a body that arrives as `body` yields (bytes, pause in seconds after it)."""
    monkeypatch.setattr(middleware, "BODY_SECONDS", seconds)
    monkeypatch.setattr(middleware, "BODY_BYTES_PER_SECOND", rate)
    sent, parts = [], iter(body)

    async def receive() -> dict:
        part, pause = next(parts, (b"", 0))
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": part, "more_body": bool(part)}

    async def send(message: dict) -> None:
        sent.append(message)

    app = Starlette(routes=[Route("/x", echo, methods=["POST"])], middleware=[Middleware(middleware.Gate)])
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [(b"host", b"127.0.0.1")], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def test_a_body_that_comes_too_slowly_is_refused(monkeypatch):
    drops = ((b"x", 0.02) for _ in range(10_000))
    status, said = slow_answer(drops, monkeypatch)
    assert status == 408 and b"Send it again" in said
    assert slow_answer([(b"x", 0), (b"x", 60)], monkeypatch)[0] == 408


def test_a_body_that_keeps_coming_may_take_longer(monkeypatch):
    parts = [(b"x" * 2000, 0.05)] * 12  # 0.6 s in all, 40 kB a second
    assert slow_answer(parts, monkeypatch) == (200, b"24000")


@pytest.mark.parametrize(("host", "ours"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True),
                                           ("0.0.0.0", False), ("192.168.1.2", False), ("::", False), ("example.org", False)])
def test_loopback(host, ours):
    assert middleware.is_loopback(host) is ours
