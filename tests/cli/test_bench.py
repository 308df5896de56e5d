"""What `sdlora bench` prints beside its figures: refusals, what is missing, and that the machine was busy."""

import pytest
import typer
from typer.testing import CliRunner

from sdlora.bench import train
from sdlora.cli import bench
from sdlora.errors import UserError

app = typer.Typer()
bench.register(app)


def test_arguments_without_a_script_and_a_script_that_is_none_are_sentences():
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
