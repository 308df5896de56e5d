"""Uploads into a picture set: dropped pictures, captions, zips and folders, paired and saved one by one.

Knows nothing about the page, and leaves to sets.py how a set lies on the disk.
"""

import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from sdlora.dataset import sets
from sdlora.dataset.archive import forget_unpacked, unpack
from sdlora.dataset.captions import words_in_name
from sdlora.dataset.listing import MAX_PICTURES, SET, Listing, Skipped, is_picture, list_folder, name_key, select_files
from sdlora.dataset.pairing import Findings, Found, ambiguous, pair
from sdlora.dataset.picture import read_picture
from sdlora.dataset.sets import PictureSet, SetPicture
from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text, read_json, write_atomic

MAX_SHORT_SIDE = 2048  # px: no training looks at more, so no set keeps more
THUMBNAIL_SIDE = 256  # px
MAX_SKIPPED = 200


def add_pictures(set_id: str, files: Iterable[str | Path]) -> tuple[list[SetPicture], list[Skipped]]:
    """Add pictures, their captions, and zips or folders of both; return (added, skipped).

    Texts and pictures of each zip or folder are paired among themselves, so equal names of two zips never get mixed up; a text
    without a picture goes to the picture of that name in the set. Each picture is saved as soon as it is read, so an interrupted
    upload keeps what came before.
    """
    uploads = [(upload, pair(upload.listing)) for upload in list_uploads(files)]
    skipped = [one for _, findings in uploads for one in findings.skipped]
    others = [name for _, findings in uploads for name in findings.others]
    skipped += [Skipped(name, f"{name} is neither a picture nor a caption.") for name in others]
    wanted = [found for _, findings in uploads for found in findings.found]
    added, captioned = [], set()
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        for found, copy in zip(wanted, pool.map(clean_copy, wanted), strict=True):
            try:
                added.append(save_picture(set_id, found, copy))
                captioned |= {added[-1]} if found.text else set()
            except UserError as refused:
                sets.path(set_id)  # a set that was deleted in the meantime ends the upload
                skipped.append(Skipped(found.name, str(refused)))
    finally:
        pool.shutdown(cancel_futures=True)
    for upload, findings in uploads:
        skipped += assign_texts(set_id, upload, findings, captioned, replace=not wanted)
    with sets.changing(set_id) as about:
        names = {one.name for one in skipped}
        earlier = [(name, reason) for name, reason in about["skipped"] if name not in names]
        about["skipped"] = list(dict.fromkeys(earlier + [(one.name, one.reason) for one in skipped]))[-MAX_SKIPPED:]
        about["notes"] = list(dict.fromkeys(about["notes"] + [note for _, findings in uploads for note in findings.notes]))
    for upload, _ in uploads:
        forget_unpacked(upload.listing)
    now = {picture.id: picture for picture in sets.load(set_id).pictures}
    return [now[picture_id] for picture_id in added if picture_id in now], skipped


def from_example(folder: Path) -> PictureSet:
    """Return the set made of a shipped example folder (pictures, captions, set.json with title, trigger, sentence).

    The second time it is the same set, with what was changed in it.
    """
    about = read_json(Path(folder) / SET)
    with sets.locked("example"):
        for known in sets.list_sets():
            if known.pictures and read_json(sets.path(known.id) / SET)["example"] == Path(folder).name:
                return known
        made = sets.create(about["title"])
        add_pictures(made.id, sorted(file for file in Path(folder).iterdir() if file.name != SET))
        with sets.changing(made.id) as saved:
            saved |= {"trigger": about["trigger"], "sentence": about["sentence"], "example": Path(folder).name}
    return sets.load(made.id)


@dataclass(frozen=True)
class Upload:
    """Files that are paired among themselves; `prefix`: name of their zip or folder where it was put before their names."""
    listing: Listing
    prefix: str = ""
    closed: bool = False  # a zip or folder: its texts go to no pictures from elsewhere as long as it has its own


def list_uploads(files: Iterable[str | Path]) -> list[Upload]:
    """Return the loose files and, each apart, the zips and folders; one that cannot be read is skipped with its reason.

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
    kept, left_out = select_files([name for _, name in loose.files])
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
    """Put the name of a zip or folder before the names in it, so that the artist sees where each file comes from."""
    if not listing.root or all(name.parts[0] == listing.root for _, name in listing.files):
        return Upload(listing, closed=True)
    listing.files = [(file, PurePosixPath(listing.root) / name) for file, name in listing.files]
    return Upload(listing, listing.root, closed=True)


@dataclass(frozen=True)
class Copy:
    """What a set stores of a picture: file bytes without EXIF, the thumbnail's bytes, width and height in px."""
    suffix: str
    content: bytes
    thumbnail: bytes
    width: int
    height: int
    digest: str
    notes: tuple[str, ...]


