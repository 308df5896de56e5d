"""The studio's picture sets: every picture, caption and setting is saved as it is dropped and typed.

Knows nothing about training or the page, and leaves to setfile.py how a set lies on the disk. Ids are ours; safe to call
from several threads and processes at once.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

from sdlora.dataset.archive import forget, unpack
from sdlora.dataset.captions import checked_caption
from sdlora.dataset.listing import MAX_PICTURES, Listing, Skipped, is_picture, list_folder, same, set_apart
from sdlora.dataset.names import words_in_name
from sdlora.dataset.pairing import SET, Findings, Found, ambiguous, pair
from sdlora.dataset.picture import read_picture
from sdlora.dataset.setfile import (
    GONE,
    PictureSet,
    SetPicture,
    changing,
    list_sets,
    load,
    locked,
    path,
    text_name,
    thumbnail_name,
    write_text,
)
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text, data_folder, read_json, slug, write_atomic, write_json

__all__ = ["PictureSet", "SetPicture", "add_pictures", "captions", "create", "delete", "forget_skipped", "from_example",
           "list_sets", "load", "path", "remove_picture", "rename", "set_caption", "set_settings"]
SHORT_SIDE = 2048  # px: no training looks at more, so no set keeps more
THUMBNAIL_SIDE = 256  # px
MAX_SKIPPED = 200
MAX_TRIGGER = 60  # letters


def create(name: str) -> PictureSet:
    """A new empty set; a name that is taken gets a number. Raises UserError for an empty or overlong name."""
    wanted = checked_title(name)
    with locked("new"):
        titles = {s.title.casefold() for s in list_sets()}
        title, set_id, number = wanted, slug(wanted), 1
        while title.casefold() in titles or (data_folder("sets") / set_id).exists():
            number += 1
            title, set_id = f"{wanted} {number}", f"{slug(wanted)[:58]}-{number}"
        write_json(data_folder("sets", set_id) / SET, {
            "version": 1, "id": set_id, "title": title, "trigger": "", "default_caption": "", "sentence": "", "example": "",
            "created": datetime.now(UTC).isoformat(), "next": 0, "pictures": [], "skipped": [], "notes": []})
    return load(set_id)


def add_pictures(set_id: str, files: Iterable[str | Path]) -> tuple[list[SetPicture], list[Skipped]]:
    """Add pictures, their captions, and zips or folders of both; a text alone goes to the picture of that name in the set.

    Texts and pictures of each zip or folder are paired among themselves, so equal names of two zips never meet. Each picture
    is saved as soon as it is read, so an interrupted upload keeps what came before. Returns (added, skipped).
    """
    uploads = [(upload, pair(upload.listing)) for upload in list_uploads(files)]
    skipped = [one for _, findings in uploads for one in findings.skipped]
    others = [name for _, findings in uploads for name in findings.others]
    skipped += [Skipped(name, f"{name} is neither a picture nor a caption.") for name in others]
    wanted = [found for _, findings in uploads for found in findings.found]
    added, told = [], set()
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        for found, copy in zip(wanted, pool.map(clean_copy, wanted), strict=True):
            try:
                added.append(keep(set_id, found, copy))
                told |= {added[-1]} if found.text else set()
            except UserError as refused:
                path(set_id)  # a set that was deleted in the meantime ends the upload
                skipped.append(Skipped(found.name, str(refused)))
    finally:
        pool.shutdown(cancel_futures=True)
    for upload, findings in uploads:
        skipped += give_texts(set_id, upload, findings, told, alone=not wanted)
    with changing(set_id) as about:
        names = {one.name for one in skipped}
        remembered = [(name, reason) for name, reason in about["skipped"] if name not in names]
        about["skipped"] = list(dict.fromkeys(remembered + [(one.name, one.reason) for one in skipped]))[-MAX_SKIPPED:]
        about["notes"] = list(dict.fromkeys(about["notes"] + [note for _, findings in uploads for note in findings.notes]))
    for upload, _ in uploads:
        forget(upload.listing)
    now = {picture.id: picture for picture in load(set_id).pictures}
    return [now[picture_id] for picture_id in added if picture_id in now], skipped


@dataclass(frozen=True)
class Upload:
    """What was dropped together; `prefix` is the name of its zip or folder where that was put before the names in it."""
    listing: Listing
    prefix: str = ""
    closed: bool = False  # a zip or folder: its texts do not belong to pictures from elsewhere as long as it has its own


def list_uploads(files: Iterable[str | Path]) -> list[Upload]:
    """Dropped files, each zip and folder apart; one that cannot be read is skipped with its reason.

    A browser hands every file over in a folder of its own. Where pictures and texts do lie in one folder, they belong together.
    """
    loose, opened = Listing(), []
    times = Counter(map(Path, files))  # a file that is dropped twice has one path
    twice = [clean_text(file.name, MAX_NAME) for file, count in times.items() if count > 1]
    loose.skipped += [Skipped(name, f"{name} was dropped twice: it is used once.") for name in twice]
    for file in times:
        try:
            if file.is_dir() or file.suffix.lower() == ".zip":
                opened.append(named_upload(list_folder(file) if file.is_dir() else unpack(file)))
            else:
                loose.files.append((file, PurePosixPath(file.name)))
        except UserError as refused:
            loose.skipped.append(Skipped(clean_text(file.name, MAX_NAME), str(refused)))
    kept, left_out = set_apart([name for _, name in loose.files])
    loose.files = [loose.files[number] for number in kept]
    loose.skipped += left_out
    kinds: dict[Path, set[bool]] = {}
    for file, _ in loose.files:
        kinds.setdefault(file.parent, set()).add(is_picture(file.name))
    together = [folder for folder, kind in kinds.items() if len(kind) == 2]
    groups = [Upload(Listing(files=[item for item in loose.files if item[0].parent == folder])) for folder in together]
    loose.files = [item for item in loose.files if item[0].parent not in together]
    return [Upload(loose), *groups, *opened]


def named_upload(listing: Listing) -> Upload:
    """The files of a zip or folder under its name, so that the artist sees where each comes from."""
    if not listing.root or all(name.parts[0] == listing.root for _, name in listing.files):
        return Upload(listing, closed=True)
    listing.files = [(file, PurePosixPath(listing.root) / name) for file, name in listing.files]
    return Upload(listing, listing.root, closed=True)


@dataclass(frozen=True)
class Copy:
    """What a set keeps of a picture: file bytes without EXIF, the thumbnail's bytes, size in px of what is kept."""
    suffix: str
    content: bytes
    small: bytes
    width: int
    height: int
    digest: str
    notes: tuple[str, ...]


