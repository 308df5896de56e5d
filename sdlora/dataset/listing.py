"""List a folder, a zip or an upload by file names, and leave out what other programs put there: masks, samples, caches.

Knows nothing about what is in the files. The same names are left out whichever way they come in, and each is reported.
"""

import os
import posixpath
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath

from sdlora.dataset.picture import PICTURE_SUFFIXES
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text

MAX_FILES = 40_000
MAX_PICTURES = 2_000
SET = "set.json"  # in the folder of a picture set of the studio
CLUTTER = ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "#recycle", "__pycache__", "lost+found")
# Folders that kohya's scripts and GUI, OneTrainer, ai-toolkit, SimpleTuner and the diffusers scripts make beside the pictures.
TRAINER_FOLDERS = {
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
    """Files of one place with their names below `root`, the name of the folder or zip, "" for files without one."""
    root: str = ""
    files: list[tuple[Path, PurePosixPath]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def list_folder(root: Path) -> Listing:
    """Return the files below `root` without hidden ones and those of other programs; what was not opened is in `skipped`.

    Raises UserError for more than MAX_FILES files.
    """
    listing = Listing(clean_text(root.name if root.name not in ("", "..") else root.resolve().name))
    inside = root.resolve()

    def skip(file: Path, reason: str) -> None:
        name = display_name(below(root, file))
        listing.skipped.append(Skipped(name, f"{name} {reason}."))

    def skip_unreadable(error: OSError) -> None:
        skip(Path(error.filename), f"could not be opened ({error.strerror})")

    for folder, folders, files in os.walk(root, onerror=skip_unreadable):
        folders.sort()
        for path in (Path(folder, name) for name in folders):
            if is_hidden(path.name):  # opened only to count its pictures
                inner = next(os.walk(path), ((), (), ()))[2]
                listing.files += [(path / name, below(root, path / name)) for name in inner if is_picture(name)]
            elif path.is_symlink():
                skip(path, "leads to another folder (a link): what lies there is not used")
        folders[:] = [name for name in folders if not is_hidden(name)]
        for file in (Path(folder, name) for name in sorted(files) if not is_hidden(name)):
            # realpath, not resolve: of a link to itself it makes a path that cannot be opened, not an error
            if file.is_symlink() and not Path(os.path.realpath(file)).is_relative_to(inside):
                skip(file, "is a link that leads out of the folder")
            else:
                listing.files.append((file, below(root, file)))
            if len(listing.files) > MAX_FILES:
                raise UserError(f"{root.name} holds more than {MAX_FILES} files.", "Name the folder of one style.")
    kept, skipped = select_files([name for _, name in listing.files])
    listing.files = [listing.files[number] for number in kept]
    listing.skipped += skipped
    return listing


def below(root: Path, file: Path) -> PurePosixPath:
    return PurePosixPath(file.relative_to(root).as_posix())


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in CLUTTER


def is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


def name_key(name: object) -> str:
    """Return a name for comparing: NFC and NFD forms, capital and small letters are equal (macOS writes NFD)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(name)).casefold())


def select_files(names: list[PurePosixPath]) -> tuple[list[int], list[Skipped]]:
    """Return (indices of the names that may be trained on, what is left out): hidden files, masks, folders of other trainers.

    A folder that holds everything is the root, whatever it is called. Clutter without pictures is not reported.
    """
    kept, skipped = [], []
    folders: dict[PurePosixPath, str] = {}
    counts: Counter[PurePosixPath] = Counter()
    visible = [name for name in names if not any(map(is_hidden, name.parts))]
    root = len(PurePosixPath(posixpath.commonpath([name.parent for name in visible])).parts) if visible else 0
    stems = {name_key(name.with_suffix("")) for name in visible if is_picture(name.name)}
    for number, name in enumerate(names):
        folder, what = left_out_folder(name, root)
        if folder:
            if what or (is_picture(name.name) and not is_hidden(name.name) and folder.name.casefold() not in CLUTTER):
                folders[folder] = what or "a hidden folder"
                counts[folder] += is_picture(name.name)
        elif is_hidden(name.name):
            continue
        elif is_picture(name.name) and (LABELS.search(name.stem) or mask_of(name) in stems):
            kind = "the control picture" if name.stem.casefold().endswith("condlabel") else "the mask"
            skipped.append(Skipped(display_name(name), f"{display_name(name)} is left out: it is {kind} of another picture."))
        else:
            kept.append(number)
    return kept, [folder_left_out(folder, what, counts[folder]) for folder, what in folders.items()] + skipped


def left_out_folder(name: PurePosixPath, root: int) -> tuple[PurePosixPath | None, str]:
    """Return (the outermost folder of a name that is hidden or a trainer's, what that trainer keeps in it or ""), else None."""
    for depth, part in enumerate(name.parts[:-1]):
        what = TRAINER_FOLDERS.get(part.casefold(), "") if depth >= root else ""
        if what or is_hidden(part):
            return PurePosixPath(*name.parts[:depth + 1]), what
    return None, ""


def mask_of(name: PurePosixPath) -> str | None:
    """Return the name key of the picture that `house-mask.png` is the mask of."""
    match = MASK.fullmatch(name.stem)
    return name_key(name.with_name(match[1])) if match else None


def folder_left_out(folder: PurePosixPath, what: str, pictures: int) -> Skipped:
    name = display_name(folder)
    count = f" with {pictures} picture{'s' * (pictures > 1)}" if pictures else ""
    kind = what if what.startswith("a ") else f"{what} of a trainer"
    return Skipped(name, f"{name}/ is left out ({kind}{count})." + (
        " To train on what is in it, choose that folder itself." if pictures else ""))


def display_name(name: PurePosixPath) -> str:
    """Return a name for sentences: clean, at most MAX_NAME characters; file name and suffix always stay."""
    parts = [shorten(clean_text(part)) for part in name.parts[-MAX_NAME:]]
    while len(parts) > 1 and len("/".join(parts)) > MAX_NAME:
        parts = parts[1:]
    return "/".join(parts)


def shorten(part: str) -> str:
    """Cut a part of a name to MAX_NAME characters, with a hash in place of what is cut out; the suffix stays."""
    if len(part) <= MAX_NAME:
        return part
    suffix = PurePosixPath(part).suffix[:9]
    return f"{part[:MAX_NAME - 20]}~{sha256(part.encode()).hexdigest()[:8]}{suffix}"
