"""`sdlora inspect`, `convert`, `resize` and `share` as another program calls them."""

import hashlib
import json
import zipfile

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from sdlora.cli.lora import BAR_LENGTH
from sdlora.errors import UserError
from sdlora.lora.formats import reading, writing
from sdlora.lora.formats.header import header
from sdlora.lora.formats.module_tables import family_table
from tests.lora.formats.test_reading import PATHS, style
from tests.lora.formats.test_writing import CONV, LINEAR, TEXT, adapter
from tests.lora.tools.test_convert import peft
from tests.tiny import write_base

KEYS = {"dialect", "kind", "family", "rank", "alpha", "modules", "matched", "ignored", "effective_scale", "push", "trigger",
        "problems", "blocks"}
TOLD = {"ss_output_name": "glass", "ss_dataset_dirs": "{}", "sdlora_trigger": "gls"}


@pytest.fixture
def lora(tmp_path):
    adapters = {path: adapter("lora", path) for path in (LINEAR, CONV, TEXT)}
    return writing.write(tmp_path / "a.safetensors", adapters, TOLD, family="mini")


def test_the_json_of_inspect_has_every_key(run, tmp_path):
    path = writing.write(tmp_path / "a.safetensors", style(), {"sdlora_trigger": "stglass"}, family="mini")
    found = json.loads(run("inspect", path, "--json").stdout)
    assert KEYS <= set(found)
    said = {"dialect": "kohya", "kind": "LoRA", "family": "mini", "rank": 4, "alpha": 2.0, "modules": 4, "matched": 4,
            "effective_scale": 0.5, "trigger": "stglass", "problems": [], "ignored": [], "push_against": "weights"}
    assert {key: found[key] for key in said} == said
    assert found["hashes"]["AutoV2"] == hashlib.sha256(path.read_bytes()).hexdigest()[:10]
    assert found["hashes"]["AutoV3"] == found["metadata"]["sshs_model_hash"][:12]
    assert [type(found[key]) for key in ("rank", "modules", "matched", "push")] == [int, int, int, float]
    assert found["blocks"] == {"IN01": {"modules": 4, "push": found["push"]}} and found["push"] > 0


