"""Unpack untrusted zips: every entry gets a file name of ours in the cache folder, its own name is only text.

Knows nothing about pictures but their suffixes. Counts bytes while it reads, because what a zip says about itself may be false.
"""

import re
import shutil
import stat
import struct
import zipfile
import zlib
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sdlora.dataset.captions import CAPTION_SUFFIXES, MAX_CAPTION_BYTES
from sdlora.dataset.encoding import LABELS, NAME_CODECS, plausible_readings
from sdlora.dataset.listing import MAX_FILES, MAX_PICTURES, Listing, Skipped, display_name, is_picture, select_files
from sdlora.dataset.metadata import MAX_TABLE_BYTES, TABLE_SUFFIXES
from sdlora.dataset.picture import MAX_BYTES, PICTURE_SUFFIXES
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text, data_folder, open_regular, read_json, write_cached, write_json

MAX_TEXTS = 3 * MAX_PICTURES
MAX_DIRECTORY_BYTES = 8 * 2**20  # the zip's own table of contents
MAX_TOTAL_BYTES = 4 * 2**30
MAX_RATIO = 200
MAX_DEPTH = 60  # folders of a name that are looked at one by one
SLACK_BYTES = 2**20  # small files may compress better than MAX_RATIO
TEXT_LIMITS: dict[str, int] = {**dict.fromkeys(CAPTION_SUFFIXES, MAX_CAPTION_BYTES),
                               **dict.fromkeys(TABLE_SUFFIXES, MAX_TABLE_BYTES)}  # bytes
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
INDEX = "index-3.json"  # raise the number when its content changes: older zips are then unpacked again
BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError, ValueError,
          OverflowError, struct.error)


def unpack(path: Path) -> Listing:
    """Read a zip into HOME/cache/zips/<hash of the zip>, once: its files under the names they have in it.

    What is neither picture nor text is listed too, with the folder as its path, but not unpacked.
    Raises UserError: not a zip, damaged, password, too many pictures, unpacks to far more than it is.
    """
    name = clean_text(path.name, MAX_NAME)
    try:
        handle = open_regular(path)
    except OSError as error:
        raise UserError(f"{name} could not be opened ({error.strerror or error}).", "Check the file.") from error
    with handle:  # opened once, so that what is hashed is what is unpacked
        folder = data_folder("cache", "zips", hash_of(handle, name))
        index = folder / INDEX
        facts = read_json(index) if index.is_file() else None
        if facts is None or not all(is_stored(folder / stored, size) for stored, _, size in facts["files"]):
            facts = read_entries(handle, name, folder)
            write_json(index, facts)
    files = [(folder / stored, PurePosixPath(inside)) for stored, inside, _ in facts["files"]]
    return Listing(clean_text(path.stem), files, [Skipped(*pair) for pair in facts["skipped"]], facts["notes"])


def forget_unpacked(listing: Listing) -> None:
    """Remove what `unpack` put into the cache for this listing."""
    zips = data_folder("cache", "zips")
    for folder in {file if file.parent == zips else file.parent for file, _ in listing.files}:
        if folder.parent == zips:
            shutil.rmtree(folder, ignore_errors=True)


def is_stored(file: Path, size: int) -> bool:
    """Return whether an unpacked entry still has its size: a power cut leaves files empty."""
    try:
        return file.is_dir() or file.stat().st_size == size
    except OSError:
        return False


def store(file: Path, data: bytes) -> None:
    """Write an entry into the cache. Raises UserError."""
    try:
        write_cached(file, data)
    except OSError as error:
        raise UserError(f"The zip could not be unpacked to {file.parent} ({error.strerror or error}).",
                        "Free some disk space, then try again.") from error


def hash_of(handle: BinaryIO, name: str) -> str:
    """Return the SHA-256 of the zip itself, so that the same zip is unpacked once."""
    digest = sha256()
    try:
        while block := handle.read(2**20):
            digest.update(block)
            if handle.tell() > MAX_TOTAL_BYTES:
                raise UserError(f"{name} is larger than {MAX_TOTAL_BYTES >> 30} GB.", "Unpack it and use the folder.")
    except OSError as error:
        raise UserError(f"{name} could not be read ({error.strerror or error}).", "Check the file.") from error
    return digest.hexdigest()


