"""`sdlora library ...`: the shelf of LoRA files from the command line. Knows nothing about how files are read or found."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table

from sdlora.cli.progress import plain_console

if TYPE_CHECKING:
    from sdlora.library.entries import LoraEntry

STOPPED = 3
BACKGROUND_SECONDS, SLICE_SECONDS = 1800.0, 60.0
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text")]
Query = Annotated[list[str] | None, typer.Argument(help="Words that all occur in a file's name, trigger, tags, notes...")]
library = typer.Typer(help="The shelf: every LoRA file you have, found, named and sorted.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(library, name="library")


@library.command("list")
def listing(
    query: Query = None,
    family: Annotated[str, typer.Option(help="Only for one kind of base: mini, sd1, sd2, sdxl")] = "",
    kind: Annotated[str, typer.Option(help="Only one kind of file: LoRA, LoCon, LoHa...")] = "",
    tag: Annotated[str, typer.Option(help="Only files with this tag")] = "",
    folder: Annotated[str, typer.Option(help="Only files of this folder (its id)")] = "",
    favourite: Annotated[bool, typer.Option("--favourite", help="Only favourites")] = False,
    sort: Annotated[str, typer.Option(help="new, old, name, size, favourite, family, kind or rank")] = "new",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many")] = None,
    as_json: Json = False,
) -> None:
    """List the LoRA files on the shelf."""
    from sdlora.library import index

    only = {"family": family, "kind": kind, "tag": tag, "folder": folder, "favourite": favourite}
    show(index.list_loras(" ".join(query or ()), sort=sort, limit=limit, **only), as_json)


@library.command()
def search(query: Annotated[list[str], typer.Argument(help="Words, or parts of words, that all occur")],
           sort: Annotated[str, typer.Option(help="new, old, name, size, favourite, family, kind or rank")] = "new",
           limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 50, as_json: Json = False) -> None:
    """Find LoRA files by name, trigger, tags, notes, description, kind or family."""
    from sdlora.library import index

    show(index.list_loras(" ".join(query), sort=sort, limit=limit), as_json)


@library.command()
def add(path: Annotated[Path, typer.Argument(help="A folder to read in place, or a LoRA file to copy to the shelf")],
        as_json: Json = False) -> None:
    """Put a folder of LoRA files (A1111, Forge, ComfyUI...) on the shelf, never modified; or copy one file to it."""
    from sdlora.library import index

    if path.is_file():
        show([index.add(path, path.stem)], as_json)
        return
    folder = index.add_folder(path)
    watch(index.scan())
    count = index.count_loras(folder=folder.id)
    if as_json:
        typer.echo(json.dumps({"id": folder.id, "path": str(folder.path), "files": count}, ensure_ascii=False))
    else:
        typer.echo(f"{folder.path} is on the shelf as {folder.id}, with {count} files. It is read in place and never modified.")


@library.command()
def remove(what: Annotated[str, typer.Argument(help="Id or path of an added folder, or id of a file")],
           as_json: Json = False) -> None:
    """Take a folder or a file off the shelf. Nothing in a foreign folder is touched; a file of yours can be restored."""
    from sdlora.library import index

    path = Path(what).expanduser().resolve()
    folder = next((folder for folder in index.folders() if what == folder.id or not folder.own and path == folder.path), None)
    if folder:
        index.remove_folder(folder.id)
    else:
        index.delete(what)
    said = f"{folder.path} is off the shelf; its files are untouched." if folder else \
        f"{what} is off the shelf. Bring it back with: sdlora library restore {what}"
    typer.echo(json.dumps({"removed": folder.id if folder else what}) if as_json else said)


@library.command()
def restore(lora_id: Annotated[str, typer.Argument(metavar="ID", help="Id that the file had")], as_json: Json = False) -> None:
    """Bring back a file that was removed in the last 30 days."""
    from sdlora.library import index

    show([index.undo_delete(lora_id)], as_json)


@library.command("folders")
def folder_list(as_json: Json = False) -> None:
    """List the folders of the shelf."""
    from sdlora.library import index

    watch(index.scan())
    found = [{"id": folder.id, "path": str(folder.path), "here": folder.here, "files": index.count_loras(folder=folder.id)}
             for folder in index.folders()]
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for entry in found:
        away = "" if entry["here"] else "  (not there now)"
        typer.echo(f"{entry['id']:<30} {entry['files']:>6} files  {entry['path']}{away}")


@library.command("scan")
def scan_command(
    hashes: Annotated[bool, typer.Option("--hash", help="Then hash the files, those that may be duplicates first")] = False,
    background: Annotated[bool, typer.Option("--background", hidden=True, help="As the page starts it")] = False,
    as_json: Json = False,
) -> None:
    """Read what is new in all folders. Ctrl-C stops it; the next one goes on from there."""
    from sdlora.library import index

    if background:
        work_in_background()
        return
    try:
        watch(index.scan())
        if hashes:
            watch(index.hash_files(), "hashes")
    except KeyboardInterrupt:
        typer.echo("Stopped. The next scan goes on from here.", err=True)
        raise typer.Exit(STOPPED) from None
    state = index.state()
    said = f"{state.files} files are on the shelf, {state.unread} are still to be read, {state.unhashed} are not hashed yet."
    typer.echo(json.dumps(asdict(state)) if as_json else said)


def work_in_background() -> None:
    """What a page leaves to a process of its own, at low priority: reading, then hashing, new files in between."""
    import os

    from sdlora.library import background, index

    with background.alone() as mine:
        if not mine:
            return
        if hasattr(os, "nice"):
            os.nice(10)
        until = time.monotonic() + BACKGROUND_SECONDS
        while time.monotonic() < until:
            for _ in index.scan():
                pass
            if not sum(1 for _ in index.hash_files(SLICE_SECONDS)):
                return


@library.command()
def duplicates(as_json: Json = False) -> None:
    """Show files that hold the very same tensors, whatever they are called."""
    from sdlora.library import index

    watch(index.scan())
    watch(index.hash_files(only_equal=True), "hashes")
    groups = index.duplicates()
    if as_json:
        typer.echo(json.dumps([[plain(entry) for entry in group] for group in groups], ensure_ascii=False))
        return
    for group in groups:
        typer.echo(f"{group[0].hash[:12]}  {len(group)} files of {group[0].file_bytes / 1e6:.1f} MB")
        for entry in group:
            typer.echo(f"  {entry.path}")
    if not groups:
        typer.echo("No two files hold the same tensors.")


def watch(steps: Iterable, stage: str = "headers") -> None:
    """Do all steps, with a bar on a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=plain_console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"Reading {stage}", total=None)
        for step in steps:
            progress.update(task, description=f"Reading {getattr(step, 'stage', stage)}", completed=step.done, total=step.total)


def plain(entry: "LoraEntry") -> dict[str, object]:
    """An entry as JSON takes it."""
    told = asdict(entry) | {"path": str(entry.path), "thumbnail": str(entry.thumbnail) if entry.thumbnail else None}
    return {key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for key, value in told.items()}


def show(found: "list[LoraEntry]", as_json: bool) -> None:
    """Entries as JSON or as a table."""
    if as_json:
        typer.echo(json.dumps([plain(entry) for entry in found], ensure_ascii=False))
        return
    if not found:
        typer.echo("No file on the shelf matches. Search for fewer words, or add a folder: sdlora library add FOLDER")
        return
    table = Table(Column("id", min_width=max(len(entry.id) for entry in found)),  # never cut: remove and restore take it
                  "name", "family", "kind", "rank", "MB", "trigger", box=None, pad_edge=False)
    for entry in found:
        table.add_row(entry.id, ("* " if entry.favourite else "") + entry.name, entry.family, entry.kind, str(entry.rank or ""),
                      f"{entry.file_bytes / 1e6:.1f}", entry.problem or entry.trigger)
    plain_console(soft_wrap=True).print(table)
