"""`sdlora bench ...`: our speed beside others' on this machine. Knows nothing about how it is measured."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

bench = typer.Typer(help="Measure sdlora's speed beside other programs' on this machine.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(bench, name="bench")


@bench.callback()
def group() -> None:
    """Keeps `bench train` a command of its own while it is the only one."""


@bench.command()
def train(
    base: Annotated[str, typer.Option(help="mini, a diffusers folder or a .safetensors file")] = "mini",
    batch: Annotated[int, typer.Option(min=1, max=64, help="Pictures in one step")] = 4,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Steps of each kind; their median counts")] = 40,
    threads: Annotated[int, typer.Option(min=1, max=256, help="CPU threads")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per case")] = False,
) -> None:
    """Seconds per training step: ours, the same with PEFT's layers, and two forwards (the floor), interleaved."""
    from sdlora.bench.train import NO_PEFT, measure

    result = measure(base, batch=batch, rounds=rounds, threads=threads)
    if result.peft_s is None:
        typer.echo(NO_PEFT, err=True)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    typer.echo(f"{result.model}, batch {result.batch}, {result.threads} threads, median of {result.rounds} rounds")
    typer.echo(f"  two forwards (floor)  {result.floor_s * 1000:7.1f} ms")
    typer.echo(f"  ours                  {result.ours_s * 1000:7.1f} ms   {result.ratio_floor:.2f}x of the floor")
    if result.peft_s is not None:
        typer.echo(f"  with PEFT's layers    {result.peft_s * 1000:7.1f} ms   "
                   f"{result.peft_s / result.floor_s:.2f}x of the floor, {result.ratio_peft:.2f}x of ours")


@bench.command()
def library(
    files: Annotated[int, typer.Option(min=10, max=100_000, help="LoRA files on the shelf that is measured")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
) -> None:
    """The shelf with thousands of files: first scan, later start, search. They are made in a temporary folder and removed."""
    from sdlora.bench.library import measure

    result = measure(files)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
        return
    typer.echo(f"{result.files} files ({result.files_mb:.0f} MB of headers and sidecars), {result.problems} not understood")
    typer.echo(f"  first scan    {result.scan_s:7.1f} s    {result.scan_memory_mb:.0f} MB of memory")
    typer.echo(f"  later start   {result.restart_s:7.2f} s    {result.restart_memory_mb:.0f} MB of memory, "
               f"index {result.index_mb:.0f} MB")
    typer.echo(f"  search        {result.search_ms:7.1f} ms   at worst {result.search_worst_ms:.1f} ms, "
               f"a page of all {result.page_ms:.1f} ms")
