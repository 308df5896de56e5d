"""What lies in a folder, a zip or an upload by its names, and which of it other programs put there: masks, samples, caches.

Knows nothing about what is in the files. The same names are left out whichever way they come in, and each is named.
"""

import os
import posixpath
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath

from sdlora.dataset.picture import SUFFIXES
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text

MAX_FILES = 40_000
MAX_PICTURES = 2_000
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "#recycle", "__pycache__", "lost+found")
# Folders that kohya's scripts and GUI, OneTrainer, ai-toolkit, SimpleTuner and the diffusers scripts make beside the pictures.
TRAINERS = {
    "reg": "regularization pictures", "reg_images": "regularization pictures", "regularization": "regularization pictures",
    "regularization_images": "regularization pictures", "regularisation": "regularization pictures",
    "class_images": "regularization pictures", "log": "logs", "logs": "logs", "tensorboard": "logs", "wandb": "logs",
    "model": "models and samples", "sample": "sample pictures", "samples": "sample pictures",
    "validation_images": "sample pictures",
    "masked_loss": "masks", "mask": "masks", "masks": "masks",
    **dict.fromkeys(("conditioning", "conditioning_images", "control_images", "_controls"), "control pictures"),
    "_latent_cache": "caches", "_t_e_cache": "caches", "_clip_vision_cache": "caches", "workspace-cache": "caches"}
LABELS = re.compile(r".[-_](mask|cond)label$", re.IGNORECASE)  # OneTrainer's masks and conditioning pictures
MASK = re.compile(r"(.+)[-_. ]mask$", re.IGNORECASE)


@dataclass(frozen=True)
class Skipped:
    """A file that is left out; the reason is a full sentence that names it, shown as it is."""
    name: str
    reason: str


@dataclass
class Listing:
    """What lies in one place. `root` is the name of the folder or zip, "" for files without one; names are below it."""
    root: str = ""
    files: list[tuple[Path, PurePosixPath]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_folder(root: Path) -> Listing:
    """Files below `root` without hidden ones and those of other programs; what is not followed or opened is listed.

    Raises UserError for more than MAX_FILES files.
    """
    listing = Listing(clean_text(root.name if root.name not in ("", "..") else root.resolve().name))
    inside = root.resolve()

    def skip(file: Path, why: str) -> None:
        listing.skipped.append(Skipped(shown(below(root, file)), f"{shown(below(root, file))} {why}."))

    def closed(error: OSError) -> None:
        skip(Path(error.filename), f"could not be opened ({error.strerror})")

    for folder, folders, files in os.walk(root, onerror=closed):
        folders.sort()
        for place in (Path(folder, name) for name in folders):
            if hidden(place.name):  # looked into only far enough to name it
                inner = next(os.walk(place), ((), (), ()))[2]
                listing.files += [(place / name, below(root, place / name)) for name in inner if is_picture(name)]
            elif place.is_symlink():
                skip(place, "leads to another folder (a link): what lies there is not used")
        folders[:] = [name for name in folders if not hidden(name)]
        for file in (Path(folder, name) for name in sorted(files) if not hidden(name)):
            # realpath, not resolve: of a link to itself it makes a path that cannot be opened, not an error
            if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(inside):
                skip(file, "is a link that leads out of the folder")
            else:
                listing.files.append((file, below(root, file)))
            if len(listing.files) > MAX_FILES:
                raise UserError(f"{root.name} holds more than {MAX_FILES} files.", "Name the folder of one style.")
    kept, skipped = set_apart([name for _, name in listing.files])
    listing.files = [listing.files[number] for number in kept]
    listing.skipped += skipped
    return listing


def below(root: Path, file: Path) -> PurePosixPath:
    return PurePosixPath(file.relative_to(root).as_posix())


def hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in CLUTTER


def is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def same(name: object) -> str:
    """A name as it is compared: NFC and NFD forms, capital and small letters are one (macOS writes NFD)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(name)).casefold())


def set_apart(names: list[PurePosixPath]) -> tuple[list[int], list[Skipped]]:
    """(indices of the names that may be trained on, what is left out): hidden files, masks, folders of other trainers.

    A folder that holds everything is the root, whatever it is called. Clutter without pictures is left out without a word.
    """
    kept, skipped = [], []
    folders: dict[PurePosixPath, str] = {}
    counts: Counter[PurePosixPath] = Counter()
    visible = [name for name in names if not any(map(hidden, name.parts))]
    root = len(PurePosixPath(posixpath.commonpath([name.parent for name in visible])).parts) if visible else 0
    stems = {same(name.with_suffix("")) for name in visible if is_picture(name.name)}
    for number, name in enumerate(names):
        folder, what = left_out_folder(name, root)
        if folder:
            if what or (is_picture(name.name) and not hidden(name.name) and folder.name.casefold() not in CLUTTER):
                folders[folder] = what or "a hidden folder"
                counts[folder] += is_picture(name.name)
        elif hidden(name.name):
            continue
        elif is_picture(name.name) and (LABELS.search(name.stem) or mask_of(name) in stems):
            kind = "the control picture" if name.stem.casefold().endswith("condlabel") else "the mask"
            skipped.append(Skipped(shown(name), f"{shown(name)} is left out: it is {kind} of another picture."))
        else:
            kept.append(number)
    return kept, [folder_left_out(folder, what, counts[folder]) for folder, what in folders.items()] + skipped


def left_out_folder(name: PurePosixPath, root: int) -> tuple[PurePosixPath | None, str]:
    """(the outermost folder of a name that is hidden or another trainer's, what that trainer keeps in it or ""), or None."""
    for depth, part in enumerate(name.parts[:-1]):
        what = TRAINERS.get(part.casefold(), "") if depth >= root else ""
        if what or hidden(part):
            return PurePosixPath(*name.parts[:depth + 1]), what
    return None, ""


def mask_of(name: PurePosixPath) -> str | None:
    """What the picture is called that `house-mask.png` is the mask of."""
    match = MASK.fullmatch(name.stem)
    return same(name.with_name(match[1])) if match else None


def folder_left_out(folder: PurePosixPath, what: str, pictures: int) -> Skipped:
    name = shown(folder)
    count = f" with {pictures} picture{'s' * (pictures > 1)}" if pictures else ""
    kind = what if what.startswith("a ") else f"{what} of a trainer"
    return Skipped(name, f"{name}/ is left out ({kind}{count})." + (
        " To train on what is in it, choose that folder itself." if pictures else ""))


def shown(name: PurePosixPath) -> str:
    """A name for people: clean, at most MAX_NAME letters, of which the file's own name and its suffix always stay."""
    parts = [short(clean_text(part)) for part in name.parts[-MAX_NAME:]]
    while len(parts) > 1 and len("/".join(parts)) > MAX_NAME:
        parts = parts[1:]
    return "/".join(parts)


def short(part: str) -> str:
    """At most MAX_NAME letters of a part of a name, told apart by a hash of what is cut out; the suffix stays."""
    if len(part) <= MAX_NAME:
        return part
    suffix = PurePosixPath(part).suffix[:9]
    return f"{part[:MAX_NAME - 20]}~{sha256(part.encode()).hexdigest()[:8]}{suffix}"