def test_what_inspect_prints_has_a_bar_for_each_block(run, tmp_path):
    paths = [*PATHS, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"]
    path = writing.write(tmp_path / "a.safetensors", style(paths), {"sdlora_trigger": "stglass"}, family="mini")
    shown = run("inspect", path, "--base", "mini").stdout
    assert "matched 5 of 5 (unet 5/5, te 0/0)" in shown and "trigger stglass" in shown and "effective scale 0.5" in shown
    bars = [line.split() for line in shown.splitlines() if line.startswith("  ")]
    assert [bar[0] for bar in bars] == ["IN01", "MID"] and max(len(bar[-1]) for bar in bars) == BAR_LENGTH
    assert all(set(bar[-1]) == {"#"} for bar in bars)


def test_another_base_is_a_sentence(run, tmp_path):
    paths = [path for path in family_table("sd1") if ".attn2.to_k" in path]
    path = writing.write(tmp_path / "a.safetensors", style(paths, "sd1"), {}, family="sd1")
    found = json.loads(run("inspect", path, "--base", "mini", "--json").stdout)
    assert found["matched"] == 0 and found["push"] == 0 and "Stable Diffusion 1.x" in found["problems"][0]
    assert "! It fits no module of this base" in run("inspect", path, "--base", "mini").stdout


def test_a_base_of_ones_own_is_measured_too(run, tmp_path):
    base = write_base(tmp_path / "base")
    paths = ["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "te1:text_model.encoder.layers.0.mlp.fc1"]
    shapes = {paths[0]: (16, 128), paths[1]: (32, 128)}
    save_file({f"{'lora_te_' + path[4:].replace('.', '_') if ':' in path else 'lora_unet_' + path.replace('.', '_')}.diff":
               torch.ones(shape) for path, shape in shapes.items()}, tmp_path / "a.safetensors")
    found = json.loads(run("inspect", tmp_path / "a.safetensors", "--base", str(base), "--json").stdout)
    assert (found["matched"], found["push_against"], found["parts"]["te"]["matched"]) == (2, "weights", 1)
    assert found["kind"] == "full difference" and list(found["blocks"]) == ["BASE", "IN01"] and found["rank"] == 0


def test_a_lora_of_another_build_of_mini_is_told(run, tmp_path):
    path = writing.write(tmp_path / "a.safetensors", style(), {"sdlora_base_identity": "0" * 64}, family="mini")
    assert "another build" in json.loads(run("inspect", path, "--json").stdout)["problems"][0]


def test_no_lora_no_report(run, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"<html><title>404</title></html>")
    with pytest.raises(UserError, match="web page"):
        run("inspect", tmp_path / "a.safetensors")


def test_convert_and_what_it_says(run, lora, tmp_path):
    out = tmp_path / "b.safetensors"
    told = json.loads(run("convert", lora, "--to", "diffusers", "--out", out, "--json").stdout)
    assert (told["modules_in"], told["modules_out"], told["difference"], told["dialect"]) == (3, 3, 0.0, "diffusers")
    assert told["private"] == {"ss_dataset_dirs": "names of the picture folders"} and not told["stripped"]
    assert reading.read(out).dialect == "diffusers" and "ss_dataset_dirs" in header(out).metadata
    plain = run("convert", lora, "--to", "kohya", "--strip", "--out", out).stdout
    assert "3 of 3" in plain and "the same to the bit" in plain and "left out" in plain
    assert "ss_dataset_dirs" not in header(out).metadata


def test_the_form_stays_where_none_is_named(run, lora, tmp_path):
    other = writing.write(tmp_path / "d.safetensors", {LINEAR: adapter("lora", LINEAR)}, {}, dialect="diffusers", family="mini")
    run("convert", other, "--dtype", "fp32", "--out", tmp_path / "e.safetensors")
    assert reading.read(tmp_path / "e.safetensors").dialect == "diffusers"
    out = tmp_path / "b.safetensors"
    run("convert", lora, "--author", "Ann", "--licence", "CC BY 4.0", "--consent", "mine", "--note", "hi", "--out", out)
    told = header(out).metadata
    assert told["modelspec.author"] == "Ann" and told["modelspec.license"] == "CC BY 4.0" and told["sdlora_note"] == "hi"
    assert out.read_bytes()[-1000:] == lora.read_bytes()[-1000:]
    assert told["sshs_model_hash"] == header(lora).metadata["sshs_model_hash"]


@pytest.mark.parametrize("option", ["--rank", "--keep"])
def test_a_limit_of_nothing_is_refused(run, lora, tmp_path, option):
    with pytest.raises(UserError, match="got 0"):
        run("convert", lora, option, 0, "--out", tmp_path / "b.safetensors")


def test_resize_says_sizes_and_energy(run, lora, tmp_path):
    out = tmp_path / "b.safetensors"
    said = run("resize", lora, "--rank", 2, "--out", out).stdout
    told = json.loads(run("resize", lora, "--rank", 2, "--out", out, "--json").stdout)
    assert f"{lora.stat().st_size / 1e6:.2f} MB before" in said and "ranks 4 before, 2 now" in said
    assert f"{told['energy']:.2%}" in said and set(told["blocks"]) == {"BASE", "IN01"} and "BASE" in said
    for words in ((), ("--rank", 2, "--keep", 0.9)):
        with pytest.raises(UserError, match="How small"):
            run("resize", lora, *words, "--out", out)
    with pytest.raises(UserError, match="Frobenius"):
        run("resize", lora, "--fro", 3, "--out", out)


def test_share_packs_what_may_go_out(run, lora, tmp_path):
    said, place = PngInfo(), Image.Exif()
    place[0x010E] = "our garden"
    said.add_text("parameters", "a red house\nSteps: 20, Sampler: Euler, CFG scale: 6, Seed: 42, Size: 80x64")
    Image.new("RGB", (80, 64), "red").save(tmp_path / "p.png", exif=place, pnginfo=said)
    told = json.loads(run("share", lora, "--out", tmp_path / "s.zip", "--picture", tmp_path / "p.png", "--json").stdout)
    assert told["private"].keys() == {"ss_dataset_dirs"} and told["stripped"]
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        archive.extractall(tmp_path / "s")
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"a.safetensors", "a.json", "a.png", "README.md", "images"}
    shared = header(tmp_path / "s" / "a.safetensors").metadata
    assert "ss_dataset_dirs" not in shared and shared["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert "a red house" in (tmp_path / "s" / "README.md").read_text()
    with Image.open(tmp_path / "s" / "images" / "00.png") as sent:
        assert sent.size == (80, 64) and not sent.info and not sent.getexif()
    assert "ss_dataset_dirs" in header(lora).metadata     # the artist's own file is left alone
    run("share", lora, "--out", tmp_path / "t.zip", "--keep-private")
    with zipfile.ZipFile(tmp_path / "t.zip") as archive:
        archive.extract("a.safetensors", tmp_path / "t")
    assert "ss_dataset_dirs" in header(tmp_path / "t" / "a.safetensors").metadata


def test_a_copy_of_a_peft_file_takes_its_strength_along(run, tmp_path):
    path = peft(tmp_path / "p")
    assert run("convert", path, "--out", tmp_path / "b.safetensors", "--note", "n").exit_code == 0
    assert run("share", path, "--out", tmp_path / "c.zip").exit_code == 0
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        archive.extract("adapter_model.safetensors", tmp_path / "c")
    for copy in (tmp_path / "b.safetensors", tmp_path / "c" / "adapter_model.safetensors"):
        adapter, = reading.read(copy).adapters.values()
        assert adapter.scale == 4.0 and "home/me" not in str(header(copy).metadata)


def test_share_refuses_what_nobody_can_use_and_tells_what_is_odd(run, lora, tmp_path):
    tensors = load_file(lora)
    name = next(name for name in tensors if "lora_up" in name)
    save_file(tensors | {name: tensors[name] * float("nan")}, tmp_path / "burnt.safetensors")
    save_file({"encoder.down.0.weight": tensors[name]}, tmp_path / "vae.safetensors")
    for file_name, says in (("burnt", "is broken: .*NaN"), ("vae", "is a VAE, not a LoRA")):
        with pytest.raises(UserError, match=says):
            run("share", tmp_path / f"{file_name}.safetensors", "--out", tmp_path / "s.zip")
        assert not (tmp_path / "s.zip").exists()
    save_file(tensors | {"odd": tensors[name].clone()}, tmp_path / "odd.safetensors")
    assert "! 1 tensor is left out" in run("share", tmp_path / "odd.safetensors", "--out", tmp_path / "s.zip").stdout
