"""Who may talk to the page: Host and Origin, the password, size and speed of what is sent, and no address elsewhere.

Knows nothing about what the page shows.
"""

import asyncio
import ipaddress
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio import processing_utils, route_utils, routes
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from sdlora.ui import words
from sdlora.ui.password import Password, address, visitor

UPLOAD_BYTES = 1_000_000_000
BODY_BYTES = 8_000_000
BODY_SECONDS, BODY_BYTES_PER_SECOND = 20.0, 2000  # a body may take 20 s, and longer only while it comes faster than this
HEADER_SECONDS = 15.0   # from the first moment a request is waited for to the end of its headers
WRITE_SECONDS = 60.0    # in which a client takes none of the bytes that wait for it
MOST_CONNECTIONS = 800  # an open tab has up to six
# Gradio fetches what lies behind such a path from another machine, and asks for its name first
REMOTE_PATH = re.compile(r"/proxy=|/file[=/](?:[a-z][a-z0-9+.-]+:|[/\\]{2})", re.IGNORECASE)
LOGIN_WORDS = ("NOT_THE_PASSWORD", "NO_ANSWER", "OPEN_STUDIO", "TOO_MANY_TRIES", "PASSWORD")  # of words.py, in login.html
LOGIN_PAGE = re.sub("|".join(LOGIN_WORDS), lambda found: getattr(words, found[0]),
                    (Path(__file__).parent / "login.html").read_text(encoding="utf-8"))
STARTUP_PATH = "/gradio_api/startup-events"  # launch() asks for it, without a password
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class Refused(Exception):
    """A body that is too large or too slow: (status, sentence)."""


def is_loopback(host: str) -> bool:
    """Return whether only this computer can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_allowed(header: str, bound: str) -> bool:
    """Return whether a Host header names us. Loopback: loopback names only. Else any plain address or this machine's own name:
    a page of a stranger that points its own domain at us (DNS rebinding) comes with that domain as Host."""
    name = (urlsplit(f"//{header}").hostname or "") if header.isascii() and "@" not in header else ""
    if is_loopback(name):
        return True
    if is_loopback(bound):
        return False
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        mine = socket.gethostname().lower()
        return name in {bound.lower(), mine, mine.split(".")[0], f"{mine.split('.')[0]}.local"} - {""}


class AccessControl:
    """Pure ASGI middleware. It refuses foreign hosts (421), foreign origins (403), visitors without the password (401, 429),
    bodies that are too large (413) or too slow (408) and paths that lead to other machines (403)."""

    def __init__(self, app: ASGIApp, host: str = "127.0.0.1", password: Password | None = None) -> None:
        self.app, self.host, self.password = app, host, password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        answer = self.refusal(scope, headers) or self.login(scope, headers)
        if answer:
            await answer(scope, receive, send_with_headers)
            return
        try:
            await self.app(scope, limit_body(receive, body_limit(scope)), send_with_headers)
        except Refused as error:
            if not started:
                await refusal(*error.args)(scope, receive, send_with_headers)
        except ClientDisconnect:
            return

    def refusal(self, scope: Scope, headers: dict[bytes, str]) -> PlainTextResponse | None:
        """Return the answer when the headers alone decide, else None."""
        host = headers.get(b"host", "")
        if not host_allowed(host, self.host):
            return refusal(421, words.FOREIGN_HOST)
        origin = headers.get(b"origin")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and origin is not None and urlsplit(origin).netloc != host:
            return refusal(403, words.FOREIGN_ORIGIN)
        if REMOTE_PATH.search(scope["path"]):
            return refusal(403, words.NOTHING_ELSEWHERE)
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > body_limit(scope):
            return refusal(413, words.TOO_LARGE)
        return None

    def login(self, scope: Scope, headers: dict[bytes, str]) -> ASGIApp | None:
        """Return the page that asks for the password, or why there is none; None for who may pass."""
        if not self.password or signed_in(scope, headers):
            return None
        peer = (scope.get("client") or ("",))[0]
        address.set(visitor(peer, headers.get(b"x-forwarded-for", ""), self.password.proxies))
        wait = self.password.wait(address.get())
        if scope["method"] == "POST" and scope["path"].rstrip("/") == "/login":
            sentence = words.TOO_MANY_TRIES.format(seconds=wait)
            return refusal(429, sentence, {"retry-after": str(wait)}) if wait else None
        if scope["path"] == STARTUP_PATH:
            return None
        if scope["path"] != "/" or scope["method"] not in ("GET", "HEAD"):
            return refusal(401, words.ASKS_PASSWORD)
        return HTMLResponse(LOGIN_PAGE.replace("<html", f'<html data-wait="{wait}"', 1), headers={"cache-control": "no-store"})


def limit_body(receive: Receive, limit: int) -> Receive:
    """Return `receive`, which raises Refused when a body is longer than `limit` bytes or arrives too slowly.

    Only time that is spent waiting for bytes counts; what is awaited after the body is the end of the connection.
    """
    read, waited, whole, clock = 0, 0.0, False, asyncio.get_running_loop().time

    async def receive_some() -> Message:
        nonlocal read, waited, whole
        if whole:
            return await receive()
        began = clock()
        try:
            async with asyncio.timeout(BODY_SECONDS + read / BODY_BYTES_PER_SECOND - waited):
                message = await receive()
        except TimeoutError as error:
            raise Refused(408, words.TOO_SLOW) from error
        waited += clock() - began
        read += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if read > limit:
            raise Refused(413, words.TOO_LARGE)
        return message

    return receive_some


def signed_in(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Return whether the visitor has a cookie that Gradio gave for the password."""
    app, cookies = scope["app"], cookie_parser(headers.get(b"cookie", ""))
    tokens = (cookies.get(f"access-token-{kind}{app.cookie_id}") for kind in ("", "unsecure-"))
    return any(token in app.tokens for token in tokens if token)


