"""The benchmark runs the real steps, each side in a process of its own. How fast they are is not tested here."""

import json

import pytest
import typer
from typer.testing import CliRunner

from sdlora.base.load import load_base
from sdlora.bench import train
from sdlora.cli import bench

app = typer.Typer()
bench.register(app)


def test_the_three_steps_are_measured_and_reported(base):
    result = CliRunner().invoke(app, ["bench", "train", "--base", str(base), "--rounds", "2", "--json"], catch_exceptions=False)
    told = json.loads(result.stdout.splitlines()[0])
    assert {"model", "batch", "ours_s", "peft_s", "floor_s", "ratio_floor", "ratio_peft"} <= set(told)
    assert told["batch"] == 4 and told["rounds"] == 2 and told["device"] == "cpu"
    assert told["ratio_floor"] == pytest.approx(told["ours_s"] / told["floor_s"])
    assert told["ratio_peft"] == pytest.approx(told["peft_s"] / told["ours_s"])


def test_ours_and_pefts_solve_the_same_problem(base):
    case = train.Case(batch=2, rank=4)
    models = [load_base(str(base), "cpu", parts=("text", "unet")) for _ in range(2)]
    mine, theirs = train.ours(models[0], case), train.peft(models[1], case)
    assert mine().item() == pytest.approx(theirs().item(), rel=1e-4)
    losses = [mine().item() for _ in range(8)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("model", "side"), [("sd15", 64), ("sdxl", 128)])
def test_full_cases_have_the_size_of_their_artists(base, model, side):
    small = load_base(str(base), "cpu", parts=("unet",))
    small.text_encoders = []
    latents, noise, timesteps, features, size_px = train.inputs(small, train.Case(model, batch=1))
    assert latents.shape == noise.shape == (1, small.channels, size_px // small.factor, size_px // small.factor)
    assert size_px == 8 * side and features["states"].shape == (1, 77, small.unet.config.cross_attention_dim)


def test_the_loop_of_a_side_is_the_loop_of_a_run(base):
    step = train.loop_step(train.Case(str(base), pictures=str(train.shipped_pictures())))
    assert [step().step for _ in range(3)] == [1, 2, 3]
