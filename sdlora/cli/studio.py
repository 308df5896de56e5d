"""`sdlora studio` and `sdlora doctor`: open the page, and check this computer."""

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from sdlora import __version__
from sdlora.cli.common import JsonOption, print_report
from sdlora.errors import UserError

PACKAGES = ("torch", "diffusers", "transformers", "gradio", "safetensors", "pillow")


def register(app: typer.Typer) -> None:
    app.command()(studio)
    app.command()(doctor)


def studio(
    host: Annotated[str, typer.Option(help="Address to serve on; any but this computer's own needs --password")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on")] = 7860,
    data: Annotated[Path | None, typer.Option(help="Data folder; default: SDLORA_HOME or the platform's own")] = None,
    password: Annotated[str | None, typer.Option(help="Asked of everybody; seen in the list of processes")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with the password; or set SDLORA_PASSWORD")] = None,
    library: Annotated[list[Path] | None, typer.Option(help="A folder of LoRA files to show, read in place")] = None,
    proxy: Annotated[list[str] | None, typer.Option(help="Address of a reverse proxy whose X-Forwarded-For is believed")] = None,
) -> None:
    """Open the studio in the browser: drop pictures, train, try."""
    from sdlora.ui.launch import main

    try:
        main(host, port, str(data) if data else None, password, str(password_file) if password_file else None,
             [str(folder) for folder in library or ()], proxy or [])
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@dataclass(frozen=True)
class Check:
    """One finding. `state`: "ok", "warning" (works, but less well) or "problem"; `mend` is how to fix it."""
    name: str
    state: str
    text: str
    mend: str = ""


def doctor(as_json: JsonOption = False) -> None:
    """Check this computer: versions, graphics card, data folder, disk space, embedded base. Exit 1 when something is broken."""
    checks = [attempt(check) for check in CHECKS]
    healthy = all(check.state != "problem" for check in checks)
    lines = [f"{check.state:<8} {check.name}: {check.text}" + (f"\n         {check.mend}" if check.mend else "")
             for check in checks]
    lines.append("Everything that sdlora needs is here." if healthy else "Fix what is marked as a problem, then run this again.")
    print_report({"ok": healthy, "checks": [asdict(check) for check in checks]}, lines, as_json)
    raise typer.Exit(0 if healthy else 1)


def attempt(check: Callable[[], Check]) -> Check:
    """Return the finding of a check; one that raises is a problem."""
    name = check.__name__.replace("_", " ")
    try:
        return check()
    except UserError as error:
        return Check(name, "problem", error.message, error.hint)
    except (OSError, ImportError, RuntimeError) as error:
        again = "Install sdlora again: pip install --force-reinstall sdlora"
        return Check(name, "problem", f"{type(error).__name__}: {error}", again)


def versions() -> Check:
    from importlib import metadata

    found = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return Check("versions", "ok", f"sdlora {__version__}, Python {platform.python_version()}, {found}, {platform.platform()}")


def graphics_card() -> Check:
    from sdlora.jobs.machine import device_advice

    advice = device_advice()
    if advice.problem:
        return Check("graphics card", "warning", advice.problem, advice.command or "")
    return Check("graphics card", "ok", f"{advice.card or 'no NVIDIA card'}; torch is built for {advice.build}")


def device() -> Check:
    """Compare a small matrix product on the device that would be used with the one on the CPU."""
    import torch

    from sdlora.base.load import pick_device

    where = pick_device("auto")
    left = torch.arange(16.0).reshape(4, 4)
    if not torch.equal((left.to(where) @ left.to(where)).cpu(), left @ left):
        return Check("device", "problem", f"{where.type} computes wrong results.", "Update the driver of the graphics card.")
    return Check("device", "ok", f"computes on {where.type} with {torch.get_num_threads()} threads")


def data_folder() -> Check:
    from sdlora.storage import home, write_atomic

    probe = home() / f"doctor-{os.getpid()}.txt"
    try:
        write_atomic(probe, b"written by sdlora doctor")
        if probe.read_bytes() != b"written by sdlora doctor":
            return Check("data folder", "problem", f"{home()} gives back something else than was written.", "Check the disk.")
    finally:
        probe.unlink(missing_ok=True)
    return Check("data folder", "ok", f"{home()} can be written")


def job_list() -> Check:
    """Open the list of runs and drawings, as the worker would."""
    from sdlora.jobs.table import Table

    with Table().connected() as db:
        healthy = db.execute("PRAGMA quick_check").fetchone()[0] == "ok"
        waiting = db.execute("SELECT COUNT(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
    if not healthy:
        return Check("job list", "problem", "jobs.sqlite is damaged.", "Remove it; finished runs and styles are kept.")
    return Check("job list", "ok", f"{waiting} waiting")


def disk_space() -> Check:
    from sdlora.jobs.execute import LITTLE_DISK_MB
    from sdlora.storage import home

    free_mb = shutil.disk_usage(home()).free / 2**20
    if free_mb < LITTLE_DISK_MB:
        return Check("disk space", "warning", f"{free_mb:.0f} MB are free at {home()}.", "Free some: runs keep checkpoints.")
    return Check("disk space", "ok", f"{free_mb / 1024:.0f} GB are free at {home()}")


def cache() -> Check:
    from sdlora.storage import CACHE_BYTES, cache_entries, home

    used = sum(size for _, _, size in cache_entries())
    text = f"{used / 1e6:.0f} MB of at most {CACHE_BYTES / 1e9:.1f} GB are used at {home() / 'cache'}"
    return Check("cache", "ok", f"{text}; what was not used for the longest time goes first")


def embedded_base() -> Check:
    """Open the header of every weight file of mini and read its family, as training would."""
    from sdlora.base import catalog

    folder = catalog.resolve("mini")
    family = catalog.read_family(folder)
    files = [file for part in ("unet", "vae", "text_encoder") for file in catalog.weight_files(folder / part)]
    tensors = sum(len(catalog.header_shapes(file)) for file in files)
    size_mb = sum(file.stat().st_size for file in files) / 2**20
    return Check("embedded base", "ok", f"{family.title}: {tensors} tensors, {size_mb:.0f} MB, {family.resolution} px")


def presets() -> Check:
    from sdlora.config import presets as read_presets

    found = read_presets()
    if not found:
        return Check("presets", "problem", "No presets came with this installation.", "Install sdlora again.")
    return Check("presets", "ok", ", ".join(found))


CHECKS = (versions, graphics_card, device, data_folder, job_list, disk_space, cache, embedded_base, presets)
