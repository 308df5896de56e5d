"""The studio's picture sets: set.json, 000.jpg, 000.txt, .thumbnails/000.jpg, below HOME/sets/<id>.

Knows nothing about uploads, training or the page. A set folder is an ordinary dataset: titles and original names are data in
set.json, every file name and id is ours. Every change is saved at once. Safe to use from several threads and processes.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from sdlora.dataset.captions import MAX_TRIGGER, clean_caption, read_caption, resolve_caption
from sdlora.dataset.crop import Box, crop_box
from sdlora.dataset.listing import SET, Skipped
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text, data_folder, read_json, slug, write_atomic, write_json

RELOAD = "It may have been deleted in another window: reload the page."


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
    """Return all sets, the newest first; one whose set.json is damaged is listed with that in its notes."""
    sets = []
    for file in data_folder("sets").glob(f"*/{SET}"):
        try:
            sets.append(load(file.parent.name))
        except (UserError, KeyError, TypeError, ValueError) as error:
            note = f"This set is damaged ({error})."
            sets.append(PictureSet(file.parent.name, file.parent.name, "", "", "", "", (), (), (note,)))
    return sorted(sets, key=lambda s: (s.created, s.id), reverse=True)


def load(set_id: str) -> PictureSet:
    """Return the set as it is now. Raises UserError when it is gone."""
    folder = path(set_id)
    about = read_json(folder / SET)
    trigger, default = about["trigger"], about["default_caption"]
    pictures = []
    for entry in about["pictures"]:
        caption = read_text_of(folder / text_name(entry["id"]))
        pictures.append(SetPicture(
            entry["id"], entry["name"], caption, resolve_caption(caption, entry["name"], default, trigger),
            folder / entry["file"], folder / thumbnail_name(entry["id"]), entry["width"], entry["height"]))
    skipped = tuple(Skipped(name, reason) for name, reason in about["skipped"])
    notes = dict.fromkeys(about["notes"] + [note for entry in about["pictures"] for note in entry.get("notes", [])])
    return PictureSet(set_id, about["title"], trigger, default, about["sentence"], about["created"], tuple(pictures), skipped,
                      tuple(notes))


def create(name: str) -> PictureSet:
    """Make an empty set; a name that is taken gets a number. Raises UserError for an empty or overlong name."""
    wanted = clean_title(name)
    with locked("new"):
        titles = {s.title.casefold() for s in list_sets()}
        title, set_id, number = wanted, slug(wanted), 1
        while title.casefold() in titles or (data_folder("sets") / set_id).exists():
            number += 1
            title, set_id = f"{wanted} {number}", f"{slug(wanted)[:58]}-{number}"
        write_json(data_folder("sets", set_id) / SET, {
            "version": 1, "id": set_id, "title": title, "trigger": "", "default_caption": "", "sentence": "", "example": "",
            "created": datetime.now(UTC).isoformat(), "next": 0, "pictures": [], "skipped": [], "notes": []})
    return load(set_id)


def rename(set_id: str, name: str) -> None:
    """Give the set another title; its id and folder stay. Raises UserError for a title that another set has."""
    title = clean_title(name)
    if any(s.title.casefold() == title.casefold() and s.id != set_id for s in list_sets()):
        raise UserError(f"There is already a set called {title}.", "Choose another name.")
    with changing(set_id) as about:
        about["title"] = title


def set_settings(set_id: str, *, trigger: str | None = None, default_caption: str | None = None) -> None:
    """Save the trigger word and the caption of pictures that have none; None leaves a setting as it is."""
    with changing(set_id) as about:
        if trigger is not None:
            about["trigger"] = clean_text(trigger, MAX_TRIGGER)
        if default_caption is not None:
            about["default_caption"] = clean_caption(default_caption, "for all pictures")


def set_caption(set_id: str, picture_id: str, text: str) -> None:
    """Save one caption; the others are not touched. Raises UserError for one that is too long or a picture that is gone."""
    folder = path(set_id)
    with locked(set_id):
        entries = read_json(folder / SET)["pictures"] if (folder / SET).is_file() else []
        name = next((entry["name"] for entry in entries if entry["id"] == picture_id), None)
        if name is None:
            raise UserError("This picture is no longer in the set.", RELOAD)
        write_text(folder / text_name(picture_id), clean_caption(text, f"of {name}"))


def remove_picture(set_id: str, picture_id: str) -> None:
    """Remove one picture; ids are never used twice, so that every other caption stays with its picture."""
    with changing(set_id) as about:
        gone = [entry for entry in about["pictures"] if entry["id"] == picture_id]
        about["pictures"] = [entry for entry in about["pictures"] if entry["id"] != picture_id]
    for entry in gone:
        for name in (entry["file"], text_name(picture_id), thumbnail_name(picture_id)):
            (path(set_id) / name).unlink(missing_ok=True)


def forget_skipped(set_id: str) -> None:
    """Clear the list of what could not be used, and all notes."""
    with changing(set_id) as about:
        about["skipped"], about["notes"] = [], []
        for entry in about["pictures"]:
            entry["notes"] = []


def delete(set_id: str) -> None:
    """Remove a set with all its pictures: out of the list first, then from the disk. Raises UserError when it is gone."""
    folder = path(set_id)
    with locked(set_id):
        (folder / SET).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # a file that Windows holds open stays behind, in no set


def clean_title(name: str) -> str:
    """Return a title as one clean line. Raises UserError for an empty or overlong one."""
    title = clean_text(name, MAX_NAME + 1)
    if not title or len(title) > MAX_NAME:
        raise UserError(f"A set needs a name of 1 to {MAX_NAME} characters.", "Choose another name.")
    return title


def path(set_id: str) -> Path:
    """Return the folder of a set, as `read_dataset` and a run take it. Raises UserError for an id that is none of ours."""
    folder = data_folder("sets") / set_id
    if not re.fullmatch(r"[a-z0-9-]{1,64}", set_id) or not (folder / SET).is_file():
        raise UserError("This picture set is no longer there.", RELOAD)
    return folder


@contextmanager
def changing(set_id: str) -> Iterator[dict[str, Any]]:
    """Yield set.json to change, locked; it is written back at the end unless an error is raised."""
    file = path(set_id) / SET
    with locked(set_id):
        path(set_id)  # it may have been deleted while we waited
        about = read_json(file)
        yield about
        write_json(file, about)


def locked(name: str) -> FileLock:
    """Return the lock for one writer per set, across threads and processes."""
    return FileLock(data_folder("sets", ".locks") / f"{name}.lock")


def text_name(picture_id: str) -> str:
    return f"{picture_id}.txt"


def thumbnail_name(picture_id: str) -> str:
    return f".thumbnails/{picture_id}.jpg"


def read_text_of(file: Path) -> str:
    """Return the saved caption; "" where none is saved or another program wrote something unreadable there."""
    try:
        return read_caption(file)[0] if file.is_file() else ""
    except UserError:
        return ""


def write_text(file: Path, text: str | None) -> None:
    """Save a caption; for an empty one the file is removed."""
    if text:
        write_atomic(file, text.encode())
    else:
        file.unlink(missing_ok=True)