def body_limit(scope: Scope) -> int:
    """Return how many bytes one request may carry: files come through /upload, everything else is small."""
    return UPLOAD_BYTES if scope["path"].rstrip("/").endswith("/upload") else BODY_BYTES


def refusal(status: int, sentence: str, headers: dict[str, str] | None = None) -> PlainTextResponse:
    return PlainTextResponse(sentence, status, {"connection": "close", **(headers or {})})


def most_connections() -> int:
    """Return MOST_CONNECTIONS, or fewer where the system lets a process open few files (256 on macOS)."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST_CONNECTIONS
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if allowed == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, allowed * 3 // 4)


class DeadlineProtocol(H11Protocol):
    """uvicorn's protocol with deadlines, for `uvicorn.Config.http_protocol_class`.

    uvicorn closes an idle connection between two requests, but waits for ever for the end of a header.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.header_deadline: asyncio.TimerHandle | None = None
        self.write_deadline: asyncio.TimerHandle | None = None
        # uvicorn believes X-Forwarded-For of everything on this computer; we believe it of configured proxies only
        if isinstance(self.app, ProxyHeadersMiddleware):
            self.app = self.app.app

    @property
    def waiting(self) -> bool:
        """Whether a request is still to come."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:
        if len(self.connections) >= most_connections():
            self.make_room()
        super().connection_made(transport)
        self.watch_headers()

    def make_room(self) -> None:
        """Close a connection that waits for a request, else one that waits for a body: a flood of them keeps nobody out."""
        others = [other for other in self.connections if isinstance(other, DeadlineProtocol)]
        idle = [other for other in others if other.waiting] or [other for other in others if other.cycle.more_body]
        if idle:
            self.connections.discard(idle[0])
            idle[0].transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch_headers()

    def watch_headers(self) -> None:
        """Set the deadline of the headers, or lift it once they are there. More bytes of them do not move it."""
        if not self.waiting:
            self.header_deadline = cancelled(self.header_deadline)
        elif self.header_deadline is None and not self.transport.is_closing():
            self.header_deadline = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        cancelled(self.write_deadline)
        self.write_deadline = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.write_deadline = cancelled(self.write_deadline)

    def connection_lost(self, exc: Exception | None) -> None:
        self.header_deadline, self.write_deadline = cancelled(self.header_deadline), cancelled(self.write_deadline)
        super().connection_lost(exc)


def cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


async def refuse_download(*_: object, **__: object) -> None:
    """Stand in for Gradio's downloads of what a browser names by address. Raise gr.Error before any name is looked up."""
    raise gr.Error(f"{words.NOTHING_ELSEWHERE} {words.UPLOAD_INSTEAD}", print_exception=False)


class CleaningParser(route_utils.GradioMultiPartParser):
    """Gradio's parser of uploads, which keeps the files of an upload that broke off for ever."""

    async def parse(self) -> Any:
        try:
            return await super().parse()
        except BaseException:
            for file in self._files_to_close_on_error:
                file.close()
                Path(file.name).unlink(missing_ok=True)
            raise


def restrict_gradio() -> None:
    """Close what Gradio leaves open and has no setting for: downloads by address, remains of uploads."""
    processing_utils.async_ssrf_protected_get = refuse_download
    processing_utils.async_ssrf_protected_download = refuse_download
    route_utils.GradioMultiPartParser = routes.GradioMultiPartParser = CleaningParser
