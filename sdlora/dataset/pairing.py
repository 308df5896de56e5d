"""Which files a folder or zip holds and which text belongs to which picture, before any picture is opened.

Knows nothing about pixels. Conventions: `name.txt` beside `name.png`, kohya's `10_name` folders, Hugging Face metadata.jsonl.
"""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sdlora.dataset.archive import ARCHIVES, LEFT_OUT, LIMITS, Listing, unpack
from sdlora.dataset.captions import checked_caption, read_caption
from sdlora.dataset.picture import EXPORT, SUFFIXES
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, TEMPORARY, clean_text, open_regular, read_json

MAX_FILES = 40_000
MAX_REPEATS = 200  # above, the number is a year or a count and not kohya's repeats
METADATA, SET = "metadata.jsonl", "set.json"
OTHER_PICTURES = (".gif", ".bmp", ".tif", ".tiff", ".svg", ".jxl", ".jp2", ".psd", ".ico", ".ppm", ".pgm", ".eps", ".pdf", ".raw",
                  ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".mp4", ".mov")


@dataclass(frozen=True)
class Skipped:
    """A file that is left out; the reason is a full sentence that names it, shown as it is."""
    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """A picture file with the text that belongs to it; `concept` is what its kohya folder calls it."""
    path: Path
    name: str
    text: str | None
    concept: str
    repeats: int = 1


@dataclass
class Findings:
    """What a listing holds before any picture is opened."""
    found: list[Found] = field(default_factory=list)
    loose_texts: dict[str, str] = field(default_factory=dict)  # stem -> text that belongs to no picture here
    others: list[str] = field(default_factory=list)  # files that are neither picture nor text
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_files(path: Path) -> tuple[Listing, list[Skipped], dict[str, dict]]:
    """What lies in a folder, a set of the studio or a zip: ([(file, its name below `path`)], skipped, what a set knows).

    Raises UserError.
    """
    if path.is_dir():
        names = set_names(path)
        if names is None:
            return *list_folder(path), {}
        texts = [name for name in (Path(picture).with_suffix(".txt").name for picture in names) if (path / name).is_file()]
        return [(path / name, PurePosixPath(name)) for name in (*names, *texts)], [], names
    if not path.exists():
        raise UserError(f"There is no folder or zip at {path}.", "Check the path.")
    if path.suffix.lower() in SUFFIXES:
        raise UserError(f"{path.name} is a single picture.", "Name the folder that holds your pictures.")
    files, skipped = unpack(path)
    return files, [Skipped(name, why) for name, why in skipped], {}


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


def list_folder(root: Path) -> tuple[Listing, list[Skipped]]:
    """Files below `root`; hidden ones are left out, links that lead out of it are listed."""
    listing: Listing = []
    skipped: list[Skipped] = []
    inside = root.resolve()
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not hidden(name)]
        links = [clean_text(name, MAX_NAME) for name in folders if Path(folder, name).is_symlink()]
        skipped += [Skipped(link, f"{link} leads to another folder (a link): what lies there is not used.") for link in links]
        for name in (name for name in files if not hidden(name)):
            file = Path(folder, name)
            # realpath, not resolve: of a link to itself it makes a path that cannot be opened, not an error
            if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(inside):
                link = clean_text(name, MAX_NAME)
                skipped.append(Skipped(link, f"{link} is a link that leads out of the folder."))
            else:
                listing.append((file, PurePosixPath(file.relative_to(root).as_posix())))
            if len(listing) > MAX_FILES:
                raise UserError(f"{root.name} holds more than {MAX_FILES} files.", "Name the folder of one style.")
    return listing, skipped


def hidden(name: str) -> bool:
    return name.startswith((".", TEMPORARY)) or name in LEFT_OUT


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (0, part.casefold()) for part in re.split(r"(\d+)", name)]


