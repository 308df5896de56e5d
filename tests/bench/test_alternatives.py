"""What LoRA is compared with really trains, and leaves the base as it was."""

import json
from dataclasses import replace

import pytest
import torch
import typer
from typer.testing import CliRunner

from sdlora.base.load import load_base
from sdlora.bench import alternatives
from sdlora.bench.alternatives import (
    AlternativeResult,
    best_wording,
    fine_or_coarse,
    full_fine_tuning,
    plain_wording,
    prompt_tuning,
)
from sdlora.bench.style import render_all
from sdlora.bench.style_runs import TRIGGER, training_scenes
from sdlora.cli import bench
from sdlora.mini.strangers import STRANGERS

SCENES = training_scenes(2, 1)
CAPTIONS = [plain_wording(scene, True) for scene in SCENES]


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu")


def prediction(base, prompt):
    noisy = torch.randn((1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return base.predict(noisy, torch.tensor([500]), base.encode_text([prompt]), 128)


def test_full_fine_tuning_changes_every_prompt_and_is_undone(mini):
    pictures, plain = render_all(STRANGERS[0], SCENES), "a red house"
    before = prediction(mini, plain)
    with full_fine_tuning(mini, pictures, CAPTIONS, 3, 1e-3) as (numbers, size):
        assert numbers == sum(weight.numel() for weight in mini.unet.parameters()) and size == 2 * numbers
        assert not torch.allclose(prediction(mini, plain), before, atol=1e-3)
    assert torch.equal(prediction(mini, plain), before) and not any(w.requires_grad for w in mini.unet.parameters())


def test_prompt_tuning_changes_what_the_trigger_means_and_nothing_else(mini):
    pictures, plain, styled = render_all(STRANGERS[0], SCENES), "a red house", f"{TRIGGER} a red house"
    before = [prediction(mini, prompt) for prompt in (plain, styled)]
    with prompt_tuning(mini, pictures, CAPTIONS, 3, 0.1) as (numbers, size):
        assert numbers % 128 == 0 and size < 10_000
        assert torch.equal(prediction(mini, plain), before[0])
        assert not torch.allclose(prediction(mini, styled), before[1], atol=1e-4)
    assert torch.equal(prediction(mini, styled), before[1])


def test_the_wording_whose_drawings_are_nearest_is_taken(mini, monkeypatch):
    asked = []
    monkeypatch.setattr(alternatives, "draw_prompts", lambda _, prompts, __: asked.append(prompts) or prompts)
    far = lambda prompts, _: type("Far", (), {"fine": 0.0, "coarse": float("grain" not in prompts[0])})  # noqa: E731
    monkeypatch.setattr(alternatives, "distances", far)
    assert "grain" in best_wording(mini, torch.zeros(2, 3, 8, 8), SCENES)
    assert all(prompt.endswith("red house") or " of a" in prompt for prompts in asked for prompt in prompts)


def test_a_style_without_lines_of_its_own_is_chosen_by_its_colours():
    row = AlternativeResult("full fine-tuning", "rate 1", 71.0, 88.0, 0.9, 0.4, 120.0, 3, 6)
    assert fine_or_coarse(row) == 71 and fine_or_coarse(replace(row, style_fine=None)) == 88
    assert fine_or_coarse(replace(row, style_fine=0.0)) == 0


def test_the_table_has_a_row_for_every_way(monkeypatch, tmp_path):
    row = AlternativeResult("LoRA", "normal", 71.0, 88.0, 0.9, 0.4, 120.0, 341_000, 700_000)
    monkeypatch.setattr(alternatives, "measure", lambda *_: [("chalk", row)])
    monkeypatch.setattr("sdlora.base.load.load_base", lambda *_: None)
    app = typer.Typer()
    bench.register(app)
    lines = CliRunner().invoke(app, ["bench", "alternatives", "--out", str(tmp_path)]).stdout.splitlines()
    assert lines[-1] == "| chalk | LoRA | 71 | 88 | 0.90 | 0.40 | 120 | 341,000 | 0.700 | normal |"
    assert lines[0].count("|") == lines[-1].count("|")
    told = json.loads(CliRunner().invoke(app, ["bench", "alternatives", "--json", "--out", str(tmp_path)]).stdout)
    assert told["numbers"] == 341_000 and told["style"] == "chalk"
