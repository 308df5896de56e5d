"""`sdlora convert`, `resize` and `share` as another program calls them."""

import json
import zipfile

import pytest
import typer
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sdlora.base import catalog
from sdlora.cli import convert, share
from sdlora.errors import UserError
from sdlora.lora.formats import reading, writing
from tests.lora.formats.test_writing import CONV, LINEAR, SQUARE, TEXT, adapter
from tests.lora.tools.test_convert import peft

TOLD = {"ss_output_name": "glass", "ss_dataset_dirs": "{}", "sdlora_trigger": "gls"}


@pytest.fixture
def run():
    app = typer.Typer()
    convert.register(app)
    share.register(app)

    def call(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result
    return call


@pytest.fixture
def lora(tmp_path):
    adapters = {path: adapter("lora", path) for path in (LINEAR, CONV, TEXT)}
    return writing.write(tmp_path / "a.safetensors", adapters, TOLD, family="mini")


def test_convert_and_what_it_says(run, lora, tmp_path):
    out = tmp_path / "b.safetensors"
    told = json.loads(run("convert", lora, "--to", "diffusers", "--out", out, "--json").stdout)
    assert (told["modules_in"], told["modules_out"], told["difference"], told["dialect"]) == (3, 3, 0.0, "diffusers")
    assert told["private"] == {"ss_dataset_dirs": "names of the picture folders"} and not told["stripped"]
    assert reading.read(out).dialect == "diffusers" and "ss_dataset_dirs" in reading.header(out).metadata
    plain = run("convert", lora, "--to", "kohya", "--strip", "--out", out).stdout
    assert "3 of 3" in plain and "the same to the bit" in plain and "left out" in plain
    assert "ss_dataset_dirs" not in reading.header(out).metadata


def test_the_form_stays_where_none_is_named(run, lora, tmp_path):
    other = writing.write(tmp_path / "d.safetensors", {LINEAR: adapter("lora", LINEAR)}, {}, dialect="diffusers", family="mini")
    run("convert", other, "--dtype", "fp32", "--out", tmp_path / "e.safetensors")
    assert reading.read(tmp_path / "e.safetensors").dialect == "diffusers"
    out = tmp_path / "b.safetensors"
    run("convert", lora, "--author", "Ann", "--licence", "CC BY 4.0", "--consent", "mine", "--note", "hi", "--out", out)
    told = reading.header(out).metadata
    assert told["modelspec.author"] == "Ann" and told["modelspec.license"] == "CC BY 4.0" and told["sdlora_note"] == "hi"
    assert out.read_bytes()[-1000:] == lora.read_bytes()[-1000:]
    assert told["sshs_model_hash"] == reading.header(lora).metadata["sshs_model_hash"]


@pytest.mark.parametrize("option", ["--rank", "--keep"])
def test_a_limit_of_nothing_is_refused(run, lora, tmp_path, option):
    with pytest.raises(UserError, match="got 0"):
        run("convert", lora, option, 0, "--out", tmp_path / "b.safetensors")


def test_a_base_is_used_where_it_is_needed(run, tmp_path):
    path = writing.write(tmp_path / "d.safetensors", {SQUARE: adapter("oft", SQUARE)}, {}, dtype="fp32", family="mini")
    with pytest.raises(UserError, match="--base"):
        run("convert", path, "--to", "diffusers", "--out", tmp_path / "e.safetensors")
    words = ("convert", path, "--to", "diffusers", "--base", "mini", "--rank", 8, "--out", tmp_path / "e.safetensors")
    told = json.loads(run(*words, "--json").stdout)
    ours = writing.rewrite(path, path, {"sdlora_base_identity": catalog.identity(catalog.resolve("mini"))})
    again = json.loads(run("convert", ours, "--plain", "--rank", 8, "--out", tmp_path / "e.safetensors", "--json").stdout)
    assert again["approximated"] == told["approximated"]       # a LoRA of this very mini needs no --base
    assert 0.1 < told["approximated"][SQUARE] < 1 and reading.read(tmp_path / "e.safetensors").adapters[SQUARE].rank == 8


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
    shared = reading.header(tmp_path / "s" / "a.safetensors").metadata
    assert "ss_dataset_dirs" not in shared and shared["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert "a red house" in (tmp_path / "s" / "README.md").read_text()
    with Image.open(tmp_path / "s" / "images" / "00.png") as sent:
        assert sent.size == (80, 64) and not sent.info and not sent.getexif()
    assert "ss_dataset_dirs" in reading.header(lora).metadata     # the artist's own file is left alone
    run("share", lora, "--out", tmp_path / "t.zip", "--keep-private")
    with zipfile.ZipFile(tmp_path / "t.zip") as archive:
        archive.extract("a.safetensors", tmp_path / "t")
    assert "ss_dataset_dirs" in reading.header(tmp_path / "t" / "a.safetensors").metadata


def test_a_copy_of_a_peft_file_takes_its_strength_along(run, tmp_path):
    path = peft(tmp_path / "p")
    assert run("convert", path, "--out", tmp_path / "b.safetensors", "--note", "n").exit_code == 0
    assert run("share", path, "--out", tmp_path / "c.zip").exit_code == 0
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        archive.extract("adapter_model.safetensors", tmp_path / "c")
    for copy in (tmp_path / "b.safetensors", tmp_path / "c" / "adapter_model.safetensors"):
        adapter, = reading.read(copy).adapters.values()
        assert adapter.scale == 4.0 and "home/me" not in str(reading.header(copy).metadata)


def test_share_refuses_what_nobody_can_use_and_tells_what_is_odd(run, lora, tmp_path):
    tensors = load_file(lora)
    name = next(name for name in tensors if "lora_up" in name)
    save_file(tensors | {name: tensors[name] * float("nan")}, tmp_path / "burnt.safetensors")
    save_file({"encoder.down.0.weight": tensors[name]}, tmp_path / "vae.safetensors")
    for file_name, says in (("burnt", "is a burnt style"), ("vae", "is a VAE, not a LoRA")):
        with pytest.raises(UserError, match=says):
            run("share", tmp_path / f"{file_name}.safetensors", "--out", tmp_path / "s.zip")
        assert not (tmp_path / "s.zip").exists()
    save_file(tensors | {"odd": tensors[name].clone()}, tmp_path / "odd.safetensors")
    assert "! 1 tensor is left out" in run("share", tmp_path / "odd.safetensors", "--out", tmp_path / "s.zip").stdout
