"""The grammar of A1111: written so that its own rules read it, read whole, and no prompt can break out of its line."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlora.config import LoraChoice
from sdlora.draw.infotext.a1111 import from_text, take_tags, to_text
from tests.draw.a1111_reader import extra_networks, parse_generation_parameters

SETTINGS = {"prompt": "a red house, (meadow:1.2)", "negative": "blurry, text", "steps": 20, "sampler": "DPM++ 2M Karras",
            "guidance": 5.5, "seed": 42, "width": 128, "height": 192, "model": "sdlora mini", "model_hash": "db80aea1b4",
            "loras": [{"name": "stained-glass", "strength": 0.8, "hash": "a33ded9e396c"},
                      {"name": "woodcut", "strength": -1.0, "text_strength": 0.25, "blocks": "1,0,0.5", "start": 0.2,
                       "end": 1.0, "hash": "0123456789ab"}],
            "method": "switch", "switch_every": 4, "init_strength": 0.6, "version": "sdlora 0.1.0"}


def test_a1111_reads_what_we_write():
    found = parse_generation_parameters(to_text(SETTINGS))
    words, nets = extra_networks(found["Prompt"])
    assert words.strip() == SETTINGS["prompt"] and found["Negative prompt"] == "blurry, text"
    assert nets == {"lora": [("stained-glass", 0.8, 0.8), ("woodcut", 0.25, -1.0)]}
    numbers = ("Steps", "CFG scale", "Seed", "Size-1", "Size-2")
    assert [found[name] for name in numbers] == ["20", "5.5", "42", "128", "192"]
    assert (found["Sampler"], found["Schedule type"], found["RNG"]) == ("DPM++ 2M", "Karras", "CPU")
    assert found["Lora hashes"] == "stained-glass: a33ded9e396c, woodcut: 0123456789ab" and found["Denoising strength"] == "0.6"
    assert to_text(SETTINGS).split("\n")[2].startswith("Steps: 20")  # where Civitai looks


def test_we_read_what_we_wrote():
    assert from_text(to_text(SETTINGS)) == SETTINGS
    bare = {"prompt": "", "negative": "", "loras": [], "width": 64, "height": 64, "steps": 1, "sampler": "Euler",
            "other": {"X Type": "Seed", "X Values": "1, 2"}}
    assert from_text(to_text(bare)) == bare


STRENGTHS = st.floats(-4, 4, allow_nan=False)
SHARES = st.floats(0, 1, allow_nan=False)


@given(st.lists(st.builds(dict, name=st.text(min_size=1, max_size=20), strength=STRENGTHS, text_strength=st.none() | STRENGTHS,
                          blocks=st.text(max_size=40), start=SHARES, end=SHARES,
                          hash=st.text("0123456789abcdef", min_size=12, max_size=12)), max_size=4))
def test_every_setting_of_a_lora_comes_back(loras):
    read = from_text(to_text(SETTINGS | {"loras": loras}))["loras"]
    assert len({lora["name"] for lora in read}) == len(loras)  # two of one name are told apart
    for was, now in zip(loras, read, strict=True):
        kept = LoraChoice(file="-", **{key: value for key, value in now.items() if key not in ("name", "hash")})
        meant = LoraChoice(file="-", **{key: value for key, value in was.items() if key not in ("name", "hash")})
        assert now["hash"] == was["hash"]
        if meant.text_strength == meant.strength:
            meant = meant.model_copy(update={"text_strength": None})
        assert kept == meant.model_copy(update={"blocks": meant.blocks.encode("utf-8", "ignore").decode()})


@given(prompt=st.text(max_size=80), negative=st.text(max_size=80), name=st.text(min_size=1, max_size=30))
def test_no_text_breaks_out_of_its_place(prompt, negative, name):
    lora = {"name": name, "strength": 0.5, "hash": "0123456789ab"}
    text = to_text(SETTINGS | {"prompt": prompt, "negative": negative, "loras": [lora], "model": name})
    read = from_text(text)
    assert read["seed"] == 42 and read["steps"] == 20 and read["width"] == 128
    assert [one["hash"] for one in read["loras"]] == ["0123456789ab"]
    assert set(read) <= set(SETTINGS) and "other" not in read
    theirs = parse_generation_parameters(text)
    assert theirs["Seed"] == "42" and len(extra_networks(theirs["Prompt"])[1]["lora"]) == 1


def test_injected_lines_stay_words():
    evil = "cat\nNegative prompt: x\nSteps: 1, Seed: 7, Size: 1x1, CFG scale: 2"
    read = from_text(to_text(SETTINGS | {"prompt": evil, "negative": ""}))
    assert read["seed"] == 42 and read["negative"] == "" and read["prompt"].startswith("cat Negative prompt: x Steps: 1")
    assert from_text(to_text(SETTINGS | {"prompt": "Negative prompt: x"}))["prompt"] == "negative prompt: x"


def test_a_text_of_a1111_with_everything():
    read = from_text(
        "a cat, <lora:fluffy:0.7>\nin the sun <lora:Mood v2:0.4:-0.9> <lyco:old:te=0.1:unet=1.5:dyn=8>\n"
        "Negative prompt: dog\nbird\n"
        'Steps: 25, Sampler: DPM++ 2M, Schedule type: Automatic, CFG scale: 6, Seed: 3, Size: 512x768, Model hash: 6ce0161689, '
        'Model: v1-5, Denoising strength: 0.45, Clip skip: 2, Hires prompt: "a cat, \\"big\\"", Hires upscale: 2, '
        'Hires upscaler: Latent, Lora hashes: "fluffy: a33ded9e396c, Mood v2: 0123456789AB", TI hashes: "bad: 12ab", '
        "Version: v1.10.1\nTemplate: a {cat|dog}, Steps: 1, Seed: 2\nNegative Template: {dog}")
    assert read["prompt"] == "a cat,\nin the sun" and read["negative"] == "dog\nbird" and "init_strength" not in read
    assert read["loras"] == [
        {"name": "fluffy", "strength": 0.7, "hash": "a33ded9e396c"},
        {"name": "Mood v2", "strength": -0.9, "text_strength": 0.4, "hash": "0123456789ab"},
        {"name": "old", "strength": 1.5, "text_strength": 0.1, "dyn": "8", "hash": ""}]
    assert (read["sampler"], read["steps"], read["guidance"], read["seed"], read["height"]) == ("DPM++ 2M Karras", 25, 6, 3, 768)
    assert read["other"] == {"Clip skip": "2", "Hires prompt": 'a cat, "big"', "Hires upscale": "2", "Hires upscaler": "Latent",
                             "Hires denoising strength": "0.45", "TI hashes": "bad: 12ab"}


def test_civitais_bare_hashes_are_read_and_hide_nothing():
    read = from_text('x <lora:a:1>\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64, '
                     'Hashes: {"model": "6ce0161689", "lora:a": "A33DED9E396C"}')
    assert read["loras"] == [{"name": "a", "strength": 1.0, "hash": "a33ded9e396c"}] and "other" not in read
    assert from_text('x\nSteps: 1, Seed: 2, Sampler: y, Hashes: {"a": [[[')["seed"] == 2
    copied = from_text('x\nSteps: 28, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Civitai resources: [{"type":"lora","weight":0.6,'
                       '"modelName":"Ink", "air":"urn:air:sd1:lora:civitai:1@2"}], '
                       'Civitai metadata: {"a, b: c": {}}, Seed: 3, Version: v1.9.4')
    assert (copied["seed"], copied["sampler"], copied["version"]) == (3, "DPM++ 2M Karras", "v1.9.4")
    assert copied["loras"] == [{"name": "Ink", "strength": 0.6, "hash": ""}] and "other" not in copied


def test_civitais_resources_are_models_by_name_or_by_air():
    read = from_text('a tree\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Created Date: 2025-01-04T01:27:21Z, '
                     'Civitai resources: [{"type":"checkpoint","modelVersionId":25,"modelName":"Sea","modelVersionName":"v1"},'
                     '{"weight":0.4,"air":"urn:air:sd1:lora:civitai:11@22"},{"type":"lycoris","modelVersionId":9},'
                     '{"type":"embed","modelName":"bad hands"}], Civitai metadata: {}')
    assert read["model"] == "Sea"
    assert read["loras"] == [{"name": "civitai 11@22", "strength": 0.4, "hash": ""},
                             {"name": "civitai 9", "strength": 1.0, "hash": ""}]
    assert read["other"] == {"Created Date": "2025-01-04T01:27:21Z", "Civitai embeddings": "bad hands"}
    tagged = from_text('a <lora:ink:0.3>\nSteps: 20, Sampler: Euler, Seed: 1, '
                       'Civitai resources: [{"type":"lora","modelName":"Ink"}]')
    assert [lora["name"] for lora in tagged["loras"]] == ["ink"] and tagged["other"] == {"Civitai LoRAs": "Ink"}


@pytest.mark.parametrize("text", [
    "a tree. Negative prompt: fog, rain Steps: 12, Sampler: DPM++ 2M Karras, CFG scale: 5, Seed: 9, Size: 512x768",
    "a tree.\r\nNegative prompt: fog, rain\r\nSteps: 12, Sampler: DPM++ 2M Karras, CFG scale: 5, Seed: 9, Size: 512x768\r\n",
    "a tree.\nNegative prompt: fog, rain\nSteps: 12,\nSampler: DPM++ 2M,\nSchedule type: Karras\nCFG Scale: 5, Seed: 9,\n"
    "Size: 512 x 768",
    "a tree.\nnegative Prompt: fog, rain\nSteps: 12.0, Sampler: DPM++ 2M Karras, CFG scale: 5.0, Seed: 9, Size: 512x768",
    "a tree.\nNegative prompt: fog, rain\n\nSteps: 12, Sampler: dpmpp_2m_karras, CFG scale: 5, Seed: 9, Size: 512x768"])
def test_line_breaks_and_the_lack_of_them_change_nothing(text):
    assert from_text(text) == {"prompt": "a tree.", "negative": "fog, rain", "loras": [], "steps": 12, "seed": 9,
                               "sampler": "DPM++ 2M Karras", "guidance": 5.0, "width": 512, "height": 768}


def test_line_breaks_within_a_pair_stay_in_it():
    read = from_text('x\nSteps: 5, Sampler: Euler, Seed: 1, Hires prompt: "big\nhouse, \\"old\\"", Model: my\n model, '
                     "Version: v1\n"
                     "Negative Template: {fog|rain}\nSteps: 2, Seed: 2, Size: 8x8")
    assert read["other"] == {"Hires prompt": 'big\nhouse, "old"'} and read["model"] == "my model" and read["seed"] == 1
    quoting = from_text("a page that says\nSteps: 40, Seed: 7, Size: 64x64\nin red\nSteps: 5, Sampler: Euler, Seed: 1")
    assert quoting["steps"] == 5 and quoting["prompt"].endswith("in red")
    only = from_text("three stone Steps: 3 of them, moss")  # a staircase, no pairs
    assert only == {"prompt": "three stone Steps: 3 of them, moss", "negative": "", "loras": []}


def test_nothing_is_not_a_value():
    read = from_text("None\nNegative prompt: None\nSteps: 8, Sampler: None, Seed: 4, Model: None, VAE: None, "
                     "Lora hashes: None, Size: 64x64")
    assert read == {"prompt": "", "negative": "", "loras": [], "steps": 8, "seed": 4, "width": 64, "height": 64}


def test_fooocus_in_a1111s_words():
    read = from_text('cinematic still a fish . 4k, a fish, highly detailed\nNegative prompt: ugly, anime\n'
                     'Steps: 30, Sampler: DPM++ 2M SDE Karras, Seed: 6952411511246973023, Size: 768x1280, CFG scale: 4, '
                     'ADM Guidance: "(1.5, 0.8, 0.3)", Model: sea, Performance: Speed, Scheduler: karras, VAE: Default (model), '
                     'Raw prompt: a fish, Raw negative prompt: "", Lora hashes: "scales: 0123456789, fins: abcdef0123", '
                     'Lora weights: "scales: 0.5, fins: -0.1", Version: Fooocus v2.5.0')
    assert (read["prompt"], read["negative"], read["seed"], read["width"]) == ("a fish", "ugly, anime", 6952411511246973023, 768)
    assert read["sampler"] == "DPM++ 2M SDE Karras"
    assert read["loras"] == [{"name": "scales", "strength": 0.5, "hash": "0123456789"},
                             {"name": "fins", "strength": -0.1, "hash": "abcdef0123"}]


def test_hashes_of_loras_that_nothing_else_tells_of_are_not_lost():
    read = from_text('x <lora:a:1>\nSteps: 5, Sampler: Euler, Seed: 1, Lora hashes: "a: 0123456789, b: abcdef0123"')
    assert read["other"] == {"Lora hashes": "b: abcdef0123"}


@pytest.mark.parametrize("text, seed", [
    ("only words", None), ("", None), ("x\nSteps: many, Seed: 1e400, Sampler: y", None),
    ("x\nSteps: 1, Seed: 5, CFG scale: nan", 5),
    ("\n\n\n", None), ('x\nSteps: 1, Seed: "5", Sampler: "unclosed', 5), (f"x\nSteps: 1, Seed: {'9' * 5000}, Sampler: y", None),
    (f"x\nSteps: {'9' * 400}, Seed: 5, Sampler: y", 5)])
def test_odd_texts_are_read_as_far_as_they_go(text, seed):
    read = from_text(text)
    assert read.get("seed") == seed and "guidance" not in read and isinstance(read["prompt"], str)


@pytest.mark.parametrize("hostile", ["a" * 10**6, " " * 10**6, "<lora:" * 200_000, "<lora:a:1>" * 50_000, 'ab:"' * 200_000,
                                     "a:" * 300_000, ", " * 300_000, "[" * 10**6, " Steps: 5" * 10**5,
                                     "x\nSteps: 5, " + "a:\n" * 10**5, 'x\nSteps: 1, a b: 2, Hashes: {' + "{" * 10**6])
def test_hostile_texts_are_read_in_no_time(hostile):
    began = time.process_time()
    assert len(from_text(hostile)["loras"]) <= 64
    assert time.process_time() - began < 2


def test_tags_of_a_prompt():
    assert take_tags("a <lora:x> b <lora:y:.5> <hypernet:z:1>", strict=True) == ("a b <hypernet:z:1>", [
        {"name": "x", "strength": 1.0, "hash": ""}, {"name": "y", "strength": 0.5, "hash": ""}])
    assert take_tags("<lora:x:1:0.5:lbw=1,0,1>", strict=True)[1] == [
        {"name": "x", "strength": 0.5, "text_strength": 1.0, "blocks": "1,0,1", "hash": ""}]
    for bad in ("<lora:x:big>", "<lora::1>", "<lora:x:nan>", "<lora:x:1e999>", "<lora:te=1>"):
        assert take_tags(bad, strict=False) == (bad, [])
        with pytest.raises(ValueError):
            take_tags(bad, strict=True)


def test_the_schedule_of_stable_diffusion_cpp():
    found = from_text("a red house\nSteps: 20, CFG scale: 7.0, Seed: 42, Size: 512x512, Sampler: dpm++2m, Schedule: karras, "
                      "Version: stable-diffusion.cpp")
    assert found["sampler"] == "DPM++ 2M Karras" and "other" not in found


def test_the_words_of_draw_things():
    text = ("a red house,\nby the sea\n-fog, rain\nSteps: 20, Sampler: DPM++ 2M Karras, Guidance Scale: 6.5, Seed: 7, "
            "Size: 512x768, Model: sea_f16.ckpt, Strength: 0.4, Seed Mode: Scale Alike, LoRA 1 Model: ink_lora_f16.ckpt, "
            "LoRA 1 Weight: 0.8, LoRA 2 Model: wood.ckpt, LoRA 2 Weight: 1.0")
    found = from_text(text)
    assert (found["prompt"], found["negative"], found["guidance"]) == ("a red house,\nby the sea", "fog, rain", 6.5)
    assert [(one["name"], one["strength"]) for one in found["loras"]] == [("ink_lora_f16", 0.8), ("wood", 1.0)]
    assert found["init_strength"] == 0.4 and found["other"] == {"Seed Mode": "Scale Alike"}
    assert from_text("a house\n-5 degrees\nSteps: 20, Seed: 7, CFG scale: 7")["prompt"] == "a house\n-5 degrees"
