"""Questions to the drawing process that need no picture: a report, how LoRAs interfere, a blend or a conversion as a file.

A question is a job of the table; the file made for it lies in HOME/questions/<id>/. `submit` and `view` are for the web
process and load no torch. The answering functions run inside `drawer.py`, between two pictures, and import what they need.
"""

import json
import math
import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from sdlora.config import LoraChoice, make
from sdlora.errors import UserError
from sdlora.jobs.execute import log_bug
from sdlora.jobs.table import QUESTIONS, Job, Table
from sdlora.storage import home, shipped, slug

if TYPE_CHECKING:
    from sdlora.base.load import Base
    from sdlora.lora.math.blend import Ingredient
    from sdlora.lora.tools.interference import Measured

QUESTION_ID = re.compile(r"\d{13}-[0-9a-f]{8}")
MOST_WAITING = 200
KEPT_SECONDS = 86400
MOST_CRASHES = 2
MOST_MEASURED = 4
MEASURED: "LRUCache[tuple, tuple[list, Measured]]" = LRUCache(MOST_MEASURED)
Load = Callable[[str, str], "Base"]  # (spec, device) -> the base, loaded once


@dataclass(frozen=True)
class Answer:
    """A question at this moment. `state`: "waiting", "done" or "failed"; `result`: what was answered, {} until it is done.

    `folder`: where the file lies that `result` names.
    """
    id: str
    kind: str
    state: str
    result: dict[str, Any]
    problem: str
    hint: str
    folder: Path


def submit(kind: str, payload: dict[str, Any]) -> str:
    """Queue a question and return its id. Raises UserError when 200 wait already."""
    table = Table()
    if len(table.jobs(QUESTIONS, "queued")) >= MOST_WAITING:
        raise UserError("The drawing process has too much to do.", "Wait a moment and try again.")
    question = f"{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(4)}"
    return table.submit(kind, question, idempotency_key=question, payload=json.dumps(payload, allow_nan=False)).target


def view(question: str) -> Answer:
    """Return the question and its answer so far. Raises UserError for an unknown id and for one of days ago."""
    job = Table().known(question) if QUESTION_ID.fullmatch(question) else None
    if job is None or job.kind not in QUESTIONS:
        raise UserError("This question is not known any more.", "Ask it again.")
    state = "waiting" if job.state in ("queued", "running") else job.state
    return Answer(job.target, job.kind, state, json.loads(job.answer or "{}"), job.problem, job.hint, folder_of(job))


def folder_of(job: Job) -> Path:
    """Return the folder of the files made for a question; it is there only when one was made."""
    return home() / "questions" / job.target


def remove_old_answers(older_than_seconds: float = KEPT_SECONDS) -> None:
    """Remove answers of days ago, with the files that were made for them."""
    Table().remove_ended(QUESTIONS, older_than_seconds)
    shutil.rmtree(home() / "desk", ignore_errors=True)  # where answers lay before questions became jobs
    for folder in (home() / "questions").glob("*"):
        if QUESTION_ID.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > older_than_seconds:
            shutil.rmtree(folder, ignore_errors=True)


def answer_waiting(table: Table, load: Load) -> bool:
    """Answer the questions that wait now, oldest first; False when there is none."""
    waiting = table.jobs(QUESTIONS, "queued")
    for _ in waiting:
        if job := table.claim(QUESTIONS):
            answer(table, job, load)
    return bool(waiting)


def answer(table: Table, job: Job, load: Load) -> None:
    """Answer a claimed question, or note why it cannot be answered. One that ended the process twice is not tried again."""
    try:
        if job.crashes >= MOST_CRASHES:
            raise UserError("The drawing process ended unexpectedly, twice.", "Choose other files or fewer of them.")
        result = json.dumps(without_nan(ANSWERS[job.kind](json.loads(job.payload), folder_of(job), load)), allow_nan=False)
    except UserError as error:
        table.finish(job, "failed", error.message, error.hint)
    except Exception as error:  # noqa: BLE001  one broken question must not end the drawing process
        table.finish(job, "failed", *log_bug(error, home() / "logs" / "drawer.log"))
    else:
        table.finish(job, "done", answer=result)


def without_nan(value: Any) -> Any:
    """Return `value` as JSON can hold it: NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(key): without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(payload: dict[str, Any], folder: Path, load: Load) -> dict[str, Any]:
    """{"id", "file"} -> what `lora.tools.report.inspect` says of it, the id, and which metadata is better not given away.

    The thumbnail that may lie in the metadata is left out.
    """
    from sdlora.base.catalog import identity
    from sdlora.lora.formats.metadata import private
    from sdlora.lora.tools.report import inspect

    found: dict[str, Any] = inspect(Path(payload["file"]), identity=identity(shipped("assets", "mini")))
    hidden = private(found["metadata"])
    shown = {key: value for key, value in found["metadata"].items() if not key.endswith("thumbnail")}
    return {**found, "metadata": shown, "id": payload["id"], "private": hidden}


def interference(payload: dict[str, Any], folder: Path, load: Load) -> dict[str, Any]:
    """{"base", "ids", "loras", "together"} -> what `lora.tools.interference` says of the blend, and ids and together again.

    together: whether the LoRAs are summed. Where they take turns or are averaged each is measured as if it acted alone.
    """
    from sdlora.draw.loras import ingredient
    from sdlora.lora.tools import interference

    base = load(payload["base"], "auto")
    ingredients = [ingredient(make(LoraChoice, lora), base) for lora in payload["loras"]]
    try:
        known = measured(base, ingredients)
        found = interference.interference(ingredients if payload["together"] else in_turn(ingredients), measured=known)
    except ValueError as error:
        raise UserError(f"One of these LoRAs does not fit {base.title} ({error}).", "Choose others, or another base.") from error
    return {**found.plain(), "ids": payload["ids"], "together": payload["together"]}


def in_turn(ingredients: "list[Ingredient]") -> "list[Ingredient]":
    """Return the LoRAs with a part of the steps each: such do not add up."""
    count = len(ingredients)
    return [replace(each, start=place / count, end=(place + 1) / count) for place, each in enumerate(ingredients)]


def measured(base: "Base", ingredients: "list[Ingredient]") -> "Measured":
    """Return what holds at any strengths, measured once for these files on this base: a slider moves without waiting."""
    from sdlora.draw.fit import match
    from sdlora.draw.session import session_of
    from sdlora.lora.tools.interference import measure

    loras = [each.adapters for each in ingredients]
    key = base.identity, *map(id, loras)
    if key not in MEASURED:
        for each in ingredients:
            match(base, each.name, each.adapters)  # says which one does not fit, and why
        pristine = {path: session_of(base).applied.pristine(path) for adapters in loras for path in adapters}
        # the LoRAs are kept too, so that no other one gets their ids
        MEASURED[key] = loras, measure(loras, {path: weight for path, weight in pristine.items() if weight is not None})
    return MEASURED[key][1]


def save(payload: dict[str, Any], folder: Path, load: Load) -> dict[str, Any]:
    """{"base", "loras", "name", "method", "rank", "together"} -> the blend as one file.

    Result: file name loras together energy ranks notes.
    """
    from sdlora.base import catalog
    from sdlora.base.weights import Weights
    from sdlora.lora.tools.convert import merge_files

    choices = [make(LoraChoice, lora) for lora in payload["loras"]]
    out = folder / f"{slug(payload['name'])}.safetensors"
    weights = Weights(catalog.resolve(payload["base"]))
    made = merge_files(choices, out, method=payload["method"], rank=payload["rank"], weights=weights)
    return {"file": out.name, **{key: payload[key] for key in ("name", "loras", "together")},
            **{key: made[key] for key in ("energy", "ranks", "notes")}}


def convert(payload: dict[str, Any], folder: Path, load: Load) -> dict[str, Any]:
    """{"file", "name", "base", "way", "about", "cover"} -> {"file", "note"}: kohya, diffusers, or a zip with card and cover.

    base: a spec for kinds whose change depends on the weights, "" where none is at hand. Private metadata does not go into
    the zip.
    """
    from sdlora.base import catalog
    from sdlora.base.weights import Weights
    from sdlora.lora.formats import metadata
    from sdlora.lora.formats.header import header
    from sdlora.lora.formats.writing import rewrite
    from sdlora.lora.tools import card
    from sdlora.lora.tools.convert import convert_file

    path, name = Path(payload["file"]), slug(payload["name"])
    if payload["way"] != "zip":
        out = folder / f"{name}-{payload['way']}.safetensors"
        weights = Weights(catalog.resolve(payload["base"])) if payload["base"] else None
        made: dict[str, Any] = convert_file(path, out, payload["way"], weights=weights)
        lost = made["problems"] + ([f"{len(made['left_out'])} entries have no place in such a file."] if made["left_out"] else [])
        return {"file": out.name, "note": " ".join([f"{made['alpha'].capitalize()}.", *lost])}
    public = metadata.with_fields(metadata.stripped(header(path).metadata), **payload["about"])
    copy = rewrite(path, folder / f"{name}.safetensors", public)
    cover = [(Path(payload["cover"]), "")] if payload["cover"] else []
    return {"file": card.pack(copy, folder / f"{name}.zip", cover).name, "note": ""}


def carry(payload: dict[str, Any], folder: Path, load: Load) -> dict[str, Any]:
    """{"base", "images"} -> {"note": a sentence when the base cannot carry the pictures of a folder, else ""}."""
    from sdlora.dataset.folder import read_dataset
    from sdlora.dataset.picture_cache import forget_squares
    from sdlora.train.carry import carry_note

    base = load(payload["base"], "auto")
    note = carry_note(base, read_dataset(Path(payload["images"])).examples, base.resolution)
    forget_squares()
    return {"note": note or ""}


ANSWERS: dict[str, Callable[[dict[str, Any], Path, Load], dict[str, Any]]] = {
    "report": report, "interference": interference, "save": save, "convert": convert, "carry": carry}
