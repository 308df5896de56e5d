"""`sdlora draw` and `sdlora bases` as another program calls them: files, JSON lines, exit sentences."""

import json
import shutil

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from sdlora import storage
from sdlora.cli import bases, draw
from sdlora.draw.infotext import read_infotext
from sdlora.errors import UserError
from sdlora.jobs.execute import DRAWING_LOCK
from sdlora.jobs.lock import is_held


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    draw.register(app)
    bases.register(app)

    def call(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result
    return call


def test_prompt_i_picture_j(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a blue boat, sea\n\n", encoding="utf-8-sig")
    result = run("draw", "a red house", "--prompts-file", tmp_path / "prompts.txt", "--count", 2, "--steps", 1, "--seed", 5,
                 "--size", "64x72", "--out", tmp_path / "out", "--json", "--device", "cpu")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000-00.png", "000-01.png", "001-00.png", "001-01.png"]
    assert [line["event"] for line in lines] == ["picture"] * 4 + ["done"]
    settings = read_infotext(tmp_path / "out" / "001-01.png")
    assert (settings["prompt"], settings["seed"], settings["width"], settings["height"]) == ("a blue boat, sea", 6, 64, 72)
    assert lines[3]["file"] == str(tmp_path / "out" / "001-01.png") and lines[3]["seed"] == 6


def test_lines_of_a_prompts_file_have_settings_of_their_own(run, tmp_path):
    (tmp_path / "p.txt").write_bytes("# two\na cat --s 2 --d 9 --w 72 --h 64 --n dogs --cn x.png\na dog\na fox".encode("utf-16"))
    result = run("draw", "a red house", "--prompts-file", tmp_path / "p.txt", "--steps", 1, "--size", "64x64", "--seed", 5,
                 "--out", tmp_path / "out", "--json", "--device", "cpu")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["prompt_index"] for line in lines[:-1]] == [0, 1, 2, 3] and lines[-1]["pictures"] == 4
    said = [read_infotext(tmp_path / "out" / f"{n:03d}-00.png") for n in range(4)]
    assert [(s["prompt"], s["steps"], s["seed"], s["width"]) for s in said] == [
        ("a red house", 1, 5, 64), ("a cat", 2, 9, 72), ("a dog", 1, 5, 64), ("a fox", 1, 5, 64)]
    assert said[1]["negative"] == "dogs" and "--cn x.png is not used" in result.stderr


def test_a_wrong_setting_names_its_line(run, tmp_path):
    (tmp_path / "p.txt").write_text("a dog\na cat --s 900")
    with pytest.raises(UserError, match="Line 2 of the prompts: steps must be"):
        run("draw", "--prompts-file", tmp_path / "p.txt", "--out", tmp_path)


def test_a_strength_follows_the_last_colon_only_as_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(draw.Path, "is_file", lambda path: True)
    for text, file, strength in (("a.safetensors", "a.safetensors", 1.0), ("a.safetensors:0.8", "a.safetensors", 0.8),
                                 (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
                                 (r"C:\loras\a.safetensors:-.5", r"C:\loras\a.safetensors", -0.5), ("a:b", "a:b", 1.0)):
        assert draw.parse_lora(text) == {"file": file, "strength": strength}
    assert draw.parse_lora("a, b.safetensors:0.8,te=0.5,blocks=1,0,0.5,end=0.9") == {
        "file": "a, b.safetensors", "strength": 0.8, "text_strength": "0.5", "blocks": "1,0,0.5", "end": "0.9"}


def test_a_picture_to_begin_from_and_a_sampler_are_told_in_the_picture(run, tmp_path):
    begin, mask = Image.new("RGB", (96, 64), "navy"), Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    begin.save(tmp_path / "begin.png")
    mask.save(tmp_path / "mask.png")
    run("draw", "a red house", "--init", tmp_path / "begin.png", "--mask", tmp_path / "mask.png", "--strength", 0.5, "--steps", 4,
        "--sampler", "euler a", "--size", "96x64", "--out", tmp_path / "out", "--device", "cpu")
    settings = read_infotext(tmp_path / "out" / "000-00.png")
    assert (settings["sampler"], settings["init_strength"], settings["width"]) == ("Euler a", 0.5, 96)
    drawn = Image.open(tmp_path / "out" / "000-00.png")
    assert drawn.crop((64, 0, 96, 64)).getcolors() == [(32 * 64, (0, 0, 128))]
    assert drawn.crop((0, 0, 32, 64)).getcolors() != [(32 * 64, (0, 0, 128))]


def test_training_beside_waits_while_pictures_are_drawn(run, tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr("sdlora.draw.pipeline.draw", lambda *ignored: held.append(is_held(storage.home() / DRAWING_LOCK)) or [])
    run("draw", "x", "--out", tmp_path, "--device", "cpu")
    assert held == [True] and not is_held(storage.home() / DRAWING_LOCK)


@pytest.mark.parametrize("words, said", [
    (["draw"], "nothing to draw"), (["draw", "x", "--size", "big"], "not a size"),
    (["draw", "x", "--lora", "no.st:1"], "no LoRA file"), (["draw", "x", "--sampler", "Eulr"], "Did you mean Euler"),
    (["draw", "x", "--lora", "{lora}:9"], "^strength must be a number from -4 to 4"),
    (["draw", "x", "--lora", "{lora},te=x"], "^text_strength must"),
    (["draw", "x", "--mask", "m.png"], "A mask needs"), (["draw", "<lora:gone:1> x"], "no style called 'gone'"),
    (["draw", "x", "--size", "65x64"], "width must be"), (["draw", "x", "--base", "nope"], "no base model"),
    (["draw", "x", "--steps", "0"], "steps must be"), (["bases", "add", "nope"], "no base model"),
    (["bases", "remove", "mini"], "was not added"),
])
def test_mistakes_are_sentences(run, tmp_path, words, said):
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(UserError, match=said):
        run(*(word.replace("{lora}", str(tmp_path / "a.safetensors")) for word in words))


def test_a_place_for_no_pictures_is_refused_before_the_first_is_drawn(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(draw, "write_pictures", lambda *ignored: pytest.fail("it began to draw"))
    with pytest.raises(UserError, match="Choose another place for --out"):
        run("draw", "x", "--out", tmp_path / "file")


def test_bases_are_listed_added_and_removed(run, tmp_path):
    folder = shutil.copytree(storage.shipped("assets", "mini"), tmp_path / "mine")
    assert [entry["id"] for entry in json.loads(run("bases", "--json").stdout)] == ["mini"]
    added = json.loads(run("bases", "add", folder, "--json").stdout)
    assert added["id"] == "mine" and added["kind"] == "folder"
    assert [entry["id"] for entry in json.loads(run("bases", "list", "--json").stdout)] == ["mini", "mine"]
    assert "Stable Diffusion" not in run("bases", "remove", "mine").stdout
    assert "mine" not in run("bases").stdout and "to download" in run("bases").stdout
