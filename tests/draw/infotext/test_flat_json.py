"""Settings of the programs that write one flat JSON object: SwarmUI, Fooocus, NovelAI, Draw Things, Easy Diffusion, TensorArt."""

import json

import pytest

from sdlora.draw.infotext.flat_json import from_flat, novelai_weights


def lora(name, strength, **more):
    return {"name": name, "strength": strength, "hash": "", **more}


def test_swarmui():
    params = {
        "prompt": "a red house <lora:ink:0.3> by the sea <segment:face,0.5> a smile",
        "negativeprompt": "fog",
        "model": "Official/sd_xl",
        "seed": "18446744073709551615",
        "steps": 30,
        "cfgscale": "6.5",
        "width": 512,
        "height": 768,
        "sampler": "dpmpp_2m",
        "scheduler": "karras",
        "loras": ["style/ink", "paper"],
        "loraweights": ["0.8", "1"],
        "loratencweights": ["0.5", "1"],
        "initimagecreativity": 0.4,
        "refinerupscale": 1.5,
    }
    found = from_flat({"sui_image_params": params, "sui_extra_data": {"date": "2025-09-01"}})
    assert found == {
        "prompt": "a red house by the sea",
        "negative": "fog",
        "seed": 2**64 - 1,
        "steps": 30,
        "guidance": 6.5,
        "width": 512,
        "height": 768,
        "init_strength": 0.4,
        "sampler": "DPM++ 2M Karras",
        "model": "sd_xl",
        "version": "SwarmUI",
        "loras": [lora("ink", 0.8, text_strength=0.5), lora("paper", 1.0)],
        "other": {"upscaling": "1.5", "prompt section": "<segment:face,0.5> a smile"},
    }
    listed = from_flat(
        {"sui_image_params": params | {"loras": "style/ink,paper", "loraweights": "0.8,1", "loratencweights": None}}
    )
    assert listed["loras"] == [lora("ink", 0.8), lora("paper", 1.0)]


FOOOCUS = {
    "base_model": "sea",
    "base_model_hash": "aeb7e9e689",
    "full_prompt": ["cinematic a fish", "a fish, deep"],
    "full_negative_prompt": ["ugly"],
    "guidance_scale": 4,
    "metadata_scheme": "fooocus",
    "negative_prompt": "",
    "performance": "Speed",
    "prompt": "a fish",
    "refiner_model": "None",
    "resolution": "(768, 1280)",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "6952411511246973023",
    "steps": 30,
    "styles": "['Fooocus V2']",
    "vae": "Default (model)",
    "version": "Fooocus v2.4.3",
}


@pytest.mark.parametrize(
    "told",
    [
        {"loras": [["scales.safetensors", 0.5, "0123456789AB"], ["None", 1.0, ""]]},
        {"lora_combined_1": "scales : 0.5", "lora_combined_2": "None : 1.0", "loras": [["scales", 0.5, "0123456789ab"]]},
    ],
)
def test_fooocus(told):
    found = from_flat(FOOOCUS | told)
    assert found == {
        "prompt": "a fish",
        "negative": "",
        "seed": 6952411511246973023,
        "steps": 30,
        "guidance": 4.0,
        "width": 768,
        "height": 1280,
        "sampler": "DPM++ 2M SDE Karras",
        "model": "sea",
        "version": "Fooocus",
        "loras": [{"name": "scales", "strength": 0.5, "hash": "0123456789ab"}],
        "other": {"styles": "['Fooocus V2']", "performance": "Speed"},
    }
    assert from_flat(FOOOCUS | {"lora_combined_1": "True : fins.safetensors : -0.25"})["loras"] == [lora("fins", -0.25)]


