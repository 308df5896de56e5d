"""What several commands share: options, the rule for every --out, progress bars, reports, the weights of a base."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from sdlora.errors import UserError
from sdlora.storage import temporary_beside

if TYPE_CHECKING:
    from sdlora.base.weights import Weights

BaseOption = Annotated[str, typer.Option(help="mini, a diffusers folder, a .safetensors file or a hub id")]
WeightsOption = Annotated[str | None, typer.Option(help="The base, for kinds whose change depends on it")]
DownloadOption = Annotated[bool, typer.Option("--download", help="Fetch the base from the hub when it is not here")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="One JSON object a line")]
LoraArgument = Annotated[Path, typer.Argument(help="A LoRA (.safetensors)")]


class Format(StrEnum):
    """Number formats."""
    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"


class Update(Protocol):
    def __call__(self, done: int, total: int) -> object: ...


def check_out(out: Path, inputs: Iterable[Path] = (), suffix: str = ".safetensors") -> None:
    """Refuse an --out that cannot be written, that is an input, or that would replace a file which sdlora did not make.

    suffix: what the file must end in; "" for a folder, in which nothing is checked.
    """
    if not suffix:
        check_writable(out)
        return
    if out.suffix.lower() != suffix:
        raise UserError(f"--out {out} does not end in {suffix}.", f"Write --out {out.with_suffix(suffix)}")
    if out.is_dir():
        raise UserError(f"{out} is a folder.", "Choose another name for --out.")
    check_writable(out.absolute().parent)
    if not out.exists() and not out.is_symlink():
        return
    if any(same_file(out, path) for path in inputs):
        raise UserError(f"{out} is one of the files that would be read.", "Choose another name for --out.")
    if not is_ours(out):
        raise UserError(f"{out} exists and was not made by sdlora.", "Choose another name for --out, or move that file away.")


def check_pictures(out: Path, names: Iterable[str], inputs: Iterable[Path | None] = ()) -> None:
    """Do what `check_out` does for pictures that will be written into the folder `out` under these names."""
    check_out(out, suffix="")
    for path in (out / name for name in names):
        if not path.exists() and not path.is_symlink():
            continue
        if any(same_file(path, each) for each in inputs if each):
            raise UserError(f"{path} is one of the pictures that would be read.", "Choose another folder for --out.")
        if not is_our_picture(path):
            raise UserError(f"{path} exists and was not drawn by sdlora.", "Choose another folder for --out, or move it away.")


def same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file; names that differ in case only may, on some disks."""
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def is_ours(path: Path) -> bool:
    """Return whether sdlora wrote a LoRA or the zip of one."""
    from sdlora.lora.formats.header import header
    from sdlora.lora.tools.card import MADE_BY

    if path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.comment == MADE_BY
        except (OSError, zipfile.BadZipFile):
            return False
    try:
        return any(key.startswith("sdlora_") for key in header(path).metadata)
    except UserError:
        return False


def is_our_picture(path: Path) -> bool:
    """Return whether sdlora drew a picture: it says so in its text."""
    from sdlora.draw.infotext.picture import read_infotext

    try:
        return "sdlora" in str(read_infotext(path).get("version", ""))
    except UserError:
        return False


def check_writable(folder: Path) -> None:
    """Make `folder` when missing and try whether a file can be written to it. Raises UserError.

    Permission bits do not say so for root, for a read-only or network disk, and on Windows.
    """
    probe = temporary_beside(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"In {folder} files cannot be written ({error.strerror or error}).",
                        "Choose another place for --out.") from error


def plain_console(**options: Any) -> Console:
    """Return a console that prints names and paths as they are: no [markup], no :emoji:, no guessed colours."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def bars(*columns: str | ProgressColumn, stderr: bool = False, **options: Any) -> Progress:
    """Return progress bars on a plain console; without `columns` rich's usual ones."""
    return Progress(*columns, console=plain_console(stderr=stderr), **options)


@contextmanager
def progress_bar(title: str, hidden: bool) -> Iterator[Update]:
    """Show a bar that disappears when it is done. Yield a function that sets how much is done, of how much."""
    with bars(transient=True, disable=hidden) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def print_report(report: object, lines: Iterable[str], as_json: bool) -> None:
    """Print a report as one line of JSON, or as lines for people."""
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else "\n".join(lines))


def size_line(report: dict[str, Any]) -> str:
    """Format what was written: modules, ranks, size."""
    return f"{report['out']}: {report['modules']} modules, rank {span(report['ranks'])}, {report['bytes_out'] / 1e6:.2f} MB"


def lost_lines(report: dict[str, Any], dtype: str) -> list[str]:
    """Format what the number format took of the change."""
    return [f"  {dtype} loses {report['lost']:.1g} of the change"] if report["lost"] else []


def energy_lines(report: dict[str, Any]) -> list[str]:
    """Format the retained energy, of all and block by block."""
    return [f"  retained energy {report['energy']:.2%} (error {max(0.0, 1 - report['energy']) ** 0.5:.3f})",
            *(f"  {block:<6} {energy:8.2%}" for block, energy in report["blocks"].items())]


def span(ends: list[int]) -> str:
    """`[4, 8]` -> "4 to 8"."""
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def open_weights(base: str) -> "Weights":
    """Return the weights of a base by name. Raises UserError."""
    from sdlora.base import catalog
    from sdlora.base.weights import Weights

    return Weights(catalog.resolve(base))


def weights_for(base: str | None, *files: Path) -> "Weights | None":
    """Load the weights of the named base; where none is named, those of mini for LoRAs made for this mini, else None."""
    from sdlora.base import catalog
    from sdlora.lora.formats.header import header

    if base is None:
        identities = {header(file).metadata.get("sdlora_base_identity") for file in files}
        if identities != {catalog.identity(catalog.resolve("mini"))}:
            return None
    return open_weights(base or "mini")
