"""`sdlora bases` as another program calls it."""

import json
import shutil

import pytest

from sdlora import storage
from sdlora.errors import UserError


def test_bases_are_listed_added_and_removed(run, tmp_path):
    folder = shutil.copytree(storage.shipped("assets", "mini"), tmp_path / "mine")
    assert [entry["id"] for entry in json.loads(run("bases", "--json").stdout)] == ["mini"]
    added = json.loads(run("bases", "add", folder, "--json").stdout)
    assert added["id"] == "mine" and added["kind"] == "folder"
    assert [entry["id"] for entry in json.loads(run("bases", "list", "--json").stdout)] == ["mini", "mine"]
    assert "Stable Diffusion" not in run("bases", "remove", "mine").stdout
    assert "mine" not in run("bases").stdout and "to download" in run("bases").stdout


@pytest.mark.parametrize("words, message", [(("add", "nope"), "no base model"), (("remove", "mini"), "was not added")])
def test_mistakes_are_sentences(run, words, message):
    with pytest.raises(UserError, match=message):
        run("bases", *words)
