"""The password: where it comes from, and how often an address may try. Knows nothing about pages or routes."""

import asyncio
import hmac
import ipaddress
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextvars import ContextVar
from hashlib import scrypt
from math import ceil
from pathlib import Path
from secrets import token_bytes

from sdlora.errors import UserError
from sdlora.ui import words

TRIES, WAIT_SECONDS = 5, 30
MOST_ADDRESSES = 10_000
LEAST, MOST = 4, 1024  # characters
VARIABLE = "SDLORA_PASSWORD"
address: ContextVar[str] = ContextVar("address", default="")  # of the visitor whose request is being answered


def choose(argument: str | None, file: str | None) -> str | None:
    """Return the password that was given: as an argument, else in a file, else in the environment variable SDLORA_PASSWORD.

    The variable is removed, so that no process started from here inherits it. Raises UserError for a file without a password.
    """
    variable = os.environ.pop(VARIABLE, "") or None
    if argument is not None:
        return argument
    if file is None:
        return variable
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or words.NOT_UTF8
        raise UserError(words.PASSWORD_FILE_UNREAD.format(file=file, reason=reason), words.PASSWORD_FILE_HINT) from error
    if not (found := lines[0].rstrip("\r")):
        raise UserError(words.PASSWORD_FILE_EMPTY.format(file=file), words.PASSWORD_FILE_HINT)
    return found


def visitor(peer: str, forwarded: str, proxies: Collection[str]) -> str:
    """Return the address that tries are counted for; of IPv6 the network (/64), for a household has all of it.

    peer: the other end of the connection. forwarded: its X-Forwarded-For, believed only when the peer is one of `proxies`, and
    then the last entry that is no proxy: what stands before it was written by the visitor.
    """
    if peer in proxies:
        entries = [entry.strip() for entry in forwarded.split(",") if entry.strip()]
        peer = next((entry for entry in reversed(entries) if entry not in proxies), peer)
    try:
        found = ipaddress.ip_address(peer)
    except ValueError:
        return peer[:100]
    if found.version == 4:
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))


class Password:
    """One password for any user name. After TRIES wrong ones an address waits WAIT_SECONDS; other addresses do not."""

    def __init__(self, password: str, proxies: Collection[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self.salt, self.proxies, self.clock, self.lock = token_bytes(16), frozenset(proxies), clock, threading.Lock()
        self.digest = self.hash(password)
        self.tries: OrderedDict[str, tuple[int, float]] = OrderedDict()  # {address: (tries, time of the last)}

    def hash(self, password: str) -> bytes:
        return scrypt(password.encode("utf-8", "surrogatepass"), salt=self.salt, n=2**14, r=8, p=1)

    def wait(self, who: str) -> int:
        """Return the seconds until this address may try again, 0 when it may now."""
        tries, last = self.tries.get(who, (0, 0.0))
        left = last + WAIT_SECONDS - self.clock()
        return ceil(left) if tries >= TRIES and left > 0 else 0

    async def check(self, user: str, password: str) -> bool:
        """Gradio's `auth`. A try counts before it is judged, so that many at once are not more than TRIES."""
        who = address.get()
        with self.lock:
            if self.wait(who) or len(password) > MOST:
                return False
            tries, last = self.tries.get(who, (0, 0.0))
            started_over = tries >= TRIES or self.clock() - last > WAIT_SECONDS
            self.tries[who] = (1 if started_over else tries + 1, self.clock())
            self.tries.move_to_end(who)
            if len(self.tries) > MOST_ADDRESSES:
                self.tries.popitem(last=False)
        # scrypt takes 50 ms: in a thread, so that the page answers others meanwhile
        right = hmac.compare_digest(await asyncio.to_thread(self.hash, password), self.digest)
        if right:
            with self.lock:
                self.tries.pop(who, None)
        return right
