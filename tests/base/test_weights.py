"""Folder and single file under one set of names, and copies that open as what they were. diffusers is the judge."""

import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdlora.base.load import load_base
from sdlora.base.weights import Weights, write_copy
from sdlora.errors import UserError
from tests.base.test_single_file import both, tiny_configs  # noqa: F401  fixtures


def test_folder_and_file_have_the_same_weights_under_the_same_names(both, tiny_configs):  # noqa: F811
    family, pipeline, folder, path = both
    first, second = Weights(folder), Weights(path)
    assert first.family == second.family == family and set(second) <= set(first) and len(first) > 100
    assert {name for name in set(first) - set(second)} <= {"te1:text_projection.weight"}
    for name, value in pipeline.unet.state_dict().items():
        assert torch.equal(first[name], value) and torch.equal(second[name], value)
    for name in second:
        assert torch.equal(first[name], second[name]) and first.shape(name) == second.shape(name) == tuple(second[name].shape)
    text = {f"te1:text_model.{name.removeprefix('text_model.')}" for name in pipeline.text_encoder.state_dict()}
    assert text - set(second) <= {"te1:text_model.embeddings.position_ids"}


def doubled(weights):
    """One linear, one convolution, one norm, one bias and a value of each text encoder, times two."""
    whole = ("down_blocks.1.resnets.0.conv1.weight", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
             "conv_norm_out.weight", "mid_block.resnets.0.conv1.bias", "te2:text_projection.weight")
    ends = ("layers.1.self_attn.k_proj.weight", "layers.0.self_attn.v_proj.bias", "mlp.fc1.weight")
    return [(name, weights[name] * 2) for name in weights if name in whole or (":" in name and name.endswith(ends))]


def test_a_copy_holds_the_new_weights_and_all_the_others(both, tiny_configs, tmp_path):  # noqa: F811
    family, _, folder, path = both
    for source, out in ((folder, tmp_path / "copy"), (path, tmp_path / "copy.safetensors")):
        weights = Weights(source)
        changed = doubled(weights)
        assert len(changed) >= 8
        again = Weights(write_copy(weights, iter(changed), out, {"sdlora_recipe": "{}"}))
        assert set(again) == set(weights)
        for name in weights:
            wanted = dict(changed).get(name, weights[name])
            assert torch.equal(again[name], wanted) and again[name].dtype == weights[name].dtype, name
        base = load_base(str(out), "cpu")                     # the whole model opens: tokenizer, VAE and configurations too
        assert torch.equal(base.unet.conv_norm_out.weight, weights["conv_norm_out.weight"] * 2)
        assert torch.equal(base.vae.decoder.conv_in.weight, load_base(str(source), "cpu").vae.decoder.conv_in.weight)


@pytest.mark.parametrize("both", ["sd1"], indirect=True)
def test_stale_hashes_and_variants_are_left_behind(both, tiny_configs, tmp_path):  # noqa: F811
    _, _, folder, path = both
    save_file(load_file(path), tmp_path / "said.safetensors", {"modelspec.hash_sha256": "0xold", "modelspec.title": "T"})
    out = write_copy(Weights(tmp_path / "said.safetensors"), [], tmp_path / "out.safetensors", {"a": "b"})
    with safe_open(out, "pt") as opened:
        assert opened.metadata() == {"modelspec.title": "T", "a": "b"}
    shutil.copytree(folder, tmp_path / "folder")
    weights = tmp_path / "folder" / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    weights.with_suffix(".bin").write_bytes(b"pickle")
    made = write_copy(Weights(tmp_path / "folder"), [], tmp_path / "made", {})
    assert [file.name for file in (made / "unet").iterdir() if file.suffix != ".json"] == [weights.name]


@pytest.mark.parametrize("both", ["sd1"], indirect=True)
def test_a_copy_that_breaks_leaves_nothing(both, tiny_configs, tmp_path):  # noqa: F811
    _, _, folder, path = both

    def broken(weights):
        yield "conv_in.bias", weights["conv_in.bias"]
        raise UserError("The blend broke.")

    for source, out in ((folder, tmp_path / "out"), (path, tmp_path / "out.safetensors")):
        weights = Weights(source)
        with pytest.raises(UserError, match="broke"):
            write_copy(weights, broken(weights), out, {})
        with pytest.raises(ValueError, match="another size"):
            write_copy(weights, [("conv_in.bias", torch.zeros(1))], out, {})
        assert not out.exists() and not list(tmp_path.glob(".sdlora-tmp*"))
