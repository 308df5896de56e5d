"""`sdlora check`: what training would see, as text and as JSON, with the exit codes of the contract."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def sdlora(*arguments):
    return subprocess.run([sys.executable, "-c", "from sdlora.cli.main import run; run()", *map(str, arguments)], cwd=ROOT,
                          capture_output=True, encoding="utf-8", timeout=60)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "10_pictures" / ".."
    (tmp_path / "10_pictures").mkdir()
    for number, size in enumerate(((64, 64), (128, 64))):
        pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "10_pictures" / f"haus am see {number}.png")
    (tmp_path / "10_pictures" / "bad.jpg").write_bytes(b"<html>")
    return made


def test_json_says_what_is_kept_skipped_and_cut(folder):
    done = sdlora("check", folder, "--trigger", "stg", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [(e["name"], e["caption"], e["repeats"], e["crop"], e["cut"]) for e in said["kept"]] == [
        ("10_pictures/haus am see 0.png", "stg, haus am see", 10, [0, 0, 64, 64], 0.0),
        ("10_pictures/haus am see 1.png", "stg, haus am see", 10, [32, 0, 96, 64], 0.5)]
    assert [s["name"] for s in said["skipped"]] == ["10_pictures/bad.jpg"] and "web page" in said["skipped"][0]["reason"]


def test_text_is_for_people(folder):
    done = sdlora("check", folder)
    assert done.returncode == 0 and "Kept: 2" in done.stdout and "50% cut off" in done.stdout and "web page" in done.stdout


def test_a_mistake_is_one_sentence_and_a_hint(tmp_path):
    done = sdlora("check", tmp_path / "gone")
    assert done.returncode == 2 and done.stdout == ""
    assert "no folder or zip" in done.stderr and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 2


def test_check_never_loads_torch(folder):
    code = ("import sys; sys.argv = ['sdlora', 'check', sys.argv[1]]\nfrom sdlora.cli.main import build\n"
            "build()(standalone_mode=False); sys.exit(bool({'torch', 'gradio'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, timeout=60).returncode == 0
