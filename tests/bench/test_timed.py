"""A training script of somebody else is timed as it is: with its own settings, arguments and helpers."""

import json
import os

import pytest
import typer
from typer.testing import CliRunner

import sdlora
from sdlora.bench import train
from sdlora.cli import bench

app = typer.Typer()
bench.register(app)


def test_a_script_is_timed_beside_ours_with_defaults_of_its_own(base, script, tmp_path):
    said = tmp_path / "said.json"
    arguments = ["--base", str(base), "--rounds", "2", "--json", "--script", str(script), "--", str(said), "100000",
                 "--from={base}", "{pictures}/{batch}"]
    result = CliRunner().invoke(app, ["bench", "train", *arguments], catch_exceptions=False)
    told = json.loads(result.stdout.splitlines()[0])
    assert told["rounds"] == 2 and told["ours_s"] > 0 and told["ratio"] == pytest.approx(told["theirs_s"] / told["ours_s"])
    theirs = json.loads(said.read_text())
    assert theirs["openmp"] == {name: value for name, value in os.environ.items()
                                if name.startswith(("OMP_", "GOMP_", "KMP_")) and (name, value) not in
                                tuple(sdlora.THREAD_WAITING.items())}
    assert theirs["arguments"] == ["100000", f"--from={base}", f"{train.shipped_pictures()}/4"]
    assert theirs["name"] == "__main__"
