"""The report on a file: what it counts, what it measures, what it says is wrong."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlora.errors import UserError
from sdlora.lora.formats import reading
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.formats.writing import write
from sdlora.lora.math.delta import delta
from sdlora.lora.tools import report
from sdlora.storage import shipped
from tests.lora.formats.test_reading import PATHS, style
from tests.lora.spellings import every_spelling, flat, halves


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_family_is_read_from_widths_not_from_metadata(tmp_path, family):
    paths = [path for path in family_table(family) if ".attn2.to" in path][:8]
    path = write(tmp_path / "a.safetensors", style(paths, family), {"ss_base_model_version": "sd_v1"}, family=family)
    found = report.inspect(path)
    assert (found["family"], found["matched"], found["modules"], found["push_against"]) == (family, 8, 8, "typical")


def test_tensors_that_fit_two_families_are_told_as_a_list(tmp_path):
    path = write(tmp_path / "a.safetensors", style(["te1:text_model.encoder.layers.0.mlp.fc1"], "sd1"), {}, family="sd1")
    found = report.inspect(path)
    assert found["family"] == ["sd1", "sdxl"] and list(found["blocks"]) == ["BASE"]


def test_half_a_match_is_a_sentence(tmp_path):
    mixed = style([*PATHS]) | {key: adapter for key, adapter in style(["mid_block.resnets.0.time_emb_proj"], "sd1").items()}
    found = report.inspect(write(tmp_path / "b.safetensors", mixed, {}, family="mini"))
    assert (found["matched"], found["modules"]) == (4, 5) and "1 of 5 modules" in found["problems"][0]


def test_modules_that_happen_to_fit_another_family_do_not_hide_it(tmp_path):
    paths = ["te1:text_model.encoder.layers.0.mlp.fc1", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"]
    path = write(tmp_path / "a.safetensors", style(paths, "sdxl"), {}, family="sdxl")
    found = report.inspect(path, shipped("assets", "configs", "sd1"))
    assert found["matched"] == 1
    assert found["problems"][0] == ("It was made for Stable Diffusion XL, and this base is Stable Diffusion 1.x: "
                                    "only 1 of 2 modules happen to fit.")


def test_the_push_of_every_block_is_measured_against_minis_own_weights(tmp_path):
    text = "te1:text_model.encoder.layers.0.mlp.fc1"
    made = style([*PATHS, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q", text])
    found = report.inspect(write(tmp_path / "a.safetensors", made, {}, dtype="fp32", family="mini"))
    weights = load_file(shipped("assets", "mini", "unet", "diffusion_pytorch_model.safetensors"))
    for block, start in (("IN01", "down"), ("MID", "mid")):
        paths = [path for path in made if path.startswith(start)]
        moved = sum(delta(made[path], weights[f"{path}.weight"]).square().sum() for path in paths).sqrt()
        large = sum(weights[f"{path}.weight"].float().square().sum() for path in paths).sqrt()
        assert found["push_against"] == "weights" and list(found["blocks"]) == ["BASE", "IN01", "MID"]
        assert found["blocks"][block] == {"modules": len(paths), "push": pytest.approx(float(moved / large), rel=1e-4)}


@pytest.mark.parametrize("leaves", [{"dora_scale": (1.0, 64, 1)}, {"oft_blocks": (0.1, 8, 8, 8)}, {"a1.weight": (0.1, 64, 2),
                                    "a2.weight": (0.1, 2, 64), "b1.weight": (0.1, 64, 2), "b2.weight": (0.1, 2, 64)},
                                    {"weight": (0.2, 64), "on_input": (1.0,)}])
def test_kinds_that_depend_on_the_weight_are_measured_on_it(tmp_path, leaves):
    tensors = {} if "dora_scale" not in leaves else every_spelling(halves("mini", PATHS[:1]), "mini")["kohya"][0]
    generator = torch.Generator().manual_seed(3)
    tensors |= {f"{flat(PATHS[0])}.{leaf}": torch.rand(shape, generator=generator) * size if shape else torch.tensor(size)
                for leaf, (size, *shape) in leaves.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    found, adapters = report.inspect(tmp_path / "a.safetensors"), reading.read(tmp_path / "a.safetensors").adapters
    weight = load_file(shipped("assets", "mini", "unet", "diffusion_pytorch_model.safetensors"))[f"{PATHS[0]}.weight"].float()
    if found["push_against"] == "weights":
        expected = delta(adapters[PATHS[0]], weight).norm() / weight.norm()
        assert found["push"] == pytest.approx(float(expected), rel=1e-3)
    other = report.inspect(tmp_path / "a.safetensors", shipped("assets", "configs", "sd1"))
    assert found["push"] > 0 and isinstance(other["push"], float)


def test_without_weights_a_dora_is_measured_against_rows_of_its_own_norms(tmp_path):
    path = next(path for path in family_table("sd1") if path.endswith("attn1.to_q"))
    (down, up), = halves("sd1", [path]).values()
    name = flat(path)
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": torch.zeros_like(up),
               f"{name}.dora_scale": torch.full((320, 1), 5.0)}, tmp_path / "a.safetensors")
    found = report.inspect(tmp_path / "a.safetensors")
    assert found["kind"] == "DoRA" and found["push"] == pytest.approx(0, abs=1e-5)     # at its start a DoRA changes nothing


def test_burnt_values_are_told_and_not_hidden(tmp_path):
    made = style()
    made[PATHS[1]].tensors["up"][0, 0] = float("nan")
    save_file({f"{flat(path)}.lora_{role}.weight": value for path, adapter in made.items()
               for role, value in adapter.tensors.items()}, tmp_path / "a.safetensors")
    found = report.inspect(tmp_path / "a.safetensors")
    assert found["burnt"] == [PATHS[1]] and any("It is broken" in problem for problem in found["problems"])
    assert found["push"] > 0


def test_zeros_change_nothing_and_that_is_said(tmp_path):
    made = style()
    for adapter in made.values():
        adapter.tensors["up"].zero_()
    found = report.inspect(write(tmp_path / "a.safetensors", made, {}, family="mini"))
    assert found["push"] == 0 and "It changes nothing: all its values are zero." in found["problems"]


def test_a_summary_needs_no_torch(tmp_path):
    path = write(tmp_path / "a.safetensors", style(), {}, family="mini")
    code = ("import sys; from pathlib import Path; from sdlora.lora.tools.report import summary; "
            "found = summary(Path(sys.argv[1])); sys.exit('torch' in sys.modules or found['matched'] != 4)")
    assert subprocess.run([sys.executable, "-c", code, str(path)], timeout=60).returncode == 0


def test_another_build_of_mini_is_refused_and_the_same_is_not():
    report.refuse_other_build({"sdlora_base_identity": "a" * 64}, "a" * 64, "frog.safetensors")
    report.refuse_other_build({}, "a" * 64, "frog.safetensors")
    with pytest.raises(UserError, match="frog.safetensors was made for another build of mini"):
        report.refuse_other_build({"sdlora_base_identity": "b" * 64}, "a" * 64, "frog.safetensors")


def test_a_change_too_small_for_any_picture_is_told(tmp_path):
    for size, told in ((1e-9, True), (1e-4, False)):
        made = {path: replace(adapter, tensors=adapter.tensors | {"up": adapter.tensors["up"] * size})
                for path, adapter in style(PATHS).items()}
        problems = report.inspect(write(tmp_path / "a.safetensors", made, {}, dtype="fp32", family="mini"))["problems"]
        assert any("next to nothing" in problem for problem in problems) == told


@pytest.mark.parametrize(("alpha", "says"), [(float("nan"), "has an alpha that is not one number"), (-2.0, "has the alpha -2")])
def test_an_impossible_alpha_is_a_sentence(tmp_path, alpha, says):
    write(tmp_path / "a.safetensors", style(PATHS), {}, family="mini")
    tensors = load_file(tmp_path / "a.safetensors")
    changed = {name: torch.tensor(alpha) for name in tensors if name.endswith("alpha")}
    save_file(tensors | changed, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=says):
        report.inspect(tmp_path / "b.safetensors")


def test_metadata_that_tells_no_number_contradicts_nothing(tmp_path):
    told = {"ss_network_dim": "nan", "ss_network_alpha": "inf"}
    assert report.inspect(write(tmp_path / "a.safetensors", style(PATHS), told, family="mini"))["problems"] == []
