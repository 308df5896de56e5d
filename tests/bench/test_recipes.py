"""Other trainers' recipes are settings of ours, and see as many pictures."""

import json

import pytest
import typer
from typer.testing import CliRunner

from sdlora.bench import recipes
from sdlora.bench.recipes import RECIPES, arguments_of
from sdlora.cli import bench
from sdlora.config import from_preset
from sdlora.parsing import parse_sets
from tests.bench.test_style import RESULT


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_is_a_valid_config_with_as_many_pictures_seen(recipe):
    sets = list(arguments_of(recipe, 3840)[1::2])
    config = from_preset("normal", "mini", 12, **parse_sets(sets))
    assert abs(config.steps * config.batch_size - 3840) < config.batch_size
    assert all(getattr(config, key) == value for key, value in recipe.settings.items())


def test_ours_is_measured_beside_them_with_the_same_case(monkeypatch, tmp_path):
    cases = []
    monkeypatch.setattr(recipes, "measure", lambda base, case, *_: cases.append(case) or [(RESULT, None)])
    monkeypatch.setattr("sdlora.base.load.load_base", lambda *_: type("Base", (), {"family": "mini", "spec": "mini"}))
    app = typer.Typer()
    bench.register(app)
    lines = CliRunner().invoke(app, ["bench", "recipes", "--out", str(tmp_path)], catch_exceptions=False).stdout.splitlines()
    assert len(lines) == 3 + len(RECIPES) and lines[2].startswith("| ours, normal | 60 | 80 | 70 | 0.90 |")
    assert cases[0].arguments == () and all(case.arguments for case in cases[1:])
    assert lines[0].count("|") == lines[3].count("|")
    told = CliRunner().invoke(app, ["bench", "recipes", "--json", "--out", str(tmp_path)], catch_exceptions=False).stdout
    first = json.loads(told.splitlines()[1])
    assert first["recipe"] == RECIPES[0].name and first["style_fine"] == 60
