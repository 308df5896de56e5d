"""Where files are kept and how they are written: the data folder, safe names, atomic writes, the cache.

Knows nothing about what the files mean.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import sqlite3
import stat
import threading
import time
import unicodedata
from collections.abc import Callable
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import Any

import platformdirs

from sdlora.errors import DiskFull, UserError

TEMPORARY = ".sdlora-tmp-"
DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
CACHE_BYTES = 5 * 2**30  # of HOME/cache: what was not used for the longest time goes first
MAX_NAME = 80
PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}  # never opened: a pickle can run a program
MAX_JSON_BYTES = 64 * 2**20  # the set.json of 2,000 pictures has 1 MB
JOINERS = "\u200c\u200d"
OPEN_FLAGS = ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")  # each where the system has it


def home() -> Path:
    """Return the data folder: SDLORA_HOME, else the platform's folder for application data. Made when missing."""
    folder = Path(os.environ.get("SDLORA_HOME") or platformdirs.user_data_dir("sdlora", appauthor=False)).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The data folder {folder} cannot be made ({error.strerror}).",
                        "Set SDLORA_HOME to a folder you may write to.") from error
    return folder.resolve()


def data_folder(*parts: str) -> Path:
    """Return a folder inside the data folder, made when missing: data_folder("runs") -> HOME/runs."""
    folder = home().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, folder) from error
    return folder


def disk_error(error: OSError, path: Path) -> UserError:
    """Return the UserError for an OSError while `path` is written."""
    if error.errno in DISK_FULL:
        return DiskFull(f"The disk is full: {path.name} could not be written to {path.parent}.",
                        "Free some space, then try again: what was saved before is whole.")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UserError(f"{path} cannot be written ({error.strerror}).",
                         "Choose a folder you may write to; SDLORA_HOME names the data folder.")
    return UserError(f"{path.name} could not be written to {path.parent} ({error.strerror or error}).",
                     "Free some disk space or choose a folder you may write to, then try again.")


def sqlite_error(error: sqlite3.Error, path: Path) -> UserError | None:
    """Return the UserError for an error of SQLite on the file `path`; None when the disk is not the cause."""
    code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and has_no_room(path.parent)):
        return disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return disk_error(OSError(errno.EROFS, "it is read-only, or not yours"), path)
    if code == sqlite3.SQLITE_IOERR:
        return UserError(f"{path} could not be read or written ({error}).", "Check the disk, then try again.")
    return None


def has_no_room(folder: Path) -> bool:
    """Return whether the disk of `folder` has no room for a page of a database."""
    try:
        return shutil.disk_usage(folder).free < 2**20
    except OSError:
        return False


def shipped(*parts: str) -> Path:
    """Return a file or folder that comes with sdlora: shipped("presets"), shipped("assets", "mini").

    A wheel carries them inside the package, a checkout beside it.
    """
    package = Path(__file__).resolve().parent
    inside = package / "shipped"
    return (inside if inside.is_dir() else package.parent).joinpath(*parts)


def clean_text(text: str, limit: int = 2000) -> str:
    """Return text from outside as one NFC line: no control, bidi-override or surrogate characters, cut at `limit` characters.

    The two joiners inside words stay (Persian, Hindi, emoji); text of nothing visible is "".
    """
    text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode("utf-8"))
    text = "".join(c if unicodedata.category(c)[0] != "C" or c in JOINERS else " " for c in text)
    text = re.sub(r"\s+", " ", text).strip()[:limit].rstrip()
    return text if text.strip(JOINERS + " ") else ""


