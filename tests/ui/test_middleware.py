"""Foreign hosts, foreign origins, too much, too slow, wrong passwords; deadlines against uvicorn as it really serves."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn
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
    app = Starlette(routes=routes, middleware=[Middleware(middleware.AccessControl, host=host)])
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

    app = Starlette(routes=[Route("/x", echo, methods=["POST"])], middleware=[Middleware(middleware.AccessControl)])
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


async def app(scope, receive, send):
    """Answers a request once its body is there; /client answers with the other end, /much answers without end."""
    if scope["path"] == "/much":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with contextlib.suppress(asyncio.CancelledError):
            while (await asyncio.sleep(0)) is None and scope["state"]["open"]:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        return
    while (await receive()).get("more_body"):
        pass
    body = scope["client"][0].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def serve(monkeypatch):
    """Start uvicorn with our protocol in a thread; returns a function that opens connections to it."""
    monkeypatch.setattr(middleware, "HEADER_SECONDS", 0.4)
    monkeypatch.setattr(middleware, "WRITE_SECONDS", 0.4)
    protected = middleware.AccessControl(app)
    config = uvicorn.Config(protected, port=0, log_level="error", lifespan="off", http=middleware.DeadlineProtocol)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    opened = []

    def connect(first=b""):
        opened.append(socket.create_connection(("127.0.0.1", port), timeout=8))
        opened[-1].sendall(first)
        return opened[-1]

    connect.server = server
    yield connect
    for each in opened:
        each.close()
    server.should_exit = server.force_exit = True
    thread.join(5)
    assert not thread.is_alive()


WHOLE = b"GET /client HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def ended(connection, *, drops=b"", pause=0.05):
    """Seconds until the server closes; meanwhile `drops` are sent one by one."""
    began, drops = time.monotonic(), iter(drops)
    connection.settimeout(pause)
    while time.monotonic() - began < 6:
        with contextlib.suppress(TimeoutError):
            try:
                if not connection.recv(65536):
                    return time.monotonic() - began
            except ConnectionResetError:
                return time.monotonic() - began
        if (drop := next(drops, None)) is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(bytes([drop]))
    raise AssertionError("the connection is still open")


def answer(connection, end=b"127.0.0.1"):
    got = b""
    while not got.endswith(end):
        part = connection.recv(65536)
        assert part, got
        got += part
    return got


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"G"])
def test_half_a_header_and_none_are_given_up(serve, first):
    assert 0.2 < ended(serve(first)) < 3


def test_a_header_that_comes_in_drops_does_not_move_the_deadline(serve):
    assert ended(serve(b"GET / HTTP/1.1\r\nX: "), drops=b"a" * 200) < 3


def test_drops_after_a_whole_request_do_not_either(serve):
    connection = serve(WHOLE)
    assert answer(connection).startswith(b"HTTP/1.1 200")
    assert ended(connection, drops=b"GET / HTTP/1.1\r\nX: " + b"a" * 200) < 3


def test_bytes_of_a_body_that_was_refused_do_not_keep_it_open(serve):
    connection = serve(b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 9999\r\n\r\n")
    assert answer(connection, b"name.").startswith(b"HTTP/1.1 421")
    assert ended(connection, drops=b"x" * 200) < 3


def test_whoever_does_not_read_the_answer_is_left(serve):
    connection = serve(b"GET /much HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    until = time.monotonic() + 6
    while serve.server.server_state.connections and time.monotonic() < until:
        time.sleep(0.02)
    assert not serve.server.server_state.connections
    connection.close()


def test_an_ordinary_request_is_answered_and_the_connection_used_again(serve):
    connection = serve()
    for _ in range(3):
        connection.sendall(WHOLE)
        assert answer(connection).startswith(b"HTTP/1.1 200")
        time.sleep(0.2)  # less than the deadline each, more in all


def test_the_other_end_is_not_what_a_header_says(serve):
    connection = serve(b"GET /client HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 10.9.9.9\r\n\r\n")
    assert answer(connection).startswith(b"HTTP/1.1 200")


def test_few_open_files_are_few_connections(monkeypatch):
    resource = pytest.importorskip("resource")
    for allowed, most in (((256, 256), 192), ((100_000, 100_000), 800), ((resource.RLIM_INFINITY,) * 2, 800)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, allowed=allowed: allowed)
        assert middleware.most_connections() == most


@pytest.mark.parametrize("first", [b"", b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx"])
def test_idle_connections_make_room_for_a_new_one(serve, monkeypatch, first):
    monkeypatch.setattr(middleware, "HEADER_SECONDS", 60)
    monkeypatch.setattr(middleware, "MOST_CONNECTIONS", 5)
    for _ in range(20):
        serve(first)
    connection = serve(WHOLE)
    assert answer(connection).startswith(b"HTTP/1.1 200")
    assert len(serve.server.server_state.connections) <= 5
