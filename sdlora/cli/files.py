"""`sdlora check`: what training would make of a folder or zip of pictures; and the rule for every --out.

Knows nothing about bases.
"""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from sdlora.errors import UserError


def check_out(out: Path, inputs: Iterable[Path] = (), suffix: str = ".safetensors") -> None:
    """Refuse an --out that cannot be written, that is an input, or that would replace a file which sdlora did not make.

    suffix: what the file must end in; "" for a folder, in which nothing is checked.
    """
    from sdlora.storage import check_writable

    if not suffix:
        check_writable(out)
        return
    if out.suffix.lower() != suffix:
        raise UserError(f"--out {out} does not end in {suffix}.", f"Write --out {out.with_suffix(suffix)}")
    if out.is_dir():
        raise UserError(f"{out} is a folder.", "Choose another name for --out.")
    check_writable(out.absolute().parent)
    if not out.exists() and not out.is_symlink():
        return
    if any(same_file(out, path) for path in inputs):
        raise UserError(f"{out} is one of the files that would be read.", "Choose another name for --out.")
    if not is_ours(out):
        raise UserError(f"{out} exists and was not made by sdlora.", "Choose another name for --out, or move that file away.")


def check_pictures(out: Path, names: Iterable[str], inputs: Iterable[Path | None] = ()) -> None:
    """As `check_out`, for pictures that will be written into the folder `out` under these names."""
    check_out(out, suffix="")
    for path in (out / name for name in names):
        if not path.exists() and not path.is_symlink():
            continue
        if any(same_file(path, each) for each in inputs if each):
            raise UserError(f"{path} is one of the pictures that would be read.", "Choose another folder for --out.")
        if not is_our_picture(path):
            raise UserError(f"{path} exists and was not drawn by sdlora.", "Choose another folder for --out, or move it away.")


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file; names that differ in case only may, on some disks."""
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def is_ours(path: Path) -> bool:
    """Return whether sdlora wrote a LoRA or the zip of one."""
    from sdlora.lora.formats.header import header
    from sdlora.lora.tools.card import MADE_BY

    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.comment == MADE_BY
        except (OSError, zipfile.BadZipFile):
            return False
    try:
        return any(key.startswith("sdlora_") for key in header(path).metadata)
    except UserError:
        return False


def is_our_picture(path: Path) -> bool:
    """Return whether sdlora drew a picture: it says so in its text."""
    from sdlora.draw.infotext.picture import read_infotext

    try:
        return "sdlora" in str(read_infotext(path).get("version", ""))
    except UserError:
        return False


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    images: Annotated[Path, typer.Argument(help="Folder or zip of pictures and captions")],
    trigger: Annotated[str, typer.Option(help="The word that calls the style")] = "",
    default_caption: Annotated[str, typer.Option(help="Caption of pictures that have none")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text")] = False,
) -> None:
    """Show what would be kept, skipped and cropped, and the captions that training would read."""
    from sdlora.dataset.crop import crop_box, cut_share
    from sdlora.dataset.folder import read_dataset

    dataset = read_dataset(images, trigger=trigger, default_caption=default_caption)
    kept = [{"name": e.name, "path": str(e.path), "caption": e.caption, "repeats": e.repeats, "digest": e.digest,
             "width": e.width, "height": e.height, "crop": list(crop_box(e.width, e.height)),
             "cut": round(cut_share(e.width, e.height), 4)} for e in dataset.examples]
    skipped = [{"name": s.name, "reason": s.reason} for s in dataset.skipped]
    if as_json:
        print(json.dumps({"kept": kept, "skipped": skipped, "notes": list(dataset.notes)}))
        return
    print(f"Kept: {len(kept)}")
    for entry in kept:
        left, top, right, bottom = entry["crop"]
        cut = f", {entry['cut']:.0%} cut off: ({left}, {top}) to ({right}, {bottom}) is used" if entry["cut"] else ""
        times = f", {entry['repeats']} times an epoch" if entry["repeats"] > 1 else ""
        print(f"  {entry['name']}  {entry['width']} x {entry['height']} px{cut}{times}\n    {entry['caption'] or '(no caption)'}")
    if skipped:
        print(f"Skipped: {len(skipped)}")
    for entry in skipped:
        print(f"  {entry['reason']}")
    for note in dataset.notes:
        print(f"Note: {note}")
