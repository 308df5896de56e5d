"""`sdlora bench style ruler recipes alternatives paintings`: how well styles are learned.

Knows nothing about how it is measured.
"""

from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdlora.cli.common import JsonOption, check_out, print_report
from sdlora.errors import UserError

if TYPE_CHECKING:
    from sdlora.bench.curves import Curve
    from sdlora.mini.strangers import Stranger

Base = Annotated[str, typer.Option(help="mini, or a base folder of its family")]
Preset = Annotated[str, typer.Option(help="quick, normal or thorough")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated")]
Styles = Annotated[str, typer.Option(help="Names separated by commas; default: the first six")]
Final = Annotated[bool, typer.Option("--final", help="The other six, kept for the final table")]
Out = Annotated[Path, typer.Option(help="Folder for pictures, LoRA files and sheets")]


def register(bench: typer.Typer) -> None:
    for command in (style, ruler, recipes, alternatives, paintings):
        bench.command()(command)


def style(
    base: Base = "mini",
    preset: Annotated[str | None, typer.Option(help="quick, normal or thorough; default: normal, with --fast quick")] = None,
    sets: Sets = None,
    styles: Styles = "",
    final: Final = False,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Trainings of each style, each on other pictures")] = 1,
    curves: Annotated[bool, typer.Option("--curves", help="Measure every checkpoint too, and plot: twice as long")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="One style, quick, few prompts: minutes on a laptop")] = False,
    out: Out = Path("bench-style"),
    as_json: JsonOption = False,
) -> None:
    """How well styles are learned that the base never saw: style, content, copying, drift, diversity, time."""
    from sdlora.base.load import load_base
    from sdlora.bench.style import Case, measure, summary

    chosen = chosen_styles(styles, final)[: 1 if fast else None]
    arguments = tuple(part for pair in sets or [] for part in ("--set", pair))
    case = Case(base, preset or ("quick" if fast else "normal"), arguments, curves=curves, **({"prompts": 8} if fast else {}))
    check_out(out, suffix="")
    opened, results, found = load_base(base, "cpu"), [], []
    print_heading(list(STYLE_COLUMNS.values()), as_json)
    for seed in range(1, seeds + 1):
        for result, curve in measure(opened, replace(case, seed=seed), chosen, out):
            results.append(result)
            found += [curve] if curve else []
            print_report(asdict(result), [style_row(asdict(result))], as_json)
    whole = {"style": "mean"} | summary(results)
    print_report(whole, [style_row(whole)], as_json)
    if found:
        print_curves(found, out / "curves.png", as_json)


def print_curves(found: "list[Curve]", path: Path, as_json: bool) -> None:
    """Print whether what the runs said of themselves is true, and plot them."""
    from sdlora.bench.curves import agreement, plot

    gains = [curve.gained for curve in found if curve.gained is not None]
    told = {"style_agreement": agreement(found, "style"), "content_agreement": agreement(found, "content"),
            "suggested_gain": mean(gains) if gains else None, "curves": [asdict(curve) for curve in found]}
    lines = [f"rank correlation of a run's own numbers with the truth: style {two(told['style_agreement'])}, "
             f"content {two(told['content_agreement'])}",
             f"suggested checkpoint against the last one: {two(told['suggested_gain'])} points of style times content"]
    try:
        plot(found, path)
        lines.append(f"plot: {path}")
    except ImportError:
        lines.append("No plot: it needs matplotlib (pip install sdlora[bench]).")
    print_report(told, lines, as_json)


def two(value: float | None) -> str:
    """Format a number with its sign and two decimals; what was not measured is a dash."""
    return "–" if value is None else f"{value:+.2f}"


STYLE_COLUMNS = {"style": "style", "style_fine": "fine", "style_coarse": "coarse", "style_random": "random",
                 "content": "content", "copying": "copying", "drift": "drift", "diversity": "diversity",
                 "time_to_style_s": "style after s", "seconds": "seconds", "pictures_seen": "pictures seen"}


def chosen_styles(text: str, final: bool) -> "list[Stranger]":
    """Return the styles named in `text`, else one of the two halves. Raises UserError for a name that is none."""
    from sdlora.mini.strangers import FINAL_STRANGERS, STRANGERS

    names = [name.strip() for name in text.split(",") if name.strip()]
    by_name = {stranger.name: stranger for stranger in (*STRANGERS, *FINAL_STRANGERS)}
    if unknown := [name for name in names if name not in by_name]:
        raise UserError(f"There is no style {unknown[0]} in the benchmark.", f"There are: {', '.join(by_name)}")
    return [by_name[name] for name in names] or list(FINAL_STRANGERS if final else STRANGERS)


