"""Who may talk to the page: Host and Origin, size of what is sent, the password. Knows nothing about what the page shows."""

import hmac
import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from hashlib import scrypt
from secrets import token_bytes
from urllib.parse import urlsplit

UPLOAD_BYTES = 1_000_000_000
BODY_BYTES = 8_000_000
TRIES, WAIT_SECONDS = 5, 30
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class TooLarge(Exception):
    """More bytes arrived than the door lets in."""


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
    """Pure ASGI middleware: refuses foreign hosts (421), foreign origins (403) and bodies that are too large (413)."""

    def __init__(self, app: Callable, host: str = "127.0.0.1") -> None:
        self.app, self.host = app, host

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
        limit, read, started = body_limit(scope), 0, False

        async def capped() -> dict:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > limit:
                raise TooLarge
            return message

        async def guarded(message: dict) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            await self.app(scope, capped, guarded)
        except TooLarge:
            if not started:
                await refuse(send, 413, "That is more than sdlora takes at once.")

    def refusal(self, scope: dict, asked: dict[bytes, str]) -> tuple[int, str] | None:
        """(status, sentence) when the headers alone decide, else None."""
        host = asked.get(b"host", "")
        if not host_allowed(host, self.host):
            return 421, "sdlora does not answer under this name."
        origin = asked.get(b"origin")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and origin is not None and urlsplit(origin).netloc != host:
            return 403, "Another web site tried to use sdlora."
        length = asked.get(b"content-length", "0")
        if not length.isdecimal() or int(length) > body_limit(scope):
            return 413, "That is more than sdlora takes at once."
        return None


def body_limit(scope: dict) -> int:
    """Bytes that one request may carry: files come through /upload, everything else is small."""
    return UPLOAD_BYTES if scope["path"].rstrip("/").endswith("/upload") else BODY_BYTES


async def refuse(send: Callable, status: int, sentence: str) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"), *HEADERS],
        }
    )
    await send({"type": "http.response.body", "body": sentence.encode()})


class Password:
    """Gradio's `auth`: any user name, one password; compared in constant time, five wrong tries, then a pause."""

    def __init__(self, password: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.salt, self.clock, self.lock = token_bytes(16), clock, threading.Lock()
        self.digest = self.hash(password)
        self.wrong, self.until = 0, 0.0

    def hash(self, password: str) -> bytes:
        return scrypt(password.encode("utf-8", "surrogatepass"), salt=self.salt, n=2**14, r=8, p=1)

    def __call__(self, user: str, password: str) -> bool:
        with self.lock:
            if self.clock() < self.until or len(password) > 1024:
                return False
            right = hmac.compare_digest(self.hash(password), self.digest)
            self.wrong = 0 if right else self.wrong + 1
            if self.wrong >= TRIES:
                self.wrong, self.until = 0, self.clock() + WAIT_SECONDS
            return right
