"""Start Python processes that run this code. Knows nothing about what they do."""

import errno
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlora.errors import UserError
from sdlora.storage import DISK_FULL, disk_error, home

SOURCE = Path(__file__).resolve().parents[1]


def with_source(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the environment in which Python finds this code; installed code is found anyway."""
    if "site-packages" in SOURCE.parts:
        return dict(environment)
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCE), environment.get("PYTHONPATH")]))}


def child_process(arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Return (command, options for Popen) of a Python process that runs this code. arguments: what follows `python -P`."""
    options: dict[str, Any] = {"env": with_source(os.environ)}
    if sys.platform == "win32":
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    return [sys.executable, "-P", *arguments], options


def spawn(arguments: list[str], log: Path) -> subprocess.Popen:
    """Start a Python process on this data folder that neither a closed terminal nor its parent's death ends.

    arguments: what follows `python -P`. What it prints is appended to `log`. Raises UserError.
    """
    command, options = child_process(arguments)
    options["env"]["SDLORA_HOME"] = str(home())
    if os.name != "nt":
        options["start_new_session"] = True
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=home(), **options)
    except OSError as error:
        if error.errno in (*DISK_FULL, errno.EROFS, errno.EACCES):
            raise disk_error(error, log) from error
        raise UserError(f"A process of sdlora could not be started ({error.strerror or error}).",
                        "Close other programs, then try again.") from error
