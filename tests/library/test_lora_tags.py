"""`<lora:name:0.8>` and the names in pictures: found on the shelf or said to be missing, and never a path."""

import hashlib
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from sdlora.config import DrawConfig
from sdlora.draw.infotext.picture import write_picture
from sdlora.errors import UserError
from sdlora.library import lora_tags, scan, search
from sdlora.library.lora_tags import find_loras, resolve, settings_of, with_tags
from sdlora.storage import data_folder

MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def lora(name, value=0.5, folder=None, **metadata):
    """A tiny LoRA on the shelf; (its file, A1111's hash of it)."""
    path = (folder or data_folder("loras")) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"{MODULE}.lora_down.weight": np.full((2, 128), value, np.float16),
               f"{MODULE}.lora_up.weight": np.full((64, 2), value, np.float16)}, path, metadata=metadata or None)
    data = path.read_bytes()
    return str(path), hashlib.sha256(data[8 + int.from_bytes(data[:8], "little"):]).hexdigest()[:12]


def test_tags_are_taken_out_of_the_prompt():
    ink, _ = lora("ink wash", 0.1)
    cut, _ = lora("woodcut-2", 0.2, ss_output_name="Woodcut")
    words, choices = resolve("a house, <lora:ink wash:0.8> at <lora:Woodcut:0.25:-.5> night <lora:ink wash>")
    assert words == "a house, at night"
    assert [(c.file, c.strength, c.text_strength) for c in choices] == [(ink, 1.8, None), (cut, -0.5, 0.25)]
    assert resolve("a house, (night:1.2) <b>") == ("a house, (night:1.2) <b>", [])
    assert resolve("<lora:woodcut-2:1:0.5:lbw=1,0,1>")[1][0].blocks == "1,0,1"


@pytest.mark.parametrize("tag, said", [
    ("<lora:woodkut:1>", "Did you mean <lora:woodcut:1>"), ("<lora:zzzz:1>", "no style called 'zzzz'"),
    ("<lora:woodcut:9>", "strength must be"), ("<lora:woodcut:nan>", "not understood"),
    ("<lora:woodcut:1e999>", "not understood"),
    ("<lora:woodcut:x>", "not understood"), ("<lora::1>", "not understood"), ("<lora:woodcut:1:1:8>", "dyn"),
    ("<lora:woodcut:3><lora:woodcut:3>", "strength must be"), ("<lora:../../outside:1>", "no style called"),
    ("<lora:loras/woodcut:1>", "no style called"), ("<lora:..\\loras\\woodcut:1>", "no style called"),
    ("<lora:/etc/passwd:1>", "no style called"), ("<lora:woodcut\0.safetensors:1>", "no style called"),
    ("<lora:\udcff:1>", "no style called"), ("<lora:%:1>", "no style called"),
    ("<lora:' OR 1 --:1>", "no style called")])
def test_hostile_and_mistyped_names_are_sentences(tag, said, own_home):
    lora("woodcut")
    lora("outside", folder=own_home)
    with pytest.raises(UserError, match=said):
        resolve(f"a house {tag}")


def test_too_many_tags_are_refused():
    lora("a")
    with pytest.raises(UserError, match="more than 64"):
        resolve("<lora:a:0.01>" * 65)


def test_the_hash_decides_before_the_name():
    old, old_hash = lora("style", 0.1)
    new, new_hash = lora("style-2", 0.2)
    choices, said = find_loras([{"name": "style", "hash": new_hash, "strength": 0.5, "start": 0.25}])
    assert (choices[0].file, choices[0].strength, choices[0].start, said) == (new, 0.5, 0.25, [])
    choices, said = find_loras([{"name": "style", "hash": "0123456789ab", "strength": 1.0}])
    assert choices[0].file == old and "may be another file" in said[0]
    choices, said = find_loras([{"name": "gone", "hash": "0123456789ab"}, {"name": "also gone", "hash": ""}])
    assert choices == [] and [s.split(".")[0] for s in said] == ["gone is left out", "also gone is left out"]


def test_many_unknown_hashes_share_one_time_for_hashing(monkeypatch):
    lora("style")
    asked = []
    monkeypatch.setattr(lora_tags, "HASH_SECONDS", 0.05)
    monkeypatch.setattr(search, "hash_files", lambda seconds: asked.append(seconds) or time.sleep(seconds) or ())
    choices, said = find_loras([{"name": "gone", "hash": f"{number:012x}"} for number in range(1, 9)])
    assert choices == [] and len(said) == 8 and 0 < sum(asked) <= 0.05


def test_use_the_settings_of_a_picture(tmp_path):
    file, told = lora("woodcut")
    settings = {"prompt": "a house", "negative": "", "seed": 7, "steps": 12, "width": 128, "height": 64, "sampler": "Euler",
                "loras": [{"name": "woodcut", "hash": told, "strength": 0.7, "text_strength": 0.0, "blocks": "style"},
                          {"name": "gone", "hash": "0123456789ab", "strength": 1.0}], "model": "sdlora mini",
                "other": {"Clip skip": "2"}}
    for suffix in (".png", ".jpg", ".webp"):
        path = write_picture(tmp_path / f"x{suffix}", Image.new("RGB", (64, 64)), settings)
        fields, said = settings_of(path)
        config = DrawConfig(**fields)
        assert (config.prompts, config.seed, config.steps, config.sampler) == (("a house",), 7, 12, "Euler")
        assert [(c.file, c.strength, c.text_strength, c.blocks) for c in config.loras] == [(file, 0.7, 0.0, "style")]
        assert len(said) == 2 and said[0].startswith("gone is left out") and "Clip skip: 2" in said[1]


def test_a_drawing_with_tags():
    file, _ = lora("woodcut")
    drawn = with_tags(DrawConfig(prompts=("a <lora:woodcut:0.5>", "b <lora:woodcut:0.5>"), loras=({"file": "x"},), seed=3))
    assert drawn.prompts == ("a", "b") and [c.file for c in drawn.loras] == ["x", file] and drawn.seed == 3
    with pytest.raises(UserError, match="name different styles"):
        with_tags(DrawConfig(prompts=("a <lora:woodcut:0.5>", "b")))


def test_two_files_of_one_name_are_told_apart_by_their_folders():
    files = [lora("same", value, data_folder("loras") / folder) for value, folder in ((0.1, "one"), (0.2, "two"))]
    for name, (file, _) in zip(("one/same", "two\\same"), files, strict=True):
        assert resolve(f"a house <lora:{name}:0.5>")[1][0].file == file
    with pytest.raises(UserError, match="2 styles called 'same'") as caught:
        resolve("a house <lora:same:1>")
    assert "one/same, two/same" in caught.value.hint
    choices, sentences = find_loras([{"name": "same", "strength": 1.0}])
    assert not choices and "one/same, two/same" in sentences[0]
    choices, _ = find_loras([{"name": "same", "strength": 1.0, "hash": files[1][1]}])
    assert choices[0].file == files[1][0]
    with pytest.raises(UserError, match="no style called"):
        resolve("a house <lora:three/same:1>")


def test_copies_of_one_file_are_one_style():
    for folder in ("one", "two"):
        lora("same", 0.1, data_folder("loras") / folder)
    search.list_loras()
    list(scan.hash_files())
    assert resolve("a house <lora:same:1>")[1][0].file.endswith("same.safetensors")
