"""What A1111, Civitai Helper and LoRA-Manager wrote beside a file is honoured; nothing they wrote can do harm."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdlora.library import edit, search, sidecars
from sdlora.storage import data_folder
from tests.library.files import beside, lora

CIVITAI = {"id": 7, "name": "v1.0", "baseModel": "SD 1.5", "trainedWords": ["glss style", " window, "],
           "model": {"name": "Stained Glass", "type": "LORA", "tags": ["glass", "style"]},
           "description": "<p>Best at <strong>0.8</strong>.<br/>&lt;3 &amp; more</p><script>alert(1)</script>"}
MANAGER = {"file_name": "a", "model_name": "Glass by LM", "file_path": "/etc/passwd", "preview_url": "/etc/passwd",
           "sha256": "0" * 64, "base_model": "SDXL 1.0", "notes": "from LM", "tags": ["window"], "favorite": True,
           "civitai": CIVITAI,
           "modelDescription": "", "usage_tips": '{"strength": 0.6, "clip_skip": 2}'}


def shown(**files):
    file = lora(data_folder("loras") / "a.safetensors")
    for suffix, content in files.items():
        beside(file, {"a1111": ".json", "civitai": ".civitai.info", "manager": ".metadata.json"}[suffix], content)
    entry, = search.list_loras()
    return entry


def test_civitai_helper():
    entry = shown(civitai=CIVITAI)
    assert (entry.name, entry.trigger, entry.tags) == ("Stained Glass", "glss style, window", ("glass", "style"))
    assert entry.description.startswith("Best at 0.8 . <3 & more") and "<script>" not in entry.description


def test_lora_manager():
    entry = shown(manager=MANAGER)
    assert (entry.name, entry.trigger, entry.tags, entry.notes) == ("Glass by LM", "glss style, window", ("window",), "from LM")
    assert entry.favourite and entry.weight == 0.6 and entry.thumbnail is None and entry.family == "sd1"


def test_a1111_wins_and_the_others_fill_its_gaps():
    entry = shown(a1111={"activation text": "mine", "preferred weight": 0.8, "notes": "", "description": "short"},
                  civitai=CIVITAI, manager=MANAGER)
    assert (entry.trigger, entry.weight, entry.notes, entry.description) == ("mine", 0.8, "from LM", "short")
    assert entry.name == "Glass by LM"


def test_a_change_of_a_sidecar_is_seen():
    assert shown(a1111={"activation text": "one"}).trigger == "one"
    assert shown(a1111={"activation text": "another"}).trigger == "another"
    data_folder("loras").joinpath("a.json").unlink()
    assert search.list_loras()[0].trigger == ""


@pytest.mark.parametrize("told, family", [
    ("SD1", "sd1"), ("SD 1.5", "sd1"), ("SD 2.1 768", "sd2"), ("SDXL", "sdxl"), ("Pony", "sdxl"), ("Illustrious", "sdxl"),
    ("sdlora_mini", "mini"), ("Flux.1 D", None), ("Unknown", None)])
def test_base_names_as_hints(told, family):
    assert sidecars.clean({"family": told}).get("family") == family


def test_a_hint_decides_only_what_the_tensors_leave_open():
    text = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    file = data_folder("loras") / "a.safetensors"
    save_file({f"{text}.lora_down.weight": np.ones((2, 768), np.float16),
               f"{text}.lora_up.weight": np.ones((768, 2), np.float16)}, file)
    entry, = search.list_loras()
    assert entry.family == "" and {"sd1", "sdxl"} <= set(entry.families) and entry.problem == ""
    beside(file, ".json", {"sd version": "SDXL"})
    assert search.list_loras()[0].family == "sdxl"
    beside(file, ".json", {"sd version": "SD2"})
    assert search.list_loras()[0].family == ""


HOSTILE = [
    {"activation text": "\u202e\x00<img src=x>" + "a" * 10_000, "preferred weight": 1e300, "sdlora": {"name": 7, "tags": "x"}},
    {"preferred weight": True, "notes": ["x"],
     "sdlora": {"tags": [7, None, "\n", "ok"] + ["t"] * 999, "favourite": "yes", "edited": 3}},
    {"model": "x", "trainedWords": "abc", "civitai": [], "tags": {"a": 1}, "usage_tips": "[[["},
    {"preferred weight": 10**400, "usage_tips": json.dumps({"strength": 10**400})},
    {"usage_tips": {"strength": 1}, "civitai": {"model": []}, "base_model": ["SDXL"]},
]


@pytest.mark.parametrize("suffix", ["a1111", "civitai", "manager"])
@pytest.mark.parametrize("content", HOSTILE)
def test_hostile_sidecars_are_text_or_nothing(suffix, content):
    entry = shown(**{suffix: content})
    assert len(entry.name) <= 80 and len(entry.trigger) <= 200 and "\x00" not in entry.trigger and "\u202e" not in entry.trigger
    assert entry.weight == 0 and len(entry.tags) <= 50 and entry.favourite is False and entry.problem == ""


@pytest.mark.parametrize("suffix", sidecars.SUFFIXES)
def test_a_huge_sidecar_is_not_read(suffix):
    file = lora(data_folder("loras") / "a.safetensors")
    beside(file, suffix, {"notes": "x" * 2_000_000, "activation text": "huge"})
    assert search.list_loras()[0].trigger == ""
    assert edit.annotate("a", notes="mine").notes == "mine"
    assert suffix != ".json" or json.loads(file.with_suffix(".json").read_text())["activation text"] == "huge"
