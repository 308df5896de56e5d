"""The torch and the cards of this computer, found without importing torch, and the command that fixes them."""

import importlib.machinery
import subprocess

import pytest

from sdlora.jobs import machine

REAL_VERSION_FILES = {  # torch/version.py of wheels from pypi.org and download.pytorch.org
    "cpu": "from typing import Optional\n\n__version__ = '2.10.0+cpu'\ndebug = False\ncuda: Optional[str] = None\n"
           "git_version = 'abc'\nhip: Optional[str] = None\nrocm: Optional[str] = None\nxpu: Optional[str] = None\n",
    "cuda 12.8": "__version__ = '2.10.0'\ndebug = False\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n",
    "rocm 6.4.43482": "__version__ = '2.10.0+rocm6.4'\ncuda: Optional[str] = None\nhip: Optional[str] = '6.4.43482'\n",
}


@pytest.fixture
def torch_of(tmp_path, monkeypatch):
    """Pretends that a torch of this build is installed."""
    def install(build):
        (tmp_path / "torch").mkdir(exist_ok=True)
        (tmp_path / "torch" / "version.py").write_text(REAL_VERSION_FILES[build])
        spec = importlib.machinery.ModuleSpec("torch", None, origin=str(tmp_path / "torch" / "__init__.py"))
        monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: spec)
        monkeypatch.setattr(machine.sys, "platform", "linux")
        machine.device_advice.cache_clear()
    yield install
    machine.device_advice.cache_clear()


@pytest.mark.parametrize("build", REAL_VERSION_FILES)
def test_the_build_is_read_from_torchs_own_file(torch_of, build):
    torch_of(build)
    assert machine.torch_build() == build


def test_the_installed_torch_is_found_as_it_describes_itself():
    import torch

    assert machine.torch_build().startswith("cuda" if torch.version.cuda else "rocm" if torch.version.hip else ("cpu", "mps"))
    assert machine.torch_version() == torch.__version__


def test_a_card_with_a_cpu_build_comes_with_the_command_that_fixes_it(torch_of, monkeypatch):
    torch_of("cpu")
    monkeypatch.setattr(machine, "nvidia_card", lambda: "NVIDIA GeForce RTX 4070")
    advice = machine.device_advice()
    assert "RTX 4070" in advice.problem and advice.build == "cpu"
    for part in ("pip install", "download.pytorch.org/whl/cu", "torch>=2.10,<2.14"):
        assert part in advice.command
    assert machine.likely_device("auto") == "cpu"


def test_a_card_with_its_build_and_no_card_at_all_are_fine(torch_of, monkeypatch):
    torch_of("cuda 12.8")
    monkeypatch.setattr(machine, "nvidia_card", lambda: "NVIDIA H100")
    assert machine.device_advice().problem is None and machine.likely_device() == "cuda" and machine.likely_device("cpu") == "cpu"
    torch_of("cpu")
    monkeypatch.setattr(machine, "nvidia_card", lambda: None)
    assert machine.device_advice().problem is None and machine.likely_device() == "cpu"


def test_cards_are_named_by_nvidia_smi_and_its_failures_are_no_card(monkeypatch):
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")

    def answers(code, text):
        def run(command, **options):
            assert options["timeout"] <= 5
            return subprocess.CompletedProcess(command, code, text, "")
        monkeypatch.setattr(machine.subprocess, "run", run)
        return machine.nvidia_card()

    if not list(machine.Path("/proc/driver/nvidia/gpus").glob("*")):
        assert answers(0, "NVIDIA H200\nNVIDIA H200\n") == "NVIDIA H200"
        assert answers(9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n") is None
        assert answers(0, "") is None
