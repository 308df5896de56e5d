"""The door: foreign hosts, foreign origins, too much, wrong passwords (reliability.md 8.6, 124-132, 142)."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from sdlora.ui import gate


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def client(host: str = "127.0.0.1", base: str = "http://127.0.0.1:7860") -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])], middleware=[Middleware(gate.Gate, host=host)])
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
    too_much = b"x" * (gate.BODY_BYTES + 1)
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


def test_a_password_lets_in_and_five_wrong_ones_wait():
    now = [0.0]
    door = gate.Password("meadow", clock=lambda: now[0])
    assert door("anybody", "meadow") and not door("anybody", "meadoW") and not door("x", "") and not door("x", "m" * 1025)
    for _ in range(3):
        assert not door("x", "wrong")
    assert not door("x", "wrong"), "the fifth wrong one"
    assert not door("x", "meadow"), "even the right one waits now"
    now[0] += gate.WAIT_SECONDS + 1
    assert door("x", "meadow")


@pytest.mark.parametrize(("host", "ours"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True),
                                           ("0.0.0.0", False), ("192.168.1.2", False), ("::", False), ("example.org", False)])
def test_loopback(host, ours):
    assert gate.is_loopback(host) is ours
