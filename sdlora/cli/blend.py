"""`sdlora blend`, `bake` and `extract`: LoRAs made of LoRAs, bases of LoRAs, LoRAs of bases. Knows nothing about tensors."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sdlora.cli.common import (
    Format,
    JsonOption,
    WeightsOption,
    check_out,
    energy_lines,
    lost_lines,
    open_weights,
    print_report,
    progress_bar,
    size_line,
    weights_for,
)
from sdlora.cli.draw import parse_lora
from sdlora.config import LoraChoice, make
from sdlora.errors import UserError

BaseArgument = Annotated[str, typer.Argument(help="The base: mini, a diffusers folder, a .safetensors file or a hub id")]
LoraArguments = Annotated[list[str], typer.Argument(metavar="FILE[:STRENGTH]...", help="LoRAs, as --lora of draw takes them")]


class Method(StrEnum):
    """How a blend becomes one LoRA."""
    concat = "concat"
    svd = "svd"
    ties = "ties"
    dare = "dare"
    dare_ties = "dare-ties"


def register(app: typer.Typer) -> None:
    for command in (blend, bake, extract):
        app.command()(command)


def blend(
    loras: LoraArguments,
    out: Annotated[Path, typer.Option(help="The LoRA to write")],
    method: Annotated[Method, typer.Option(help="concat: exact, the ranks add up; svd: in --rank ranks; "
                                                "ties, dare, dare-ties: experimental, in --rank ranks")] = Method.concat,
    rank: Annotated[int | None, typer.Option(help="Ranks of the new LoRA; default: the largest of the LoRAs")] = None,
    density: Annotated[float, typer.Option(help="Share of each LoRA that ties and dare keep")] = 0.5,
    seed: Annotated[int, typer.Option(help="Which share dare keeps")] = 0,
    base: WeightsOption = None,
    dtype: Annotated[Format, typer.Option(help="fp32 keeps a blend exact")] = Format.fp32,
    as_json: JsonOption = False,
) -> None:
    """Write a blend as one new LoRA that draws what the blend draws."""
    from sdlora.lora.math.ties import Thinning
    from sdlora.lora.tools.convert import merge_files

    chosen = choices(loras)
    check_out(out, [Path(choice.file) for choice in chosen])
    weights = weights_for(base, *(Path(choice.file) for choice in chosen))
    report = merge_files(chosen, out, method=method.value, rank=rank, dtype=dtype.value, weights=weights,
                         thinning=Thinning(density, seed))
    exact = "  the exact sum of the blend" if not report["lost"] else "  the sum of the blend"
    print_report(report, [size_line(report), *([exact] if method is Method.concat else energy_lines(report)),
                          *lost_lines(report, dtype.value), *note_lines(report)], as_json)


def note_lines(report: dict[str, Any]) -> list[str]:
    return [f"  ! {note}" for note in report["notes"]]


def bake(
    base: BaseArgument,
    loras: LoraArguments,
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
    with progress_bar("Baking", as_json) as update:
        report: dict[str, Any] = baking.bake(source, chosen, out, update)
    matched = [f"  {name}  matched {fitting} of {modules}" for name, (fitting, modules) in report["matched"].items()]
    print_report(report, [f"{out}: {report['weights']} weights changed", *matched, *note_lines(report)], as_json)


def extract(
    base: BaseArgument,
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
    from sdlora.lora.math import low_rank
    from sdlora.lora.tools.convert import extracted_file

    before, after = open_weights(base), open_weights(tuned)
    check_out(out, [before.path, after.path])
    if before.family != after.family:
        raise UserError(f"{base} is of the family {before.family}, and {tuned} of {after.family}.", "Choose two of one family.")
    recipe = {"base": catalog.identity(before.path), "tuned": catalog.identity(after.path), "rank": rank, "keep": keep}
    with progress_bar("Comparing", as_json) as update:
        found = low_rank.extract(before, after, family_table(before.family), low_rank.Limit(rank, keep), whole=whole,
                                 progress=update)
    report: dict[str, Any] = extracted_file(found, out, before.family, recipe, dtype.value)
    lines = [size_line(report), *energy_lines(report), *lost_lines(report, dtype.value)]
    if report["elsewhere"]:
        kept = "norms and biases are in the file" if whole else "they are left out (--whole keeps norms and biases)"
        lines.append(f"  ! {report['elsewhere']:.2%} of the difference lies in norms, biases and embeddings: {kept}.")
    print_report(report, lines, as_json)


def choices(texts: list[str]) -> list[LoraChoice]:
    """Return the arguments as LoraChoices. Raises UserError."""
    return [make(LoraChoice, parse_lora(text)) for text in texts]
