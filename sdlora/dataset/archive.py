"""The reader for zips from outside: every entry under a name of ours in the cache folder, its own name only as text.

Knows nothing about pictures but their suffixes. Counts while it reads, because what a zip says about itself may be a lie.
"""

import stat
import struct
import zipfile
import zlib
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sdlora.dataset.captions import MAX_CAPTION
from sdlora.dataset.picture import MAX_BYTES, SUFFIXES
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text, open_regular, place, read_json, write_atomic, write_json

MAX_ENTRIES = 2_000
MAX_DIRECTORY_BYTES = 4 * 2**20  # the zip's own table of contents
MAX_TOTAL_BYTES = 4 * 2**30
MAX_RATIO = 200
SLACK_BYTES = 2**20  # small files may shrink better than MAX_RATIO and still be honest
LIMITS = {".txt": 4 * MAX_CAPTION + 5, ".jsonl": 8 * 2**20}
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
LEFT_OUT = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError, ValueError,
          OverflowError, struct.error)

Listing = list[tuple[Path, PurePosixPath]]


def unpack(path: Path) -> tuple[Listing, list[tuple[str, str]]]:
    """Read a zip into HOME/cache/zips/<hash of the zip>, once. Returns ([(file, its name in the zip)], [(name, why skipped)]).

    Raises UserError: not a zip, damaged, password, too many entries, unpacks to far more than it is.
    """
    name = clean_text(path.name, MAX_NAME)
    try:
        handle = open_regular(path)
    except OSError as error:
        raise UserError(f"{name} could not be opened ({error.strerror or error}).", "Check the file.") from error
    with handle:  # opened once, so that what is hashed is what is unpacked
        folder = place("cache", "zips", hash_of(handle, name))
        index = folder / "index.json"
        if not index.is_file():
            write_json(index, read_entries(handle, name, folder))
    facts = read_json(index)
    files = [(folder / stored, PurePosixPath(shown)) for stored, shown in facts["files"]]
    return files, [(shown, why) for shown, why in facts["skipped"]]


def hash_of(handle: BinaryIO, name: str) -> str:
    """SHA-256 of the zip itself, so that the same zip is unpacked once."""
    digest = sha256()
    try:
        while block := handle.read(2**20):
            digest.update(block)
            if handle.tell() > MAX_TOTAL_BYTES:
                raise UserError(f"{name} is larger than 4 GB.", "Unpack it and use the folder.")
    except OSError as error:
        raise UserError(f"{name} could not be read ({error.strerror or error}).", "Check the file.") from error
    return digest.hexdigest()


def read_entries(handle: BinaryIO, name: str, folder: Path) -> dict[str, list]:
    """Write the entries worth keeping as 00000.png, 00001.txt... into `folder`; returns what index.json holds."""
    check_directory(handle, name)
    files: list[tuple[str, str]] = []
    skipped: list[tuple[str, str]] = []
    total = 0
    try:
        with zipfile.ZipFile(handle) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > MAX_ENTRIES:
                raise UserError(f"{name} holds more than {MAX_ENTRIES} files.", "Unpack it and use the folder.")
            for number, entry in enumerate(entries):
                shown = display_name(entry.filename)
                why = reason_to_skip(entry, shown)
                if why:
                    skipped.append((str(shown), why))
                if why is not None:
                    continue
                try:
                    data = read_entry(archive, entry, name, MAX_TOTAL_BYTES - total)
                except BROKEN:
                    skipped.append((str(shown), f"{shown} is damaged inside the zip."))
                    continue
                total += len(data)
                stored = f"{number:05d}{shown.suffix.lower()}"
                write_atomic(folder / stored, data)
                files.append((stored, str(shown)))
    except BROKEN as error:
        raise UserError(f"{name} is damaged or not a zip.", "Download or pack it again.") from error
    return {"files": files, "skipped": skipped}


def check_directory(handle: BinaryIO, name: str) -> None:
    """Refuse by the end record (APPNOTE 4.3.16) before zipfile builds an object for each of maybe millions of entries."""
    size = handle.seek(0, 2)
    handle.seek(max(0, size - 65_557))
    tail = handle.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise UserError(f"{name} is damaged or not a zip.", "Pack it again as an ordinary zip.")
    count, directory_bytes = struct.unpack_from("<HI", tail, at + 10)
    if count > 2 * MAX_ENTRIES or directory_bytes > MAX_DIRECTORY_BYTES:
        raise UserError(f"{name} holds more than {MAX_ENTRIES} files.", "Unpack it and use the folder.")


def display_name(raw: str) -> PurePosixPath:
    """The name an entry is shown by: clean parts without drive, root or `..`; it never becomes a path on disk."""
    parts = [clean_text(part) for part in raw.replace("\\", "/").replace(":", "/").split("/")]
    parts = [short(part) for part in parts if part.strip(". ")]
    if parts and parts[-1].lower() in SUFFIXES:
        parts[-1] = f"unnamed{parts[-1]}"
    return PurePosixPath(*parts[-4:]) if parts else PurePosixPath("unnamed")


def short(part: str) -> str:
    """A part of at most MAX_NAME letters that keeps its suffix, so that a picture and its text still belong together."""
    stem, dot, suffix = part.rpartition(".") if len(part) > MAX_NAME else (part, "", "")
    return f"{stem[:MAX_NAME - 20]}~{sha256(stem.encode()).hexdigest()[:8]}{dot}{suffix[:8]}" if dot else part[:MAX_NAME]


def reason_to_skip(entry: zipfile.ZipInfo, shown: PurePosixPath) -> str | None:
    """None: read it. "": leave it out without a word. Else the sentence. An encrypted entry refuses the whole zip."""
    if any(part in LEFT_OUT or part.startswith("._") for part in shown.parts):
        return ""
    if stat.S_ISLNK(entry.external_attr >> 16):
        return f"{shown} is a link, not a file."
    suffix = shown.suffix.lower()
    if suffix in ARCHIVES:
        return f"{shown} is an archive inside the zip: unpack it first."
    if entry.flag_bits & 0x1:
        raise UserError(f"{shown.name} in the zip is locked with a password.", "Pack it again without a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"{shown} is packed in a way that sdlora does not read: pack it as an ordinary zip."
    if suffix in LIMITS or suffix in SUFFIXES:
        return None
    return f"{shown} is not a picture that sdlora reads. Save it as PNG or JPEG."


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, room: int) -> bytes:
    """The bytes of one entry, at most one over its limit, so that what reads them later says that they are too many."""
    limit = LIMITS.get(PurePosixPath(entry.filename.replace("\\", "/")).suffix.lower(), MAX_BYTES) + 1
    with archive.open(entry) as handle:
        data = handle.read(min(limit, room + 1))
    if len(data) > room or len(data) > MAX_RATIO * max(1, entry.compress_size) + SLACK_BYTES:
        raise UserError(f"{name} unpacks to far more than pictures would.", "Pack the pictures again as an ordinary zip.")
    return data
