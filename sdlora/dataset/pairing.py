"""Which text belongs to which picture of one folder or zip, before any picture is opened.

Knows nothing about pixels. Conventions: `name.txt`, `name.caption`, `name.png.txt` or `name.json` beside `name.png`, kohya's
`10_name` folders, files with the captions of many pictures (metadata.py). A text that could belong to two pictures is given to
neither.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sdlora.dataset.archive import ARCHIVES, unpack
from sdlora.dataset.captions import MAX_METADATA_BYTES, checked_caption, read_caption
from sdlora.dataset.encoding import read_text
from sdlora.dataset.listing import Listing, Skipped, is_picture, list_folder, same, shown
from sdlora.dataset.metadata import STRICT, caption_in, entries, file_in, parsed, target_of
from sdlora.dataset.metadata import SUFFIXES as TABLES
from sdlora.dataset.picture import EXPORT, SUFFIXES
from sdlora.errors import UserError
from sdlora.storage import clean_text, read_json

MAX_REPEATS = 200  # above, the number is a year or a count and not kohya's repeats
SET = "set.json"
TEXTS = (".txt", ".caption")
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
    """A caption before it is known whose it is: `target` is its picture's name, for a text file maybe without the suffix."""
    target: PurePosixPath
    origin: str
    text: str
    rank: int  # metadata before .txt before .caption before .json

    @property
    def listed(self) -> bool:
        return self.rank == 0


@dataclass
class Findings:
    """What a listing holds before any picture is opened."""
    found: list[Found] = field(default_factory=list)
    loose_texts: list[Text] = field(default_factory=list)  # belong to no picture here
    others: list[str] = field(default_factory=list)  # files that are neither picture nor text
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    outranked: list[str] = field(default_factory=list)  # texts that are not used because their picture has another
    guessed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # encoding -> files


