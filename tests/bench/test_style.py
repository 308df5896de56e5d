"""The scores of a style: what is copied, drifted and diverse, when it arrived; and one real measurement."""

import json
from dataclasses import fields, replace

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from sdlora.bench import style
from sdlora.bench.curves import Curve, Point
from sdlora.bench.ruler import Scores
from sdlora.bench.style import StyleResult, Trained, difference, nearest, summary, time_to_style, write_sheet
from sdlora.bench.style_runs import held_out
from sdlora.cli import bench
from sdlora.errors import UserError
from sdlora.mini.strangers import FINAL_STRANGERS

RESULT = StyleResult("chalk", 60.0, 80.0, 70.0, 0.9, 1.0, 0.3, 1.0, 40.0, 80.0, 1440)


def noise(count, seed=0):
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_a_copy_is_near_and_other_pictures_are_not():
    training = noise(4)
    assert nearest(training[:2], training) == pytest.approx(0, abs=1e-3)
    assert nearest(noise(8, seed=1), training) > 0.1
    assert difference(training, training) == 0 < difference(training, noise(4, seed=1))


def test_a_style_has_arrived_at_the_first_checkpoint_that_is_nearly_as_good(monkeypatch, tmp_path):
    class Scored:
        scenes = held_out(3)

        def style(self, drawn):
            return Scores(drawn if isinstance(drawn, int) else drawn[0], 0.0, 0.0)

    scores = {"step-000100": 10, "step-000200": 55, "step-000300": 61}
    monkeypatch.setattr(style, "draw_prompts", lambda base, prompts, count, file: scores[file.parent.name])
    trained = Trained(tmp_path / "x.safetensors", tmp_path, 90.0, 1200, {300: 80.0, 100: 20.0, 200: 50.0})
    assert time_to_style(None, Scored(), trained, [60, 60, 60]) == 50.0
    assert time_to_style(None, Scored(), trained, [100]) == 90.0, "none of them: when it ended"


def test_the_mean_has_every_number_and_its_spread():
    whole = summary([RESULT, replace(RESULT, style_fine=40.0)])
    names = {field.name for field in fields(StyleResult)} - {"style"}
    assert whole.keys() == names | {f"{name}_spread" for name in names}
    assert summary([replace(RESULT, style_fine=None), RESULT])["style_fine"] == 60
    assert summary([replace(RESULT, style_fine=None)])["style_fine"] is None
    assert whole["style_fine"] == 50 and whole["style_fine_spread"] == 10 and whole["content_spread"] == 0


def test_the_sheet_shows_every_row(tmp_path):
    write_sheet(tmp_path / "sheet.png", [noise(3), noise(3, seed=1)], columns=2)
    assert Image.open(tmp_path / "sheet.png").size == (128, 128)


def test_a_sheet_takes_rows_of_different_lengths(tmp_path):
    write_sheet(tmp_path / "sheet.png", [noise(3), noise(1, seed=1)])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (192, 128)
        assert sheet.crop((64, 64, 192, 128)).getextrema() == 3 * ((255, 255),)


def test_rows_and_the_mean_are_printed(monkeypatch, tmp_path):
    curve = Curve("x", [Point(10, 1.0, 20.0, 1.0, 30.0, 1.0)], 10)
    measured = lambda _base, case, chosen, _: [(replace(RESULT, style=s.name), case.curves and curve) for s in chosen]  # noqa: E731
    monkeypatch.setattr(style, "measure", measured)
    monkeypatch.setattr("sdlora.base.load.load_base", lambda *_: None)
    app = typer.Typer()
    bench.register(app)
    run = CliRunner().invoke
    lines = run(app, ["bench", "style", "--final", "--json", "--out", str(tmp_path)]).stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert [each["style"] for each in told] == [*(stranger.name for stranger in FINAL_STRANGERS), "mean"]
    table = run(app, ["bench", "style", "--styles", "neon, riso", "--seeds", "2", "--out", str(tmp_path)]).stdout.splitlines()
    assert len(table) == 7 and table[2] == "| neon | 60 | 80 | 70 | 0.90 | 1.00 | 0.30 | 1.00 | 40 | 80 | 1440 |"
    drawn = run(app, ["bench", "style", "--styles", "neon", "--curves", "--json", "--out", str(tmp_path)]).stdout.splitlines()
    told = json.loads(drawn[-1])
    assert told["suggested_gain"] == 0 and told["curves"][0]["points"][0]["told_style"] == 30
    assert (tmp_path / "curves.png").exists()
    with pytest.raises(UserError, match="no style oil in the benchmark"):
        run(app, ["bench", "style", "--styles", "oil", "--out", str(tmp_path)], catch_exceptions=False)


@pytest.mark.slow
def test_a_style_is_really_measured(tmp_path):
    app = typer.Typer()
    bench.register(app)
    arguments = ["bench", "style", "--fast", "--set", "steps=40", "--json", "--out", str(tmp_path)]
    lines = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout.splitlines()
    chalk = json.loads(lines[0])
    assert chalk["style"] == "chalk" and 0 <= chalk["content"] < 2 and chalk["diversity"] > 0 and chalk["pictures_seen"] == 160
    assert (tmp_path / "chalk-1" / "sheet.png").exists()