def clean_copy(found: Found) -> Copy | UserError:
    """Read a dropped picture and encode what the set keeps of it, or say why not: runs in several threads."""
    try:
        picture = read_picture(found.path, found.name)
    except UserError as refused:
        return refused
    image = picture.image
    scale = SHORT_SIDE / min(image.size)
    if scale < 1:
        image = image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.LANCZOS)
    content = encoded(image, "PNG") if picture.lossless else encoded(image, "JPEG", quality=95, subsampling=0)
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    return Copy(".png" if picture.lossless else ".jpg", content, encoded(small, "JPEG", quality=88), *image.size, picture.digest,
                picture.notes)


def keep(set_id: str, found: Found, copy: Copy | UserError) -> str:
    """Save picture, thumbnail and caption; set.json comes last. Returns the picture's id. Raises UserError."""
    if isinstance(copy, UserError):
        raise copy
    with changing(set_id) as about:
        twin = next((entry for entry in about["pictures"] if entry["digest"] == copy.digest), None)
        if twin is not None:
            given = found.text and not (path(set_id) / text_name(twin["id"])).exists()
            if given:
                write_text(path(set_id) / text_name(twin["id"]), found.text)
            raise UserError(f"{found.name} is the same picture as {twin['name']}.",
                            "It is in the set once, and got the caption." if given else "It is in the set once.")
        if len(about["pictures"]) >= MAX_PICTURES:
            raise UserError(f"{found.name} is one too many: a set holds {MAX_PICTURES} pictures.", "Make another set.")
        folder, picture_id = path(set_id), f"{about['next']:03d}"
        write_atomic(folder / (picture_id + copy.suffix), copy.content)
        write_atomic(folder / thumbnail_name(picture_id), copy.small)
        concept = "" if words_in_name(found.name) else words_in_name(found.concept)
        write_text(folder / text_name(picture_id), found.text or concept)
        about["next"] += 1
        about["pictures"].append({
            "id": picture_id, "name": found.name, "file": picture_id + copy.suffix, "width": copy.width,
            "height": copy.height, "repeats": found.repeats, "digest": copy.digest, "notes": copy.notes})
        about["skipped"] = [pair for pair in about["skipped"] if pair[0] != found.name]
    return picture_id


