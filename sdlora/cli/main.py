"""The command line as a whole: its commands and exit codes. Knows nothing about what the commands do.

Exit 0 done · 2 the artist's mistake, one sentence and a hint on stderr; the other pictures of `draw` and `grid` are there then ·
3 stopped and resumable · 1 a bug of ours, shown as a code, its traceback in HOME/logs/sdlora.log.
Nothing heavy is imported here: `sdlora --help` is instant.
"""

import codecs
import errno
import io
import json
import os
import sys

import typer

from sdlora import __version__
from sdlora.cli import bases, bench, blend, draw, grid, library, lora, studio, train
from sdlora.errors import UserError

DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM)
GROUPS = (train, draw, grid, lora, blend, library, bases, studio, bench)


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"sdlora {__version__}")
        raise typer.Exit


def about(
    version: bool = typer.Option(False, "--version", callback=show_version, is_eager=True, help="Show the version"),
) -> None:
    """Teach Stable Diffusion your style: pictures in, a small LoRA file out. `sdlora studio` opens the page."""


def build() -> typer.Typer:
    """Return the app with every command."""
    app = typer.Typer(name="sdlora", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(about)
    for group in GROUPS:
        group.register(app)
    return app


def refuse_broken_text(arguments: list[str]) -> None:
    """Raise UserError for an argument that is not UTF-8: Python keeps such bytes as lone surrogates."""
    for argument in arguments:
        if not argument.isascii() and argument.encode("utf-8", "replace").decode() != argument:
            shown = argument.encode("utf-8", "surrogateescape" if os.name != "nt" else "replace").decode("utf-8", "replace")
            raise UserError(f"The argument {shown[:200]} is not UTF-8.",
                            "Set the terminal to UTF-8; rename a file whose name another encoding left behind.")


def escaped(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that a terminal lacks, written as in JSON (\\u00e9), so that --json stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def run() -> None:
    """Run the command of sys.argv and leave with its exit code."""
    codecs.register_error("escaped", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="escaped")  # a character that the terminal lacks must not end the command
    try:
        refuse_broken_text(sys.argv[1:])
        build()()
    except UserError as error:
        print("\n".join(filter(None, (error.message, error.hint))), file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # nobody reads our output any more
        sys.exit(1)
    except OSError as error:
        sys.exit(report_disk(error) if error.errno in DISK_ERRORS else report_bug(error))
    except Exception as error:  # noqa: BLE001  the outermost frame: a bug becomes a code
        sys.exit(report_bug(error))


def report_disk(error: OSError) -> int:
    """Print that the disk takes nothing, or that a file or folder may not be used; return 2."""
    from pathlib import Path

    from sdlora.storage import disk_error

    shown = disk_error(error, Path(error.filename or "A file"))
    if isinstance(error, PermissionError):  # perhaps it was only to be read
        shown = UserError(f"{error.filename or 'A file'} may not be used ({error.strerror}).", shown.hint)
    print(f"{shown.message}\n{shown.hint}", file=sys.stderr)
    return 2


def report_bug(error: Exception) -> int:
    """Log a bug and print its code; return 1."""
    from sdlora.jobs.execute import log_bug
    from sdlora.storage import home

    print("\n".join(log_bug(error, home() / "logs" / "sdlora.log")), file=sys.stderr)
    return 1
