"""`sdlora blend`, `bake` and `extract`: LoRAs made of LoRAs, bases of LoRAs, LoRAs of bases. Knows nothing about tensors."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from sdlora.cli.convert import BaseOption, Format, JsonOption, opened_weights, show_energy, show_lost, span
from sdlora.cli.draw import parse_lora
from sdlora.cli.files import check_out
from sdlora.config import LoraChoice, make
from sdlora.errors import UserError

Chosen = Annotated[list[str], typer.Argument(metavar="FILE[:STRENGTH]...", help="LoRAs, as --lora of draw takes them")]


class Method(StrEnum):
    """How a blend becomes one LoRA."""
    concat = "concat"
    svd = "svd"
    ties = "ties"
    dare = "dare"
    dare_ties = "dare-ties"


def register(app: typer.Typer) -> None:
    app.command()(blend)
    app.command()(bake)
    app.command()(extract)


def blend(
    loras: Chosen,
    out: Annotated[Path, typer.Option(help="The LoRA to write")],
    method: Annotated[Method, typer.Option(help="concat: exact, the ranks add up; svd: in --rank ranks; "
                                                "ties, dare, dare-ties: experimental, in --rank ranks")] = Method.concat,
    rank: Annotated[int | None, typer.Option(help="Ranks of the new LoRA; default: the largest of the LoRAs")] = None,
    density: Annotated[float, typer.Option(help="Share of each LoRA that ties and dare keep")] = 0.5,
    seed: Annotated[int, typer.Option(help="Which share dare keeps")] = 0,
    base: BaseOption = None,
    dtype: Annotated[Format, typer.Option(help="fp32 keeps a blend exact")] = Format.fp32,
    as_json: JsonOption = False,
) -> None:
    """Write a blend as one new LoRA that draws what the blend draws."""
    from sdlora.lora.math.ties import Thinning
    from sdlora.lora.tools.convert import merge_files

    chosen = choices(loras)
    check_out(out, [Path(choice.file) for choice in chosen])
    weights = opened_weights(base, *(Path(choice.file) for choice in chosen))
    report = merge_files(chosen, out, method=method.value, rank=rank, dtype=dtype.value, weights=weights,
                         thinning=Thinning(density, seed))
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    typer.echo(f"{out}: {report['modules']} modules, rank {span(report['ranks'])}, {report['bytes_out'] / 1e6:.2f} MB")
    if method is Method.concat:
        typer.echo("  the exact sum of the blend" if not report["lost"] else "  the sum of the blend")
    else:
        show_energy(report)
    show_lost(report, dtype.value)
    for note in report["notes"]:
        typer.echo(f"  ! {note}")


def bake(
    base: Annotated[str, typer.Argument(help="The base: mini, a diffusers folder, a .safetensors file or a hub id")],
    loras: Chosen,
    out: Annotated[Path, typer.Option(help="The copy to write: a folder of a folder, a file of a file")],
    as_json: JsonOption = False,
) -> None:
    """Write a copy of a base with a blend of LoRAs in its weights."""
    from sdlora.base import catalog
    from sdlora.draw import bake as baking

    source, chosen = catalog.resolve(base), choices(loras)
    baking.check_form(source, out)
    if source.is_file():
        check_out(out, [source, *(Path(choice.file) for choice in chosen)])
    with Progress(transient=True, disable=as_json) as progress:
        bar = progress.add_task("Baking", total=None)
        report = baking.bake(source, chosen, out,
                             lambda done, of: progress.update(bar, completed=done, total=of))
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    typer.echo(f"{out}: {report['weights']} weights changed")
    for name, (there, of) in report["matched"].items():
        typer.echo(f"  {name}  matched {there} of {of}")
    for note in report["notes"]:
        typer.echo(f"  ! {note}")


def extract(
    base: Annotated[str, typer.Argument(help="The base: mini, a diffusers folder, a .safetensors file or a hub id")],
    tuned: Annotated[str, typer.Argument(help="A model trained from it, in either form")],
    out: Annotated[Path, typer.Option(help="The LoRA to write")],
    rank: Annotated[int, typer.Option(help="Most ranks of each module")] = 64,
    keep: Annotated[float | None, typer.Option(help="Fewer ranks where they keep this share of the energy")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Norms and biases too, as plain differences (kohya form)")] = False,
    dtype: Annotated[Format, typer.Option()] = Format.fp16,
    as_json: JsonOption = False,
) -> None:
    """Write the difference of two models as a LoRA, and say how much of it the LoRA holds."""
    from sdlora.base import catalog
    from sdlora.lora.formats.module_tables import family_table
    from sdlora.lora.math import extract as extraction
    from sdlora.lora.math.low_rank import Limit
    from sdlora.lora.tools.convert import extracted_file

    before, after = opened_weights(base), opened_weights(tuned)
    check_out(out, [before.path, after.path])
    if before.family != after.family:
        raise UserError(f"{base} is of the family {before.family}, and {tuned} of {after.family}.", "Choose two of one family.")
    recipe = {"base": catalog.identity(before.path), "tuned": catalog.identity(after.path), "rank": rank, "keep": keep}
    with Progress(transient=True, disable=as_json) as progress:
        bar = progress.add_task("Comparing", total=None)
        found = extraction.extract(before, after, family_table(before.family), Limit(rank, keep), whole=whole,
                                   progress=lambda done, of: progress.update(bar, completed=done, total=of))
    report = extracted_file(found, out, before.family, recipe, dtype.value)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    typer.echo(f"{out}: {report['modules']} modules, rank {span(report['ranks'])}, {report['bytes_out'] / 1e6:.2f} MB")
    show_energy(report)
    show_lost(report, dtype.value)
    if report["elsewhere"]:
        kept = "norms and biases are in the file" if whole else "they are left out (--whole keeps norms and biases)"
        typer.echo(f"  ! {report['elsewhere']:.2%} of the difference lies in norms, biases and embeddings: {kept}.")


def choices(texts: list[str]) -> list[LoraChoice]:
    """What was typed as LoraChoices. Raises UserError."""
    return [make(LoraChoice, parse_lora(text)) for text in texts]