def clean_copy(found: Found) -> Copy | UserError:
    """Read a dropped picture and encode what the set stores, or return why not: runs in several threads."""
    try:
        picture = read_picture(found.path, found.name)
    except UserError as refused:
        return refused
    image = picture.image
    scale = MAX_SHORT_SIDE / min(image.size)
    if scale < 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    content = encode(image, "PNG") if picture.lossless else encode(image, "JPEG", quality=95, subsampling=0)
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    return Copy(".png" if picture.lossless else ".jpg", content, encode(small, "JPEG", quality=88), *image.size, picture.digest,
                picture.notes)


def save_picture(set_id: str, found: Found, copy: Copy | UserError) -> str:
    """Save picture, thumbnail and caption, set.json last; return the picture's id. Raises UserError."""
    if isinstance(copy, UserError):
        raise copy
    with sets.changing(set_id) as about:
        same = next((entry for entry in about["pictures"] if entry["digest"] == copy.digest), None)
        if same is not None:
            given = found.text and not (sets.path(set_id) / sets.text_name(same["id"])).exists()
            if given:
                sets.write_text(sets.path(set_id) / sets.text_name(same["id"]), found.text)
            raise UserError(f"{found.name} is the same picture as {same['name']}.",
                            "It is in the set once, and got the caption." if given else "It is in the set once.")
        if len(about["pictures"]) >= MAX_PICTURES:
            raise UserError(f"{found.name} is one too many: a set holds {MAX_PICTURES} pictures.", "Make another set.")
        folder, picture_id = sets.path(set_id), f"{about['next']:03d}"
        write_atomic(folder / (picture_id + copy.suffix), copy.content)
        write_atomic(folder / sets.thumbnail_name(picture_id), copy.thumbnail)
        concept = "" if words_in_name(found.name) else words_in_name(found.concept)
        sets.write_text(folder / sets.text_name(picture_id), found.text or concept)
        about["next"] += 1
        about["pictures"].append({
            "id": picture_id, "name": found.name, "file": picture_id + copy.suffix, "width": copy.width,
            "height": copy.height, "repeats": found.repeats, "digest": copy.digest, "notes": copy.notes})
        about["skipped"] = [pair for pair in about["skipped"] if pair[0] != found.name]
    return picture_id


def assign_texts(set_id: str, upload: Upload, findings: Findings, captioned: set[str], *, replace: bool) -> list[Skipped]:
    """Give captions that came without their picture to the one picture of that name in the set; return what had none.

    captioned: ids of pictures that just got a text of their own; replace: whether captions may be replaced.
    """
    unused = []
    known: dict[str, list[SetPicture]] = {}
    for picture in sets.load(set_id).pictures if findings.loose_texts else ():
        for name in {name_key(PurePosixPath(picture.name).name), name_key(PurePosixPath(picture.name).stem)}:
            known.setdefault(name, []).append(picture)
    for text in findings.loose_texts:
        target = text.target.relative_to(upload.prefix) if upload.prefix else text.target
        fitting = [] if upload.closed and findings.found else \
            [picture for picture in known.get(name_key(target.name), []) if folders_match(PurePosixPath(picture.name), target)]
        if len(fitting) > 1:
            unused.append(Skipped(text.origin, ambiguous(text.origin, [picture.name for picture in fitting])))
        elif fitting and fitting[0].id not in captioned and (replace or fitting[0].caption in ("", text.text)):
            sets.set_caption(set_id, fitting[0].id, text.text)
        else:
            kept = f"{fitting[0].name} keeps the caption it has." if fitting else "It needs the name of its picture."
            unused.append(Skipped(text.origin, f"{text.origin} belongs to no picture here. {kept}"))
    return unused


def folders_match(picture: PurePosixPath, text: PurePosixPath) -> bool:
    """Return whether the folders of a picture and a text are the same from the innermost outwards, as far as both have any."""
    pairs = zip(reversed(picture.parent.parts), reversed(text.parent.parts), strict=False)
    return all(name_key(one) == name_key(other) for one, other in pairs)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the file bytes of a picture."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