def style_row(result: dict[str, Any]) -> str:
    """Format a result as a row of a Markdown table."""
    shares = ("content", "copying", "drift", "diversity")
    cells = [f"{result[name]:.2f}" if name in shares else whole(result[name]) for name in STYLE_COLUMNS if name != "style"]
    return f"| {' | '.join([result['style'], *cells])} |"


def print_heading(columns: list[str], as_json: bool) -> None:
    """Print the head of a Markdown table."""
    if not as_json:
        typer.echo(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def whole(value: float | None) -> str:
    """Format a score or a number; what was not measured is a dash."""
    return "–" if value is None else f"{value:.0f}"


def alternatives(
    base: Base = "mini",
    preset: Preset = "normal",
    styles: Styles = "",
    final: Final = False,
    out: Out = Path("bench-alternatives"),
    as_json: JsonOption = False,
) -> None:
    """LoRA beside full fine-tuning, prompt engineering and prompt tuning on the same pictures: quality, cost, size."""
    from sdlora.base.load import load_base
    from sdlora.bench.alternatives import measure

    check_out(out, suffix="")
    print_heading(["style", *WAYS], as_json)
    for name, result in measure(load_base(base, "cpu"), preset, chosen_styles(styles, final), out):
        cells = [result.method, whole(result.style_fine), whole(result.style_coarse), f"{result.content:.2f}",
                 f"{result.drift:.2f}", whole(result.seconds), f"{result.numbers:,}", f"{result.file_bytes / 1e6:.3f}",
                 result.detail]
        print_report({"style": name, **asdict(result)}, [f"| {name} | {' | '.join(cells)} |"], as_json)


WAYS = ("method", "fine", "coarse", "content", "drift", "seconds", "numbers trained", "file MB", "how")


def recipes(
    base: Base = "mini",
    preset: Annotated[str, typer.Option(help="Ours: quick, normal or thorough; the others see as many pictures")] = "normal",
    styles: Styles = "",
    final: Final = False,
    out: Out = Path("bench-recipes"),
    as_json: JsonOption = False,
) -> None:
    """Our preset beside what other trainers publish for styles, expressed in our trainer, with equally many pictures seen."""
    from sdlora.base.load import load_base
    from sdlora.bench.recipes import compare

    check_out(out, suffix="")
    print_heading(["recipe", *list(STYLE_COLUMNS.values())[1:], "not expressed"], as_json)
    for recipe, result in compare(load_base(base, "cpu"), preset, chosen_styles(styles, final), out):
        row = style_row({"style": recipe.name, **result})
        print_report({"recipe": recipe.name, "source": recipe.source, **result}, [f"{row} {recipe.left_out or '–'} |"], as_json)


def paintings(
    base: Base = "mini",
    preset: Preset = "quick",
    sets: Sets = None,
    out: Out = Path("bench-paintings"),
    as_json: JsonOption = False,
) -> None:
    """Train eight paintings of unknown things with unknown words: does the style arrive, do known prompts still work?"""
    from sdlora.base.load import load_base
    from sdlora.bench.paintings import measure

    check_out(out, suffix="")
    arguments = tuple(part for pair in sets or [] for part in ("--set", pair))
    for result in measure(load_base(base, "cpu"), preset, arguments, out):
        line = (f"{result.set}: fine {whole(result.style_fine)}, coarse {whole(result.style_coarse)}, "
                f"content {result.content:.2f}, boats {result.boats:.0%}, {result.seconds:.0f} s")
        print_report(asdict(result), [line, *(f"  {sentence}" for sentence in result.verdict)], as_json)


def ruler(
    base: Base = "mini",
    final: Annotated[bool, typer.Option("--final", help="All twelve styles, not only the first six")] = False,
    prompts: Annotated[int, typer.Option(min=2, max=200, help="Held-out prompts of each style")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Prove the ruler of `bench style`: it tells styles apart, and a blur or a palette alone does not win it."""
    from sdlora.base.load import load_base
    from sdlora.bench.proof import cheats, tell_apart
    from sdlora.mini.strangers import FINAL_STRANGERS, STRANGERS

    strangers = (*STRANGERS, *FINAL_STRANGERS) if final else STRANGERS
    auc = tell_apart(strangers, prompts)
    told = ", ".join(f"{name} {value:.3f}" for name, value in auc.items())
    print_report({"auc": auc}, [f"Same style against another (AUC): {told}"], as_json)
    for cheat in cheats(load_base(base, "cpu"), strangers, prompts):
        line = (f"  {cheat.style:10} length {cheat.length:.3f}, fine score of real pictures blurred {whole(cheat.blurred)}, "
                f"of the base's own recoloured {whole(cheat.recoloured)}")
        print_report(asdict(cheat), [line], as_json)
