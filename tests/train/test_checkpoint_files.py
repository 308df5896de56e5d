"""The LoRA of a checkpoint is handed out whole or refused by name; no torch is needed."""

import json
from hashlib import sha256

import pytest

from sdlora.errors import UserError
from sdlora.train.checkpoint_files import (
    LORA,
    NUMBERS,
    OK,
    checkpoint_bytes,
    checkpoint_folder,
    checkpoint_steps,
    export_checkpoint,
)


@pytest.fixture
def run(tmp_path):
    """A run with a checkpoint at step 5 that can be exported and one at step 20 that can also be resumed."""
    (tmp_path / "spec.json").write_text(json.dumps({"config": {"name": "Tiny"}}))
    for step in (5, 20):
        folder = checkpoint_folder(tmp_path, step)
        folder.mkdir(parents=True)
        content = b"lora of %d" % step
        (folder / LORA).write_bytes(content)
        (folder / NUMBERS).write_text(json.dumps({"files": {LORA: sha256(content).hexdigest()}}))
    (folder / OK).touch()
    return tmp_path


def test_what_can_be_exported_and_what_resumed(run):
    (run / "checkpoints" / "step-x").mkdir()
    (run / "checkpoints" / "step-x" / NUMBERS).touch()
    assert checkpoint_steps(run) == [5, 20] and checkpoint_steps(run, OK) == [20]
    assert checkpoint_bytes(run, 5) == 9 and checkpoint_bytes(run, 7) == 0


def test_a_checkpoint_is_exported_once(run):
    file = export_checkpoint(run, 20)
    assert file.read_bytes() == b"lora of 20" and file.relative_to(run).as_posix() == "result/tiny-step-000020.safetensors"
    before = file.stat().st_mtime_ns
    assert export_checkpoint(run, 20) == file and file.stat().st_mtime_ns == before


def test_a_damaged_or_missing_checkpoint_is_not_exported(run):
    (checkpoint_folder(run, 5) / LORA).write_bytes(b"lora of 6")
    with pytest.raises(UserError, match="step 5 is damaged"):
        export_checkpoint(run, 5)
    with pytest.raises(UserError, match="no checkpoint at step 7"):
        export_checkpoint(run, 7)
