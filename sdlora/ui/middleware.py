"""Who may talk to the page: Host and Origin, the password, size and speed of what is sent, and no address elsewhere.

Knows nothing about what the page shows.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from gradio import processing_utils, route_utils, routes
from starlette.requests import ClientDisconnect, cookie_parser

from sdlora.ui import words
from sdlora.ui.password import Password, address, visitor

UPLOAD_BYTES = 1_000_000_000
BODY_BYTES = 8_000_000
BODY_SECONDS, BODY_BYTES_PER_SECOND = 20.0, 2000  # a body may take 20 s, and longer only while it comes faster than this
# Gradio fetches what lies behind such a path from another machine, and asks for its name first
ELSEWHERE = re.compile(r"/proxy=|/file[=/](?:[a-z][a-z0-9+.-]+:|[/\\]{2})", re.IGNORECASE)
SAID = re.compile("NOT_THE_PASSWORD|NO_ANSWER|OPEN_STUDIO|TOO_MANY_TRIES|PASSWORD")  # the words of the page below
LOGIN_PAGE = SAID.sub(lambda found: getattr(words, found[0]), (Path(__file__).parent / "login.html").read_text(encoding="utf-8"))
ITSELF = "/gradio_api/startup-events"  # launch() asks for it, without a password
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class Refused(Exception):
    """What arrives is more than the door lets in, or too slow: (status, sentence)."""


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_allowed(header: str, bound: str) -> bool:
    """Whether a Host header names us. Loopback: loopback names only. Else any plain address or this machine's own name:
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


class Gate:
    """Pure ASGI middleware. It refuses foreign hosts (421), foreign origins (403), visitors without the password (401, 429),
    bodies that are too large (413) or too slow (408) and paths that lead to other machines (403)."""

    def __init__(self, app: Callable, host: str = "127.0.0.1", password: Password | None = None) -> None:
        self.app, self.host, self.password = app, host, password

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        asked = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refused = self.refusal(scope, asked)
        if refused:
            await refuse(send, *refused)
            return
        if self.password and not signed_in(scope, asked):
            peer = (scope.get("client") or ("",))[0]
            address.set(visitor(peer, asked.get(b"x-forwarded-for", ""), self.password.proxies))
            if not is_login(scope) and scope["path"] != ITSELF:
                await self.ask(scope, send)
                return
            if wait := self.password.wait(address.get()) if is_login(scope) else 0:
                await refuse(send, 429, words.TOO_MANY_TRIES.format(seconds=wait), [(b"retry-after", str(wait).encode())])
                return
        started = False

        async def guarded(message: dict) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            await self.app(scope, capped(receive, body_limit(scope)), guarded)
        except Refused as error:
            if not started:
                await refuse(send, *error.args)
        except ClientDisconnect:
            return

    async def ask(self, scope: dict, send: Callable) -> None:
        """The page that asks for the password; everything else is closed."""
        if scope["path"] != "/" or scope["method"] not in ("GET", "HEAD"):
            await refuse(send, 401, words.ASKS_PASSWORD)
            return
        page = LOGIN_PAGE.replace("<html", f'<html data-wait="{self.password.wait(address.get())}"', 1)
        await answer(send, 200, page, [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store")])

    def refusal(self, scope: dict, asked: dict[bytes, str]) -> tuple[int, str] | None:
        """(status, sentence) when the headers alone decide, else None."""
        host = asked.get(b"host", "")
        if not host_allowed(host, self.host):
            return 421, "sdlora does not answer under this name."
        origin = asked.get(b"origin")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and origin is not None and urlsplit(origin).netloc != host:
            return 403, "Another web site tried to use sdlora."
        if ELSEWHERE.search(scope["path"]):
            return 403, words.NOTHING_ELSEWHERE
        length = asked.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > body_limit(scope):
            return 413, TOO_LARGE
        return None


TOO_LARGE = "That is more than sdlora takes at once."
TOO_SLOW = "Nothing arrived for a while, so sdlora stopped waiting. Send it again."


def capped(receive: Callable, limit: int) -> Callable:
    """`receive`, which raises Refused when a body is longer than `limit` bytes or arrives too slowly.

    Only time that is spent waiting for bytes counts; what is awaited after the body is the end of the connection.
    """
    read, waited, whole, clock = 0, 0.0, False, asyncio.get_running_loop().time

    async def receive_some() -> dict:
        nonlocal read, waited, whole
        if whole:
            return await receive()
        began = clock()
        try:
            async with asyncio.timeout(BODY_SECONDS + read / BODY_BYTES_PER_SECOND - waited):
                message = await receive()
        except TimeoutError as error:
            raise Refused(408, TOO_SLOW) from error
        waited += clock() - began
        read += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if read > limit:
            raise Refused(413, TOO_LARGE)
        return message

    return receive_some


def is_login(scope: dict) -> bool:
    return scope["method"] == "POST" and scope["path"].rstrip("/") == "/login"


def signed_in(scope: dict, asked: dict[bytes, str]) -> bool:
    """Whether the visitor has a cookie that Gradio gave for the password."""
    app, cookies = scope["app"], cookie_parser(asked.get(b"cookie", ""))
    tokens = (cookies.get(f"access-token-{kind}{app.cookie_id}") for kind in ("", "unsecure-"))
    return any(token in app.tokens for token in tokens if token)


def body_limit(scope: dict) -> int:
    """Bytes that one request may carry: files come through /upload, everything else is small."""
    return UPLOAD_BYTES if scope["path"].rstrip("/").endswith("/upload") else BODY_BYTES


async def refuse(send: Callable, status: int, sentence: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await answer(send, status, sentence, [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"),
                                          *(headers or [])])


async def answer(send: Callable, status: int, text: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = text.encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length, *HEADERS]})
    await send({"type": "http.response.body", "body": body})


async def nowhere(*_: object, **__: object) -> None:
    """In place of Gradio's downloads of what a browser names by address. Raises gr.Error before any name is looked up."""
    raise gr.Error(f"{words.NOTHING_ELSEWHERE} {words.UPLOAD_INSTEAD}", print_exception=False)


class TidyParser(route_utils.GradioMultiPartParser):
    """Gradio's parser of uploads, which keeps the files of an upload that broke off for ever."""

    async def parse(self) -> object:
        try:
            return await super().parse()
        except BaseException:
            for file in self._files_to_close_on_error:
                file.close()
                Path(file.name).unlink(missing_ok=True)
            raise


def narrow_gradio() -> None:
    """Close what Gradio leaves open and has no setting for: downloads by address, remains of uploads."""
    processing_utils.async_ssrf_protected_get = processing_utils.async_ssrf_protected_download = nowhere
    route_utils.GradioMultiPartParser = routes.GradioMultiPartParser = TidyParser
