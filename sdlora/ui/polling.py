"""What every open tab asks for again and again, made once for all of them: progress, lists, thumbnails.

A Gradio event takes 10 ms of the processor and rebuilds its components for each tab. Progress and pictures are answered beside
Gradio, in a tenth of that; the page fires the Gradio event only when something else than a progress bar changed.
Knows nothing about runs or drawings: it is given the functions that answer.
"""

import asyncio
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from gradio import state_holder
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from sdlora.errors import UserError
from sdlora.library import database, folders
from sdlora.storage import home
from sdlora.ui import theme

POLL, PICTURE, FILE, HEARTBEAT = "/sdlora/poll", "/sdlora/picture/", "/sdlora/file/", "/gradio_api/heartbeat/"
SHARED_SECONDS = 0.8  # for which an answer serves all tabs; they ask once a second, or twice while they wait for a drawing
MOST_ANSWERS = 500
MOST_QUESTIONS = 10   # ids in one request
MOST_CLOSED = 50      # closed tabs whose state is kept: a browser that lost its connection comes back to it
LIST_SECONDS = 2.0    # for which a list serves all tabs while the index and its folders keep their dates
MOST_LISTS = 100
Answer = Callable[[str], Any]
T = TypeVar("T")


class SharedAnswers:
    """Answers that many ask for at once: each is made in a thread, once in `seconds`, and all wait for the same one."""

    def __init__(self, make: Answer, seconds: float = SHARED_SECONDS) -> None:
        self.make, self.seconds = make, seconds
        self.made: OrderedDict[str, tuple[float, asyncio.Future]] = OrderedDict()  # {id: until when, answer}
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="polling")

    def get(self, key: str) -> Awaitable[Any]:
        until, answer = self.made.get(key, (0.0, None))
        if answer is None or (answer.done() and until < time.monotonic()):
            answer = asyncio.get_running_loop().run_in_executor(self.threads, self.make, key)
            self.made[key] = time.monotonic() + self.seconds, answer
            self.made.move_to_end(key)
            if len(self.made) > MOST_ANSWERS:
                self.made.popitem(last=False)
        return asyncio.shield(answer)


class Polling:
    """ASGI middleware inside the access control. answers: {name: function of an id that says what is new there}.

    file(id): the file to download under an id, made when it is asked for; it raises UserError.
    """

    def __init__(self, app: ASGIApp, answers: dict[str, Answer], file: Callable[[str], Path] | None = None) -> None:
        self.app, self.file = app, file
        self.answers = {name: SharedAnswers(answer) for name, answer in answers.items()}
        self.pictures = SharedAnswers(theme.picture_bytes, seconds=float("inf"))
        self.open: dict[str, int] = {}  # {session: its connections}
        self.closed: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" and scope["method"] == "GET" else ""
        if path.startswith(HEARTBEAT):
            await self.track_tab(path.removeprefix(HEARTBEAT), scope, receive, send)
            return
        answer: ASGIApp = self.app
        if path == POLL:
            answer = await self.poll(scope)
        elif path.startswith(PICTURE):
            answer = await self.picture(path.removeprefix(PICTURE))
        elif path.startswith(FILE) and self.file:
            answer = await download(self.file, path.removeprefix(FILE))
        await answer(scope, receive, send)

    async def poll(self, scope: Scope) -> Response:
        """Return what is new, as JSON {name: {id: answer}} for a query name=id&name=id; 304 where the tab has it already."""
        questions = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)[:MOST_QUESTIONS]
        found: dict[str, dict[str, Any]] = {name: {} for name in self.answers}
        for name, value in questions:
            if name in found:
                found[name][value] = await self.answers[name].get(value)
        body = orjson.dumps(found)
        headers = {"etag": f'"{sha256(body).hexdigest()[:20]}"', "cache-control": "no-cache"}
        if headers["etag"].encode() == dict(scope["headers"]).get(b"if-none-match"):
            return Response(None, 304, headers)
        return Response(body, 200, headers, "application/json")

    async def picture(self, key: str) -> Response:
        content = await self.pictures.get(key)
        if content is None:
            self.pictures.made.pop(key, None)
            return Response(None, 404, {"cache-control": "no-store"})
        return Response(content, 200, {"cache-control": "private, max-age=31536000, immutable"}, "image/webp")

    async def track_tab(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Drop the state of all closed tabs but the last MOST_CLOSED: Gradio keeps 0.3 MB and more of every tab for ever."""
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
                    drop_session(scope["app"], self.closed.popitem(last=False)[0])


async def download(file: Callable[[str], Path], key: str) -> Response:
    try:
        path = await asyncio.to_thread(file, key)
    except UserError as error:
        return PlainTextResponse(str(error), 404)
    headers = {"cache-control": "no-store"}
    return FileResponse(path, filename=path.name, media_type="application/octet-stream", headers=headers)


def drop_session(app: Any, session: str) -> None:
    """Drop what Gradio keeps of a tab."""
    app.state_holder.session_data.pop(session, None)
    app.state_holder.time_last_used.pop(session, None)
    queue = app.get_blocks()._queue
    queue.pending_messages_per_session.pop(session, None)
    queue.pending_event_ids_session.pop(session, None)


class LightState(state_holder.SessionState):
    """Gradio's state of a tab without a copy of the settings of the whole page, which serves links to a state of it only."""

    def __init__(self, blocks: Any) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.blocks_config.config_for_block = lambda *_: {}
        self.config_values, self.state_data, self._state_ttl = {}, {}, {}
        self.is_closed, self.STATE_TTL_WHEN_CLOSED = False, 3600


def lighten_gradio() -> None:
    """Let Gradio use LightState, which halves what a tab costs: 1 MB of memory, and a part of every event."""
    state_holder.SessionState = LightState


lists: OrderedDict[tuple, tuple[str, float, Any]] = OrderedDict()  # {what was asked for: shelf version, until when, answer}
locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)  # one kind of list does not wait for another


def shared_list(key: tuple, make: Callable[[], T], seconds: float = LIST_SECONDS, *, of_shelf: bool = True) -> T:
    """Return what `make` gives, made once in `seconds` for all tabs that ask for the same.

    key: what is asked for and its arguments. of_shelf: it is made again at once when the shelf changed.
    """
    kind, key = key[0], (str(home()), *key)
    with locks[kind]:
        now = shelf_version() if of_shelf else ""
        version, until, answer = lists.get(key, ("", 0.0, None))
        if version != now or until < time.monotonic():
            answer = make()
            lists[key] = shelf_version() if of_shelf else "", time.monotonic() + seconds, answer
            lists.move_to_end(key)
            if len(lists) > MOST_LISTS:
                lists.popitem(last=False)
        return answer


def shelf_version() -> str:
    """Return another text when the index was written or a folder of the shelf has another date."""
    index_file = database.index_path()
    files = (index_file, f"{index_file}-wal", *(each.path for each in folders.list_folders()))
    return sha256("".join(map(file_version, files)).encode()).hexdigest()[:16]


def file_version(path: Path | str) -> str:
    try:
        facts = Path(path).stat()
    except OSError:
        return "-"
    # the log of changes is made and removed, empty, by those who only read
    return f"{path} {facts.st_size} {facts.st_mtime_ns};" if facts.st_size else "-"
