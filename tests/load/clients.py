"""Clients that use the page as its JavaScript does: they open it, look every second, search the shelf, fetch thumbnails.

Loopback only. One asyncio loop, raw HTTP/1.1 with keep-alive: a client library would take more of the processor than the server.
"""

import asyncio
import json
import random
import re
import time
from dataclasses import dataclass, field
from urllib.parse import quote

import brotli

CONFIG = re.compile(r"window\.gradio_config = (\{.*?\});</script>", re.DOTALL)
PICTURE = re.compile(rb'"(sdlora/picture/[0-9a-f]+)"')
LIMIT_S = 30.0  # an answer that takes longer is an error


@dataclass
class Told:
    """What was measured. `seconds`: {kind of request: [answer times]}; `errors`: {what: how often}."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    received: int = 0

    def add(self, kind: str, began: float) -> None:
        self.seconds.setdefault(kind, []).append(time.perf_counter() - began)

    def wrong(self, what: str) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1


class Connection:
    """One keep-alive connection; opened again when the server closed it between two requests."""

    def __init__(self, port: int, told: Told) -> None:
        self.port, self.told, self.reader, self.writer = port, told, None, None

    async def ask(self, method: str, path: str, body: object = None, headers: str = "") -> tuple[int, dict[str, str], bytes]:
        """(status, headers in small letters, body)."""
        content = b"" if body is None else json.dumps(body).encode()
        line = (f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {len(content)}\r\n"
                f"Content-Type: application/json\r\n{headers}\r\n").encode()
        fresh = self.writer is None or self.reader.at_eof()
        for attempt in (fresh, True):
            if attempt:
                await self.close()
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
            try:
                self.writer.write(line + content)
                return await self.answer()
            except (asyncio.IncompleteReadError, ConnectionError):
                if attempt:
                    raise
        raise AssertionError("unreachable")

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            parts = [part async for part in self.chunks()]
            content = b"".join(parts)
        else:
            content = await self.reader.readexactly(int(headers.get("content-length", 0)))
        self.told.received += len(content)
        return status, headers, content

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (each.partition(":") for each in lines[1:] if each)
        return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def chunks(self):  # noqa: ANN201
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


class Client:
    """One open tab."""

    def __init__(self, port: int, told: Told, seed: int) -> None:
        self.port, self.told, self.random = port, told, random.Random(seed)
        self.main, self.beside = Connection(port, told), Connection(port, told)
        self.etag, self.fetched = "", set()

    async def live(self, until: float) -> None:
        """Use the page until then: a look every second, a search or a sort every 10 s, a reload every 40 s (on average)."""
        await asyncio.sleep(self.random.random() * 5)
        heart = None
        try:
            while time.monotonic() < until:
                if heart is None or self.random.random() < 1 / 40:
                    if heart:
                        heart.cancel()
                    await self.tried(self.open())
                    heart = asyncio.create_task(self.beat())
                began = time.monotonic()
                await self.tried(self.tick())
                if self.random.random() < 1 / 10:
                    await self.tried(self.search())
                await asyncio.sleep(max(0.0, 1 - (time.monotonic() - began)))
        finally:
            if heart:
                heart.cancel()
            await self.main.close()
            await self.beside.close()

    async def tried(self, act) -> None:  # noqa: ANN001
        try:
            await asyncio.wait_for(act, LIMIT_S)
        except (OSError, EOFError, ValueError, KeyError, TimeoutError) as error:
            self.told.wrong(f"{act.__name__}: {type(error).__name__} {error}"[:120])
            await self.main.close()
            await self.beside.close()

    async def timed(self, kind: str, method: str, path: str, body: object = None, headers: str = "") -> tuple:
        began = time.perf_counter()
        status, fields, content = await self.main.ask(method, path, body, headers)
        self.told.add(kind, began)
        if status not in (200, 204, 304):
            self.told.wrong(f"{kind}: status {status}")
        return status, fields, content

    async def open(self) -> None:
        """Load the page and what it asks for at once."""
        self.session, self.etag, self.run, self.stamp = f"{self.random.getrandbits(50):x}", "", "", None
        _, fields, page = await self.timed("page", "GET", "/", headers="Accept-Encoding: br\r\n")
        page = brotli.decompress(page) if fields.get("content-encoding") == "br" else page
        self.config = json.loads(CONFIG.search(page.decode()).group(1))
        await self.timed("theme", "GET", "/theme.css")
        for each in self.config["dependencies"]:
            if any(event == "load" for _, event in each["targets"]) and each["backend_fn"]:
                await self.event("load", each)

    async def event(self, kind: str, dependency: dict, data: list | None = None) -> bytes:
        """Fire a Gradio event; through the queue where it goes there."""
        parts = {part["id"]: part["props"].get("value") for part in self.config["components"]}
        asked = {"data": data or [parts[each] for each in dependency["inputs"]], "event_data": None, "fn_index": dependency["id"],
                 "trigger_id": dependency["targets"][0][0], "session_hash": self.session}
        if dependency["queue"] is False:
            _, _, content = await self.timed(kind, "POST", "/gradio_api/run/predict", asked)
        else:
            began = time.perf_counter()
            await self.main.ask("POST", "/gradio_api/queue/join", asked)
            _, _, content = await self.main.ask("GET", f"/gradio_api/queue/data?session_hash={self.session}")
            self.told.add(kind, began)
            if b'"success":true' not in content:
                self.told.wrong(f"{kind}: no success")
        await self.pictures(content)
        return content

    async def pictures(self, content: bytes) -> None:
        """Fetch the thumbnails that this tab has not got yet, as a browser with its cache."""
        for address in sorted({found.decode() for found in PICTURE.findall(content)} - self.fetched):
            self.fetched.add(address)
            await self.timed("picture", "GET", f"/{address}")

    async def tick(self) -> None:
        """Ask what moves; fire the Gradio event where more than the progress changed."""
        match = f"If-None-Match: {self.etag}\r\n" if self.etag else ""
        status, fields, content = await self.timed("tick", "GET", f"/sdlora/poll?run={quote(self.run)}", headers=match)
        if status != 200:
            return
        progress = json.loads(content)["run"][self.run]["progress"]
        self.etag, self.run, stamp = fields["etag"], progress.get("run", ""), progress.get("stamp", "")
        if self.stamp not in (None, stamp):
            await asyncio.sleep(self.random.random() * 2.5)
            await self.event("update", self.dependency("progress", "tick"))
        self.stamp = stamp

    def dependency(self, elem_id: str, event: str) -> dict:
        part = next(part for part in self.config["components"] if part["props"].get("elem_id") == elem_id)
        return next(each for each in self.config["dependencies"] if [part["id"], event] in each["targets"])

    async def search(self) -> None:
        """Type a word into the shelf's search, or choose another order."""
        words, order = self.random.choice(["", "style", "meadow 1", "style 2", "none"]), self.random.choice(["new", "name"])
        data = [words, "", order, False, "", None]
        await self.event("search", self.dependency("shelf-search", "change"), data)

    async def beat(self) -> None:
        """The connection that tells the server that this tab is open."""
        connection = Connection(self.port, self.told)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            connection.reader, connection.writer = reader, writer
            writer.write(f"GET /gradio_api/heartbeat/{self.session} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
            while await reader.read(4096):
                pass
        except OSError as error:
            self.told.wrong(f"beat: {error}")
        finally:
            await connection.close()
