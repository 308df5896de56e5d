"""Reading a header by what was understood of another one gives the same facts, and never lets a bad file through."""

import json
import random

import numpy as np
import pytest
from safetensors.numpy import save

from sdlora.bench.library import write
from sdlora.library import facts
from tests.library.files import lora, tensors


def fresh(path):
    return facts.read_facts(path, {})


@pytest.mark.parametrize("family, text", [("sd1", False), ("sd1", True), ("sdxl", False), ("sdxl", True)])
def test_a_known_structure_gives_the_same_facts(tmp_path, family, text):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    write(first, family, text, random.Random(1), False)
    write(second, family, text, random.Random(1), False)
    known = {}
    assert facts.read_facts(first, known) == fresh(first) and len(known) == 1
    assert facts.read_facts(second, known) == fresh(second) and len(known) == 1
    assert fresh(second).families == (family,) and fresh(second).alias == "second" and fresh(second).problem == ""
    counts = {("sd1", False): 192, ("sd1", True): 264, ("sdxl", False): 722, ("sdxl", True): 986}
    assert fresh(first).modules == counts[family, text]
    assert facts.Facts.from_json(fresh(first).to_json()) == fresh(first)


def changed(data, change):
    """The bytes of a safetensors file with its header's JSON text changed."""
    length = int.from_bytes(data[:8], "little")
    head = change(data[8:8 + length].decode().rstrip()).encode()
    return len(head).to_bytes(8, "little") + head + data[8 + length:]


GOOD = save(tensors(), {"ss_output_name": "x"})
LIKE_IT = {
    "cut": GOOD[:-1], "longer": GOOD + b"x",
    "metadata twice": changed(GOOD, lambda head: head[:-1] + ',"__metadata__":{"a":"b"}}'),
    "a name twice": changed(GOOD, lambda head: head.replace('{"ss_output_name":"x"}', '{"a":"b","a":"c"}')),
    "metadata of numbers": changed(GOOD, lambda head: head.replace('"x"', "7")),
    "metadata is a list": changed(GOOD, lambda head: head.replace('{"ss_output_name":"x"}', "[]")),
    "other shapes": changed(GOOD, lambda head: head.replace("768", "767")),
    "not closed": changed(GOOD, lambda head: head[:-1]),
}


@pytest.mark.parametrize("how", LIKE_IT)
def test_a_file_like_a_known_one_is_refused_as_ever(tmp_path, how):
    known = {}
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    good.write_bytes(GOOD)
    bad.write_bytes(LIKE_IT[how])
    assert facts.read_facts(good, known).problem == "" and len(known) == 1
    told = facts.read_facts(bad, known)
    assert "bad.safetensors" in told.problem and told == fresh(bad) and len(known) == 1


def test_only_what_can_be_used_is_remembered(tmp_path):
    known = {}
    flux = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": np.ones((2, 8))}
    (tmp_path / "flux.safetensors").write_bytes(save(flux))
    lora(tmp_path / "wide.safetensors", width=999)
    assert "Flux" in facts.read_facts(tmp_path / "flux.safetensors", known).problem
    assert "another kind of base" in facts.read_facts(tmp_path / "wide.safetensors", known).problem and known == {}


def test_files_without_free_text_are_known_too(tmp_path):
    known = {}
    for name in "ab":
        assert facts.read_facts(lora(tmp_path / f"{name}.safetensors"), known).rank == 2
    assert len(known) == 1


def test_a_name_written_with_escapes_hides_nothing(tmp_path):
    data = changed(save(tensors()), lambda head: '{"\\u005f_metadata__":{"modelspec.title":"T"},' + head[1:])
    (tmp_path / "a.safetensors").write_bytes(data)
    known = {}
    assert facts.read_facts(tmp_path / "a.safetensors", known).title == "T" and known == {}


def test_what_a_header_tells(tmp_path):
    said = {"modelspec.title": "T" * 200, "ss_output_name": "o", "modelspec.description": "d", "sdlora_trigger": "t",
            "ss_base_model_version": "sdxl_base_v1-0", "modelspec.hash_sha256": "0x" + "AB" * 32,
            "ssmd_cover_images": json.dumps(["x" * 200])}
    told = fresh(lora(tmp_path / "a.safetensors", said))
    assert (told.title, told.alias, told.description, told.trigger) == ("T" * 80, "o", "d", "t")
    assert told.family_hint == "sdxl" and told.families == ("sd1",) and told.told_hash == "ab" * 32 and told.embedded
    assert fresh(lora(tmp_path / "a.safetensors", {"sshs_model_hash": "xyz"})).told_hash == ""


def test_a_missing_file_is_a_sentence(tmp_path):
    assert "gone.safetensors" in fresh(tmp_path / "gone.safetensors").problem
    (tmp_path / "folder.safetensors").mkdir()
    assert "folder.safetensors" in fresh(tmp_path / "folder.safetensors").problem
