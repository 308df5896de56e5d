"""What many open tabs ask for, made once for all of them. Knows nothing about what it is."""

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from sdlora.library import database, folders
from sdlora.storage import home

SHARED_SECONDS = 2.0  # for which a list serves all tabs while the index and its folders keep their dates
MOST_LISTS = 100
made: OrderedDict[tuple, tuple[str, float, object]] = OrderedDict()  # {what was asked for: stamp, until when, answer}
making: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)  # one kind does not wait for another


def stamp() -> str:
    """Another one when the index was written or a folder of the shelf has another date: a few questions to the disk."""
    index_file = database.index_path()
    return sha256("".join(map(dated, (index_file, f"{index_file}-wal", *(each.path for each in folders.list_folders()))))
                  .encode()).hexdigest()[:16]


def dated(path: Path | str) -> str:
    try:
        facts = Path(path).stat()
    except OSError:
        return "-"
    # the log of changes is made and removed, empty, by those who only read
    return f"{path} {facts.st_size} {facts.st_mtime_ns};" if facts.st_size else "-"


def shared(asked: tuple[str, ...], make: Callable[[], object], seconds: float = SHARED_SECONDS, *, apart: bool = False) -> object:
    """What `make` gives, made once in `seconds` for all tabs that ask for the same, and at once again when the shelf changed.

    asked: what it is and its arguments. apart: it has nothing to do with the shelf.
    """
    key = (str(home()), *asked)
    with making[asked[0]]:
        now = "" if apart else stamp()
        known, until, answer = made.get(key, ("", 0.0, None))
        if known != now or until < time.monotonic():
            answer = make()
            made[key] = "" if apart else stamp(), time.monotonic() + seconds, answer
            made.move_to_end(key)
            if len(made) > MOST_LISTS:
                made.popitem(last=False)
        return answer
