"""Read files with the captions of many pictures, and the caption inside a JSON file beside one picture.

Hugging Face's metadata.jsonl and metadata.csv, kohya's meta_cap.json, and similar files of other trainers. Knows nothing about
which picture gets a caption in the end.
"""

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from sdlora.dataset.encoding import lines_of
from sdlora.dataset.listing import is_picture

Entry = tuple[str, Any]  # (where it stands in the file, its JSON value: {field: value} for an entry of a picture)
STANDARD_NAMES = ("metadata.jsonl", "metadata.csv")  # Hugging Face's: each line of them that cannot be used is reported
MAX_TABLE_BYTES = 8 * 2**20
TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv", ".json")
FILE_FIELDS = ("file_name", "filename", "image_path", "image_file", "image", "file_path", "file", "path", "img")
TEXT_FIELDS = ("text", "caption", "prompt", "txt", "description", "tags")


def read_entries(name: str, text: str) -> list[Entry]:
    """Return the entries of a file of captions; [] for another file, judged by its first entry."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".json" or (suffix == ".jsonl" and text.lstrip().startswith("[")):
        found = json_entries(text)
    else:
        found = list(json_lines(text) if suffix == ".jsonl" else csv_rows(text))
    if name.lower() in STANDARD_NAMES:
        return found
    return found if found and file_in(found[0][1]) and caption_in(found[0][1]) is not None else []


def file_in(entry: Any) -> str | None:
    """Return the name of the picture that an entry is about."""
    value = first_field(entry, FILE_FIELDS)
    return value if isinstance(value, str) and value.strip() else None


def caption_in(entry: Any) -> str | None:
    """Return the caption in an entry, or in the JSON beside a picture; None where it has none, or several."""
    value = first_field(entry, TEXT_FIELDS)
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        return ", ".join(value) if value == entry.get("tags") or len(value) == 1 else None
    return value if isinstance(value, str) else None


def first_field(entry: Any, fields: tuple[str, ...]) -> Any:
    """Return the value of the first of `fields` that an entry has."""
    return next((entry[name] for name in fields if entry.get(name) is not None), None) if isinstance(entry, dict) else None


def target_of(name: str, folder: PurePosixPath, root: str) -> PurePosixPath:
    """Return the picture that a table in `folder` names, below the folder `root`; an absolute path counts from `root` on."""
    path = posixpath.normpath(name.strip().replace("\\", "/"))
    if not path.startswith("/") and not re.match("[A-Za-z]:/", path):
        return PurePosixPath(posixpath.normpath(str(folder / path)))
    parts = path.lstrip("/").split("/")
    if root in parts[:-1]:
        parts = parts[len(parts) - parts[::-1].index(root):]
    return PurePosixPath(*parts)


def json_lines(text: str) -> Iterator[Entry]:
    """Yield each line that is not empty; None for a line that is no JSON."""
    for number, line in enumerate(lines_of(text), start=1):
        if line.strip():
            yield f"line {number}", parse_json(line)


def json_entries(text: str) -> list[Entry]:
    """Return the entries of a list, or of kohya's table by picture: {"a.png": {"caption": ...} or a text}."""
    whole = parse_json(text)
    if isinstance(whole, list):
        return [(f"entry {number}", entry) for number, entry in enumerate(whole, start=1)]
    found = []
    for name, value in whole.items() if isinstance(whole, dict) else ():
        entry = value if isinstance(value, dict) else {"text": value} if is_picture(name) else {}
        found.append((f"the entry {name!r}", entry | {FILE_FIELDS[0]: name}))
    return found


def parse_json(text: str) -> Any:
    """Return the JSON value in a text, None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def csv_rows(text: str) -> Iterator[Entry]:
    """Yield each row; columns are separated by the comma, semicolon, tab or bar of the first line."""
    head: list[str] | None = None
    first_line = lines_of(text)[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t|", key=first_line.count))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield f"line {rows.line_num}", None
            continue
        if head is None:
            head = [cell.strip().lower() for cell in row]
            if not set(FILE_FIELDS).intersection(head):
                yield "line 1", None  # no row below can be used
                return
        elif any(cell.strip() for cell in row):
            yield f"line {rows.line_num}", dict(zip(head, row, strict=False))