def test_ruinedfooocus_and_demos_of_the_hub():
    ruined = {
        "Prompt": "a fish",
        "Negative": "ugly",
        "steps": 30,
        "cfg": 8,
        "width": 1024,
        "height": 512,
        "seed": 20,
        "sampler_name": "lms",
        "scheduler": "karras",
        "base_model_name": "sea.safetensors",
        "loras": [["fins.safetensors", 0.7]],
        "denoise": None,
        "software": "RuinedFooocus",
    }
    found = from_flat(ruined)
    assert (found["prompt"], found["negative"], found["guidance"], found["model"]) == ("a fish", "ugly", 8.0, "sea")
    assert found["sampler"] == "lms karras" and found["loras"] == [lora("fins", 0.7)]
    demo = {
        "prompt": "a fish",
        "negative_prompt": "ugly",
        "resolution": "1024 x 512",
        "guidance_scale": 5.5,
        "num_inference_steps": 24,
        "seed": 4,
        "sampler": "EulerAncestralDiscreteScheduler",
        "Model": "Sea",
        "use_upscaler": None,
    }
    found = from_flat(demo)
    assert (found["width"], found["height"], found["steps"], found["sampler"]) == (1024, 512, 24, "Euler a")


def test_novelai():
    told = {
        "prompt": "{{1girl}}, (x), [dull], 1.2::sky::, -0.8::feet::",
        "steps": 28,
        "height": 1216,
        "width": 832,
        "scale": 5.0,
        "seed": 2**32,
        "noise_schedule": "karras",
        "sampler": "k_dpmpp_2m",
        "uc": "fog",
        "request_type": "PromptGenerateRequest",
        "strength": 0.7,
        "noise": 0.0,
        "cfg_rescale": 0.0,
        "v4_prompt": {"caption": {"base_caption": "", "char_captions": [{"char_caption": "boy, hat", "centers": []}]}},
    }
    found = from_flat(told)
    assert found["prompt"] == "(1girl:1.1), \\(x\\), (dull:0.952), (sky:1.2)\nboy, hat" and found["negative"] == "fog"
    assert found["sampler"] == "DPM++ 2M Karras" and found["seed"] == 2**32 and "init_strength" not in found
    assert found["other"] == {"weights below 0": "feet (-0.8)"} and found["version"] == "NovelAI"
    assert from_flat(told | {"request_type": "Img2ImgRequest"})["init_strength"] == 0.7
    assert novelai_weights("plain, 16:9 view", []) == "plain, 16:9 view"
    assert novelai_weights("{a {b} c} [{", []) == "(a (b:1.05) c:1.05) [{"


def test_hashes_of_swarmui():
    params = {"prompt": "a", "seed": 1, "steps": 5, "loras": ["style/ink"], "loraweights": ["1"]}
    models = [{"name": "style/ink.safetensors", "param": "loras", "hash": f"0x{'Ab' * 32}"}, {"name": 5}, 7]
    found = from_flat({"sui_image_params": params, "sui_models": models})
    assert found["loras"] == [{"name": "ink", "strength": 1.0, "hash": "ab" * 32}]


def test_the_first_fooocus_and_swarmuis_syntax():
    log = {"Prompt": "a cat", "Negative Prompt": "dog", "Styles": "['x']", "Performance": "Speed", "Resolution": "(896, 1152)",
           "Seed": 3, "Guidance Scale": 4, "Sampler": "dpmpp_2m", "Scheduler": "karras", "Base Model": "sea.ckpt",
           "LoRA 1": "x.safetensors : 0.5"}
    found = from_flat(log)
    assert (found["negative"], found["guidance"], found["width"], found["model"]) == ("dog", 4.0, 896, "sea")
    assert found["sampler"] == "DPM++ 2M Karras" and found["loras"] == [lora("x", 0.5)] and found["version"] == "Fooocus"
    params = {"prompt": "a cat <wildcard:x> <break> hat <param[steps]:5>", "seed": 1, "steps": 5}
    found = from_flat({"sui_image_params": params})
    assert found["prompt"] == "a cat BREAK hat" and found["other"] == {"prompt syntax": "<wildcard:x> <param[steps]:5>"}


