"""How OpenMP threads wait: a little spinning, in every process of ours, and never over what the user set."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import sdlora

ROOT = Path(__file__).parents[1]


def environment_of_a_process(module: str, **given: str) -> dict[str, str]:
    """The OpenMP variables a fresh process has after importing `module`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    code = f"import os, {module}; [print(k, v) for k, v in os.environ.items() if k.startswith(('OMP_', 'GOMP_', 'KMP_'))]"
    done = subprocess.run([sys.executable, "-c", code], env=clean | given, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", ["sdlora", "sdlora.cli.main", "sdlora.mini.__main__", "app"])
def test_every_process_spins_a_little(module):
    assert environment_of_a_process(module) == {"GOMP_SPINCOUNT": sdlora.spin_count(), "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize(("machine", "about", "maker"), [
    ("x86_64", "processor : 0\nvendor_id : GenuineIntel\n", "GenuineIntel"),
    ("x86_64", "processor : 0\nvendor_id : AuthenticAMD\n", "AuthenticAMD"),
    ("x86_64", "processor : 0\nvendor_id : HygonGenuine\n", "GenuineIntel"),
    ("aarch64", "processor : 0\nBogoMIPS : 50.00\n", "ARM")])
def test_the_spins_fit_the_cpu(machine, about, maker, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(about)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    monkeypatch.setattr("builtins.open", lambda path, **options: (tmp_path / "cpuinfo").open(**options))
    assert sdlora.spin_count() == sdlora.SPINS[maker]


def test_an_unknown_cpu_spins_as_intels(monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *given, **options: (_ for _ in ()).throw(PermissionError))
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="x86_64"))
    assert sdlora.spin_count() == sdlora.SPINS["GenuineIntel"]


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "PASSIVE"}, {"GOMP_SPINCOUNT": "0"},
                                   {"KMP_BLOCKTIME": "infinite"}])
def test_what_the_user_set_is_kept(given):
    assert environment_of_a_process("sdlora", **given) == given


def test_the_tests_themselves_run_as_the_program_does():
    assert "OMP_WAIT_POLICY" in os.environ or sdlora.THREAD_WAITING.keys() & os.environ.keys()