def give_texts(set_id: str, upload: Upload, findings: Findings, told: set[str], *, alone: bool) -> list[Skipped]:
    """Captions that came without their picture go to the one picture of that name already in the set.

    told: ids of pictures that just got a text of their own; alone: whether only texts were dropped, so that they may replace
    captions. Returns what was not given to any.
    """
    lost = []
    known: dict[str, list[SetPicture]] = {}
    for picture in load(set_id).pictures if findings.loose_texts else ():
        for name in {same(PurePosixPath(picture.name).name), same(PurePosixPath(picture.name).stem)}:
            known.setdefault(name, []).append(picture)
    for text in findings.loose_texts:
        target = text.target.relative_to(upload.prefix) if upload.prefix else text.target
        fitting = [picture for picture in known.get(same(target.name), []) if agree(PurePosixPath(picture.name), target)]
        if upload.closed and findings.found:
            fitting = []
        if len(fitting) > 1:
            lost.append(Skipped(text.origin, ambiguous(text.origin, [picture.name for picture in fitting])))
        elif fitting and fitting[0].id not in told and (alone or fitting[0].caption in ("", text.text)):
            set_caption(set_id, fitting[0].id, text.text)
        else:
            kept = f"{fitting[0].name} keeps the caption it has." if fitting else "It needs the name of its picture."
            lost.append(Skipped(text.origin, f"{text.origin} belongs to no picture here. {kept}"))
    return lost


def agree(picture: PurePosixPath, text: PurePosixPath) -> bool:
    """Whether the folders of a picture and a text do not contradict each other, from the innermost outwards."""
    pairs = zip(reversed(picture.parent.parts), reversed(text.parent.parts), strict=False)
    return all(same(one) == same(other) for one, other in pairs)


def captions(set_id: str) -> dict[str, str]:
    """{picture id: caption as typed}, in the order of the set."""
    return {picture.id: picture.caption for picture in load(set_id).pictures}


def set_caption(set_id: str, picture_id: str, text: str) -> None:
    """Save one caption; the others are not touched. Raises UserError for one that is too long or a picture that is gone."""
    folder = path(set_id)
    with locked(set_id):
        entries = read_json(folder / SET)["pictures"] if (folder / SET).is_file() else []
        name = next((entry["name"] for entry in entries if entry["id"] == picture_id), None)
        if name is None:
            raise UserError("This picture is no longer in the set.", GONE)
        write_text(folder / text_name(picture_id), checked_caption(text, f"of {name}"))


def remove_picture(set_id: str, picture_id: str) -> None:
    """Take one picture out; ids are never given twice, so that every other caption stays with its picture."""
    with changing(set_id) as about:
        gone = [entry for entry in about["pictures"] if entry["id"] == picture_id]
        about["pictures"] = [entry for entry in about["pictures"] if entry["id"] != picture_id]
    for entry in gone:
        for name in (entry["file"], text_name(picture_id), thumbnail_name(picture_id)):
            (path(set_id) / name).unlink(missing_ok=True)


def forget_skipped(set_id: str) -> None:
    """Clear the list of what could not be used, once it was read."""
    with changing(set_id) as about:
        about["skipped"], about["notes"] = [], []
        for entry in about["pictures"]:
            entry["notes"] = []


def rename(set_id: str, name: str) -> None:
    """Give the set another title; its id and folder stay. Raises UserError for a title that another set has."""
    title = checked_title(name)
    if any(s.title.casefold() == title.casefold() and s.id != set_id for s in list_sets()):
        raise UserError(f"There is already a set called {title}.", "Choose another name.")
    with changing(set_id) as about:
        about["title"] = title


def set_settings(set_id: str, *, trigger: str | None = None, default_caption: str | None = None) -> None:
    """Save the trigger word and the caption of pictures that have none; None leaves one as it is."""
    with changing(set_id) as about:
        if trigger is not None:
            about["trigger"] = clean_text(trigger, MAX_TRIGGER)
        if default_caption is not None:
            about["default_caption"] = checked_caption(default_caption, "for all pictures")


def delete(set_id: str) -> None:
    """Remove a set with all its pictures: out of the list first, then from the disk. Raises UserError when it is gone."""
    folder = path(set_id)
    with locked(set_id):
        (folder / SET).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # a file that Windows holds open stays behind, in no list


def from_example(folder: Path) -> PictureSet:
    """The set made of a shipped example folder (pictures, captions, set.json with title, trigger, sentence).

    Pressed twice it is the same set, with what was changed in it.
    """
    about = read_json(Path(folder) / SET)
    with locked("example"):
        for known in list_sets():
            if known.pictures and read_json(path(known.id) / SET)["example"] == Path(folder).name:
                return known
        made = create(about["title"])
        add_pictures(made.id, sorted(file for file in Path(folder).iterdir() if file.name != SET))
        with changing(made.id) as saved:
            saved |= {"trigger": about["trigger"], "sentence": about["sentence"], "example": Path(folder).name}
    return load(made.id)


def checked_title(name: str) -> str:
    title = clean_text(name, MAX_NAME + 1)
    if not title or len(title) > MAX_NAME:
        raise UserError(f"A set needs a name of 1 to {MAX_NAME} letters.", "Choose another name.")
    return title


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The file bytes of a clean picture."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