def read_entries(handle: BinaryIO, name: str, folder: Path) -> dict[str, list]:
    """Write the entries worth keeping as 00000.png, 00001.txt... into `folder`; returns what the index holds."""
    check_directory(handle, name)
    files: list[tuple[str, str, int]] = []  # stored as, name in the zip, bytes
    total = 0
    try:
        with zipfile.ZipFile(handle) as archive:
            # not is_dir(), which breaks over an entry without a name
            entries = [entry for entry in archive.infolist() if not entry.filename.endswith(("/", "\\"))]
            names, notes = names_of(entries)
            kept, skipped = select_files(names)
            check_count(name, [names[number] for number in kept])
            for number in kept:
                entry, inside = entries[number], names[number]
                reason = reason_to_skip(entry, inside)
                if reason:
                    skipped.append(Skipped(display_name(inside), reason))
                    continue
                if inside.suffix.lower() not in (*TEXT_LIMITS, *PICTURE_SUFFIXES):
                    files.append(("", str(inside), 0))  # only its name is needed
                    continue
                try:
                    data = read_entry(archive, entry, inside, name, MAX_TOTAL_BYTES - total)
                except BROKEN:
                    skipped.append(Skipped(display_name(inside), f"{display_name(inside)} is damaged inside the zip."))
                    continue
                total += len(data)
                stored = f"{number:05d}{inside.suffix.lower()}"
                store(folder / stored, data)
                files.append((stored, str(inside), len(data)))
    except BROKEN as error:
        raise UserError(f"{name} is damaged or not a zip.", "Download or pack it again.") from error
    return {"files": files, "skipped": [[one.name, one.reason] for one in skipped], "notes": notes}


def check_count(name: str, names: list[PurePosixPath]) -> None:
    """Refuse more pictures, or texts, than one style can have; what else lies in the zip does not count."""
    pictures = sum(is_picture(inside.name) for inside in names)
    if pictures > MAX_PICTURES:
        raise UserError(f"{name} holds {pictures} pictures; at most {MAX_PICTURES} fit one style.",
                        "Choose the 10 to 40 that show the style best.")
    texts = sum(inside.suffix.lower() in TEXT_LIMITS for inside in names)
    if texts > MAX_TEXTS:
        raise UserError(f"{name} holds {texts} texts; at most {MAX_TEXTS} are read.", "Pack only pictures and their captions.")


def check_directory(handle: BinaryIO, name: str) -> None:
    """Refuse by the end record (APPNOTE 4.3.16) before zipfile builds an object for each of maybe millions of entries."""
    size = handle.seek(0, 2)
    handle.seek(max(0, size - 65_557))
    tail = handle.read()
    # of several, the one whose comment ends with the file
    ends = [match.start() for match in re.finditer(b"PK\5\6", tail) if len(tail) >= match.start() + 22]
    whole = [at for at in ends if at + 22 + int.from_bytes(tail[at + 20:at + 22], "little") == len(tail)]
    at = next(iter([*whole, *reversed(ends)]), None)
    if at is None:
        raise UserError(f"{name} is damaged or not a zip.", "Pack it again as an ordinary zip.")
    count, directory_bytes = struct.unpack_from("<HI", tail, at + 10)
    if count > MAX_FILES or directory_bytes > MAX_DIRECTORY_BYTES:
        raise UserError(f"{name} holds more than {MAX_FILES} files.", "Pack only pictures and their captions.")


