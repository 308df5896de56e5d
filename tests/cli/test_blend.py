"""`sdlora blend`, `bake` and `extract` as another program calls them, one after the other."""

import json

import pytest
import torch

from sdlora.base import catalog
from sdlora.base.weights import Weights
from sdlora.errors import UserError
from sdlora.lora.formats import reading, writing
from sdlora.lora.math.delta import delta
from tests.lora.formats.test_writing import CONV, LINEAR, SQUARE, TEXT, adapter


@pytest.fixture
def loras(tmp_path):
    for name, paths in (("a", (LINEAR, SQUARE, CONV)), ("b", (SQUARE, TEXT))):
        writing.write(tmp_path / f"{name}.safetensors", {path: adapter("lora", path) for path in paths}, {}, dtype="fp32",
                    family="mini")
    return [f"{tmp_path / 'a.safetensors'}:0.7", f"{tmp_path / 'b.safetensors'}:-0.5"]


def test_blend_bake_extract(run, loras, tmp_path):
    """What was blended is found again in the difference of the baked base and the base."""
    told = json.loads(run("blend", *loras, "--out", tmp_path / "c.safetensors", "--json").stdout)
    assert (told["method"], told["modules"], told["ranks"], told["notes"]) == ("concat", 4, [4, 8], [])
    words = ("blend", loras[0] + ",end=0.5", loras[1], "--method", "svd", "--rank", 3, "--out", tmp_path / "d.safetensors")
    said = run(*words).stdout
    assert "rank 3" in said and "retained energy" in said and "Start and end cannot be in one file" in said
    told = json.loads(run("bake", "mini", *loras, "--out", tmp_path / "baked", "--json").stdout)
    assert told["weights"] == 4 and told["matched"] == {"a": [3, 3], "b": [2, 2]}
    words = ("extract", "mini", tmp_path / "baked", "--rank", 8, "--dtype", "fp32", "--out", tmp_path / "e.safetensors")
    told = json.loads(run(*words, "--json").stdout)
    assert told["modules"] == 4 and told["elsewhere"] == 0 and told["energy"] > 0.98
    before = Weights(catalog.resolve("mini"))
    meant, found = (reading.read(tmp_path / name).adapters for name in ("c.safetensors", "e.safetensors"))
    for path, each in meant.items():
        weight = before[f"{path}.weight"].float()
        wanted = delta(each, weight)
        assert float((delta(found[path], weight) - wanted).norm() / wanted.norm()) < 0.05, path  # mini's weights are fp16
    assert torch.equal(before["conv_in.weight"], Weights(tmp_path / "baked")["conv_in.weight"])


def test_mistakes_are_sentences(run, loras, tmp_path):
    out = tmp_path / "x.safetensors"
    for words, said in ((("blend", *loras, "--method", "svd", "--rank", 0, "--out", out), "must be 1 or more"),
                        (("blend", loras[0].replace("0.7", "7"), "--out", out), "strength must be"),
                        (("blend", tmp_path / "none.safetensors", "--out", out), "no LoRA file"),
                        (("bake", "mini", *loras, "--out", out), "a folder"),
                        (("extract", "mini", "mini", "--out", out), "do not differ")):
        with pytest.raises(UserError, match=said):
            run(*words)
    assert not out.exists()


def test_experimental_blends_are_seeded_and_say_so_in_the_file(run, loras, tmp_path):
    def made(name, *words):
        told = json.loads(run("blend", *loras, "--out", tmp_path / name, "--rank", 4, "--json", *words).stdout)
        return told, reading.read(tmp_path / name)

    first, one = made("1.safetensors", "--method", "dare", "--density", 0.3, "--seed", 5)
    _, again = made("2.safetensors", "--method", "dare", "--density", 0.3, "--seed", 5)
    _, other = made("3.safetensors", "--method", "dare", "--density", 0.3, "--seed", 6)
    assert first["method"] == "dare" and 0 < first["energy"] < 0.9 and first["ranks"][1] == 4
    recipe = json.loads(one.metadata["sdlora_recipe"])
    assert (recipe["density"], recipe["seed"], recipe["rank"]) == (0.3, 5, 4)
    up = {number: found.adapters[SQUARE].tensors["up"] for number, found in enumerate((one, again, other))}
    assert torch.equal(up[0], up[1]) and not torch.equal(up[0], up[2])
    for method in ("ties", "dare-ties"):
        assert made("4.safetensors", "--method", method)[0]["method"] == method
    with pytest.raises(UserError, match="density"):
        made("5.safetensors", "--method", "ties", "--density", 2)
