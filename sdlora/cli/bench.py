"""`sdlora bench ...`: our speed beside others' on this machine. Knows nothing about how it is measured."""

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdlora.cli import bench_style
from sdlora.cli.common import JsonOption, print_report
from sdlora.errors import UserError

if TYPE_CHECKING:
    from sdlora.bench import switch as switching
    from sdlora.bench import train as training

UNSTEADY = 1.3  # slow rounds beside fast ones


class SwitchModel(StrEnum):
    mini, sd15, sdxl, all = "mini", "sd15", "sdxl", "all"


bench = typer.Typer(help="Measure sdlora's speed beside other programs' on this machine.", no_args_is_help=True)
bench_style.register(bench)


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