def pair(listing: Listing) -> Findings:
    """Bring pictures and texts together: by metadata.jsonl first, else by the same stem in the same folder."""
    findings = Findings()
    texts: dict[str, str] = {}
    listed: dict[str, str] = {}
    pictures: list[tuple[Path, PurePosixPath]] = []
    for file, name in listing:
        suffix = name.suffix.lower()
        if suffix in SUFFIXES:
            pictures.append((file, name))
        elif suffix == ".txt":
            take_text(file, name, texts, findings)
        elif name.name == METADATA:
            listed |= read_metadata(file, name.parent, findings)
        elif suffix in OTHER_PICTURES:
            findings.skipped.append(Skipped(shown(name), f"{shown(name)} is of a kind that sdlora does not read. {EXPORT}"))
        elif name.name != SET:
            findings.others.append(shown(name))
    folded = {key.casefold(): key for key in texts}
    used = set()
    for file, name in sorted(pictures, key=lambda item: [natural(part) for part in item[1].parts]):
        stem = str(name.with_suffix(""))
        key = stem if stem in texts else folded.get(stem.casefold(), "")
        used.add(key)
        text = listed.pop(str(name), "") or texts.get(key)
        repeats, concept = kohya(name)
        findings.found.append(Found(file, shown(name), text, concept, repeats))
    findings.loose_texts = {PurePosixPath(key).name: text for key, text in texts.items() if key not in used}
    findings.skipped += [Skipped(name, f"{name} is named in {METADATA}, but it is not there.") for name in listed]
    findings.notes = pairing_notes(findings.others, list(findings.loose_texts))
    return findings


def pairing_notes(others: list[str], loose: list[str]) -> list[str]:
    """What was in the folder and is not used."""
    notes = []
    if others:
        notes.append(f"Left alone: {some(others)}.")
    if any(name.lower().endswith((".caption", *ARCHIVES)) for name in others):
        notes.append("Captions are read from .txt files only, and archives inside a folder are not opened.")
    if loose:
        notes.append(f"These texts belong to no picture: {some([f'{name}.txt' for name in loose])}.")
    return notes


def some(names: list[str]) -> str:
    """The first three names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def shown(name: PurePosixPath) -> str:
    return clean_text(str(name), 2 * MAX_NAME)


def take_text(file: Path, name: PurePosixPath, texts: dict[str, str], findings: Findings) -> None:
    """Read one caption file; one that cannot be read is listed and its picture goes on without it."""
    try:
        texts[str(name.with_suffix(""))] = read_caption(file, name.name)
    except UserError as refused:
        findings.skipped.append(Skipped(shown(name), f"{refused} Its picture is used without it."))


def kohya(name: PurePosixPath) -> tuple[int, str]:
    """(repeats, concept) from the nearest folder called like `10_pinefox style`; (1, "") where there is none."""
    for folder in reversed(name.parent.parts):
        match = re.fullmatch(r"(\d{1,4})_(.+)", folder)
        if match and 1 <= int(match[1]) <= MAX_REPEATS:
            return int(match[1]), match[2]
    return 1, ""


def read_metadata(file: Path, folder: PurePosixPath, findings: Findings) -> dict[str, str]:
    """{picture name: caption} from a Hugging Face imagefolder metadata.jsonl; a line that cannot be used is listed."""
    captions: dict[str, str] = {}
    try:
        with open_regular(file) as handle:
            data = handle.read(LIMITS[".jsonl"] + 1)
        if len(data) > LIMITS[".jsonl"]:
            findings.skipped.append(Skipped(METADATA, f"{METADATA} is larger than {LIMITS['.jsonl'] >> 20} MB: it is not read."))
            return captions
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        findings.skipped.append(Skipped(METADATA, f"{METADATA} is not readable text ({type(error).__name__}). Save it as UTF-8."))
        return captions
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line) if line.strip() else None
            if entry is None:
                continue
            name = PurePosixPath(os.path.normpath(str(folder / entry["file_name"].replace("\\", "/"))).replace("\\", "/"))
            text = next((entry[key] for key in ("text", "caption", "prompt") if isinstance(entry.get(key), str)), "")
            captions[str(name)] = checked_caption(text, f"in line {number} of {METADATA}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            findings.skipped.append(Skipped(METADATA, f"Line {number} of {METADATA} is not an entry with file_name and text."))
        except UserError as refused:
            findings.skipped.append(Skipped(METADATA, str(refused)))
    return captions
