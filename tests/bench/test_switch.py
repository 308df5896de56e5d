"""Both sides of the benchmark do what they say, and leave the base as it was. How fast they are is not tested here."""

import json
import sys
from contextlib import nullcontext

import pytest
import torch
import typer
from typer.testing import CliRunner

from sdlora.base.load import load_base
from sdlora.bench import sides, switch
from sdlora.cli import bench
from sdlora.lora.formats import reading as lora_file
from sdlora.lora.math.blend import Ingredient
from tests.lora.blended import blend

app = typer.Typer()
bench.register(app)
KEYS = set("model load_s switch_s blend2_s blend5_s first_step_s peft_load_s peft_switch_s peft_set_s load_ratio switch_ratio "
           "step5_ratio peft_step5_ratio".split())


def asked(*arguments):
    result = CliRunner().invoke(app, ["bench", "switch", "--rounds", "1", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_mini_is_measured_and_reported():
    told = json.loads(asked("--json").stdout.splitlines()[-1])
    assert told.keys() >= KEYS and told["model"] == "mini" and told["modules"] == 80 and told["rounds"] == 1
    assert all(told[key] > 0 for key in KEYS - {"model"})
    assert told["load_ratio"] == pytest.approx(told["peft_load_s"] / told["load_s"])
    assert told["switch_ratio"] == pytest.approx(told["peft_switch_s"] / told["switch_s"])


def test_without_peft_its_figures_are_empty_and_a_sentence_says_how_to_get_it(monkeypatch):
    started = []
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(sides, "running", lambda commands: started.extend(commands) or nullcontext())
    facts = {"rounding_error": 0.0, "modules": 80, "threads": 2, "device": "cpu", "dtype": "float32"}
    turn = {f"{name}_s": 0.1 for name in ("load", "switch", "blend2", "blend5", "first_step", "step", "step5", "copy")}
    monkeypatch.setattr(sides, "in_turn", lambda *_: {"ours": [turn | {"facts": facts}]})
    result = asked()
    assert started == ["ours"]
    assert "pip install" in result.output and "blend of 5" in result.output and "as fast" not in result.output


def test_either_side_merges_the_same_and_leaves_the_base(tmp_path):
    base = load_base("mini", "cpu", parts=("unet",))
    files = [switch.write_lora(tmp_path / f"{seed}.safetensors", base, seed) for seed in range(2)]
    adapters = lora_file.read(files[0]).adapters
    before = {path: base.unet.get_submodule(path).weight.clone() for path in switch.targets(base)}
    assert adapters.keys() == before.keys()
    pipeline = switch.pipeline_of(base)
    pipeline.load_lora_weights(str(files[0]), adapter_name="a")
    pipeline.fuse_lora(adapter_names=["a"])
    wanted = blend([Ingredient(adapters)], before)
    assert all(torch.allclose(base.unet.get_submodule(path).weight, wanted[path], atol=1e-6) for path in before)
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    step = switch.step_of(base)
    bare = step()
    assert switch.ours(base, files * 3, step).keys() >= {"load_s", "switch_s", "copy_s"}
    assert torch.equal(step(), bare)
    assert all(torch.allclose(base.unet.get_submodule(path).weight, before[path], atol=1e-6) for path in before)


def test_a_random_base_has_the_true_shape_and_draws_finite_numbers(monkeypatch):
    real = switch.storage.read_json
    monkeypatch.setattr(switch.storage, "read_json", lambda path: real(path) | {
        "block_out_channels": [32, 64, 64], "layers_per_block": 1, "transformer_layers_per_block": 1, "sample_size": 8})
    monkeypatch.setattr(switch, "SIDE_PX", 64)
    base = switch.random_base("sdxl", "cpu")
    assert base.dtype == torch.bfloat16 and not any(value.is_meta for value in base.unet.parameters())
    with torch.no_grad():
        assert switch.step_of(base)().isfinite().all()
    assert switch.pipeline_of(base).unet is base.unet
