"""The benchmark runs the real steps and says what the contract names. How fast they are is not tested here."""

import dataclasses
import json
import sys

import pytest
import torch
import typer
from typer.testing import CliRunner

from sdlora.base.load import load_base
from sdlora.bench import train
from sdlora.cli import bench
from tests import tiny

app = typer.Typer()
bench.register(app)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write_base(tmp_path_factory.mktemp("base") / "tiny")


def test_the_three_steps_are_measured_and_reported(base):
    result = CliRunner().invoke(app, ["bench", "train", "--base", str(base), "--rounds", "2", "--json"], catch_exceptions=False)
    told = json.loads(result.stdout)
    assert {"model", "batch", "ours_s", "peft_s", "floor_s", "ratio_floor", "ratio_peft"} <= set(told)
    assert told["batch"] == 4 and told["rounds"] == 2
    assert told["ratio_floor"] == pytest.approx(told["ours_s"] / told["floor_s"])
    assert told["ratio_peft"] == pytest.approx(told["peft_s"] / told["ours_s"])


def test_without_peft_its_figures_are_empty_and_a_sentence_says_how_to_get_it(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    result = CliRunner().invoke(app, ["bench", "train", "--base", str(base), "--rounds", "1", "--json"], catch_exceptions=False)
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["peft_s"] is None and told["ratio_peft"] is None and told["ours_s"] > 0
    assert "pip install" in result.output


def test_ours_and_pefts_solve_the_same_problem(base):
    model = load_base(str(base), "cpu", parts=("text", "unet"))
    first = [step() for step in (train.ours(model, 2, 4), train.peft(model, 2, 4))]
    assert first[0] == pytest.approx(first[1], rel=1e-4)
    step = train.ours(model, 2, 4)
    losses = [step() for _ in range(8)]
    assert losses[-1] < losses[0]
    before = [value.clone() for value in model.unet.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, model.unet.state_dict().values(), strict=True))


def test_a_slow_machine_gets_fewer_rounds(monkeypatch):
    monkeypatch.setattr(train, "LIMIT_SECONDS", 0.0)
    seconds, rounds = train.medians({"a": lambda: None}, 1000)
    assert rounds == 1 and seconds["a"] >= 0
    assert {field.name for field in dataclasses.fields(train.Result)} >= {"ours_s", "floor_s"}
