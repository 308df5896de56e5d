"""Check what came from the browser, and show what goes wrong: every handler assumes a hostile caller.

A UserError becomes its sentence, anything else a code whose traceback is in HOME/logs.
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
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from sdlora import storage
from sdlora.errors import UserError
from sdlora.ui import words

logged_bugs: set[str] = set()
# After an upload: a box takes the next file only when it is empty, also where the last one was refused.
EMPTIED = {"fn": None, "js": "() => null"}
# An action goes through the queue: only there can gr.Warning reach the artist. A tick does not, and shows no warning.
ACTION = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
TICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
Updates = tuple | dict  # what a handler returns: one update an output, or gr.skip() to leave all as it is
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")


def guarded(handler: Callable[..., Any]) -> Callable:
    """Return the handler with its errors shown as a sentence; the page then stays as it is."""

    @functools.wraps(handler)
    def safe(*values: Any) -> Any:
        try:
            return handler(*values)
        except UserError as error:
            gr.Warning(html.escape(str(error)))
        except gr.Error:
            raise
        except Exception as error:  # noqa: BLE001 the one place where a bug of ours becomes a sentence
            gr.Warning(words.BUG.format(code=log_bug(error)))
        return gr.skip()

    return safe


def silent(handler: Callable[..., Any]) -> Callable:
    """As `guarded` for what runs by itself, every second: it shows nothing, and the log has each bug once."""

    @functools.wraps(handler)
    def safe(*values: Any) -> Any:
        try:
            return handler(*values)
        except UserError:
            return gr.skip()
        except Exception as error:  # noqa: BLE001 as above
            bug = "".join(traceback.format_exception_only(error))
            if bug not in logged_bugs:
                logged_bugs.add(bug)
                log_bug(error)
            return gr.skip()

    return safe


def guarded_server(handler: Callable[[Any], dict]) -> Callable:
    """As `guarded`, for functions that page.js calls itself: the sentence comes back as {"problem": ...}."""

    @functools.wraps(handler)
    def safe(data: object) -> dict:
        try:
            return handler(data)
        except UserError as error:
            return {"problem": str(error)}
        except Exception as error:  # noqa: BLE001 as above
            return {"problem": words.BUG.format(code=log_bug(error))}

    return safe


def log_bug(error: Exception) -> str:
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


def an_id(value: Any, what: str) -> str:
    """Return an id of ours; raise UserError for anything that cannot be one."""
    if type(value) is not str or not ID.fullmatch(value) or ".." in value:
        raise UserError(words.CHOOSE_FIRST.format(what=what))
    return value


def text(value: Any, limit: int = 2000) -> str:
    """Return one line of clean text; None is empty. Raise UserError for what is no text, or too long."""
    if value is None:
        return ""
    if type(value) is not str:
        raise UserError(words.NOT_TEXT)
    if len(value) > limit:
        raise UserError(words.TOO_LONG.format(limit=limit))
    return storage.clean_text(value, limit)


def number(value: Any, low: float, high: float, name: str) -> float:
    """Return a finite number from low to high; raise UserError for others, True and text among them."""
    if type(value) not in (int, float) or not low <= value <= high:
        raise UserError(words.OUT_OF_RANGE.format(name=name, low=f"{low:g}", high=f"{high:g}"))
    return float(value)


def whole_number(value: Any, low: int, high: int, name: str) -> int:
    """Return a whole number from low to high (3.0 is one, 3.7 and True are none); raise UserError for others."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise UserError(words.OUT_OF_RANGE.format(name=name, low=low, high=high))
    return value


def uploads(value: Any) -> list[Path]:
    """Return files that were really uploaded: Gradio checks that, and so do we. Raise UserError."""
    if not isinstance(value, list) or not all(isinstance(file, str) for file in value):
        raise UserError(words.NOT_UNDERSTOOD)
    folder = Path(get_upload_folder())
    for file in value:
        storage.confine(folder, file)
    return [Path(file) for file in value]


def one_of(value: Any, known: Collection[str]) -> str:
    """Return one of the known texts; raise UserError for others."""
    if not isinstance(value, str) or value not in known:
        raise UserError(words.NOT_UNDERSTOOD)
    return value


def mapping(value: Any) -> dict[str, Any]:
    """Return what the browser sent as an object; raise UserError for anything else."""
    if not isinstance(value, dict):
        raise UserError(words.NOT_UNDERSTOOD)
    return value


def event_value(event: gr.EventData, key: str) -> Any:
    """Return what an event of page.js carries under `key`, not yet checked; None when it carries nothing there."""
    return mapping(event._data).get(key)
