"""The base menu: mini, HOME/bases, added ones; what is refused and with which sentence; no torch anywhere."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdlora import storage
from sdlora.base import catalog
from sdlora.errors import DiskFull, UserError

ROOT = Path(__file__).parents[2]
MINI = storage.shipped("assets", "mini")
WIDE = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
STEM = "model.diffusion_model.input_blocks.0.0.weight"


def single(path, block, width, channels=4, **more):
    """A file with only those tensors that tell its family."""
    tensors = {WIDE.format(block): np.zeros((8, width), np.float16), STEM: np.zeros((8, channels, 3, 3), np.float16)}
    save_file(tensors | more, path)
    return path


def test_importing_the_catalog_and_listing_needs_no_torch(own_home):
    code = ("import sys; from sdlora.base import catalog; catalog.list_bases(); catalog.identity(catalog.resolve('mini'));"
            "sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_mini_is_always_there():
    entries = catalog.list_bases()
    assert [(entry.id, entry.spec, entry.family, entry.kind, entry.problem) for entry in entries] == [
        ("mini", "mini", "mini", "built in", "")]
    assert catalog.resolve("mini") == MINI and catalog.read_family(MINI).width == 128


@pytest.mark.parametrize("family, block, width", [("sd1", 1, 768), ("sd2", 1, 1024), ("sdxl", 4, 2048)])
def test_single_files_tell_their_family_by_shape(tmp_path, family, block, width):
    assert catalog.read_family(single(tmp_path / "a.safetensors", block, width)).key == family


def test_what_is_no_base_is_refused_with_its_reason(tmp_path):
    label = {"model.diffusion_model.label_emb.0.0.weight": np.zeros((8, 8), np.float16)}
    refused = [
        (single(tmp_path / "inpaint.safetensors", 1, 768, channels=9), "inpainting"),
        (single(tmp_path / "refiner.safetensors", 4, 1280, **label), "no refiner"),
        (single(tmp_path / "odd.safetensors", 1, 333), "not a Stable Diffusion"),
    ]
    save_file({"transformer.blocks.0.weight": np.zeros(3, np.float16)}, tmp_path / "flux.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "huge.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    refused += [(tmp_path / "flux.safetensors", "not a Stable Diffusion"), (tmp_path / "text.safetensors", "could not be read"),
                (tmp_path / "huge.safetensors", "could not be read")]
    for path, reason in refused:
        with pytest.raises(UserError, match=reason) as caught:
            catalog.read_family(catalog.resolve(str(path)))
        assert path.name in caught.value.message


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "C:\\models\\model.bin"])
def test_pickles_are_refused_by_name_alone(name, tmp_path):
    with pytest.raises(UserError, match="pickle"):
        catalog.resolve(str(tmp_path / name))


def test_folders_must_be_whole(tmp_path):
    folder = shutil.copytree(MINI, tmp_path / "mine")
    assert catalog.resolve(str(folder)) == folder
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="vae only as a pickle"):
        catalog.resolve(str(folder))
    (folder / "vae" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="vae has no weights"):
        catalog.resolve(str(folder))
    with pytest.raises(UserError, match="no model_index"):
        catalog.resolve(str(tmp_path))


def test_a_misspelt_base_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean mini"):
        catalog.resolve("minni")
    with pytest.raises(UserError, match="not on this computer.*sdlora bases download owner/name"):
        catalog.resolve("owner/name")


def test_added_bases_and_those_in_the_folder_are_listed_once(tmp_path):
    folder = shutil.copytree(MINI, tmp_path / "My Base")
    shutil.copytree(MINI, storage.data_folder("bases") / "my-base")
    broken = storage.data_folder("bases") / "broken.safetensors"
    broken.write_text("no")
    added = catalog.add_base(str(folder))
    assert catalog.add_base(str(folder)) == added
    entries = {entry.id: entry for entry in catalog.list_bases()}
    assert list(entries) == ["mini", "broken", "my-base", added.id] and added.id.startswith("my-base-")
    assert "could not be read" in entries["broken"].problem and entries["broken"].family == ""
    assert catalog.resolve(added.id) == folder.resolve() and entries[added.id].kind == "folder"
    with pytest.raises(UserError, match="was not added"):
        catalog.remove_base("my-base")
    assert catalog.remove_base(added.id) == added
    assert added.id not in {entry.id for entry in catalog.list_bases()} and (folder / "unet").is_dir()


def test_a_full_data_folder_does_not_keep_a_base_from_being_used(monkeypatch):
    def full(*_):
        raise DiskFull("The disk is full.", "Free some space.")

    known = catalog.identity(MINI)
    for kept in storage.data_folder("cache").glob("identity-*.json"):
        kept.unlink()
    monkeypatch.setattr("sdlora.storage.write_json", full)
    assert catalog.identity(MINI) == known


def test_identity_is_the_hash_of_the_weights_and_nothing_else(tmp_path):
    weights = (MINI / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    tensors = weights[8 + int.from_bytes(weights[:8], "little"):]
    assert catalog.identity(MINI) == hashlib.sha256(tensors).hexdigest()
    folder = shutil.copytree(MINI, tmp_path / "copy")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"comment": "other"}))
    assert catalog.identity(folder) == catalog.identity(MINI)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    os.utime(path, (1, 1))
    assert catalog.identity(folder) != catalog.identity(MINI)


def test_identity_is_read_once(tmp_path, monkeypatch):
    path = single(tmp_path / "a.safetensors", 1, 768)
    first = catalog.identity(path)
    other = SimpleNamespace(new=hashlib.new, sha256=lambda *data: hashlib.sha256(*data) if data else hashlib.blake2b())
    monkeypatch.setattr(catalog, "hashlib", other)  # hashing again would give another answer
    assert catalog.identity(path) == first
