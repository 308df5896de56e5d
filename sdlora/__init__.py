"""sdlora: a studio in the browser where artists teach Stable Diffusion their style."""

import os

# How long a waiting OpenMP thread spins before it sleeps; read once, when torch is first imported. Two torch processes on one
# machine are the normal case here (a run and the drawer), so the default of libgomp (about 300,000 turns) starves the
# neighbour, and not spinning at all wakes both threads in the kernel hundreds of times a step.
# Measured on two cores, 2026-11-27, a mini step of batch 4: not spinning 0.195 s, 1,000 turns 0.129 s, 10,000 0.129 s,
# spinning for ever 0.128 s. Two trainings at once: 0.26 s at 1,000, 1.0 s at 10,000, 7.3 s at 100,000.
# Intel's and LLVM's runtime counts milliseconds: 0 0.192 s, 1 0.139 s, its default of 200 0.132 s; two at once at 1 ms: 0.23 s.
THREAD_WAITING = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


def spin_a_little(environment: "os._Environ[str] | dict[str, str]") -> None:
    """Set how OpenMP threads wait, unless the user has set any of it."""
    if "OMP_WAIT_POLICY" not in environment and not environment.keys() & THREAD_WAITING.keys():
        environment.update(THREAD_WAITING)


spin_a_little(os.environ)

__version__ = "0.1.0"