def list_files(path: Path) -> tuple[Listing, dict[str, dict]]:
    """What lies in a folder, a set of the studio or a zip: (its files, what a set knows of its pictures by file name).

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
    if path.suffix.lower() in SUFFIXES:
        raise UserError(f"{path.name} is a single picture.", "Name the folder that holds your pictures.")
    return unpack(path), {}


def set_names(folder: Path) -> dict[str, dict] | None:
    """{file: {"name": it was dropped under, "repeats"}} of a picture set of the studio, None for any other folder."""
    about = read_json(folder / SET) if (folder / SET).is_file() else None
    pictures = about.get("pictures") if isinstance(about, dict) else None
    if not isinstance(pictures, list) or not all(ours(picture) for picture in pictures):
        return None
    return {Path(picture["file"]).name: {"name": clean_text(picture["name"]), "repeats": picture["repeats"]}
            for picture in pictures}


def ours(entry: object) -> bool:
    """Whether an entry under "pictures" is one that setfile.py wrote: other programs have a set.json too."""
    kinds = {"file": str, "name": str, "repeats": int}
    return isinstance(entry, dict) and all(type(entry.get(key)) is kind for key, kind in kinds.items())


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (0, part.casefold()) for part in re.split(r"(\d+)", name)]


def pair(listing: Listing) -> Findings:
    """Bring the pictures and texts of one folder or zip together, by their whole names in it."""
    findings = Findings(skipped=list(listing.skipped), notes=list(listing.notes))
    texts: list[Text] = []
    pictures: list[tuple[Path, PurePosixPath]] = []
    text_files: list[tuple[Path, PurePosixPath]] = []
    stems = {same(known) for _, name in listing.files if is_picture(name.name) for known in (name, name.with_suffix(""))}
    for file, name in listing.files:
        suffix = name.suffix.lower()
        if is_picture(name.name):
            pictures.append((file, name))
        elif suffix in TEXTS:
            text_files.append((file, name))
        elif suffix == ".json" and same(name.with_suffix("")) in stems:
            texts += read_sidecar(file, name, findings)
        elif suffix in TABLES and name.name != SET:
            texts += read_metadata(file, name, listing.root, findings)
        elif suffix in OTHER_PICTURES:
            findings.skipped.append(Skipped(shown(name), f"{shown(name)} is of a kind that sdlora does not read. {EXPORT}"))
        elif name.name != SET:
            findings.others.append(shown(name))
    texts += take_texts(text_files, findings)
    pictures.sort(key=lambda item: [natural(part) for part in item[1].parts])
    claims = claims_on([name for _, name in pictures], texts, findings)
    for number, (file, name) in enumerate(pictures):
        repeats, concept = kohya(PurePosixPath(listing.root) / name)
        findings.found.append(Found(file, shown(name), chosen(shown(name), claims[number], findings), concept, repeats))
    findings.notes += reading_notes(findings)
    return findings


def claims_on(pictures: list[PurePosixPath], texts: list[Text], findings: Findings) -> dict[int, list[tuple[int, Text]]]:
    """{index of a picture: [(how loosely the names agree, text)]}; a text for several pictures, or none, goes to `findings`.

    Names agree letter by letter, else as NFC and without regard to capitals; in both, a text is named like its picture with
    the suffix or without.
    """
    indexes = []
    for key in (str, same):
        index: dict[str, set[int]] = defaultdict(set)
        for number, name in enumerate(pictures):
            index[key(name)].add(number)
            index[key(name.with_suffix("")) + "/"].add(number)  # no name of a file ends like that
        indexes.append((key, index))
    claims: dict[int, list[tuple[int, Text]]] = defaultdict(list)
    for text in texts:
        loosely, whose = next(((loosely, whose) for loosely, (key, index) in enumerate(indexes)
                               if (whose := owners(index, key(text.target), text.listed))), (0, set()))
        if len(whose) == 1:
            claims[whose.pop()].append((loosely, text))
        elif whose:
            names = [shown(pictures[number]) for number in sorted(whose)]
            findings.skipped.append(Skipped(text.origin, ambiguous(text.origin, names)))
        elif text.listed:
            reason = f"{shown(text.target)} is named in {text.origin}, but it is not there."
            findings.skipped.append(Skipped(shown(text.target), reason))
        else:
            findings.loose_texts.append(text)
    return claims


def owners(index: dict[str, set[int]], target: str, listed: bool) -> set[int]:
    """The pictures that a text may belong to; metadata names a picture with its suffix, and only that one is meant."""
    whole = index.get(target, set())
    return set(whole) if listed and whole else whole | index.get(target + "/", set())


def ambiguous(text: str, pictures: list[str]) -> str:
    """The sentence for a text that could belong to several pictures."""
    kind = f"{len(pictures)} pictures called {pictures[0]}" if len(set(pictures)) == 1 else f"each of {some(pictures)}"
    return f"{text} could belong to {kind}, so none got it. Give every picture a name of its own, or add one folder at a time."


def chosen(picture: str, claims: list[tuple[int, Text]], findings: Findings) -> str | None:
    """The one of several texts of a picture that counts, the others are told; None where two of them claim it equally."""
    def strength(claim: tuple[int, Text]) -> tuple[bool, int, int]:
        loosely, text = claim
        return not text.text, text.rank, loosely

    ranked = sorted(claims, key=strength)
    first = [text for claim in ranked if strength(claim) == strength(ranked[0]) for text in claim[1:]]
    if len({text.text for text in first}) > 1:
        names = some(sorted({text.origin for text in first}))
        reason = f"{picture} has {len(first)} texts that differ ({names}), so none of them is used. Keep one."
        findings.skipped.append(Skipped(first[0].origin, reason))
        return None
    findings.outranked += [text.origin for _, text in ranked[len(first):] if text.text not in ("", first[0].text)]
    return first[0].text if first else None


def reading_notes(findings: Findings) -> list[str]:
    """What was decided about texts: encodings that were guessed, texts that another one outranks."""
    notes = [f"Not marked as any encoding and read as {encoding}: {some(names, 8)}. Check the captions."
             for encoding, names in findings.guessed.items()]
    if findings.outranked:
        notes.append("Not used, because the picture has another text (metadata comes first, then .txt, .caption, .json): "
                     f"{some(findings.outranked)}.")
    return notes


def pairing_notes(findings: Findings) -> list[str]:
    """What was in the folder and is not used."""
    notes = []
    if findings.others:
        notes.append(f"Left alone: {some(findings.others)}.")
    if any(name.lower().endswith(ARCHIVES) for name in findings.others):
        notes.append("Archives inside a folder are not opened.")
    if findings.loose_texts:
        notes.append(f"These texts belong to no picture: {some([text.origin for text in findings.loose_texts])}.")
    return notes


def some(names: list[str], most: int = 3) -> str:
    """The first names and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def take_texts(files: list[tuple[Path, PurePosixPath]], findings: Findings) -> list[Text]:
    """Read the caption files; one that cannot be read is listed and its picture goes on without it.

    Where a text fits several encodings, the one counts that the others here have as far as it had to be guessed.
    """
    read = [take_text(file, name, findings) for file, name in files]
    if len(findings.guessed) == 1:
        usual, = findings.guessed
        read = [take_text(file, name, findings, usual) if isinstance(text, Skipped) else text
                for (file, name), text in zip(files, read, strict=True)]
    findings.skipped += [text for text in read if isinstance(text, Skipped)]
    return [text for text in read if isinstance(text, Text)]