def names_of(entries: list[zipfile.ZipInfo]) -> tuple[list[PurePosixPath], list[str]]:
    """Return (the name of each entry, what had to be guessed).

    Names with the UTF-8 flag (APPNOTE 4.4.4, bit 11) are UTF-8. The others are tried as UTF-8, then Info-ZIP's Unicode Path
    field (APPNOTE 4.6.9) counts, then one older encoding for all that are left: the plausible one, else code page 437.
    """
    certain = [entry.orig_filename if entry.flag_bits & 0x800 else certain_name(entry) for entry in entries]
    raw = [entry.orig_filename.encode("cp437") for entry, name in zip(entries, certain, strict=True) if name is None]
    notes, codec = [], "cp437"
    if raw:
        readings = plausible_readings(b"\n".join(raw), NAME_CODECS)
        codec = next(iter(readings)) if len(readings) == 1 else "cp437"
        example = display_name(clean_name(raw[0].decode(codec, "replace")))
        notes.append(f"{len(raw)} names in the zip are not marked as UTF-8 and were read as {LABELS[codec]}: {example}. "
                     "If that looks wrong, pack it again with another program.")
    names = [name if name is not None else entry.orig_filename.encode("cp437").decode(codec, "replace")
             for entry, name in zip(entries, certain, strict=True)]
    return [clean_name(name.split("\0")[0]) for name in names], notes


def certain_name(entry: zipfile.ZipInfo) -> str | None:
    """Return the name of an entry without the UTF-8 flag where its bytes are certain, None where it must be guessed."""
    raw = entry.orig_filename.encode("cp437")  # what zipfile made of the bytes, undone
    unicode_path = None
    at = 0
    while at + 4 <= len(entry.extra):
        kind, size = struct.unpack_from("<HH", entry.extra, at)
        field = entry.extra[at + 4:at + 4 + size]
        if kind == 0x7075 and field[:1] == b"\1" and field[1:5] == struct.pack("<I", zlib.crc32(raw)):
            unicode_path = field[5:]
        at += 4 + size
    for data in (raw if not raw.isascii() else None, unicode_path, raw):
        try:
            if data:
                return data.decode("utf-8")
        except UnicodeDecodeError:
            continue
    return None if raw else ""


def clean_name(raw: str) -> PurePosixPath:
    """Return the whole name of an entry in clean parts without drive, root or `..`; it never becomes a path on disk.

    All folders stay, so that names stay distinct; where there are very many, the outer ones become a hash.
    """
    parts = raw.replace("\\", "/").replace(":", "/").split("/")
    if len(parts) > MAX_DEPTH:
        parts = [sha256("/".join(parts[:-MAX_DEPTH]).encode("utf-8", "replace")).hexdigest()[:16], *parts[-MAX_DEPTH:]]
    parts = [clean_text(part, 2**16) for part in parts]
    parts = [part for part in parts if part.strip(". ")]
    if parts and parts[-1].lower() in PICTURE_SUFFIXES:
        parts[-1] = f"unnamed{parts[-1]}"
    return PurePosixPath(*parts) if parts else PurePosixPath("unnamed")


def reason_to_skip(entry: zipfile.ZipInfo, inside: PurePosixPath) -> str:
    """Return the sentence why an entry cannot be read, or "". Raises UserError for an encrypted entry."""
    name, suffix = display_name(inside), inside.suffix.lower()
    if stat.S_ISLNK(entry.external_attr >> 16):
        return f"{name} is a link, not a file."
    if suffix in ARCHIVES:
        return f"{name} is an archive inside the zip: unpack it first."
    if entry.flag_bits & 0x1:
        raise UserError(f"{inside.name} in the zip is locked with a password.", "Pack it again without a password.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"{name} is packed in a way that sdlora does not read: pack it as an ordinary zip."
    return ""


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, inside: PurePosixPath, name: str, room: int) -> bytes:
    """Return the bytes of one entry, at most one over its limit: whoever reads the file then refuses it as too large."""
    limit = TEXT_LIMITS.get(inside.suffix.lower(), MAX_BYTES) + 1
    with archive.open(entry) as handle:
        data = handle.read(min(limit, room + 1))
    if len(data) > room or len(data) > MAX_RATIO * max(1, entry.compress_size) + SLACK_BYTES:
        raise UserError(f"{name} unpacks to far more than pictures would.", "Pack the pictures again as an ordinary zip.")
    return data
