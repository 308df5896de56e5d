"""Every handler assumes a hostile caller: what came from the browser is checked here, what goes wrong is told here.

Knows nothing about single handlers. A UserError becomes its sentence, anything else a code whose traceback is in HOME/logs.
"""

import functools
import html
import logging
import logging.handlers
import re
import secrets
import traceback
from collections.abc import Callable, Collection
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from sdlora import storage
from sdlora.errors import UserError
from sdlora.ui import words

known_bugs: set[str] = set()
# An action goes through the queue: only there can gr.Warning reach the artist. A tick does not, and says nothing.
QUIET = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
TICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


def guarded(handler: Callable) -> Callable:
    """The handler, with its mistakes shown as a sentence; the page then stays as it is."""

    @functools.wraps(handler)
    def safe(*values: object) -> object:
        try:
            return handler(*values)
        except UserError as error:
            gr.Warning(html.escape(str(error)))
        except gr.Error:
            raise
        except Exception as error:  # noqa: BLE001 the one place where a bug of ours becomes a sentence
            gr.Warning(words.BUG.format(code=report(error)))
        return gr.skip()

    return safe


def silent(handler: Callable) -> Callable:
    """As `guarded` for what runs by itself, every second: nothing to tell the artist, the log has the bug once."""

    @functools.wraps(handler)
    def safe(*values: object) -> object:
        try:
            return handler(*values)
        except UserError:
            return gr.skip()
        except Exception as error:  # noqa: BLE001 as above
            told = "".join(traceback.format_exception_only(error))
            if told not in known_bugs:
                known_bugs.add(told)
                report(error)
            return gr.skip()

    return safe


def guarded_server(handler: Callable) -> Callable:
    """As `guarded`, for functions that page.js calls itself: the sentence comes back as {"problem": ...}."""

    @functools.wraps(handler)
    def safe(data: object) -> dict:
        try:
            return handler(data)
        except UserError as error:
            return {"problem": str(error)}
        except Exception as error:  # noqa: BLE001 as above
            return {"problem": words.BUG.format(code=report(error))}

    return safe


def report(error: Exception) -> str:
    """Write the traceback to HOME/logs/page.log under a short code, and return the code."""
    code = secrets.token_hex(2).upper()
    log = logging.getLogger("sdlora.page")
    target = str(storage.data_folder("logs") / "page.log")
    if not any(getattr(handler, "baseFilename", None) == target for handler in log.handlers):
        handler = logging.handlers.RotatingFileHandler(target, maxBytes=1_000_000, backupCount=2, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.handlers[:] = [handler]
        log.propagate = False
    log.error("code %s", code, exc_info=error)
    return code


def an_id(value: object, what: str) -> str:
    """An id of ours; raises UserError for anything that cannot be one."""
    if type(value) is not str or not ID.fullmatch(value) or ".." in value:
        raise UserError(words.CHOOSE_FIRST.format(what=what))
    return value


def text(value: object, limit: int = 2000) -> str:
    """One line of clean text; None is empty."""
    if value is None:
        return ""
    if type(value) is not str:
        raise UserError(words.NOT_TEXT)
    if len(value) > limit:
        raise UserError(words.TOO_LONG.format(limit=limit))
    return storage.clean_text(value, limit)


def number(value: object, low: float, high: float, name: str) -> float:
    """A finite number from low to high; True, text and None are none."""
    if type(value) not in (int, float) or not low <= value <= high:
        raise UserError(words.OUT_OF_RANGE.format(name=name, low=f"{low:g}", high=f"{high:g}"))
    return float(value)


def whole(value: object, low: int, high: int, name: str) -> int:
    """A whole number from low to high (3.0 is one, 3.7 and True are none)."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise UserError(words.OUT_OF_RANGE.format(name=name, low=low, high=high))
    return value


def uploads(value: object) -> list[Path]:
    """Files that were really uploaded: Gradio sees to that, and we look again. Raises UserError."""
    if not isinstance(value, list) or not all(isinstance(file, str) for file in value):
        raise UserError(words.NOT_UNDERSTOOD)
    folder = Path(get_upload_folder())
    for file in value:
        storage.confine(folder, file)
    return [Path(file) for file in value]


def one_of(value: object, known: Collection[str]) -> str:
    """One of the known texts; raises UserError."""
    if not isinstance(value, str) or value not in known:
        raise UserError(words.NOT_UNDERSTOOD)
    return value


def fields(value: object) -> dict:
    """The data an event of page.js carries."""
    if not isinstance(value, dict):
        raise UserError(words.NOT_UNDERSTOOD)
    return value
