"""Hashes are those of other programs, are made for possible duplicates first, and stop when told to."""

import hashlib
import os

import pytest
from safetensors.numpy import save_file

from sdlora.library import hashes, index
from sdlora.lora.formats.header import header
from sdlora.storage import data_folder
from tests.library.files import lora, tensors


def test_the_two_hashes(tmp_path):
    file = lora(tmp_path / "a.safetensors", {"ss_x": "y"})
    data = file.read_bytes()
    start = header(file).data_start
    assert hashes.file_hashes(file, start) == (hashlib.sha256(data[start:]).hexdigest(), hashlib.sha256(data).hexdigest())
    assert hashes.file_hashes(tmp_path / "gone", 8) == ("", "")
    assert hashes.file_hashes(file, start, lambda: True) is None


def test_the_tensor_hash_is_what_kohya_writes(tmp_path):
    """kohya's precalculate_safetensors_hashes: SHA-256 of all behind the header of a file with only ss_* metadata."""
    file = lora(data_folder("loras") / "a.safetensors", {"ss_x": "y", "modelspec.title": "T"})
    alone = tmp_path / "alone.safetensors"
    save_file(tensors(), alone, {"ss_x": "y"})
    data = alone.read_bytes()
    theirs = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little"):]).hexdigest()
    list(index.scan())
    list(index.hash_files())
    assert index.find("a").hash == theirs and file.is_file()


def test_those_that_may_be_equal_come_first():
    for name, width in (("small", 768), ("twin-1", 2048), ("middle", 1024), ("twin-2", 2048)):
        lora(data_folder("loras") / f"{name}.safetensors", width=width)
    index.list_loras()
    steps = list(index.hash_files())
    assert {step.name for step in steps[:2]} == {"twin-1.safetensors", "twin-2.safetensors"}
    assert [(step.done, step.total) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)] and list(index.hash_files()) == []


def test_hashing_may_be_left_and_goes_on():
    for number in range(5):
        lora(data_folder("loras") / f"{number}.safetensors", value=number)
    index.list_loras()
    next(index.hash_files())
    assert index.state().unhashed == 4
    assert list(index.hash_files(seconds=0)) == [] and index.state().unhashed == 4
    assert len(list(index.hash_files())) == 4 and index.duplicates() == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_left_out():
    file = lora(data_folder("loras") / "a.safetensors")
    index.list_loras()
    file.chmod(0)
    assert len(list(index.hash_files())) == 1 and list(index.hash_files()) == [] and index.find("a").hash == ""
    file.chmod(0o600)


def test_files_that_cannot_be_used_have_hashes_too_when_they_have_tensors():
    lora(data_folder("loras") / "wide.safetensors", width=999)
    (data_folder("loras") / "broken.safetensors").write_bytes(b"broken")
    index.list_loras()
    assert [step.name for step in index.hash_files()] == ["wide.safetensors"]
