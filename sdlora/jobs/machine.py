"""Which build of torch is installed and whether a graphics card goes unused, found without importing torch.

`sdlora doctor` and the page show it.
"""

import functools
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

TORCH = "torch>=2.10,<2.14"  # as in pyproject.toml
CUDA_INDEX = "https://download.pytorch.org/whl/cu128"


@dataclass(frozen=True)
class Advice:
    """The torch that is installed. `build`: "cpu", "cuda 12.8", "rocm 6.4", "mps" or "" (torch is not installed).

    `problem` is None when all is well, else a sentence; `command`: the one line that fixes it.
    """
    torch: str
    build: str
    card: str | None
    problem: str | None
    command: str | None


@functools.cache
def device_advice() -> Advice:
    """Return whether the installed torch can use the graphics card of this computer. Takes milliseconds, once per process."""
    version, build, card = torch_version(), torch_build(), nvidia_card()
    if not version:
        return Advice("", "", card, "torch is not installed.", f'"{sys.executable}" -m pip install "{TORCH}"')
    if card and build == "cpu":
        command = f'"{sys.executable}" -m pip install --upgrade --force-reinstall "{TORCH}" --index-url {CUDA_INDEX}'
        return Advice(version, build, card, f"There is an NVIDIA card ({card}), but torch was installed without CUDA, so the "
                      "card is not used.", command)
    return Advice(version, build, card, None, None)


def torch_version() -> str:
    """Return "2.13.0+cpu", say, or "" when torch is not installed."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def torch_build() -> str:
    """Return what torch was built for, read from its version.py: importing torch takes seconds, and the page never does it."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.origin:
        return ""
    text = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8")
    for name, title in (("cuda", "cuda"), ("hip", "rocm")):
        if built := re.search(rf"^{name}\b[^=\n]*=\s*['\"]([\d.]+)", text, re.M):
            return f"{title} {built[1]}"
    return "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else "cpu"


def nvidia_card() -> str | None:
    """Return the name of the first NVIDIA card, from its driver; None without a card or a driver."""
    for facts in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        if model := re.search(r"^Model:\s*(.+)$", facts.read_text(encoding="utf-8", errors="replace"), re.M):
            return model[1].strip()
    tool = shutil.which("nvidia-smi")
    if not tool:
        return None
    try:
        answer = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=5,
                                check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = [line.strip() for line in answer.stdout.split("\n") if line.strip()]
    return names[0] if answer.returncode == 0 and names else None


def likely_device(asked: str = "auto") -> str:
    """Return the device a run will get, as far as is known without torch: "cuda", "mps" or "cpu"."""
    if asked != "auto":
        return asked
    build = torch_build()
    if nvidia_card() and build.startswith("cuda"):
        return "cuda"
    return "mps" if build == "mps" else "cpu"
