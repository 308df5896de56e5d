"""`sdlora inspect`, `convert`, `resize` and `share`: one LoRA file, read, rewritten or packed. Knows nothing about tensors."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sdlora import __version__
from sdlora.cli.common import (
    Format,
    JsonOption,
    LoraArgument,
    WeightsOption,
    check_out,
    energy_lines,
    lost_lines,
    open_weights,
    print_report,
    span,
    weights_for,
)
from sdlora.errors import UserError

BAR_LENGTH = 40  # characters of the longest bar


class Form(StrEnum):
    """The dialects that are written."""
    kohya = "kohya"
    diffusers = "diffusers"


def register(app: typer.Typer) -> None:
    for command in (inspect, convert, resize, share):
        app.command()(command)


def inspect(
    file: LoraArgument,
    base: Annotated[str | None, typer.Option(help="Compare with this base: mini, a folder, a file or a hub id")] = None,
    as_json: JsonOption = False,
) -> None:
    """Report what a LoRA file holds: kind, family, rank, strength, how many modules fit, and what is wrong with it."""
    from sdlora.base import catalog
    from sdlora.lora.formats.metadata import file_hashes
    from sdlora.lora.tools.report import inspect as inspect_file

    path = catalog.resolve(base) if base else None
    weights = open_weights(base) if base else None
    mini = path if path and weights and weights.family == "mini" else catalog.resolve("mini")
    report = inspect_file(file, path, weights=weights, identity=catalog.identity(mini)) | {"hashes": file_hashes(file)}
    print_report(report, inspect_lines(file.name, report), as_json)


def inspect_lines(name: str, report: dict[str, Any]) -> list[str]:
    """Format the report as lines, with the relative norm of every block as a bar."""
    parts = ", ".join(f"{part} {count['matched']}/{count['modules']}" for part, count in report["parts"].items())
    ranks = report["rank"] if len(report["ranks"]) == 1 else f"{report['ranks'][0]} to {report['rank']}"
    lines = [f"{name}: {report['kind']}, {report['spelling']} spelling, {report['file_bytes'] / 1e6:.2f} MB",
             f"matched {report['matched']} of {report['modules']} ({parts})",
             f"family {value_text(report['family']) or 'none that sdlora knows'}, rank {ranks}, "
             f"alpha {value_text(report['alpha'])}, effective scale {value_text(report['effective_scale'])}"]
    if report["matched"]:
        against = "the weights" if report["push_against"] == "weights" else "weights of typical size"
        lines.append(f"push {four_digits(report['push'])} of {against}")
    most = max((block["push"] for block in report["blocks"].values()), default=0.0)
    for block, size in report["blocks"].items():
        bar = "#" * round(BAR_LENGTH * size["push"] / most) if most else ""
        lines.append(f"  {block:<6} {four_digits(size['push']):<8} {bar}".rstrip())
    lines.append(f"AutoV2 {report['hashes']['AutoV2']}, AutoV3 {report['hashes']['AutoV3']}")
    if report["trigger"]:
        lines.append(f"trigger {report['trigger']}")
    return lines + [f"! {problem}" for problem in report["problems"]]


def four_digits(value: float) -> str:
    """Format a number with four decimals, a large one with four digits."""
    return f"{value:.4{'f' if value < 1000 else 'g'}}"


def value_text(value: str | float | list[Any]) -> str:
    """Format a number or name, or the range of several."""
    if isinstance(value, list):
        return " or ".join(value) if value and isinstance(value[0], str) else f"{value[0]:g} to {value[-1]:g}" if value else ""
    return value if isinstance(value, str) else f"{value:g}"


def convert(
    file: LoraArgument,
    out: Annotated[Path, typer.Option(help="The file to write")],
    to: Annotated[Form | None, typer.Option(help="kohya: A1111, Forge, ComfyUI, InvokeAI; default: the form it has")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Everything as plain LoRA, DoRA and other kinds too")] = False,
    base: WeightsOption = None,
    rank: Annotated[int | None, typer.Option(help="Most ranks of what has to be approximated (128)")] = None,
    keep: Annotated[float | None, typer.Option(help="Energy to retain of what has to be approximated (0.99)")] = None,
    dtype: Annotated[Format | None, typer.Option(help="Default: every tensor keeps its own")] = None,
    strip: Annotated[bool, typer.Option("--strip", help="Leave out private metadata: paths, captions, names of folders")] = False,
    author: Annotated[str | None, typer.Option(help="Who made it")] = None,
    licence: Annotated[str | None, typer.Option("--licence", "--license", help="On what terms it may be used")] = None,
    consent: Annotated[str | None, typer.Option(help="Whose pictures it was trained on, and that they agreed")] = None,
    note: Annotated[str | None, typer.Option(help="Anything else")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a LoRA in another form without loss, or the same form with other metadata, and say what happened."""
    from sdlora.lora.formats import layout, metadata
    from sdlora.lora.formats.writing import rewrite

    check_out(out, [file])
    source, report = file, {"file": str(file), "out": str(out)}
    if to or plain or dtype or rank is not None or keep is not None:
        from sdlora.lora.formats import reading as lora_file
        from sdlora.lora.math.low_rank import Limit
        from sdlora.lora.tools.convert import USUAL, convert_file

        dialect = to.value if to else "diffusers" if lora_file.read(file).dialect == "diffusers" else "kohya"
        limit = Limit(USUAL.rank if rank is None else rank, USUAL.keep if keep is None else keep)
        report = convert_file(file, out, dialect, plain=plain, dtype=dtype.value if dtype else None, limit=limit,
                              weights=weights_for(base, file))
        source = out
    old = layout.standalone_metadata(source)
    hidden = metadata.private(old)
    new = metadata.with_fields(metadata.stripped(old) if strip else old, author=author, licence=licence, consent=consent,
                               note=note)
    new = {"sdlora_version": __version__} | new
    if new != old or source == file:
        rewrite(source, out, new)
    report |= {"private": hidden, "stripped": strip}
    print_report(report, convert_lines(report), as_json)


