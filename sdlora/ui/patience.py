"""How long a connection may take: for its headers, for reading what it asked for, and how many there may be.

uvicorn closes an idle connection between two requests, but waits for ever for the end of a header. Knows nothing about what is
asked; the time for a body is counted in gate.py.
"""

import asyncio

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0    # from the first moment a request is waited for to the end of its headers
WRITE_SECONDS = 60.0   # in which a client takes none of the bytes that wait for it
MOST_CONNECTIONS = 800  # an open tab has up to six


def most_connections() -> int:
    """MOST_CONNECTIONS, or fewer where the system lets a process open few files (256 on macOS)."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST_CONNECTIONS
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if allowed == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, allowed * 3 // 4)


class Impatient(H11Protocol):
    """uvicorn's protocol with deadlines. For `uvicorn.Config.http_protocol_class`."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.head_deadline: asyncio.TimerHandle | None = None
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
        self.watch()

    def make_room(self) -> None:
        """Close a connection that waits for a request, else one that waits for a body: a flood of them keeps nobody out."""
        others = [other for other in self.connections if isinstance(other, Impatient)]
        idle = [other for other in others if other.waiting] or [other for other in others if other.cycle.more_body]
        if idle:
            self.connections.discard(idle[0])
            idle[0].transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch()

    def watch(self) -> None:
        """Set the deadline of the headers, or lift it once they are there. More bytes of them do not move it."""
        if not self.waiting:
            self.head_deadline = stopped(self.head_deadline)
        elif self.head_deadline is None and not self.transport.is_closing():
            self.head_deadline = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.write_deadline = stopped(self.write_deadline) or self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.write_deadline = stopped(self.write_deadline)

    def connection_lost(self, reason: Exception | None) -> None:
        self.head_deadline, self.write_deadline = stopped(self.head_deadline), stopped(self.write_deadline)
        super().connection_lost(reason)


def stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
