"""`inspect` as a function and as a command."""

import json

import pytest
import typer
from typer.testing import CliRunner

from sdlora.cli import inspect as command
from sdlora.errors import UserError
from sdlora.lora import file
from sdlora.lora.modules import family_table
from tests.lora.test_file import PATHS, style

KEYS = {
    "dialect",
    "kind",
    "family",
    "rank",
    "alpha",
    "modules",
    "matched",
    "ignored",
    "effective_scale",
    "push",
    "trigger",
    "problems",
}
app = typer.Typer()
command.register(app)
app.callback()(lambda: None)


def report(path, *more):
    result = CliRunner().invoke(app, ["inspect", str(path), "--json", *more], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_the_command_reports_every_key(tmp_path):
    path = file.write(tmp_path / "a.safetensors", style(), {"sdlora_trigger": "stglass"}, family="mini")
    found = report(path)
    assert KEYS <= set(found)
    assert (
        found["dialect"],
        found["family"],
        found["rank"],
        found["alpha"],
        found["modules"],
        found["matched"],
        found["effective_scale"],
        found["trigger"],
        found["problems"],
    ) == ("kohya", "mini", 4, 2.0, 4, 4, 0.5, "stglass", [])
    assert found["push"] > 0 and found["push_against"] == "weights"
    shown = CliRunner().invoke(app, ["inspect", str(path), "--base", "mini"], catch_exceptions=False).stdout
    assert "matched  4 of 4 (unet 4/4, te 0/0)" in shown and "stglass" in shown


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_family_is_read_from_widths_not_from_metadata(tmp_path, family):
    paths = [path for path in family_table(family) if ".attn2." in path][:8]
    path = file.write(tmp_path / "a.safetensors", style(paths, family), {"ss_base_model_version": "sd_v1"}, family=family)
    found = file.inspect(path)
    assert (found["family"], found["matched"], found["modules"], found["push_against"]) == (family, 8, 8, "typical")


def test_tensors_that_fit_two_families_are_told_as_a_list(tmp_path):
    path = file.write(tmp_path / "a.safetensors", style(["te1:text_model.encoder.layers.0.mlp.fc1"], "sd1"), {}, family="sd1")
    assert file.inspect(path)["family"] == ["sd1", "sdxl"]


def test_another_base_and_half_a_match_are_sentences(tmp_path):
    paths = [path for path in family_table("sd1") if ".attn2.to_k" in path]
    path = file.write(tmp_path / "a.safetensors", style(paths, "sd1"), {}, family="sd1")
    found = report(path, "--base", "mini")
    assert found["matched"] == 0 and "fits no module" in found["problems"][0]
    mixed = style([*PATHS]) | {key: adapter for key, adapter in style(["mid_block.resnets.0.time_emb_proj"], "sd1").items()}
    found = file.inspect(file.write(tmp_path / "b.safetensors", mixed, {}, family="mini"))
    assert (found["matched"], found["modules"]) == (4, 5) and "1 of 5 modules" in found["problems"][0]


def test_a_lora_of_another_build_of_mini_is_told(tmp_path):
    path = file.write(tmp_path / "a.safetensors", style(), {"sdlora_base_identity": "0" * 64}, family="mini")
    assert "another build" in report(path)["problems"][0]


def test_no_lora_no_report(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"<html>")
    with pytest.raises(UserError):
        CliRunner().invoke(app, ["inspect", str(tmp_path / "a.safetensors")], catch_exceptions=False)
