"""One rule for every --out: never an input, never a file that sdlora did not make."""

import zipfile

import pytest
from PIL import Image

from sdlora.cli.files import check_out, check_pictures
from sdlora.draw.infotext.picture import write_picture
from sdlora.errors import UserError
from sdlora.lora.formats import writing
from tests.lora.formats.test_writing import CONV, LINEAR, TEXT, adapter

DRAWN = {"prompt": "a", "negative": "", "seed": 1, "steps": 20, "sampler": "Euler", "guidance": 5.0, "width": 8, "height": 8,
         "version": "sdlora 0.1.0"}


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
