"""Settings of InvokeAI's pictures, all three of its ways to write them."""

import json

import pytest

from sdlora.draw.infotext.invoke import from_invoke

METADATA = {  # invokeai/app/invocations/metadata.py: CoreMetadata 2.2.0
    "app_version": "6.4.0", "generation_mode": "txt2img", "positive_prompt": "a cat", "negative_prompt": "dog", "width": 512,
    "height": 768, "seed": 2731604022, "rand_device": "cpu", "cfg_scale": 7.5, "steps": 30, "scheduler": "dpmpp_2m_k",
    "clip_skip": 0, "strength": 0.7,
    "model": {"key": "1", "hash": "blake3:ab", "name": "Dreamshaper 8", "base": "sd-1", "type": "main"},
    "loras": [{"model": {"key": "2", "hash": "blake3:cd", "name": "ink", "base": "sd-1", "type": "lora"}, "weight": 0.6},
              {"lora": {"model_name": "old", "base_model": "sd-1"}, "weight": -1}]}


def test_invokeai_3_and_later():
    assert from_invoke({"invokeai_metadata": json.dumps(METADATA)}) == {
        "prompt": "a cat", "negative": "dog", "width": 512, "height": 768, "seed": 2731604022, "guidance": 7.5, "steps": 30,
        "init_strength": 0.7, "sampler": "DPM++ 2M Karras", "model": "Dreamshaper 8", "version": "InvokeAI 6.4.0",
        "loras": [{"name": "ink", "strength": 0.6, "hash": ""}, {"name": "old", "strength": -1.0, "hash": ""}]}


def test_invokeai_2():
    image = {"prompt": [{"prompt": "a cat [dog] on a mat [bird]", "weight": 1.0}], "steps": 50, "cfg_scale": 7.5, "height": 512,
             "width": 512, "seed": 12, "sampler": "k_euler_a"}
    wanted = {"prompt": "a cat on a mat", "negative": "dog, bird", "steps": 50, "guidance": 7.5, "height": 512, "width": 512,
              "seed": 12, "sampler": "Euler a", "loras": []}
    told = json.dumps({"model_weights": "sd-1.5", "image": image})
    assert from_invoke({"sd-metadata": told}) == wanted | {"model": "sd-1.5"}
    assert from_invoke({"Dream": '"a cat [dog] on a mat [bird]" -s 50 -S 12 -W 512 -H 512 -C 7.5 -A k_euler_a'}) == wanted


def test_compels_grammar_becomes_ours():
    told = {"positive_prompt": "a cat++ on (a red mat)1.3, semi-realistic, (far away)- house", "seed": 1,
            "negative_prompt": "grainy-, 1980-", "loras": [{"model": {"name": "ink"}, "weight": 1}]}
    found = from_invoke({"invokeai_metadata": json.dumps(told)})
    assert found["prompt"] == "a (cat:1.21) on (a red mat:1.3), semi-realistic, (far away:0.9) house"
    assert found["negative"] == "(grainy:0.9), (1980:0.9)" and "other" not in found
    image = {"prompt": "a cat withLora(ink,0.8) withLora(old)", "seed": 1}
    found = from_invoke({"sd-metadata": json.dumps({"image": image})})
    assert found["prompt"] == "a cat" and found["loras"] == [{"name": "ink", "strength": 0.8, "hash": ""},
                                                             {"name": "old", "strength": 1.0, "hash": ""}]
    more = {"positive_prompt": "a", "clip_skip": 2, "vae": None, "seamless_x": True}
    more = from_invoke({"invokeai_metadata": json.dumps(more)})
    assert more["other"] == {"clip skip": "2", "seamless": "True"}
    blend = {"positive_prompt": '("a cat", "a dog").blend(1, 0.5)', "seed": 1}
    assert from_invoke({"invokeai_metadata": json.dumps(blend)})["other"] == {"InvokeAI's grammar in the prompt": "blend"}


@pytest.mark.parametrize("text", [
    "", "null", "[]", "{", "[" * 100_000, '{"loras": 5}', '{"loras": [1, {"model": 3}, {"model": {"name": []}}]}',
    '{"seed": 1' + "0" * 400 + '}', '{"loras": [{"model": {"name": "a"}, "weight": 1' + "0" * 400 + '}]}',
    '{"seed": NaN, "steps": true, "width": "512", "cfg_scale": 1e999, "positive_prompt": 7, "scheduler": [], "model": []}'])
def test_damaged_metadata_is_none_or_empty(text):
    found = from_invoke({"invokeai_metadata": text})
    assert found in (None, {"prompt": "", "negative": "", "loras": []})
    assert from_invoke({"sd-metadata": text}) is None and from_invoke({}) is None
