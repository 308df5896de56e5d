"""`sdlora convert` and `sdlora resize`: a LoRA file in another form, or with fewer ranks. Knows nothing about tensors."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sdlora import __version__
from sdlora.cli.files import check_out
from sdlora.errors import UserError

BaseOption = Annotated[str | None, typer.Option(help="The base, for kinds whose change depends on it")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object")]


class Form(StrEnum):
    """The dialects that are written."""
    kohya = "kohya"
    diffusers = "diffusers"


class Format(StrEnum):
    """Number formats."""
    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"


def register(app: typer.Typer) -> None:
    app.command()(convert)
    app.command()(resize)


def convert(
    file: Annotated[Path, typer.Argument(help="A LoRA (.safetensors)")],
    out: Annotated[Path, typer.Option(help="The file to write")],
    to: Annotated[Form | None, typer.Option(help="kohya: A1111, Forge, ComfyUI, InvokeAI; default: the form it has")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Everything as plain LoRA, DoRA and other kinds too")] = False,
    base: BaseOption = None,
    rank: Annotated[int | None, typer.Option(help="Most ranks of what has to be approximated (128)")] = None,
    keep: Annotated[float | None, typer.Option(help="Energy to retain of what has to be approximated (0.99)")] = None,
    dtype: Annotated[Format | None, typer.Option(help="Default: every tensor keeps its own")] = None,
    strip: Annotated[bool, typer.Option("--strip", help="Leave out private metadata: paths, captions, names of folders")] = False,
    author: Annotated[str | None, typer.Option(help="Who made it")] = None,
    licence: Annotated[str | None, typer.Option("--licence", "--license", help="On what terms it may be used")] = None,
    consent: Annotated[str | None, typer.Option(help="Whose pictures taught it, and that they agreed")] = None,
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
        from sdlora.lora.tools.convert import convert_file
        from sdlora.lora.tools.forms import USUAL

        dialect = to.value if to else "diffusers" if lora_file.read(file).dialect == "diffusers" else "kohya"
        limit = Limit(USUAL.rank if rank is None else rank, USUAL.keep if keep is None else keep)
        report = convert_file(file, out, dialect, plain=plain, dtype=dtype.value if dtype else None, limit=limit,
                              weights=opened_weights(base, file))
        source = out
    told = layout.told(source)
    hidden = metadata.private(told)
    new = metadata.filled(metadata.stripped(told) if strip else told, author=author, licence=licence, consent=consent, note=note)
    new = {"sdlora_version": __version__} | new
    if new != told or source == file:
        rewrite(source, out, new)
    report |= {"private": hidden, "stripped": strip}
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(converted(report)))


def converted(report: dict) -> list[str]:
    """The report of a conversion as lines."""
    lines = [f"{report['out']} was written."]
    if "dialect" in report:
        off = report["difference"]
        same = "the same to the bit" if off == 0 else f"differs by {off:.1e} of its size at most" if off else "approximated"
        lines += [f"  modules  {report['modules_out']} of {report['modules_in']}, {report['dialect']} form; {report['alpha']}",
                  f"  change   {same}"]
        lines += [f"  approximated  {len(report['approximated'])} modules by SVD, which keeps "
                  f"{min(report['approximated'].values()):.1%} of the energy or more"] if report["approximated"] else []
        lines += [f"  ! left out: {', '.join(report['left_out'][:4])}{' ...' if len(report['left_out']) > 4 else ''}"] \
            if report["left_out"] else []
        lines += [f"  ! {problem}" for problem in report["problems"]]
    verb = "left out" if report["stripped"] else "private, kept (--strip leaves it out)"
    return lines + [f"  {key}: {why}; {verb}" for key, why in report["private"].items()]


def resize(
    file: Annotated[Path, typer.Argument(help="A LoRA (.safetensors)")],
    out: Annotated[Path, typer.Option(help="The file to write")],
    rank: Annotated[int | None, typer.Option(help="This many ranks everywhere")] = None,
    keep: Annotated[float | None, typer.Option(help="As many ranks as keep this share of the energy, such as 0.98")] = None,
    fro: Annotated[float | None, typer.Option(help="As many ranks as keep the Frobenius error below this, such as 0.05")] = None,
    base: BaseOption = None,
    dtype: Annotated[Format | None, typer.Option(help="Default: that of the file")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a LoRA smaller by the best approximation of fewer ranks, and say what each block keeps."""
    if sum(value is not None for value in (rank, keep, fro)) != 1:
        raise UserError("How small should it be?", "Give one of --rank 16, --keep 0.98 and --fro 0.05.")
    check_out(out, [file])
    from sdlora.lora.math.low_rank import Limit
    from sdlora.lora.tools.convert import resize_file

    report = resize_file(file, out, Limit(rank, keep, fro), dtype=dtype.value if dtype else None,
                         weights=opened_weights(base, file))
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    typer.echo(f"{out}: {report['bytes_in'] / 1e6:.2f} MB before, {report['bytes_out'] / 1e6:.2f} MB now; "
               f"ranks {span(report['ranks_before'])} before, {span(report['ranks_after'])} now")
    show_energy(report)
    show_lost(report, dtype.value if dtype else "its number format")


def show_lost(report: dict, dtype: str) -> None:
    """What the number format took of the change."""
    if report["lost"]:
        typer.echo(f"  {dtype} loses {report['lost']:.1g} of the change")


def show_energy(report: dict) -> None:
    """The retained energy, of all and block by block."""
    typer.echo(f"  retained energy {report['energy']:.2%} (error {max(0.0, 1 - report['energy']) ** 0.5:.3f})")
    for block, energy in report["blocks"].items():
        typer.echo(f"  {block:<6} {energy:8.2%}")


def span(ends: list[int]) -> str:
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def opened_weights(base: str | None, *files: Path) -> object:
    """The weights of a base by name; where none is named those of mini for `files` made for this mini, else None. UserError."""
    from sdlora.base import catalog
    from sdlora.lora.formats.header import header

    mini = catalog.resolve("mini")
    if base is None and (not files or {header(file).metadata.get("sdlora_base_identity") for file in files}
                         != {catalog.identity(mini)}):
        return None
    from sdlora.base.weights import Weights

    return Weights(catalog.resolve(base) if base else mini)
