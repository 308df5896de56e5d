"""Match the texts and pictures of one folder or zip by their names, before any picture is opened.

Knows nothing about pixels. Conventions: `name.txt`, `name.caption`, `name.png.txt` or `name.json` beside `name.png`, kohya's
`10_name` folders, files with the captions of many pictures (metadata.py). A text that could belong to two pictures is given to
neither.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sdlora.dataset.archive import ARCHIVES, unpack
from sdlora.dataset.captions import CAPTION_SUFFIXES, clean_caption, read_caption
from sdlora.dataset.encoding import read_text
from sdlora.dataset.listing import SET, Listing, Skipped, display_name, is_picture, list_folder, name_key
from sdlora.dataset.metadata import (
    MAX_TABLE_BYTES,
    STANDARD_NAMES,
    TABLE_SUFFIXES,
    caption_in,
    file_in,
    parse_json,
    read_entries,
    target_of,
)
from sdlora.dataset.picture import EXPORT, PICTURE_SUFFIXES
from sdlora.errors import UserError
from sdlora.storage import clean_text, read_json

MAX_REPEATS = 200  # above, the number is a year or a count and not kohya's repeats
OTHER_PICTURES = (".gif", ".bmp", ".tif", ".tiff", ".svg", ".jxl", ".jp2", ".psd", ".ico", ".ppm", ".pgm", ".eps", ".pdf", ".raw",
                  ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".mp4", ".mov")


@dataclass(frozen=True)
class Found:
    """A picture file with the text that belongs to it; `concept` is what its kohya folder calls it."""
    path: Path
    name: str
    text: str | None
    concept: str
    repeats: int = 1


@dataclass(frozen=True)
class Text:
    """A caption that is not yet matched: `target` is its picture's name, for a text file without the suffix."""
    target: PurePosixPath
    origin: str
    text: str
    rank: int  # 0 metadata, 1 .txt, 2 .caption, 3 .json: the lowest is used

    @property
    def from_table(self) -> bool:
        return self.rank == 0


@dataclass
class Findings:
    """The matched pictures and texts of a listing, and what is not used."""
    found: list[Found] = field(default_factory=list)
    loose_texts: list[Text] = field(default_factory=list)  # their pictures are not here
    others: list[str] = field(default_factory=list)  # files that are neither picture nor text
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outranked: list[str] = field(default_factory=list)  # texts that are not used because their picture has another
    guessed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # encoding -> files


def list_files(path: Path) -> tuple[Listing, dict[str, dict]]:
    """Return (files of a folder, a set of the studio or a zip, {file name: fields of Found that a set.json gives}).

    Raises UserError.
    """
    if path.is_dir():
        names = set_names(path)
        if names is None:
            return list_folder(path), {}
        texts = [name for name in (Path(picture).with_suffix(".txt").name for picture in names) if (path / name).is_file()]
        return Listing(files=[(path / name, PurePosixPath(name)) for name in (*names, *texts)]), names
    if not path.exists():
        raise UserError(f"There is no folder or zip at {path}.", "Check the path.")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        raise UserError(f"{path.name} is a single picture.", "Name the folder that holds your pictures.")
    return unpack(path), {}


def set_names(folder: Path) -> dict[str, dict] | None:
    """Return {file name: {"name": it was dropped under, "repeats"}} of a picture set of the studio, None for other folders."""
    about = read_json(folder / SET) if (folder / SET).is_file() else None
    pictures = about.get("pictures") if isinstance(about, dict) else None
    if not isinstance(pictures, list) or not all(is_set_entry(picture) for picture in pictures):
        return None
    return {Path(picture["file"]).name: {"name": clean_text(picture["name"]), "repeats": picture["repeats"]}
            for picture in pictures}


def is_set_entry(entry: Any) -> bool:
    """Return whether an entry under "pictures" was written by sets.py: other programs have a set.json too."""
    kinds = {"file": str, "name": str, "repeats": int}
    return isinstance(entry, dict) and all(type(entry.get(key)) is kind for key, kind in kinds.items())


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (0, part.casefold()) for part in re.split(r"(\d+)", name)]


