"""`sdlora bases`: which base models there are. Knows nothing about loading them."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from sdlora.base import catalog
from sdlora.base import download as hub
from sdlora.cli.common import JsonOption, bars, plain_console, print_report
from sdlora.errors import UserError

BaseArgument = Annotated[str, typer.Argument(metavar="BASE", help="a diffusers folder, a .safetensors file or a hub id")]
bases = typer.Typer(help="The base models that you can train and draw with.", no_args_is_help=False)


def register(app: typer.Typer) -> None:
    app.add_typer(bases, name="bases")


@bases.callback(invoke_without_command=True)
def default(context: typer.Context, as_json: JsonOption = False) -> None:
    """List, add, remove or download base models."""
    if context.invoked_subcommand is None:
        show(as_json)


@bases.command("list")
def show(as_json: JsonOption = False) -> None:
    """List the base models on this computer and those that can be downloaded."""
    found = catalog.list_bases()
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in found], ensure_ascii=False))
        return
    table = Table("id", "name", "family", "kind", "where", box=None, pad_edge=False)
    for entry in found:
        table.add_row(entry.id, entry.title, entry.family, entry.kind, entry.problem or entry.spec)
    plain_console(soft_wrap=True).print(table)
    for known in catalog.KNOWN.values():
        if known.id not in (entry.spec for entry in found):
            typer.echo(f"to download: {known.id}  ({known.file_bytes / 1e9:.1f} GB, licence {known.licence})")


@bases.command("add")
def add(spec: BaseArgument, as_json: JsonOption = False) -> None:
    """Put a model of your own on the list; its files stay where they are."""
    entry = catalog.add_base(spec)
    print_report(asdict(entry), [f"{entry.title} is on the list as {entry.id}."], as_json)


@bases.command("remove")
def remove(spec: BaseArgument, as_json: JsonOption = False) -> None:
    """Take an added model off the list; its files stay where they are."""
    entry = catalog.remove_base(spec)
    print_report(asdict(entry), [f"{entry.title} is off the list."], as_json)


@bases.command("download")
def download(spec: BaseArgument, yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False) -> None:
    """Fetch a model from the hub, after showing its size and licence."""
    fetch(spec, ask=not yes)
    catalog.add_base(spec)


def fetch(spec: str, *, ask: bool) -> None:
    """Download hub id `spec` unless it is here already."""
    try:
        catalog.resolve(spec)
        return
    except UserError:
        if not hub.HUB_ID.fullmatch(spec):
            raise
    offer = hub.about(spec)
    typer.echo(f"{spec}: {offer.file_bytes / 1e9:.2f} GB, licence {offer.licence} (https://huggingface.co/{spec})", err=True)
    if ask:
        typer.confirm("Download it?", abort=True, err=True)
    with bars(BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), stderr=True) as progress:
        bar = progress.add_task(spec, total=offer.file_bytes)
        hub.download(spec, lambda done, total: progress.update(bar, completed=done, total=total))
    typer.echo(f"{spec} is here: {catalog.resolve(spec)}", err=True)
