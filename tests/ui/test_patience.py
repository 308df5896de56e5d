"""Connections that take their time, against uvicorn as it really serves."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn

from sdlora.ui import middleware, patience


async def app(scope, receive, send):
    """Answers a request once its body is there; /client tells the other end, /much answers without end."""
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
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(patience, "WRITE_SECONDS", 0.4)
    config = uvicorn.Config(middleware.Gate(app), port=0, log_level="error", lifespan="off", http=patience.Impatient)
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
        assert patience.most_connections() == most


@pytest.mark.parametrize("first", [b"", b"POST /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx"])
def test_idle_connections_make_room_for_a_new_one(serve, monkeypatch, first):
    monkeypatch.setattr(patience, "HEAD_SECONDS", 60)
    monkeypatch.setattr(patience, "MOST_CONNECTIONS", 5)
    for _ in range(20):
        serve(first)
    connection = serve(WHOLE)
    assert answer(connection).startswith(b"HTTP/1.1 200")
    assert len(serve.server.server_state.connections) <= 5