def pair(listing: Listing) -> Findings:
    """Match the pictures and texts of one folder or zip, by their whole names in it."""
    findings = Findings(skipped=list(listing.skipped), notes=list(listing.notes))
    texts: list[Text] = []
    pictures: list[tuple[Path, PurePosixPath]] = []
    text_files: list[tuple[Path, PurePosixPath]] = []
    stems = {name_key(known) for _, name in listing.files if is_picture(name.name) for known in (name, name.with_suffix(""))}
    for file, name in listing.files:
        suffix = name.suffix.lower()
        if is_picture(name.name):
            pictures.append((file, name))
        elif suffix in CAPTION_SUFFIXES:
            text_files.append((file, name))
        elif suffix == ".json" and name_key(name.with_suffix("")) in stems:
            texts += read_sidecar(file, name, findings)
        elif suffix in TABLE_SUFFIXES and name.name != SET:
            texts += read_table(file, name, listing.root, findings)
        elif suffix in OTHER_PICTURES:
            reason = f"{display_name(name)} is of a kind that sdlora does not read. {EXPORT}"
            findings.skipped.append(Skipped(display_name(name), reason))
        elif name.name != SET:
            findings.others.append(display_name(name))
    texts += read_text_files(text_files, findings)
    pictures.sort(key=lambda item: [natural(part) for part in item[1].parts])
    matches = match_texts([name for _, name in pictures], texts, findings)
    for number, (file, name) in enumerate(pictures):
        repeats, concept = repeats_and_concept(PurePosixPath(listing.root) / name)
        text = choose_text(display_name(name), matches[number], findings)
        findings.found.append(Found(file, display_name(name), text, concept, repeats))
    findings.notes += reading_notes(findings)
    return findings


def match_texts(pictures: list[PurePosixPath], texts: list[Text], findings: Findings) -> dict[int, list[tuple[int, Text]]]:
    """Return {index of a picture: [(0 exact or 1 inexact match, text)]}; a text of several pictures, or none, goes to `findings`.

    Names match exactly, else as NFC and without regard to case; in both, a text is named like its picture with the suffix or
    without.
    """
    indexes = []
    for key in (str, name_key):
        index: dict[str, set[int]] = defaultdict(set)
        for number, name in enumerate(pictures):
            index[key(name)].add(number)
            index[key(name.with_suffix("")) + "/"].add(number)  # no name of a file ends like that
        indexes.append((key, index))
    matches: dict[int, list[tuple[int, Text]]] = defaultdict(list)
    for text in texts:
        inexact, found = next(((inexact, found) for inexact, (key, index) in enumerate(indexes)
                               if (found := pictures_of(index, key(text.target), text.from_table))), (0, set()))
        if len(found) == 1:
            matches[found.pop()].append((inexact, text))
        elif found:
            names = [display_name(pictures[number]) for number in sorted(found)]
            findings.skipped.append(Skipped(text.origin, ambiguous(text.origin, names)))
        elif text.from_table:
            reason = f"{display_name(text.target)} is named in {text.origin}, but it is not there."
            findings.skipped.append(Skipped(display_name(text.target), reason))
        else:
            findings.loose_texts.append(text)
    return matches


def pictures_of(index: dict[str, set[int]], target: str, from_table: bool) -> set[int]:
    """Return the pictures that a text may belong to; a name with its suffix in a table means that picture alone."""
    whole = index.get(target, set())
    return set(whole) if from_table and whole else whole | index.get(target + "/", set())


def ambiguous(text: str, pictures: list[str]) -> str:
    """Return the sentence for a text that could belong to several pictures."""
    kind = f"{len(pictures)} pictures called {pictures[0]}" if len(set(pictures)) == 1 else f"each of {first_names(pictures)}"
    return f"{text} could belong to {kind}, so none got it. Give every picture a name of its own, or add one folder at a time."


def choose_text(picture: str, matches: list[tuple[int, Text]], findings: Findings) -> str | None:
    """Return the text of a picture that is used and report the others; None where two differ and rank equally."""
    def rank(match: tuple[int, Text]) -> tuple[bool, int, int]:
        inexact, text = match
        return not text.text, text.rank, inexact

    ranked = sorted(matches, key=rank)
    first = [match[1] for match in ranked if rank(match) == rank(ranked[0])]
    if len({text.text for text in first}) > 1:
        names = first_names(sorted({text.origin for text in first}))
        reason = f"{picture} has {len(first)} texts that differ ({names}), so none of them is used. Keep one."
        findings.skipped.append(Skipped(first[0].origin, reason))
        return None
    findings.outranked += [text.origin for _, text in ranked[len(first):] if text.text not in ("", first[0].text)]
    return first[0].text if first else None


def reading_notes(findings: Findings) -> list[str]:
    """Return sentences about texts: encodings that were guessed, texts that another one outranks."""
    notes = [f"Not marked as any encoding and read as {encoding}: {first_names(names, 8)}. Check the captions."
             for encoding, names in findings.guessed.items()]
    if findings.outranked:
        notes.append("Not used, because the picture has another text (metadata comes first, then .txt, .caption, .json): "
                     f"{first_names(findings.outranked)}.")
    return notes


