"""`sdlora inspect FILE`: what a LoRA file is and whether it fits a base. Knows nothing about how files are read."""

import json
from pathlib import Path
from typing import Annotated

import typer

BAR = 40                                                       # signs of the longest bar


def register(app: typer.Typer) -> None:
    app.command()(inspect)


def inspect(
    file: Annotated[Path, typer.Argument(help="A LoRA (.safetensors)")],
    base: Annotated[str | None, typer.Option(help="Compare with this base: mini, a folder, a file or a hub id")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
) -> None:
    """Report what a LoRA file holds: kind, family, rank, strength, how many modules fit, and what is wrong with it."""
    from sdlora.base import catalog
    from sdlora.lora.formats.metadata import file_hashes
    from sdlora.lora.tools.report import inspect as inspected

    resolved, weights, mini = catalog.resolve(base) if base else None, None, catalog.resolve("mini")
    if resolved is not None:
        from sdlora.base.weights import Weights

        weights = Weights(resolved)
        mini = resolved if weights.family == "mini" else mini
    report = inspected(file, resolved, weights=weights, identity=catalog.identity(mini)) | {"hashes": file_hashes(file)}
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
        return
    show(file.name, report)


def show(name: str, report: dict) -> None:
    """The report as lines, with the push of every block as a small picture."""
    parts = ", ".join(f"{part} {count['matched']}/{count['modules']}" for part, count in report["parts"].items())
    ranks = report["rank"] if len(report["ranks"]) == 1 else f"{report['ranks'][0]} to {report['rank']}"
    typer.echo(f"{name}: {report['kind']}, {report['spelling']} spelling, {report['file_bytes'] / 1e6:.2f} MB")
    typer.echo(f"matched {report['matched']} of {report['modules']} ({parts})")
    typer.echo(f"family {shown(report['family']) or 'none that sdlora knows'}, rank {ranks}, alpha {shown(report['alpha'])}, "
               f"effective scale {shown(report['effective_scale'])}")
    against = "the weights" if report["push_against"] == "weights" else "weights of typical size"
    if report["matched"]:
        typer.echo(f"push {report['push']:.4{'f' if report['push'] < 1000 else 'g'}} of {against}")
    most = max((block["push"] for block in report["blocks"].values()), default=0.0)
    for block, size in report["blocks"].items():
        bar = "#" * round(BAR * size["push"] / most) if most else ""
        typer.echo(f"  {block:<6} {size['push']:<8.4{'f' if size['push'] < 1000 else 'g'}} {bar}".rstrip())
    typer.echo(f"AutoV2 {report['hashes']['AutoV2']}, AutoV3 {report['hashes']['AutoV3']}")
    if report["trigger"]:
        typer.echo(f"trigger {report['trigger']}")
    for problem in report["problems"]:
        typer.echo(f"! {problem}")


def shown(value: object) -> str:
    """A number or name, or the range of several."""
    if isinstance(value, list):
        return " or ".join(value) if value and isinstance(value[0], str) else f"{value[0]:g} to {value[-1]:g}" if value else ""
    return value if isinstance(value, str) else f"{value:g}"
