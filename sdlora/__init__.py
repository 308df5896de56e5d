"""sdlora: a studio in the browser where artists teach Stable Diffusion their style."""

import os

# Two torch processes on one machine is the normal case here (a run and the drawer). With OpenMP's default of busy waiting
# they starve each other: measured 50x slower steps on two shared cores. Must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