def pairing_notes(findings: Findings) -> list[str]:
    """Return sentences about what was in the folder and is not used."""
    notes = []
    if findings.others:
        notes.append(f"Left alone: {first_names(findings.others)}.")
    if any(name.lower().endswith(ARCHIVES) for name in findings.others):
        notes.append("Archives inside a folder are not opened.")
    if findings.loose_texts:
        notes.append(f"These texts belong to no picture: {first_names([text.origin for text in findings.loose_texts])}.")
    return notes


def first_names(names: list[str], most: int = 3) -> str:
    """Return the first names and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def read_text_files(files: list[tuple[Path, PurePosixPath]], findings: Findings) -> list[Text]:
    """Read the caption files; one that cannot be read is reported and its picture is used without it.

    Where a text fits several encodings, the one is taken that was guessed for the other files, if that was a single one.
    """
    read = [read_text_file(file, name, findings) for file, name in files]
    if len(findings.guessed) == 1:
        usual, = findings.guessed
        read = [read_text_file(file, name, findings, usual) if isinstance(text, Skipped) else text
                for (file, name), text in zip(files, read, strict=True)]
    findings.skipped += [text for text in read if isinstance(text, Skipped)]
    return [text for text in read if isinstance(text, Text)]


def read_text_file(file: Path, name: PurePosixPath, findings: Findings, usual: str = "") -> Text | Skipped:
    """Read one caption file, or return why not."""
    try:
        text, guessed = read_caption(file, display_name(name), usual)
    except UserError as refused:
        return Skipped(display_name(name), f"{refused} Its picture is used without it.")
    if guessed:
        findings.guessed[guessed].append(display_name(name))
    return Text(name.with_suffix(""), display_name(name), text, 1 + CAPTION_SUFFIXES.index(name.suffix.lower()))


def repeats_and_concept(name: PurePosixPath) -> tuple[int, str]:
    """Return (repeats, concept) from the nearest folder named like kohya's `10_pinefox style`; (1, "") where there is none."""
    for folder in reversed(name.parent.parts):
        match = re.fullmatch(r"(\d{1,4})_(.+)", folder)
        if match and 1 <= int(match[1]) <= MAX_REPEATS:
            return int(match[1]), match[2]
    return 1, ""


def read_table(file: Path, name: PurePosixPath, root: str, findings: Findings) -> list[Text]:
    """Return the captions in a table; an entry that cannot be used is reported, a file without entries is no table."""
    captions: list[Text] = []
    table = display_name(name)
    try:
        text, guessed = read_text(file, table, MAX_TABLE_BYTES, f"{table} is larger than {MAX_TABLE_BYTES >> 20} MB.")
        found = read_entries(name.name, text)
    except UserError as refused:
        found, guessed = [], ""
        findings.skipped.append(Skipped(table, str(refused)))
    if not found and name.name.lower() not in STANDARD_NAMES:
        findings.others += [table] if table not in {one.name for one in findings.skipped} else []
        return captions
    if guessed:
        findings.guessed[guessed].append(table)
    for place, entry in found:
        picture, caption = file_in(entry), caption_in(entry)
        where = f"{place[:1].upper()}{place[1:]} of {table}"
        try:
            if picture is None:
                findings.skipped.append(Skipped(table, f"{where} is not an entry with file_name and text."))
            elif caption is None:
                one = display_name(PurePosixPath(picture))
                findings.skipped.append(Skipped(table, f"{where} has no caption, or several: {one} is used without it."))
            else:
                target = target_of(picture, name.parent, root)
                captions.append(Text(target, table, clean_caption(caption, f"in {place} of {table}"), 0))
        except UserError as refused:
            findings.skipped.append(Skipped(table, str(refused)))
    return captions


def read_sidecar(file: Path, name: PurePosixPath, findings: Findings) -> list[Text]:
    """Return the caption in a JSON file beside a picture, if it has one."""
    try:
        text, _ = read_text(file, display_name(name), MAX_TABLE_BYTES, f"{display_name(name)} is too large for a caption.")
        caption = caption_in(parse_json(text))
        if caption is not None:
            text = clean_caption(caption, display_name(name))
            return [Text(name.with_suffix(""), display_name(name), text, 1 + len(CAPTION_SUFFIXES))]
        findings.others.append(display_name(name))
    except UserError as refused:
        findings.skipped.append(Skipped(display_name(name), f"{refused} Its picture is used without it."))
    return []
