"""A folder or zip of pictures and captions -> Dataset: what will be trained on, what was left out and why.

Knows nothing about training. Reads loose files, kohya folders (`10_name`), `metadata.jsonl` and the studio's own sets.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sdlora.dataset.captions import resolve_caption, trigger_notes, words_in_name
from sdlora.dataset.crop import cut_share
from sdlora.dataset.listing import MAX_PICTURES, Skipped
from sdlora.dataset.pairing import Found, list_files, pair, pairing_notes
from sdlora.dataset.picture_cache import PictureInfo, picture_info
from sdlora.errors import UserError


@dataclass(frozen=True)
class Example:
    """One picture to train on. caption: finished; repeats: times an epoch; digest: of size and pixels; width, height in px."""
    name: str
    path: Path
    caption: str
    repeats: int
    digest: str
    width: int
    height: int


@dataclass(frozen=True)
class Dataset:
    """What is trained on, what was left out with the reason, and notes: sentences the artist should read."""
    examples: tuple[Example, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def read_dataset(path: Path, *, trigger: str = "", default_caption: str = "", side: int | None = None) -> Dataset:
    """Return every usable picture below `path` (a folder or a .zip) with its finished caption, in the order of the names.

    Damaged pictures, exact copies and unreadable captions are skipped with a reason. side: px of the squares that training
    will need, so that no picture has to be decoded again for them.
    Raises UserError when nothing is left, saying what was wrong with each file.
    """
    path = Path(path)
    listing, names = list_files(path)
    findings = pair(listing)
    pictures = [replace(found, **names.get(found.name, {})) for found in findings.found]
    if len(pictures) > MAX_PICTURES:
        raise UserError(f"{path.name} holds {len(pictures)} pictures; at most {MAX_PICTURES} fit one style.",
                        "Choose the 10 to 40 that show the style best.")
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        opened = list(pool.map(lambda found: info_or_error(found, side), pictures))
    examples: list[Example] = []
    skipped = findings.skipped
    notes = findings.notes + pairing_notes(findings) + trigger_notes(trigger)
    unique = without_copies(pictures, opened)
    for found, info in zip(pictures, opened, strict=True):
        if isinstance(info, UserError):
            skipped.append(Skipped(found.name, str(info)))
        elif unique[info.digest] is not found:
            skipped.append(Skipped(found.name, copy_reason(found, unique[info.digest])))
        else:
            caption = resolve_caption(found.text, found.name, default_caption or words_in_name(found.concept), trigger)
            examples.append(Example(found.name, found.path, caption, found.repeats, info.digest, info.width, info.height))
            notes += info.notes
    if not examples:
        raise no_pictures(path, skipped)
    notes += dataset_notes(examples)
    return Dataset(tuple(examples), tuple(skipped), tuple(notes))


def info_or_error(found: Found, side: int | None) -> PictureInfo | UserError:
    """Open a picture; what it raises is returned, so that the other pictures are opened too."""
    try:
        return picture_info(found.path, found.name, side)
    except UserError as error:
        return error


def without_copies(pictures: list[Found], opened: list[PictureInfo | UserError]) -> dict[str, Found]:
    """Return {digest: the one of equal pictures that is used}: the first with a text of its own, else the first."""
    unique: dict[str, Found] = {}
    for found, info in zip(pictures, opened, strict=True):
        if isinstance(info, PictureInfo) and (info.digest not in unique or found.text and not unique[info.digest].text):
            unique[info.digest] = found
    return unique


def copy_reason(found: Found, used: Found) -> str:
    """Return the sentence for a picture that is there twice."""
    unused = " Its own caption is not used." if found.text and found.text != used.text else ""
    return f"{found.name} is the same picture as {used.name}.{unused}"


def dataset_notes(examples: list[Example]) -> list[str]:
    """Return what an artist should know before training starts."""
    notes = [f"{e.name} is {max(e.width, e.height) / min(e.width, e.height):.0f} times as long as wide: "
             f"{cut_share(e.width, e.height):.0%} of it is cut off." for e in examples if cut_share(e.width, e.height) >= 2 / 3]
    uncaptioned = sum(not e.caption for e in examples)
    if uncaptioned:
        notes.append(f"{uncaptioned} of {len(examples)} pictures have no caption at all.")
    if len(examples) == 1:
        notes.append("One picture alone is copied rather than learned from: 10 to 40 teach a style.")
    return notes


def no_pictures(path: Path, skipped: list[Skipped]) -> UserError:
    """Return the error when no picture could be used, with the reasons of the first eight."""
    if not skipped:
        return UserError(f"{path.name} holds no pictures.", "Put JPEG, PNG, WebP, AVIF or HEIC files into it.")
    more = f" And {len(skipped) - 8} more." if len(skipped) > 8 else ""
    reasons = " ".join(s.reason for s in skipped[:8])
    return UserError(f"None of the pictures in {path.name} can be used. {reasons}{more}", "Fix or replace them.")
