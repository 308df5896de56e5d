"""`sdlora share FILE`: one zip with everything that goes out with a LoRA. Knows nothing about how cards look."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sdlora.cli.convert import JsonOption
from sdlora.cli.files import check_out
from sdlora.errors import UserError


def register(app: typer.Typer) -> None:
    app.command()(share)


def share(
    file: Annotated[Path, typer.Argument(help="A LoRA (.safetensors)")],
    out: Annotated[Path, typer.Option(help="The zip to write")],
    picture: Annotated[list[Path] | None, typer.Option(help="A picture to go along, the first as cover")] = None,
    base_model: Annotated[str, typer.Option(help="The hub id of the base, for the card; default: the family's usual one")] = "",
    keep_private: Annotated[bool, typer.Option("--keep-private", help="Leave all metadata as it is, the pictures' too")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pack a LoRA with its card, its sidecars and pictures; private metadata stays at home."""
    from sdlora.dataset.picture import open_picture
    from sdlora.lora.formats import layout, metadata
    from sdlora.lora.formats.writing import rewrite
    from sdlora.lora.tools import card
    from sdlora.lora.tools.report import summary

    check_out(out, [file, *(picture or [])], ".zip")
    found = summary(file)
    if found["burnt"]:
        raise UserError(f"{file.name} is a burnt style: {found['burnt'][0]} holds values that are no numbers.",
                        "Share an earlier saved point of it.")
    told = layout.told(file)
    hidden = metadata.private(told)
    new = told if keep_private else metadata.stripped(told)
    images = [open_picture(path) for path in picture or []]
    if images and "modelspec.thumbnail" not in told:
        new = new | {"modelspec.thumbnail": metadata.data_url(images[0])}
    with tempfile.TemporaryDirectory() as folder:
        pictures = [(path, prompt_of(path)) for path in picture or []]
        if not keep_private:                                   # a photograph tells where it was taken, a drawing how it was made
            pictures = [(Path(folder) / f"{number}.png", prompt) for number, (_, prompt) in enumerate(pictures)]
            for image, (path, _) in zip(images, pictures, strict=True):
                image.save(path)
        copy = rewrite(file, Path(folder) / file.name, new)
        card.pack(copy, out, pictures, base_model)
    kept = "went along" if keep_private else "left out"
    report = {"out": str(out), "bytes_out": out.stat().st_size, "private": hidden, "stripped": not keep_private,
              "problems": found["problems"]}
    lines = [f"{out}: {file.name}, its card, its sidecars and {len(pictures)} pictures, {report['bytes_out'] / 1e6:.2f} MB",
             *(f"  {key}: {why}; {kept}" for key, why in hidden.items()), *(f"! {problem}" for problem in found["problems"])]
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(lines))


def prompt_of(picture: Path) -> str:
    """The prompt a picture was drawn from; "" for one that does not say (a photograph, say)."""
    from sdlora.draw.infotext.picture import read_infotext

    try:
        return str(read_infotext(picture).get("prompt", ""))
    except UserError:
        return ""
