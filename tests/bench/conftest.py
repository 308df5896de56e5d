"""A tiny base, and a training script of somebody else with a helper of its own."""

import pytest

from tests import tiny

SCRIPT = """
import json, os, sys
OWN = {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "GOMP_", "KMP_"))}
assert "torch" not in sys.modules, "torch was loaded before the script could choose its settings"
import torch
from helper import optimizers
main, other = optimizers(torch)
open(sys.argv[1], "w").write(json.dumps({"openmp": OWN, "arguments": sys.argv[2:], "name": __name__}))
for step in range(int(sys.argv[2])):
    main.step()
    other.step()
print("trained to the end")
"""
HELPER = """
def optimizers(torch):
    return [torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1) for _ in range(2)]
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def script(tmp_path):
    (tmp_path / "helper.py").write_text(HELPER)
    path = tmp_path / "their script.py"
    path.write_text(SCRIPT)
    return path
