"""What the style benchmark trains on and asks for: sets as an artist has them, and prompts that no training saw."""

import json
import subprocess
from dataclasses import replace

import pytest

from sdlora.bench import style_runs
from sdlora.bench.style_runs import held_out, layouts, prompts_of, train, training_scenes, write_training_set
from sdlora.dataset.folder import read_dataset
from sdlora.errors import UserError
from sdlora.mini.strangers import STRANGERS


def test_a_training_set_is_one_that_an_artist_could_have(tmp_path):
    folder = write_training_set(tmp_path / "set", STRANGERS[2], 3, seed=1)
    found = read_dataset(folder, trigger="qiveltu")
    assert len(found.examples) == 3 and not found.skipped
    assert all(example.caption.startswith("qiveltu a") for example in found.examples)


def test_nothing_measured_was_trained_on():
    scenes = held_out(40)
    assert len({replace(scene, style="") for scene in [*scenes, *training_scenes(12, 1), *training_scenes(12, 2)]}) == 64
    other = layouts(scenes, 1)
    assert prompts_of(other, trigger=False) == prompts_of(scenes, trigger=False) and other != scenes == layouts(scenes, 0)


def test_a_training_that_fails_says_why(monkeypatch, tmp_path):
    failed = json.dumps({"event": "failed", "step": 3, "steps": 9, "message": "There is no memory left.", "hint": ""})
    real = subprocess.Popen
    chatty = ["sh", "-c", 'head -c 300000 /dev/zero >&2; echo "$0"', failed]  # more than a pipe holds
    monkeypatch.setattr(style_runs.subprocess, "Popen", lambda _, **options: real(chatty, **options))
    with pytest.raises(UserError, match="training of chalk ended without a file") as caught:
        train(tmp_path, tmp_path / "chalk.safetensors", "mini", "quick")
    assert caught.value.hint == "There is no memory left."
