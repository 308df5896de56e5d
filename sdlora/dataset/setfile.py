"""How one picture set lies on the disk: set.json, 000.jpg, 000.txt, .thumbnails/000.jpg, below HOME/sets/<id>.

Knows nothing about uploads. A set folder is an ordinary dataset: titles and original names are data in set.json, every name
on disk is ours. Safe to use from several threads and processes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sdlora.dataset.captions import read_caption, resolve_caption
from sdlora.dataset.crop import Box, crop_box
from sdlora.dataset.listing import Skipped
from sdlora.dataset.pairing import SET
from sdlora.errors import UserError
from sdlora.storage import data_folder, read_json, write_atomic, write_json

GONE = "It may have been deleted in another window: reload the page."


@dataclass(frozen=True)
class SetPicture:
    """One picture of a set. `caption` is as typed, `resolved` is what training reads; sizes in px."""
    id: str
    name: str
    caption: str
    resolved: str
    path: Path
    thumbnail: Path
    width: int
    height: int

    @property
    def box(self) -> Box:
        """What training sees of it: (left, top, right, bottom) in px."""
        return crop_box(self.width, self.height)


@dataclass(frozen=True)
class PictureSet:
    """A set as it is saved. `skipped` is what was dropped and could not be used."""
    id: str
    title: str
    trigger: str
    default_caption: str
    sentence: str
    created: str
    pictures: tuple[SetPicture, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def list_sets() -> list[PictureSet]:
    """All sets, the newest first; one whose set.json is damaged is listed with that in its notes."""
    sets = []
    for file in data_folder("sets").glob(f"*/{SET}"):
        try:
            sets.append(load(file.parent.name))
        except (UserError, KeyError, TypeError, ValueError) as error:
            note = f"This set is damaged ({error})."
            sets.append(PictureSet(file.parent.name, file.parent.name, "", "", "", "", (), (), (note,)))
    return sorted(sets, key=lambda s: (s.created, s.id), reverse=True)


def load(set_id: str) -> PictureSet:
    """The set as it is now. Raises UserError when it is gone."""
    folder = path(set_id)
    about = read_json(folder / SET)
    trigger, default = about["trigger"], about["default_caption"]
    pictures = []
    for entry in about["pictures"]:
        caption = text_of(folder / text_name(entry["id"]))
        pictures.append(SetPicture(
            entry["id"], entry["name"], caption, resolve_caption(caption, entry["name"], default, trigger),
            folder / entry["file"], folder / thumbnail_name(entry["id"]), entry["width"], entry["height"]))
    skipped = tuple(Skipped(name, reason) for name, reason in about["skipped"])
    notes = dict.fromkeys(about["notes"] + [note for entry in about["pictures"] for note in entry.get("notes", [])])
    return PictureSet(set_id, about["title"], trigger, default, about["sentence"], about["created"], tuple(pictures), skipped,
                      tuple(notes))


def path(set_id: str) -> Path:
    """The folder of a set, as `read_dataset` and a run take it. Raises UserError for an id that is none of ours."""
    folder = data_folder("sets") / set_id
    if not re.fullmatch(r"[a-z0-9-]{1,64}", set_id) or not (folder / SET).is_file():
        raise UserError("This picture set is no longer there.", GONE)
    return folder


@contextmanager
def changing(set_id: str) -> Iterator[dict]:
    """set.json to read and change, alone; written back at the end unless an error came."""
    file = path(set_id) / SET
    with locked(set_id):
        path(set_id)  # it may have been deleted while we waited
        about = read_json(file)
        yield about
        write_json(file, about)


def locked(name: str) -> FileLock:
    """One writer per set, across threads and processes."""
    return FileLock(data_folder("sets", ".locks") / f"{name}.lock")


def text_name(picture_id: str) -> str:
    return f"{picture_id}.txt"


def thumbnail_name(picture_id: str) -> str:
    return f".thumbnails/{picture_id}.jpg"


def text_of(file: Path) -> str:
    """The saved caption; "" where none is saved or somebody else wrote something unreadable there."""
    try:
        return read_caption(file)[0] if file.is_file() else ""
    except UserError:
        return ""


def write_text(file: Path, text: str) -> None:
    """Save a caption; an empty one is no file."""
    if text:
        write_atomic(file, text.encode())
    else:
        file.unlink(missing_ok=True)
