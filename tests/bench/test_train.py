"""The benchmark runs the real steps, each side in a process of its own. How fast they are is not tested here."""

import json
import os

import pytest
import typer
from typer.testing import CliRunner

import sdlora
from sdlora.base.load import load_base
from sdlora.bench import train
from sdlora.cli import bench
from sdlora.errors import UserError
from tests import tiny

app = typer.Typer()
bench.register(app)
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


def test_the_three_steps_are_measured_and_reported(base):
    result = CliRunner().invoke(app, ["bench", "train", "--base", str(base), "--rounds", "2", "--json"], catch_exceptions=False)
    told = json.loads(result.stdout.splitlines()[0])
    assert {"model", "batch", "ours_s", "peft_s", "floor_s", "ratio_floor", "ratio_peft"} <= set(told)
    assert told["batch"] == 4 and told["rounds"] == 2 and told["device"] == "cpu"
    assert told["ratio_floor"] == pytest.approx(told["ours_s"] / told["floor_s"])
    assert told["ratio_peft"] == pytest.approx(told["peft_s"] / told["ours_s"])


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


def test_a_script_that_ends_too_early_is_a_sentence_with_its_last_words(base, script, tmp_path):
    case = train.Case(str(base), pictures=str(train.shipped_pictures()))
    with pytest.raises(UserError, match=r"their script.py ended before it was measured") as caught:
        train.measure_script(case, script, [str(tmp_path / "said.json"), "15"], rounds=5)
    assert "trained to the end" in caught.value.hint


def test_arguments_without_a_script_and_a_script_that_is_none_are_sentences(base):
    with pytest.raises(UserError, match="no --script"):
        CliRunner().invoke(app, ["bench", "train", "--", "--lr=1"], catch_exceptions=False)
    with pytest.raises(UserError, match="no script nowhere.py"):
        CliRunner().invoke(app, ["bench", "train", "--script", "nowhere.py"], catch_exceptions=False)


def test_without_peft_its_figures_are_empty_and_a_sentence_says_how_to_get_it():
    result = train.Result("mini", 4, 0.2, None, 0.1, 2.0, None, 3, 2, "cpu", 1.0)
    assert "pip install" in "\n".join(bench.step_lines(result))


@pytest.mark.parametrize(("spread", "busy"), [(1.2, False), (1.4, True)])
def test_unsteady_rounds_are_told(spread, busy, capsys):
    bench.print_result(train.Result("mini", 4, 0.2, 0.3, 0.1, 2.0, 1.5, 3, 2, "cpu", spread), bench.step_lines, False)
    assert ("1.4 times as long" in capsys.readouterr().err) == busy


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