def take_text(file: Path, name: PurePosixPath, findings: Findings, usual: str = "") -> Text | Skipped:
    """Read one caption file, or say why not."""
    try:
        text, guessed = read_caption(file, shown(name), usual)
    except UserError as refused:
        return Skipped(shown(name), f"{refused} Its picture is used without it.")
    if guessed:
        findings.guessed[guessed].append(shown(name))
    return Text(name.with_suffix(""), shown(name), text, 1 + TEXTS.index(name.suffix.lower()))


def kohya(name: PurePosixPath) -> tuple[int, str]:
    """(repeats, concept) from the nearest folder called like `10_pinefox style`; (1, "") where there is none."""
    for folder in reversed(name.parent.parts):
        match = re.fullmatch(r"(\d{1,4})_(.+)", folder)
        if match and 1 <= int(match[1]) <= MAX_REPEATS:
            return int(match[1]), match[2]
    return 1, ""


def read_metadata(file: Path, name: PurePosixPath, root: str, findings: Findings) -> list[Text]:
    """The captions in a file of many; an entry that cannot be used is listed, a file that holds none is another file."""
    captions: list[Text] = []
    said = shown(name)
    try:
        text, guessed = read_text(file, said, MAX_METADATA_BYTES, f"{said} is larger than {MAX_METADATA_BYTES >> 20} MB.")
        found = entries(name.name, text)
    except UserError as refused:
        found, guessed = [], ""
        findings.skipped.append(Skipped(said, str(refused)))
    if not found and name.name.lower() not in STRICT:
        findings.others += [said] if said not in {one.name for one in findings.skipped} else []
        return captions
    if guessed:
        findings.guessed[guessed].append(said)
    for place, entry in found:
        picture, caption = file_in(entry), caption_in(entry)
        where = f"{place[:1].upper()}{place[1:]} of {said}"
        try:
            if picture is None:
                findings.skipped.append(Skipped(said, f"{where} is not an entry with file_name and text."))
            elif caption is None:
                one = shown(PurePosixPath(picture))
                findings.skipped.append(Skipped(said, f"{where} has no caption, or several: {one} goes on without it."))
            else:
                target = target_of(picture, name.parent, root)
                captions.append(Text(target, said, checked_caption(caption, f"in {place} of {said}"), 0))
        except UserError as refused:
            findings.skipped.append(Skipped(said, str(refused)))
    return captions


def read_sidecar(file: Path, name: PurePosixPath, findings: Findings) -> list[Text]:
    """The caption in a JSON file beside a picture; one that holds none is another file."""
    try:
        text, _ = read_text(file, shown(name), MAX_METADATA_BYTES, f"{shown(name)} is too large for a caption.")
        caption = caption_in(parsed(text))
        if caption is not None:
            return [Text(name.with_suffix(""), shown(name), checked_caption(caption, shown(name)), 1 + len(TEXTS))]
        findings.others.append(shown(name))
    except UserError as refused:
        findings.skipped.append(Skipped(shown(name), f"{refused} Its picture is used without it."))
    return []
