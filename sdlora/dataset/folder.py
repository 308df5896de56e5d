"""A folder or zip of pictures and captions -> Dataset: what will be trained on, what was left out and why.

Knows nothing about training. Reads loose files, kohya folders (`10_name`), `metadata.jsonl` and the studio's own sets.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sdlora.dataset.captions import resolve_caption, trigger_notes
from sdlora.dataset.crop import cut_share
from sdlora.dataset.listing import MAX_PICTURES, Skipped
from sdlora.dataset.looks import Look, look_or_refusal
from sdlora.dataset.names import words_in_name
from sdlora.dataset.pairing import Found, list_files, pair, pairing_notes
from sdlora.errors import UserError


@dataclass(frozen=True)
class Example:
    """One picture to train on: its file, the finished caption, how often a round shows it, SHA-256 of its pixels, px."""
    name: str
    path: Path
    caption: str
    repeats: int
    digest: str
    width: int
    height: int


@dataclass(frozen=True)
class Dataset:
    """What is trained on, what was left out with the reason, and sentences the artist should read."""
    examples: tuple[Example, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def read_dataset(path: Path, *, trigger: str = "", default_caption: str = "", side: int | None = None) -> Dataset:
    """Every usable picture below `path` (a folder or a .zip) with its finished caption, in the order of the names.

    Damaged pictures, exact copies and unreadable captions are listed, the rest is kept. side: px of the squares that training
    will ask for, where it follows; so that no picture has to be decoded again for them.
    Raises UserError when nothing is left, naming what was wrong with each file.
    """
    path = Path(path)
    listing, names = list_files(path)
    findings = pair(listing)
    found_here = [replace(found, **names.get(found.name, {})) for found in findings.found]
    if len(found_here) > MAX_PICTURES:
        raise UserError(f"{path.name} holds {len(found_here)} pictures; at most {MAX_PICTURES} fit one style.",
                        "Choose the 10 to 40 that show the style best.")
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        looked = list(pool.map(lambda found: look_or_refusal(found.path, found.name, side), found_here))
    examples: list[Example] = []
    skipped = findings.skipped
    notes = findings.notes + pairing_notes(findings) + trigger_notes(trigger)
    kept = worth_keeping(zip(found_here, looked, strict=True))
    for found, seen in zip(found_here, looked, strict=True):
        if isinstance(seen, UserError):
            skipped.append(Skipped(found.name, str(seen)))
        elif kept[seen.digest] is not found:
            skipped.append(Skipped(found.name, twin(found, kept[seen.digest])))
        else:
            caption = resolve_caption(found.text, found.name, default_caption or words_in_name(found.concept), trigger)
            examples.append(Example(found.name, found.path, caption, found.repeats, seen.digest, seen.width, seen.height))
            notes += seen.notes
    if not examples:
        raise nothing_left(path, skipped)
    notes += dataset_notes(examples)
    return Dataset(tuple(examples), tuple(skipped), tuple(notes))


def worth_keeping(pairs: Iterable[tuple[Found, Look | UserError]]) -> dict[str, Found]:
    """{digest: the one of equal pictures that is used}: the first with a text of its own, else the first."""
    kept: dict[str, Found] = {}
    for found, seen in pairs:
        if isinstance(seen, Look) and (seen.digest not in kept or found.text and not kept[seen.digest].text):
            kept[seen.digest] = found
    return kept


def twin(found: Found, kept: Found) -> str:
    """The sentence for a picture that is there twice."""
    lost = " Its own caption is not used." if found.text and found.text != kept.text else ""
    return f"{found.name} is the same picture as {kept.name}.{lost}"


def dataset_notes(examples: list[Example]) -> list[str]:
    """What an artist should know before training starts."""
    notes = [f"{e.name} is {max(e.width, e.height) / min(e.width, e.height):.0f} times as long as wide: "
             f"{cut_share(e.width, e.height):.0%} of it is cut off." for e in examples if cut_share(e.width, e.height) >= 2 / 3]
    bare = sum(not e.caption for e in examples)
    if bare:
        notes.append(f"{bare} of {len(examples)} pictures have no caption at all.")
    if len(examples) == 1:
        notes.append("One picture alone is copied rather than learned from: 10 to 40 teach a style.")
    return notes


def nothing_left(path: Path, skipped: list[Skipped]) -> UserError:
    """The refusal when no picture could be used: it says what was wrong with each of the first ones."""
    if not skipped:
        return UserError(f"{path.name} holds no pictures.", "Put JPEG, PNG, WebP, AVIF or HEIC files into it.")
    more = f" And {len(skipped) - 8} more." if len(skipped) > 8 else ""
    reasons = " ".join(s.reason for s in skipped[:8])
    return UserError(f"None of the pictures in {path.name} can be used. {reasons}{more}", "Mend or replace them.")
