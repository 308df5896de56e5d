"""`sdlora library ...`: the shelf of LoRA files on the command line."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.table import Column, Table

from sdlora.cli.common import bars, plain_console, print_report

if TYPE_CHECKING:
    from sdlora.library.scan import Step
    from sdlora.library.search import LoraEntry

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
    from sdlora.library.search import list_loras

    only = {"family": family, "kind": kind, "tag": tag, "folder": folder, "favourite": favourite}
    show(list_loras(" ".join(query or ()), sort=sort, limit=limit, **only), as_json)


@library.command()
def search(query: Annotated[list[str], typer.Argument(help="Words, or parts of words, that all occur")],
           sort: Annotated[str, typer.Option(help="new, old, name, size, favourite, family, kind or rank")] = "new",
           limit: Annotated[int, typer.Option(min=1, help="At most so many")] = 50, as_json: Json = False) -> None:
    """Find LoRA files by name, trigger, tags, notes, description, kind or family."""
    from sdlora.library.search import list_loras

    show(list_loras(" ".join(query), sort=sort, limit=limit), as_json)


@library.command()
def add(path: Annotated[Path, typer.Argument(help="A folder to read in place, or a LoRA file to copy to the shelf")],
        as_json: Json = False) -> None:
    """Put a folder of LoRA files (A1111, Forge, ComfyUI...) on the shelf, never modified; or copy one file to it."""
    from sdlora.library import edit
    from sdlora.library.folders import add_folder
    from sdlora.library.scan import scan_library
    from sdlora.library.search import count_loras

    if path.is_file():
        show([edit.add(path, path.stem)], as_json)
        return
    folder = add_folder(path)
    watch(scan_library())
    count = count_loras(folder=folder.id)
    message = f"{folder.path} is on the shelf as {folder.id}, with {count} files. It is read in place and never modified."
    print_report({"id": folder.id, "path": str(folder.path), "files": count}, [message], as_json)


@library.command()
def remove(what: Annotated[str, typer.Argument(help="Id or path of an added folder, or id of a file")],
           as_json: Json = False) -> None:
    """Take a folder or a file off the shelf. Nothing in a foreign folder is touched; a file of yours can be restored."""
    from sdlora.library.edit import delete, remove_folder
    from sdlora.library.folders import list_folders

    path = Path(what).expanduser().resolve()
    folder = next((each for each in list_folders() if what == each.id or not each.own and path == each.path), None)
    if folder:
        remove_folder(folder.id)
    else:
        delete(what)
    message = f"{folder.path} is off the shelf; its files are untouched." if folder else \
        f"{what} is off the shelf. Bring it back with: sdlora library restore {what}"
    print_report({"removed": folder.id if folder else what}, [message], as_json)


@library.command()
def restore(lora_id: Annotated[str, typer.Argument(metavar="ID", help="Id that the file had")], as_json: Json = False) -> None:
    """Bring back a file that was removed in the last 30 days."""
    from sdlora.library.edit import undo_delete

    show([undo_delete(lora_id)], as_json)


@library.command("folders")
def folder_list(as_json: Json = False) -> None:
    """List the folders of the shelf."""
    from sdlora.library.folders import list_folders
    from sdlora.library.scan import scan_library
    from sdlora.library.search import count_loras

    watch(scan_library())
    found = [{"id": folder.id, "path": str(folder.path), "here": folder.here, "files": count_loras(folder=folder.id)}
             for folder in list_folders()]
    lines = [f"{entry['id']:<30} {entry['files']:>6} files  {entry['path']}" + ("" if entry["here"] else "  (not there now)")
             for entry in found]
    print_report(found, lines, as_json)


@library.command("scan")
def scan_command(
    hashes: Annotated[bool, typer.Option("--hash", help="Then hash the files, those that may be duplicates first")] = False,
    background: Annotated[bool, typer.Option("--background", hidden=True, help="As the page starts it")] = False,
    as_json: Json = False,
) -> None:
    """Read what is new in all folders. Ctrl-C stops it; the next one continues from there."""
    from sdlora.library import search
    from sdlora.library.scan import hash_files, scan_library

    if background:
        work_in_background()
        return
    try:
        watch(scan_library())
        if hashes:
            watch(hash_files())
    except KeyboardInterrupt:
        typer.echo("Stopped. The next scan continues from here.", err=True)
        raise typer.Exit(STOPPED) from None
    state = search.state()
    message = f"{state.files} files are on the shelf, {state.unread} are still to be read, {state.unhashed} are not hashed yet."
    print_report(asdict(state), [message], as_json)


def work_in_background() -> None:
    """Read, then hash, at low priority; files that are new in between are read before the next slice of hashing."""
    from sdlora.library.scan import background_lock, hash_files, scan_library

    with background_lock() as acquired:
        if not acquired:
            return
        if hasattr(os, "nice"):
            os.nice(10)
        until = time.monotonic() + BACKGROUND_SECONDS
        while time.monotonic() < until:
            for _ in scan_library():
                pass
            if not sum(1 for _ in hash_files(SLICE_SECONDS)):
                return


@library.command()
def duplicates(as_json: Json = False) -> None:
    """Show files that hold the very same tensors, whatever they are called."""
    from sdlora.library import search
    from sdlora.library.scan import hash_files, scan_library

    watch(scan_library())
    watch(hash_files(only_equal=True))
    groups = search.duplicates()
    lines = []
    for group in groups:
        lines.append(f"{group[0].hash[:12]}  {len(group)} files of {group[0].file_bytes / 1e6:.1f} MB")
        lines += [f"  {entry.path}" for entry in group]
    print_report([[as_dict(entry) for entry in group] for group in groups],
                 lines or ["No two files hold the same tensors."], as_json)


def watch(steps: "Iterable[Step]") -> None:
    """Do all steps, with a progress bar on a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with bars(*columns, stderr=True, transient=True) as progress:
        task = progress.add_task("Reading headers", total=None)
        for step in steps:
            progress.update(task, description=f"Reading {step.stage}", completed=step.done, total=step.total)


def as_dict(entry: "LoraEntry") -> dict[str, Any]:
    """Return the fields of an entry as JSON takes them."""
    fields = asdict(entry) | {"path": str(entry.path), "thumbnail": str(entry.thumbnail) if entry.thumbnail else None}
    return {key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for key, value in fields.items()}


def show(found: "list[LoraEntry]", as_json: bool) -> None:
    """Print entries as JSON or as a table."""
    if as_json:
        typer.echo(json.dumps([as_dict(entry) for entry in found], ensure_ascii=False))
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