def test_draw_things_easy_diffusion_and_tensorart():
    found = from_flat(
        {
            "c": "a fish",
            "uc": "fog",
            "model": "sea_f16.ckpt",
            "sampler": "Euler A",
            "scale": 7.5,
            "seed": 9,
            "steps": 20,
            "strength": 0.6,
            "size": "512x768",
            "lora": [{"model": "fins_lora_f16.ckpt", "weight": 0.8}],
        }
    )
    assert found == {
        "prompt": "a fish",
        "negative": "fog",
        "seed": 9,
        "steps": 20,
        "guidance": 7.5,
        "width": 512,
        "height": 768,
        "init_strength": 0.6,
        "sampler": "Euler a",
        "model": "sea_f16",
        "loras": [lora("fins_lora_f16", 0.8)],
        "version": "Draw Things",
    }
    found = from_flat(
        {
            "prompt": "a fish",
            "negative_prompt": "",
            "seed": "9",
            "use_stable_diffusion_model": "C:\\models\\sea.ckpt",
            "sampler_name": "dpmpp_2m",
            "num_inference_steps": "25",
            "guidance_scale": "7.5",
            "width": "512",
            "height": "512",
            "use_lora_model": "fins",
            "lora_alpha": "0.5",
            "use_vae_model": "None",
            "prompt_strength": "0.8",
        }
    )
    assert (found["steps"], found["model"], found["loras"]) == (25, "sea", [lora("fins", 0.5)]) and "init_strength" not in found
    found = from_flat(
        {
            "prompt": "a fish",
            "negativePrompt": "fog",
            "width": 512,
            "height": 512,
            "steps": 25,
            "cfgScale": 7,
            "seed": "-1",
            "baseModel": {"modelFileName": "sea"},
            "sdVae": "Automatic",
            "ksamplerName": "euler_ancestral",
            "schedule": "normal",
            "models": [{"type": "LORA", "modelFileName": "fins", "weight": 0.4}],
        }
    )
    assert found["sampler"] == "Euler a" and found["loras"] == [lora("fins", 0.4)] and "seed" not in found


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"prompt": "only words"},
        {"seed": 1, "steps": 2},
        {"prompt": ["a"], "seed": 1, "steps": 2},
        {"sui_image_params": {}},
        {"prompt": "a", "seed": float("nan"), "steps": True, "scale": float("inf"), "sampler": {}, "loras": 5},
        {"uc": "x", "scale": "y", "v4_prompt": {"caption": {"char_captions": [1, {}]}}},
        {"ksamplerName": 4, "baseModel": 5, "models": [1]},
    ],
)
def test_other_json_is_no_settings(told):
    assert from_flat(told) is None


def test_odd_values_are_left_out():
    found = from_flat(
        {
            "prompt": "None",
            "negative_prompt": "None",
            "seed": 5,
            "steps": 1e400,
            "guidance_scale": "7,5",
            "width": -3,
            "sampler": "euler",
            "loras": [None, {}, [], ["a"], {"name": 3}, "b", {"name": "c", "weight": "x"}],
        }
    )
    assert found == {
        "prompt": "",
        "negative": "",
        "seed": 5,
        "width": -3,
        "sampler": "Euler",
        "loras": [lora("b", 1.0), lora("c", 1.0)],
    }
    assert from_flat(json.loads('{"prompt": "a", "seed": 1' + "0" * 400 + ', "steps": 5, "cfg": 2}')) == {
        "prompt": "a",
        "negative": "",
        "steps": 5,
        "guidance": 2.0,
        "loras": [],
    }


@pytest.mark.parametrize("names, weights", [
    ("['fins', 'ink']", "[0.5, -0.2]"), ('["fins", "ink"]', "[0.5, -0.2]"), (["fins", "ink"], [0.5, -0.2]),
    ("fins, ink", "0.5, -0.2")])
def test_lists_written_as_text(names, weights):
    found = from_flat({"prompt": "a red house", "seed": "7", "num_inference_steps": "20", "use_stable_diffusion_model": "sea",
                       "use_lora_model": names, "lora_alpha": weights, "clip_skip": "False", "use_vae_model": "None"})
    assert found["loras"] == [lora("fins", 0.5), lora("ink", -0.2)] and "other" not in found
    sized = from_flat({"prompt": "a red house", "seed": 7, "steps": 20, "resolution": [896, 1152], "styles": []})
    assert (sized["width"], sized["height"]) == (896, 1152)
