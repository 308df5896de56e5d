"""`sdlora inspect`: what it prints, what its JSON holds, and that strange files are sentences."""

import hashlib
import json

import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from sdlora.cli import inspect as command
from sdlora.errors import UserError
from sdlora.lora.formats import reading
from sdlora.lora.formats.module_tables import family_table
from tests.lora.formats.test_reading import PATHS, style
from tests.tiny import write_base

KEYS = {"dialect", "kind", "family", "rank", "alpha", "modules", "matched", "ignored", "effective_scale", "push", "trigger",
        "problems", "blocks"}
app = typer.Typer()
command.register(app)
app.callback()(lambda: None)


def run(path, *more):
    result = CliRunner().invoke(app, ["inspect", str(path), *more], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_json_has_every_key(tmp_path):
    path = reading.write(tmp_path / "a.safetensors", style(), {"sdlora_trigger": "stglass"}, family="mini")
    found = json.loads(run(path, "--json"))
    assert KEYS <= set(found)
    said = {"dialect": "kohya", "kind": "LoRA", "family": "mini", "rank": 4, "alpha": 2.0, "modules": 4, "matched": 4,
            "effective_scale": 0.5, "trigger": "stglass", "problems": [], "ignored": [], "push_against": "weights"}
    assert {key: found[key] for key in said} == said
    assert found["hashes"]["AutoV2"] == hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    assert found["hashes"]["AutoV3"] == found["metadata"]["sshs_model_hash"][:12]
    assert [type(found[key]) for key in ("rank", "modules", "matched", "push")] == [int, int, int, float]
    assert found["blocks"] == {"IN01": {"modules": 4, "push": found["push"]}} and found["push"] > 0


def test_what_is_printed_has_a_picture_of_the_blocks(tmp_path):
    paths = [*PATHS, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    path = reading.write(tmp_path / "a.safetensors", style(paths), {"sdlora_trigger": "stglass"}, family="mini")
    shown = run(path, "--base", "mini")
    assert "matched 5 of 5 (unet 5/5, te 0/0)" in shown and "trigger stglass" in shown and "effective scale 0.5" in shown
    bars = [line.split() for line in shown.splitlines() if line.startswith("  ")]
    assert [bar[0] for bar in bars] == ["IN01", "MID"] and max(len(bar[-1]) for bar in bars) == command.BAR
    assert all(set(bar[-1]) == {"#"} for bar in bars)


def test_another_base_is_a_sentence(tmp_path):
    paths = [path for path in family_table("sd1") if ".attn2.to_k" in path]
    path = reading.write(tmp_path / "a.safetensors", style(paths, "sd1"), {}, family="sd1")
    found = json.loads(run(path, "--base", "mini", "--json"))
    assert found["matched"] == 0 and found["push"] == 0 and "Stable Diffusion 1.x" in found["problems"][0]
    assert "! It fits no module of this base" in run(path, "--base", "mini")


def test_a_base_of_ones_own_is_measured_too(tmp_path):
    base = write_base(tmp_path / "base")
    paths = ["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "te1:text_model.encoder.layers.0.mlp.fc1"]
    shapes = {paths[0]: (16, 128), paths[1]: (32, 128)}
    save_file({f"{'lora_te_' + path[4:].replace('.', '_') if ':' in path else 'lora_unet_' + path.replace('.', '_')}.diff":
               torch.ones(shape) for path, shape in shapes.items()}, tmp_path / "a.safetensors")
    found = json.loads(run(tmp_path / "a.safetensors", "--base", str(base), "--json"))
    assert (found["matched"], found["push_against"], found["parts"]["te"]["matched"]) == (2, "weights", 1)
    assert found["kind"] == "full difference" and list(found["blocks"]) == ["BASE", "IN01"] and found["rank"] == 0


def test_a_lora_of_another_build_of_mini_is_told(tmp_path):
    path = reading.write(tmp_path / "a.safetensors", style(), {"sdlora_base_identity": "0" * 64}, family="mini")
    assert "another build" in json.loads(run(path, "--json"))["problems"][0]


def test_no_lora_no_report(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"<html><title>404</title></html>")
    with pytest.raises(UserError, match="web page"):
        CliRunner().invoke(app, ["inspect", str(tmp_path / "a.safetensors")], catch_exceptions=False)
