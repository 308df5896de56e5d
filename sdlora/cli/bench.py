"""`sdlora bench ...`: our speed beside others' on this machine. Knows nothing about how it is measured."""

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdlora.cli.common import JsonOption, check_out, print_report
from sdlora.errors import UserError

if TYPE_CHECKING:
    from sdlora.bench import switch as switching
    from sdlora.bench import train as training
    from sdlora.bench.curves import Curve
    from sdlora.mini.strangers import Stranger

UNSTEADY = 1.3  # slow rounds beside fast ones


class SwitchModel(StrEnum):
    mini, sd15, sdxl, all = "mini", "sd15", "sdxl", "all"


bench = typer.Typer(help="Measure sdlora's speed beside other programs' on this machine.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(bench, name="bench")


@bench.command()
def train(
    arguments: Annotated[list[str] | None, typer.Argument(
        help="After --: arguments of --script; {base} {pictures} {out} {batch} {rank} are filled in")] = None,
    base: Annotated[str, typer.Option(help="mini, a diffusers folder or file; sd15, sdxl: true shape, random weights")] = "mini",
    batch: Annotated[int | None, typer.Option(min=1, max=64, help="Pictures in one step; 4, with --full 1")] = None,
    rank: Annotated[int, typer.Option(min=1, max=128, help="Rank of the LoRA")] = 16,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Measurements of each side; their median counts")] = 20,
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads of ours and of PEFT's")] = 2,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu")] = "cpu",
    full: Annotated[bool, typer.Option("--full", help="SD 1.5 at 512 px and SDXL at 1024 px, random weights: for a GPU")] = False,
    script: Annotated[Path | None, typer.Option(help="Measure this training script beside ours instead of PEFT's layers")] = None,
    python: Annotated[str, typer.Option(help="The Python that runs --script")] = sys.executable,
    pictures: Annotated[Path | None, typer.Option(help="Folder of pictures for --script; the stained-glass examples")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per case")] = False,
) -> None:
    """Seconds per training step: ours, the same with PEFT's layers, and two forwards (the floor), or ours beside a script."""
    from sdlora.bench.train import TRAINED_PX, Case, measure, measure_script, shipped_pictures

    if arguments and not script:
        raise UserError("There are arguments for a script, but no --script.", "Name the script: --script PATH -- ARGUMENTS")
    case = Case(base, device, batch or (1 if full else 4), rank, threads)
    if script:
        case = replace(case, pictures=str((pictures or shipped_pictures()).resolve()))
        print_result(measure_script(case, script, arguments or [], rounds=rounds, python=python), script_lines, as_json)
        return
    for model in TRAINED_PX if full else [base]:
        print_result(measure(replace(case, model=model), rounds), step_lines, as_json)


def print_result(result: Any, lines: Callable[[Any], list[str]], as_json: bool) -> None:
    """Format one result as JSON or as lines, with a sentence where the machine was busy."""
    print_report(asdict(result), lines(result), as_json)
    if result.spread > UNSTEADY:
        typer.echo(f"The slow rounds took {result.spread:.1f} times as long as the fast ones: the machine was busy.", err=True)


def step_lines(result: "training.Result") -> list[str]:
    lines = [f"{result.model}, batch {result.batch}, {result.device}, {result.threads} threads, median of {result.rounds} rounds",
             f"  two forwards (floor)  {ms(result.floor_s):>10}",
             f"  ours                  {ms(result.ours_s):>10}   {result.ratio_floor:.2f}x of the floor"]
    if result.peft_s is None or result.ratio_peft is None:
        return [*lines, "PEFT is not installed, so its layers were not measured. Get it with: pip install \"sdlora[test]\""]
    return [*lines, f"  with PEFT's layers    {ms(result.peft_s):>10}   {result.peft_s / result.floor_s:.2f}x of the floor, "
                    f"{result.ratio_peft:.2f}x of ours"]


def script_lines(result: "training.ScriptResult") -> list[str]:
    rounds = f"median of {result.rounds} rounds of {result.steps_per_round} steps"
    return [f"{result.model}, batch {result.batch}, {result.device}, {rounds}",
            f"  {'sdlora train':28} {ms(result.ours_s):>10} a step",
            f"  {result.script:28} {ms(result.theirs_s):>10} a step   {result.ratio:.2f}x of ours"]


@bench.command()
def switch(
    model: Annotated[SwitchModel, typer.Option(help="The large ones are full-size with random weights: sdxl takes 12 GB")]
        = SwitchModel.mini,
    rounds: Annotated[int | None, typer.Option(min=1, max=1000, help="Measurements of each side; their median counts")] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per model")] = False,
) -> None:
    """Load, switch and blend LoRAs: ours, and diffusers with PEFT on the same base, in turn."""
    from sdlora.bench.switch import MODELS, NO_PEFT, measure

    for name in MODELS if model is SwitchModel.all else [model.value]:
        result = measure(name, rounds=rounds, device=device)
        if result.peft_load_s is None:
            typer.echo(NO_PEFT, err=True)
        print_report(asdict(result), switch_lines(result), as_json)


def switch_lines(result: "switching.Result") -> list[str]:
    """Format a result of bench.switch as lines: what was measured, ours, PEFT's, how many times as fast."""
    rows = [("", "ours", "PEFT", ""),
            ("load a file", ms(result.load_s), ms(result.peft_load_s), times(result.load_ratio)),
            ("switch, fused", ms(result.switch_s), ms(result.peft_switch_s), times(result.switch_ratio)),
            ("switch, set_adapters", "", ms(result.peft_set_s), ""),
            ("blend of 2", ms(result.blend2_s), "", ""), ("blend of 5", ms(result.blend5_s), "", ""),
            ("first step after a load", ms(result.first_step_s), "", ""),
            ("a step with 5 / with none", times(result.step5_ratio), times(result.peft_step5_ratio), "")]
    return [f"{result.model}, {result.modules} modules, {result.dtype} on {result.device}, {result.threads} threads, "
            f"median of {result.rounds} rounds",
            *(f"  {title:26} {ours:>10} {peft:>10} {ratio:>8}".rstrip() for title, ours, peft, ratio in rows),
            f"  a switch reaches {result.bandwidth_share:.0%} of the speed of copying the weights it changes",
            f"  {result.dtype} loses {result.rounding_error:.2%} of the change of these LoRAs at strength 1"]


def ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.1f} ms"


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


@bench.command()
def style(
    base: Annotated[str, typer.Option(help="mini, or a base folder of its family")] = "mini",
    preset: Annotated[str | None, typer.Option(help="quick, normal or thorough; default: normal, with --fast quick")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated")] = None,
    styles: Annotated[str, typer.Option(help="Names separated by commas; default: the first six")] = "",
    final: Annotated[bool, typer.Option("--final", help="The other six, kept for the final table")] = False,
    seeds: Annotated[int, typer.Option(min=1, max=20, help="Trainings of each style, each on other pictures")] = 1,
    curves: Annotated[bool, typer.Option("--curves", help="Measure every checkpoint too, and plot: twice as long")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="One style, quick, few prompts: minutes on a laptop")] = False,
    out: Annotated[Path, typer.Option(help="Folder for pictures, LoRA files and sheets")] = Path("bench-style"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per style, and the mean")] = False,
) -> None:
    """How well styles are learned that the base never saw: style, content, copying, drift, diversity, time."""
    from sdlora.base.load import load_base
    from sdlora.bench.style import Case, measure, summary

    chosen = chosen_styles(styles, final)[: 1 if fast else None]
    arguments = tuple(part for pair in sets or [] for part in ("--set", pair))
    case = Case(base, preset or ("quick" if fast else "normal"), arguments, curves=curves, **({"prompts": 8} if fast else {}))
    check_out(out, suffix="")
    opened, results, found = load_base(base, "cpu"), [], []
    if not as_json:
        typer.echo(f"| {' | '.join(STYLE_COLUMNS.values())} |\n|{'---|' * len(STYLE_COLUMNS)}")
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


def whole(value: float | None) -> str:
    """Format a score or a number; what was not measured is a dash."""
    return "–" if value is None else f"{value:.0f}"


@bench.command()
def alternatives(
    base: Annotated[str, typer.Option(help="mini, or a base folder of its family")] = "mini",
    preset: Annotated[str, typer.Option(help="quick, normal or thorough")] = "normal",
    styles: Annotated[str, typer.Option(help="Names separated by commas; default: the first six")] = "",
    final: Annotated[bool, typer.Option("--final", help="The other six, kept for the final table")] = False,
    out: Annotated[Path, typer.Option(help="Folder for pictures and LoRA files")] = Path("bench-alternatives"),
    as_json: JsonOption = False,
) -> None:
    """LoRA beside full fine-tuning, prompt engineering and prompt tuning on the same pictures: quality, cost, size."""
    from sdlora.base.load import load_base
    from sdlora.bench.alternatives import measure

    check_out(out, suffix="")
    if not as_json:
        typer.echo(f"| style | {' | '.join(WAYS)} |\n|{'---|' * (len(WAYS) + 1)}")
    for name, result in measure(load_base(base, "cpu"), preset, chosen_styles(styles, final), out):
        cells = [result.method, whole(result.style_fine), whole(result.style_coarse), f"{result.content:.2f}",
                 f"{result.drift:.2f}", whole(result.seconds), f"{result.numbers:,}", f"{result.file_bytes / 1e6:.3f}",
                 result.detail]
        print_report({"style": name, **asdict(result)}, [f"| {name} | {' | '.join(cells)} |"], as_json)


WAYS = ("method", "fine", "coarse", "content", "drift", "seconds", "numbers trained", "file MB", "how")


@bench.command()
def paintings(
    base: Annotated[str, typer.Option(help="mini, or a base folder of its family")] = "mini",
    preset: Annotated[str, typer.Option(help="quick, normal or thorough")] = "quick",
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated")] = None,
    out: Annotated[Path, typer.Option(help="Folder for pictures, LoRA files and sheets")] = Path("bench-paintings"),
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


@bench.command()
def ruler(
    base: Annotated[str, typer.Option(help="mini, or a base folder of its family")] = "mini",
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


@bench.command()
def library(
    files: Annotated[int, typer.Option(min=10, max=100_000, help="LoRA files on the shelf that is measured")] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Time a shelf of thousands of files: first scan, later start, search. They are made in a temporary folder and removed."""
    from sdlora.bench.library import measure

    result = measure(files)
    lines = [f"{result.files} files ({result.files_mb:.0f} MB of headers and sidecars), {result.problems} not understood",
             f"  first scan    {result.scan_s:7.1f} s    {result.scan_memory_mb:.0f} MB of memory",
             f"  later start   {result.restart_s:7.2f} s    {result.restart_memory_mb:.0f} MB of memory, "
             f"index {result.index_mb:.0f} MB",
             f"  search        {result.search_ms:7.1f} ms   at worst {result.search_worst_ms:.1f} ms, "
             f"a page of all {result.page_ms:.1f} ms"]
    print_report(asdict(result), lines, as_json)
