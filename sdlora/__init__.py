"""sdlora: a studio in the browser where artists train LoRA for Stable Diffusion."""

import os
import sys

# How often a waiting OpenMP thread spins before it sleeps; read once, when torch is first imported. Two torch processes at once
# are the normal case here (a run and the drawer): the default of libgomp (about 300,000 spins) starves the other process, and
# not spinning at all wakes both threads in the kernel hundreds of times a step.
# The aim is about 50 us. A spin is one PAUSE: 140 cycles on Intel since Skylake, 65 on AMD since Zen 2; on ARM three or four
# cycles. Measured on two cores, a mini step of batch 4:
# Intel, 2026-11-27: not spinning 0.195 s, 1,000 spins 0.129 s, 10,000 0.129 s, spinning for ever 0.128 s. Two trainings at once:
# 0.26 s at 1,000, 1.0 s at 10,000, 7.3 s at 100,000.
# AMD, 2026-11-30: 1,000 spins 0.30-0.46 s, 2,000 0.24-0.26 s, 3,000 0.23-0.25 s. Two at once: 0.39, 0.39, 0.60 s (4,000).
# ARM's number is computed from its cycles, not measured.
# Intel's and LLVM's runtime counts milliseconds: 0 0.192 s, 1 0.139 s, its default of 200 0.132 s; two at once at 1 ms: 0.23 s.
SPINS = {"GenuineIntel": "1000", "AuthenticAMD": "2000", "ARM": "30000"}


def spin_count() -> str:
    """Return how many spins take about 50 us on this CPU; Intel's number where nothing is known, and where no libgomp is."""
    if sys.platform != "linux":
        return SPINS["GenuineIntel"]
    if os.uname().machine in ("aarch64", "arm64"):
        return SPINS["ARM"]
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            cpu = file.read(400)
    except OSError:
        return SPINS["GenuineIntel"]
    return next((count for maker, count in SPINS.items() if maker in cpu), SPINS["GenuineIntel"])


THREAD_WAITING = {"GOMP_SPINCOUNT": spin_count(), "KMP_BLOCKTIME": "1"}


def limit_spinning(environment: "os._Environ[str] | dict[str, str]") -> None:
    """Set how OpenMP threads wait, unless the user has set any of it."""
    if "OMP_WAIT_POLICY" not in environment and not environment.keys() & THREAD_WAITING.keys():
        environment.update(THREAD_WAITING)


limit_spinning(os.environ)

__version__ = "0.1.0"
