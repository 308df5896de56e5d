"""Captions of many pictures in one file, and the caption inside a JSON file beside one picture.

Hugging Face's metadata.jsonl and metadata.csv, kohya's meta_cap.json, and what other trainers write in the same spirit. Knows
nothing about which picture gets a caption in the end.
"""

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from sdlora.dataset.encoding import lines_of
from sdlora.dataset.listing import is_picture

Entry = tuple[str, object]  # where it stands in the file, what it is: {field: value} for an entry of a picture
STRICT = ("metadata.jsonl", "metadata.csv")  # what these names hold is known: each line of them that cannot be used is told
SUFFIXES = (".jsonl", ".csv", ".tsv", ".json")
FILE_FIELDS = ("file_name", "filename", "image_path", "image_file", "image", "file_path", "file", "path", "img")
TEXT_FIELDS = ("text", "caption", "prompt", "txt", "description", "tags")


def entries(name: str, text: str) -> list[Entry]:
    """The entries of a file of captions by its name; [] for a file that is none, by its first entry or all of its JSON."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".json" or (suffix == ".jsonl" and text.lstrip().startswith("[")):
        found = json_entries(text)
    else:
        found = list(json_lines(text) if suffix == ".jsonl" else csv_rows(text))
    if name.lower() in STRICT:
        return found
    return found if found and file_in(found[0][1]) and caption_in(found[0][1]) is not None else []


def file_in(entry: object) -> str | None:
    """The name of the picture that an entry is about."""
    said = first(entry, FILE_FIELDS)
    return said if isinstance(said, str) and said.strip() else None


def caption_in(entry: object) -> str | None:
    """The caption in an entry, or in the JSON beside a picture; None where it has none, or several."""
    said = first(entry, TEXT_FIELDS)
    if isinstance(said, list) and said and all(isinstance(one, str) for one in said):
        return ", ".join(said) if said == entry.get("tags") or len(said) == 1 else None
    return said if isinstance(said, str) else None


def first(entry: object, fields: tuple[str, ...]) -> object:
    """The value of the first of `fields` that an entry has."""
    return next((entry[name] for name in fields if entry.get(name) is not None), None) if isinstance(entry, dict) else None


def target_of(said: str, place: PurePosixPath, root: str) -> PurePosixPath:
    """The picture that a file in the folder `place` names, below the folder `root`; a whole path counts from that folder on."""
    path = posixpath.normpath(said.strip().replace("\\", "/"))
    if not path.startswith("/") and not re.match("[A-Za-z]:/", path):
        return PurePosixPath(posixpath.normpath(str(place / path)))
    parts = path.lstrip("/").split("/")
    if root in parts[:-1]:
        parts = parts[len(parts) - parts[::-1].index(root):]
    return PurePosixPath(*parts)


def json_lines(text: str) -> Iterator[Entry]:
    """Each line that is not empty; None for a line that is no JSON."""
    for number, line in enumerate(lines_of(text), start=1):
        if line.strip():
            yield f"line {number}", parsed(line)


def json_entries(text: str) -> list[Entry]:
    """The entries of a list, or of a table by picture as kohya's scripts write it: {"a.png": {"caption": ...} or a text}."""
    whole = parsed(text)
    if isinstance(whole, list):
        return [(f"entry {number}", entry) for number, entry in enumerate(whole, start=1)]
    found = []
    for name, value in whole.items() if isinstance(whole, dict) else ():
        entry = value if isinstance(value, dict) else {"text": value} if is_picture(name) else {}
        found.append((f"the entry {name!r}", entry | {FILE_FIELDS[0]: name}))
    return found


def parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def csv_rows(text: str) -> Iterator[Entry]:
    """Each row; columns are apart by the comma, semicolon, tab or bar of the first line."""
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
