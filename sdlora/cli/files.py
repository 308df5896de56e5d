"""`sdlora check`: what training would make of a folder or zip of pictures, without training. Knows nothing about bases."""

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(check)


def check(
    images: Annotated[Path, typer.Argument(help="Folder or zip of pictures and captions")],
    trigger: Annotated[str, typer.Option(help="The word that calls the style")] = "",
    default_caption: Annotated[str, typer.Option(help="Caption of pictures that have none")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text")] = False,
) -> None:
    """Show what would be kept, skipped and cropped, and the captions that training would read."""
    from sdlora.dataset.buckets import crop_box, cut_share
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
        times = f", {entry['repeats']} times a round" if entry["repeats"] > 1 else ""
        print(f"  {entry['name']}  {entry['width']} x {entry['height']} px{cut}{times}\n    {entry['caption'] or '(no caption)'}")
    if skipped:
        print(f"Skipped: {len(skipped)}")
    for entry in skipped:
        print(f"  {entry['reason']}")
    for note in dataset.notes:
        print(f"Note: {note}")