def slug(name: str) -> str:
    """Return a name that is safe as a file name on every system: `[a-z0-9-]{1,64}`.

    Names that lose characters (emoji, other scripts) get a short hash of the full name.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:48].strip("-")
    lossless = words and len(words) >= len(clean_text(name)) * 0.6
    reserved = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)", words)
    if lossless and not reserved:
        return words
    return f"{words or 'style'}-{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def confine(folder: Path, name: str) -> Path:
    """Return `folder/name`. Raises UserError where it lies outside of `folder` or follows a link out of it."""
    try:
        target = (folder / name).resolve()
    except (ValueError, OSError, RuntimeError):  # a NUL, a lone surrogate, a link to itself
        target = None
    if target is None or not target.is_relative_to(folder.resolve()):
        raise UserError(f"{clean_text(name, MAX_NAME)} is not inside {folder.name}.", "Choose a file from the list.")
    return target


def open_regular(path: Path) -> BufferedReader:
    """Open a file from outside to read its bytes, only when it is an ordinary file. Links are followed.

    Raises OSError, also for a pipe, a device, a socket, a folder, a link to itself and a name that no file can have.
    Never waits for a writer. What is checked is the open file itself (fstat): a file exchanged after a check is refused.
    """
    try:
        refuse_special(Path(path).stat().st_mode, path)  # before opening: to open a device can already act on it
        descriptor = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in OPEN_FLAGS))
    except ValueError as error:  # a NUL, a lone surrogate
        raise OSError(errno.EINVAL, "no file can have this name") from error
    try:
        refuse_special(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def refuse_special(mode: int, path: Path) -> None:
    """Raise OSError when `mode` (st_mode) is not that of an ordinary file."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not an ordinary file", str(path))


def crash_point(name: str) -> None:
    """Kill this process when a test sets SDLORA_CRASH_AT=name, to show that no half-written file survives."""
    if os.environ.get("SDLORA_CRASH_AT") == name:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def temporary_beside(path: Path, suffix: str = "") -> Path:
    """Return a name in the folder of `path` that no other thread or process uses; `remove_temporaries` knows it."""
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}{suffix}")


def write_atomic(path: Path, content: bytes | Callable[[Path], object]) -> Path:
    """Write a file whole or not at all: temporary beside it, fsync, rename, fsync of the folder.

    `content` is the bytes, or a function that writes them to the path it is given.
    Raises UserError when the disk refuses; the old file is then untouched.
    """
    path = Path(path)
    temporary = temporary_beside(path, path.suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content)
        crash_point("before-fsync")
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        crash_point("before-rename")
        os.replace(temporary, path)
        crash_point("after-rename")
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        # also where the folder turned out to be a file (not a directory, rather than not found)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()
    return path


def write_cached(path: Path, content: bytes) -> None:
    """Write a file of the cache so that no reader sees half of it, but without fsync: 2,000 of them took 16 s with it.

    A reader must check whether the file survived a power cut. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(path: Path, fill: Callable[[Path], object]) -> Path:
    """Make a folder whole or not at all: `fill` fills a temporary one beside it, then it gets its name.

    Raises UserError when `path` holds something already or the disk refuses.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise UserError(f"{path} is there already.", "Choose a new name for the folder.")
        temporary.mkdir(parents=True)
        fill(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())
        if path.is_dir():
            path.rmdir()
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> Path:
    """Write JSON atomically; NaN and Infinity are refused because no other program reads them."""
    return write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """Read one of our own JSON files, or of another program's; a damaged or huge one is a UserError that names it."""
    try:
        with open_regular(path) as handle:
            content = handle.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES >> 20} MB")
        return json.loads(content.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} could not be read ({error}).", "Restore it from a copy, or remove it.") from error


def prune_cache(limit_bytes: int = CACHE_BYTES) -> int:
    """Remove the files of HOME/cache that were not used for the longest time until the rest has `limit_bytes`.

    Return the bytes removed. A missing entry is made again when it is needed. Folders of unpacked zips are removed as a whole.
    """
    entries = sorted(cache_entries(), key=lambda entry: entry[1])
    used = sum(size for _, _, size in entries)
    removed = 0
    for path, _, size in entries:
        if used - removed <= limit_bytes:
            break
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed += size
    return removed


def cache_entries() -> list[tuple[Path, float, int]]:
    """Return (path, time of last use, bytes) of everything in HOME/cache: a file, or a whole folder of one unpacked zip."""
    cache, found = home() / "cache", []
    for folder in cache.glob("zips/*"):
        files = [file.stat() for file in folder.rglob("*") if file.is_file()]
        found.append((folder, folder.stat().st_mtime, sum(status.st_size for status in files)))
    for file in cache.rglob("*"):
        if "zips" not in file.relative_to(cache).parts[:1] and file.is_file():
            status = file.stat()
            found.append((file, status.st_mtime, status.st_size))
    return found


def remove_temporaries(folder: Path, older_than_seconds: float = 3600) -> int:
    """Remove temporaries that a killed process left below `folder`; return how many."""
    now, removed = time.time(), 0
    for leftover in folder.rglob(f"{TEMPORARY}*"):
        try:
            if now - leftover.stat().st_mtime > older_than_seconds:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed
