"""Pictures to be drawn: requested, watched, cancelled; and the history of those that were drawn.

Loads no torch: `drawer.py` is the process that draws. A drawing is one folder, draws/<id>/, with `spec.json`,
`events.jsonl`, `preview.png` and a `cancel` flag; its pictures lie in pictures/<date>/<picture id>.png and .json.
"""

import itertools
import json
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from sdlora.config import DrawConfig, make
from sdlora.draw import grammar
from sdlora.errors import UserError
from sdlora.jobs.lock import is_held
from sdlora.jobs.table import DRAWER_KINDS, Table
from sdlora.storage import data_folder, home, read_json, write_atomic, write_json

SPEC, EVENTS, PREVIEW, CANCEL = "spec.json", "events.jsonl", "preview.png", "cancel"
DRAWER_LOCK = "drawer.lock"
DRAW_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
INPUT_ID = re.compile(r"[0-9a-f]{24}")
PICTURE_ID = re.compile(r"(\d{4})(\d\d)(\d\d)-\d{6}-[0-9a-f]{6}-\d{3,5}")
CELL = re.compile(r"\d\d-\d\d")  # the label of a grid's cell, as draw.grid names it
SHEET = "sheet"
ENDINGS = ("done", "failed", "cancelled")
KEPT_DAYS = 2


@dataclass(frozen=True)
class DrawnPicture:
    """A picture of the history. `item`: the label of the part of the drawing it belongs to; `settings`: all to draw it again."""
    id: str
    path: Path
    item: str
    prompt: str
    seed: int
    created: str
    draw: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class DrawView:
    """A drawing at this moment. `done` of `total` pictures; `step` of `steps` of the one being drawn.

    `state`: queued, running, done, failed or cancelled. bad: (item, why) of the cells of a grid that could not be drawn.
    """
    id: str
    state: str
    done: int
    total: int
    step: int
    steps: int
    preview: Path | None
    pictures: tuple[DrawnPicture, ...]
    problem: str
    hint: str
    seconds: float | None
    bad: tuple[tuple[str, str], ...] = ()


def submit_draw(items: DrawConfig | Sequence[DrawConfig], *, labels: Sequence[str] | None = None,
                idempotency_key: str | None = None, sheet: dict[str, Any] | None = None) -> str:
    """Queue pictures and return the drawing's id. Several items (base and LoRA at the same seed, say) are one job.

    The same key again is the same drawing. sheet: {"title", "axes": one or two of grid.Axis as dicts} of a grid whose items
    are labelled with the names of its cells; "bad" in it: {name of a cell that is no item: (message, hint) why}.
    Raises UserError: a LoRA file that is not there, a prompt that cannot be drawn. In a grid they cost their cells only.
    """
    items = [items] if isinstance(items, DrawConfig) else list(items)
    labels = list(labels or [str(number) for number in range(len(items))])
    for config in [] if sheet else items:
        refuse_undrawable(config)
    key, table = idempotency_key or secrets.token_hex(16), Table()
    if known := table.known(key):
        return known.target
    draw_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    parts = [{"label": label, "config": config.model_dump(mode="json")} for label, config in zip(labels, items, strict=True)]
    write_json(data_folder("draws", draw_id) / SPEC, {"version": 1, "id": draw_id, "items": parts, "sheet": sheet})
    return table.submit("draw", draw_id, idempotency_key=key).target


def refuse_undrawable(config: DrawConfig) -> None:
    """Raise UserError for a LoRA file that is not there and for a prompt that cannot be drawn."""
    for choice in config.loras:
        if not Path(choice.file).is_file():
            raise UserError(f"The LoRA file {Path(choice.file).name} is gone.", "Choose another one.")
    for text in (*config.prompts, config.negative):
        if wrong := grammar.problem(text):
            raise wrong


def draw_folder(draw_id: str) -> Path:
    """Return the folder of a drawing. Raises UserError for an unknown id."""
    folder = home() / "draws" / draw_id
    if not DRAW_ID.fullmatch(draw_id) or not (folder / SPEC).is_file():
        raise UserError("These pictures are not being drawn any more.", "Draw them again.")
    return folder


def items_of(folder: Path) -> list[tuple[str, DrawConfig]]:
    """Return (label, settings) of every part of a drawing."""
    return [(item["label"], make(DrawConfig, item["config"])) for item in read_json(folder / SPEC)["items"]]


def sheet_of(folder: Path) -> dict[str, Any] | None:
    """Return what `submit_draw` was given as `sheet`."""
    return read_json(folder / SPEC).get("sheet")


def read_events(folder: Path) -> list[dict[str, Any]]:
    """Return the events of a drawing; a line that a dying process tore is left out."""
    try:
        lines = (folder / EVENTS).read_bytes().decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return []
    events = []
    for line in lines[:-1]:
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    return [event for event in events if isinstance(event, dict) and "event" in event]


def write_event(folder: Path, event: str, **facts: Any) -> None:
    """Append one event."""
    with (folder / EVENTS).open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps({"event": event, **facts}, ensure_ascii=False) + "\n")


