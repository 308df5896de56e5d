"""Questions to the drawing process that are not pictures: a report, how LoRAs get on, a file to be written.

Knows nothing about torch or what the questions mean: `tasks.py` answers them, in the process of `drawer.py`. A question
waits as desk/waiting/<id>.json; its answer is desk/<id>/answer.json, and a file that was asked for lies beside that.
"""

import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from sdlora.errors import UserError
from sdlora.storage import data_folder, home, read_json, write_json

ANSWER = "answer.json"
ASK_ID = re.compile(r"\d{13}-[0-9a-f]{8}")
MOST_WAITING = 200
KEPT_SECONDS = 86400


@dataclass(frozen=True)
class Answer:
    """A question at this moment. state: "waiting", "done" or "failed"; result: what `tasks.py` said, {} until it is done.

    kind: "" while it waits; folder: where the files lie that `result` names.
    """
    id: str
    kind: str
    state: str
    result: dict[str, object]
    problem: str
    hint: str
    folder: Path


def submit(kind: str, payload: dict[str, object]) -> str:
    """Ask; the question's id. Raises UserError when hundreds wait already."""
    if len(waiting()) >= MOST_WAITING:
        raise UserError("The drawing process has too much to do.", "Wait a moment and try again.")
    ask_id = f"{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(4)}"
    write_json(data_folder("desk", "waiting") / f"{ask_id}.json", {"kind": kind, "payload": payload, "tries": 0})
    return ask_id


def view(ask_id: str) -> Answer:
    """The question and what is known by now. Raises UserError for an id that is none of ours, or of days gone by."""
    folder = home() / "desk" / ask_id
    if ASK_ID.fullmatch(ask_id):
        waits = (home() / "desk" / "waiting" / f"{ask_id}.json").is_file()  # first: it goes only when the answer is there
        if (folder / ANSWER).is_file():
            return Answer(ask_id, folder=folder, **read_json(folder / ANSWER))
        if waits:
            return Answer(ask_id, "", "waiting", {}, "", "", folder)
    raise UserError("This question is not asked any more.", "Ask it again.")


def waiting() -> list[Path]:
    """The files of unanswered questions, oldest first."""
    # one that is being written has another name until it is whole
    return sorted(file for file in (home() / "desk" / "waiting").glob("*.json") if ASK_ID.fullmatch(file.stem))


def answer(ask: Path, kind: str, state: str, result: dict[str, object], problem: str = "", hint: str = "") -> None:
    """Write the answer to the question in file `ask`, then take it off the list."""
    told = {"kind": kind, "state": state, "result": result, "problem": problem, "hint": hint}
    write_json(data_folder("desk", ask.stem) / ANSWER, told)
    ask.unlink(missing_ok=True)


def sweep_answers(older_than_seconds: float = KEPT_SECONDS) -> None:
    """Remove answers of days gone by, with the files that were made for them."""
    for folder in (home() / "desk").glob("*"):
        if ASK_ID.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > older_than_seconds:
            shutil.rmtree(folder, ignore_errors=True)
