"""What several commands share: options, the weights of a base, and how a report is printed. Knows nothing about tensors."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.progress import Progress

if TYPE_CHECKING:
    from sdlora.base.weights import Weights

BaseOption = Annotated[str | None, typer.Option(help="The base, for kinds whose change depends on it")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object")]
LoraArgument = Annotated[Path, typer.Argument(help="A LoRA (.safetensors)")]


class Format(StrEnum):
    """Number formats."""
    fp16 = "fp16"
    bf16 = "bf16"
    fp32 = "fp32"


class Update(Protocol):
    def __call__(self, done: int, total: int) -> object: ...


def print_report(report: object, lines: Iterable[str], as_json: bool) -> None:
    """Print a report as one JSON object or as lines."""
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


@contextmanager
def progress_bar(title: str, hidden: bool) -> Iterator[Update]:
    """Show a bar that disappears when it is done. Yields a function of how much is done, of how much."""
    with Progress(transient=True, disable=hidden) as progress:
        bar = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


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
