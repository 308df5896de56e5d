"""Answering the questions of `desk.py` inside the drawing process, between two pictures.

Knows nothing about pages. A question is asked of files and, where weights matter, of the base that is loaded anyway.
"""

import math
from collections.abc import Callable
from pathlib import Path

from sdlora.errors import UserError
from sdlora.jobs import desk
from sdlora.jobs.execute import log_bug
from sdlora.storage import home, place, read_json, write_json

MOST_TRIES = 2


def answer_all(base: Callable[[str, str], object]) -> bool:
    """Answer every waiting question; False when none waits. base(spec, device) -> the loaded base.

    A question that ended the process twice is not tried again.
    """
    asked = desk.waiting()
    for ask in asked:
        try:
            told = read_json(ask)
            if told["tries"] >= MOST_TRIES:
                raise UserError("The drawing process ended unexpectedly, twice.", "Choose other files or fewer of them.")
            write_json(ask, {**told, "tries": told["tries"] + 1})
            result = ANSWERS[told["kind"]](told["payload"], place("desk", ask.stem), base)
            desk.answer(ask, "done", readable(result))
        except UserError as error:
            desk.answer(ask, "failed", {}, error.message, error.hint)
        except Exception as error:  # noqa: BLE001  one broken question must not end the drawing process
            desk.answer(ask, "failed", {}, *log_bug(error, home() / "logs" / "drawer.log"))
    return bool(asked)


def readable(value: object) -> object:
    """`value` as JSON can hold it: a number that is none becomes null."""
    if isinstance(value, dict):
        return {str(key): readable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [readable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(payload: dict, folder: Path, base: Callable) -> dict:
    """{"id", "file"} -> what `lora.report.inspect` says of it, and the id; the thumbnail in its metadata is left out."""
    from sdlora.lora.report import inspect

    told = inspect(Path(payload["file"]))
    told["id"] = payload["id"]
    told["metadata"] = {key: said for key, said in told["metadata"].items() if not key.endswith("thumbnail")}
    return told


ANSWERS = {"report": report}
