"""What the commands share: when a base is needed, how a report is printed, and what an --out may replace."""

import json
import zipfile

import pytest
from PIL import Image

from sdlora.base import catalog
from sdlora.cli import common
from sdlora.cli.common import bars, check_out, check_pictures, check_writable, plain_console
from sdlora.draw.infotext.picture import write_picture
from sdlora.errors import UserError
from sdlora.lora.formats import reading, writing
from tests.lora.formats.test_writing import CONV, LINEAR, SQUARE, TEXT, adapter

DRAWN = {"prompt": "a", "negative": "", "seed": 1, "steps": 20, "sampler": "Euler", "guidance": 5.0, "width": 8, "height": 8,
         "version": "sdlora 0.1.0"}


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


def test_a_report_is_lines_or_one_json_object(capsys):
    for as_json in (False, True):
        common.print_report({"name": "café"}, ["one", "two"], as_json)
    assert capsys.readouterr().out == 'one\ntwo\n{"name": "café"}\n'


def test_what_was_written_and_what_was_lost_are_lines():
    told = {"out": "a.safetensors", "modules": 4, "ranks": [4, 8], "bytes_out": 2_500_000, "lost": 0.0, "energy": 0.99,
            "blocks": {"IN01": 0.5}}
    assert common.size_line(told) == "a.safetensors: 4 modules, rank 4 to 8, 2.50 MB"
    assert common.size_line(told | {"ranks": [4, 4]}) == "a.safetensors: 4 modules, rank 4, 2.50 MB"
    assert common.energy_lines(told) == ["  retained energy 99.00% (error 0.100)", "  IN01     50.00%"]
    assert common.lost_lines(told, "fp16") == []
    assert common.lost_lines(told | {"lost": 0.02}, "fp16") == ["  fp16 loses 0.02 of the change"]


@pytest.mark.parametrize("said", [":cat:", "[bold]x[/bold]", "[red]", "a:dog:b [/]"])
def test_the_artists_words_are_shown_as_they_are(capsys, said):
    plain_console().print(said)
    with bars() as progress:
        progress.console.print(f"/tmp/{said}", soft_wrap=True)
    assert f"{said}\n" in (out := capsys.readouterr().out) and f"/tmp/{said}\n" in out


@pytest.fixture
def lora(tmp_path):
    adapters = {path: adapter("lora", path) for path in (LINEAR, CONV, TEXT)}
    return writing.write(tmp_path / "a.safetensors", adapters, {}, family="mini")


@pytest.mark.parametrize("command", [("convert", "--to", "diffusers"), ("convert", "--strip"), ("resize", "--rank", "1"),
                                     ("blend",), ("share",)])
def test_no_command_replaces_its_input_or_a_strangers_file(run, lora, tmp_path, command):
    suffix = ".zip" if command[0] == "share" else ".safetensors"
    stranger, before = tmp_path / f"stranger{suffix}", lora.read_bytes()
    stranger.write_bytes(b"precious")
    with pytest.raises(UserError, match="was not made by sdlora"):
        run(command[0], lora, *command[1:], "--out", stranger)
    assert stranger.read_bytes() == b"precious"
    out = tmp_path / f"out{suffix}"
    for _ in range(2):                                         # ours may be made again
        assert run(command[0], lora, *command[1:], "--out", out).exit_code == 0
    if suffix == ".safetensors":
        with pytest.raises(UserError, match="one of the files that would be read"):
            run(command[0], lora, *command[1:], "--out", tmp_path / "." / "a.safetensors")
    with pytest.raises(UserError, match="does not end in"):
        run(command[0], lora, *command[1:], "--out", tmp_path / "out.txt")
    assert lora.read_bytes() == before


def test_a_zip_of_ours_is_known_by_its_comment(run, lora, tmp_path):
    run("share", lora, "--out", tmp_path / "a.zip")
    check_out(tmp_path / "a.zip", suffix=".zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("README.md", "mine")
    with pytest.raises(UserError, match="not made by sdlora"):
        check_out(tmp_path / "b.zip", suffix=".zip")


def test_pictures_of_others_and_the_first_picture_stay(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "000-00.png")
    with pytest.raises(UserError, match="was not drawn by sdlora"):
        check_pictures(tmp_path, ["000-00.png"])
    write_picture(tmp_path / "000-00.png", Image.new("RGB", (8, 8)), DRAWN)
    check_pictures(tmp_path, ["000-00.png", "000-01.png"])
    with pytest.raises(UserError, match="one of the pictures that would be read"):
        check_pictures(tmp_path, ["000-00.png"], [tmp_path / "000-00.png"])


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_hold_files_is_a_sentence(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="files cannot be written"):
        check_writable(tmp_path / place)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_found_writable_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