def convert_lines(report: dict[str, Any]) -> list[str]:
    """Format the report of a conversion as lines."""
    lines = [f"{report['out']} was written."]
    if "dialect" in report:
        off = report["difference"]
        same = "the same to the bit" if off == 0 else f"differs by {off:.1e} of its size at most" if off else "approximated"
        lines += [f"  modules  {report['modules_out']} of {report['modules_in']}, {report['dialect']} form; {report['alpha']}",
                  f"  change   {same}"]
        if report["approximated"]:
            lines.append(f"  approximated  {len(report['approximated'])} modules by SVD, which keeps "
                         f"{min(report['approximated'].values()):.1%} of the energy or more")
        if report["left_out"]:
            lines.append(f"  ! left out: {', '.join(report['left_out'][:4])}{' ...' if len(report['left_out']) > 4 else ''}")
        lines += [f"  ! {problem}" for problem in report["problems"]]
    verb = "left out" if report["stripped"] else "private, kept (--strip leaves it out)"
    return lines + [f"  {key}: {why}; {verb}" for key, why in report["private"].items()]


def resize(
    file: LoraArgument,
    out: Annotated[Path, typer.Option(help="The file to write")],
    rank: Annotated[int | None, typer.Option(help="This many ranks everywhere")] = None,
    keep: Annotated[float | None, typer.Option(help="As many ranks as keep this share of the energy, such as 0.98")] = None,
    fro: Annotated[float | None, typer.Option(help="As many ranks as keep the Frobenius error below this, such as 0.05")] = None,
    base: WeightsOption = None,
    dtype: Annotated[Format | None, typer.Option(help="Default: that of the file")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a LoRA smaller by the best approximation of fewer ranks, and say what each block keeps."""
    if sum(value is not None for value in (rank, keep, fro)) != 1:
        raise UserError("How small should it be?", "Give one of --rank 16, --keep 0.98 and --fro 0.05.")
    check_out(out, [file])
    from sdlora.lora.math.low_rank import Limit
    from sdlora.lora.tools.convert import resize_file

    report: dict[str, Any] = resize_file(file, out, Limit(rank, keep, fro), dtype=dtype.value if dtype else None,
                                         weights=weights_for(base, file))
    first = (f"{out}: {report['bytes_in'] / 1e6:.2f} MB before, {report['bytes_out'] / 1e6:.2f} MB now; "
             f"ranks {span(report['ranks_before'])} before, {span(report['ranks_after'])} now")
    lost = lost_lines(report, dtype.value if dtype else "its number format")
    print_report(report, [first, *energy_lines(report), *lost], as_json)


def share(
    file: LoraArgument,
    out: Annotated[Path, typer.Option(help="The zip to write")],
    picture: Annotated[list[Path] | None, typer.Option(help="A picture to go along, the first as cover")] = None,
    base_model: Annotated[str, typer.Option(help="The hub id of the base, for the card; default: the family's usual one")] = "",
    keep_private: Annotated[bool, typer.Option("--keep-private", help="Leave all metadata as it is, the pictures' too")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pack a LoRA with its card, its sidecars and pictures; private metadata is left out."""
    from sdlora.dataset.picture import open_picture
    from sdlora.lora.formats import layout, metadata
    from sdlora.lora.formats.header import NAN
    from sdlora.lora.formats.writing import rewrite
    from sdlora.lora.tools import card
    from sdlora.lora.tools.report import summary

    check_out(out, [file, *(picture or [])], ".zip")
    facts: dict[str, Any] = summary(file)
    if facts["burnt"]:
        raise UserError(f"{file.name} is broken: {NAN.format(module=facts['burnt'][0])}",
                        "Share an earlier checkpoint of it.")
    old = layout.standalone_metadata(file)
    hidden = metadata.private(old)
    new = old if keep_private else metadata.stripped(old)
    images = [open_picture(path) for path in picture or []]
    if images and "modelspec.thumbnail" not in old:
        new = new | {"modelspec.thumbnail": metadata.data_url(images[0])}
    with tempfile.TemporaryDirectory() as folder:
        pictures = [(path, prompt_of(path)) for path in picture or []]
        if not keep_private:  # a photograph holds where it was taken, a drawing how it was made
            pictures = [(Path(folder) / f"{number}.png", prompt) for number, (_, prompt) in enumerate(pictures)]
            for image, (path, _) in zip(images, pictures, strict=True):
                image.save(path)
        copy = rewrite(file, Path(folder) / file.name, new)
        card.pack(copy, out, pictures, base_model)
    verb = "went along" if keep_private else "left out"
    report = {"out": str(out), "bytes_out": out.stat().st_size, "private": hidden, "stripped": not keep_private,
              "problems": facts["problems"]}
    lines = [f"{out}: {file.name}, its card, its sidecars and {len(pictures)} pictures, {out.stat().st_size / 1e6:.2f} MB",
             *(f"  {key}: {why}; {verb}" for key, why in hidden.items()), *(f"! {problem}" for problem in facts["problems"])]
    print_report(report, lines, as_json)


def prompt_of(picture: Path) -> str:
    """Return the prompt a picture was drawn from; "" for one without (a photograph, say)."""
    from sdlora.draw.infotext.picture import read_infotext

    try:
        return str(read_infotext(picture).get("prompt", ""))
    except UserError:
        return ""