def view_draw(draw_id: str) -> DrawView:
    """Return the drawing as it is now."""
    folder = draw_folder(draw_id)
    total = sum(len(config.prompts) * config.count for _, config in items_of(folder)) + bool(sheet_of(folder))
    events = read_events(folder)
    last: dict[str, Any] = events[-1] if events else {"event": "queued"}
    begun = max((number for number, event in enumerate(events) if event["event"] == "started"), default=None)
    running = begun is not None and is_held(home() / DRAWER_LOCK)
    state = last["event"] if last["event"] in ENDINGS else "running" if running else "queued"
    recent = events[begun:] if begun is not None else []
    drawn = list(dict.fromkeys(event["id"] for event in recent if event["event"] == "picture"))
    now: dict[str, Any] = last if last["event"] == "preview" else {}
    preview = folder / PREVIEW
    return DrawView(
        draw_id, state, len(drawn), total, now.get("step", 0), now.get("steps", 0),
        preview if state == "running" and preview.is_file() else None,
        tuple(picture for picture in map(read_picture, drawn) if picture), last.get("message", ""), last.get("hint", ""),
        last.get("seconds"), tuple((event["item"], event["message"]) for event in recent if event["event"] == "bad"))


def cancel_draw(draw_id: str) -> None:
    """End a drawing; what is drawn already stays. Cancelling one that has ended does nothing."""
    folder = draw_folder(draw_id)
    (folder / CANCEL).touch()
    if Table().cancel("draw", draw_id):
        write_event(folder, "cancelled")


def fail_waiting(message: str, hint: str) -> None:
    """End every waiting drawing and question as failed: there is no process to take it."""
    table = Table()
    while job := table.claim(DRAWER_KINDS):
        folder = home() / "draws" / job.target
        if job.kind == "draw" and folder.is_dir():
            write_event(folder, "failed", message=message, hint=hint)
        table.finish(job, "failed", message, hint)


def picture_path(picture_id: str) -> Path | None:
    """Return where a picture of this id lies; None for an id that is none of ours."""
    parts = PICTURE_ID.fullmatch(picture_id)
    return home() / "pictures" / "-".join(parts.groups()) / f"{picture_id}.png" if parts else None


def read_picture(picture_id: str) -> DrawnPicture | None:
    """Return the picture of this id, None when it was deleted. Without its .json it has no settings."""
    path = picture_path(picture_id)
    if path is None or not path.is_file():
        return None
    try:
        facts = read_json(path.with_suffix(".json"))
    except UserError:
        facts = {}
    settings = facts.get("settings", {})
    return DrawnPicture(picture_id, path, facts.get("item", ""), settings.get("prompt", ""), settings.get("seed", 0),
                        facts.get("created", ""), picture_id.rpartition("-")[0], settings)


def find_picture(picture_id: str) -> DrawnPicture:
    """Return the picture of this id. Raises UserError when there is none."""
    picture = read_picture(picture_id)
    if picture is None:
        raise UserError("This picture is gone.", "It was deleted, here or in the pictures folder.")
    return picture


def list_pictures(limit: int = 200) -> list[DrawnPicture]:
    """Return the newest pictures, newest first. Of a grid the sheet stands for its cells."""
    found: list[DrawnPicture] = []
    for day in sorted((home() / "pictures").glob("????-??-??"), reverse=True):
        names = sorted((path.stem for path in day.glob("*.png")), reverse=True)
        pictures = (picture for picture in map(read_picture, names) if picture and not CELL.fullmatch(picture.item))
        found += itertools.islice(pictures, limit - len(found))
        if len(found) >= limit:
            break
    return found


def delete_picture(picture_id: str) -> None:
    """Remove a picture and its settings."""
    path = find_picture(picture_id).path
    path.unlink()
    path.with_suffix(".json").unlink(missing_ok=True)


def save_input(image: Image.Image) -> str:
    """Keep a picture that a drawing begins from, or a mask, for some days; return its id. The same pixels are kept once."""
    content = sha256(f"{image.mode} {image.size}".encode() + image.tobytes())
    input_id = content.hexdigest()[:24]
    write_atomic(data_folder("inputs") / f"{input_id}.png", lambda temporary: image.save(temporary, "PNG"))
    return input_id


def input_path(input_id: str) -> Path:
    """Return where a kept input lies. Raises UserError for an unknown id and for one of days ago."""
    path = home() / "inputs" / f"{input_id}.png"
    if not INPUT_ID.fullmatch(input_id) or not path.is_file():
        raise UserError("The picture to begin from is not here any more.", "Choose it again.")
    return path


def sweep_draws(older_than_seconds: float = KEPT_DAYS * 86400) -> None:
    """Remove the folders of drawings of days ago, and the pictures they began from; what was drawn stays."""
    for file in (home() / "inputs").glob("*.png"):
        if time.time() - file.stat().st_mtime > older_than_seconds:
            file.unlink(missing_ok=True)
    for folder in (home() / "draws").glob("*"):
        if DRAW_ID.fullmatch(folder.name) and time.time() - folder.stat().st_mtime > older_than_seconds:
            shutil.rmtree(folder, ignore_errors=True)
