"""What every open tab asks for again and again, answered beside Gradio: what moves, and thumbnails.

A Gradio event takes 10 ms of the processor and rebuilds its components for each tab; an answer here takes a tenth and is made
once for all tabs. Only when something else than a progress bar changed does the page fire the Gradio event that shows it.
Knows nothing about runs, drawings or the shelf: `build` is given the functions that tell of them.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qsl

import orjson
from gradio import state_holder
from starlette.responses import FileResponse, PlainTextResponse

from sdlora.errors import UserError
from sdlora.ui import theme

LOOK, PICTURE, FILE, HEART = "/sdlora/look", "/sdlora/picture/", "/sdlora/file/", "/gradio_api/heartbeat/"
SHARED_SECONDS = 0.8  # for which an answer serves all tabs; they ask once a second, or twice while they wait for a drawing
MOST_ANSWERS = 500
MOST_ASKED = 10       # ids in one question
MOST_CLOSED = 50      # closed tabs whose state is kept: a browser that lost its connection comes back to it

Teller = Callable[[str], object]


class Shared:
    """Answers that many ask for at once: each is made in a thread, once in SHARED_SECONDS, and all wait for the same one."""

    def __init__(self, make: Teller, seconds: float = SHARED_SECONDS) -> None:
        self.make, self.seconds, self.made = make, seconds, OrderedDict()
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="polling")

    def get(self, key: str) -> Awaitable[object]:
        until, answer = self.made.get(key, (0.0, None))
        if answer is None or (answer.done() and until < time.monotonic()):
            answer = asyncio.get_running_loop().run_in_executor(self.threads, self.make, key)
            self.made[key] = time.monotonic() + self.seconds, answer
            self.made.move_to_end(key)
            if len(self.made) > MOST_ANSWERS:
                self.made.popitem(last=False)
        return asyncio.shield(answer)


class Polling:
    """ASGI middleware inside the gate. `tellers`: {name: function of an id that tells what moves there}.

    file(id): the file to download under an id, made when it is asked for; it raises UserError.
    """

    def __init__(self, app: Callable, tellers: dict[str, Teller], file: Callable[[str], Path] | None = None) -> None:
        self.app, self.file = app, file
        self.tellers = {name: Shared(teller) for name, teller in tellers.items()}
        self.pictures = Shared(theme.picture, seconds=float("inf"))
        self.open: dict[str, int] = {}               # {session: its connections}
        self.closed: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "GET" else ""
        if path == LOOK:
            await self.tell(scope, send)
        elif path.startswith(PICTURE):
            await self.show(path.removeprefix(PICTURE), send)
        elif path.startswith(FILE) and self.file:
            await self.download(path.removeprefix(FILE), scope, receive, send)
        elif path.startswith(HEART):
            await self.follow(path.removeprefix(HEART), scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def tell(self, scope: dict, send: Callable) -> None:
        """What moves, as JSON {name: {id: answer}} for a query name=id&name=id; 304 where the tab has it already."""
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)[:MOST_ASKED]
        answer = {name: {} for name in self.tellers}
        for name, value in asked:
            if name in answer:
                answer[name][value] = await self.tellers[name].get(value)
        body = orjson.dumps(answer)
        tag = b'"' + sha256(body).hexdigest()[:20].encode() + b'"'
        headers = [(b"etag", tag), (b"cache-control", b"no-cache"), (b"content-type", b"application/json")]
        if tag == dict(scope["headers"]).get(b"if-none-match"):
            await reply(send, 304, headers, b"")
        else:
            await reply(send, 200, headers, body)

    async def show(self, key: str, send: Callable) -> None:
        content = await self.pictures.get(key)
        if content is None:
            self.pictures.made.pop(key, None)
            await reply(send, 404, [(b"cache-control", b"no-store")], b"")
            return
        kept = (b"cache-control", b"private, max-age=31536000, immutable")
        await reply(send, 200, [(b"content-type", b"image/webp"), kept], content)

    async def download(self, key: str, scope: dict, receive: Callable, send: Callable) -> None:
        try:
            path = await asyncio.to_thread(self.file, key)
        except UserError as error:
            await PlainTextResponse(str(error), 404)(scope, receive, send)
            return
        headers = {"cache-control": "no-store"}
        await FileResponse(path, filename=path.name, media_type="application/octet-stream", headers=headers)(scope, receive, send)

    async def follow(self, session: str, scope: dict, receive: Callable, send: Callable) -> None:
        """Gradio keeps the state of a tab (0.3 MB and more) for ever. Of closed ones we keep the last MOST_CLOSED."""
        self.open[session] = self.open.get(session, 0) + 1
        self.closed.pop(session, None)
        try:
            await self.app(scope, receive, send)
        finally:
            self.open[session] -= 1
            if not self.open[session]:
                del self.open[session]
                self.closed[session] = None
                if len(self.closed) > MOST_CLOSED:
                    forget(scope["app"], self.closed.popitem(last=False)[0])


def forget(app: object, session: str) -> None:
    """Drop what Gradio keeps of a session."""
    app.state_holder.session_data.pop(session, None)
    app.state_holder.time_last_used.pop(session, None)
    queue = app.get_blocks()._queue
    queue.pending_messages_per_session.pop(session, None)
    queue.pending_event_ids_session.pop(session, None)


class Tab(state_holder.SessionState):
    """Gradio's state of a tab without a copy of the settings of the whole page, which serves links to a state of it only."""

    def __init__(self, blocks: object) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.blocks_config.config_for_block = lambda *_: {}
        self.config_values, self.state_data, self._state_ttl = {}, {}, {}
        self.is_closed, self.STATE_TTL_WHEN_CLOSED = False, 3600


def lighten_gradio() -> None:
    """Halve what a tab costs: 1 MB of memory, and a part of every event."""
    state_holder.SessionState = Tab


async def reply(send: Callable, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *([length] if status != 304 else [])]})
    await send({"type": "http.response.body", "body": body})
