"""Graphs of ComfyUI, from the saved picture back to the sampler and on to its words, in the shapes in which people build them."""

import time

import pytest

from sdlora.draw.infotext.comfy import from_comfy
from sdlora.draw.infotext.comfy_graph import UnknownNode


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(**nodes):
    """A text-to-image graph with the usual ids; other nodes, or None to leave one out, in `nodes`."""
    usual = {
        "4": node("CheckpointLoaderSimple", ckpt_name="sd15\\sea.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a red house, [brackets]", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="fog", clip=["4", 1]),
        "3": node(
            "KSampler",
            seed=12345678901234567890,
            steps=20,
            cfg=6.5,
            sampler_name="dpmpp_2m",
            scheduler="karras",
            denoise=1,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            latent_image=["5", 0],
        ),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    }
    return {key.removeprefix("n"): value for key, value in (usual | nodes).items() if value}


def sampler(**inputs):
    return {"class_type": "KSampler", "inputs": graph()["3"]["inputs"] | inputs}


FOUND = {
    "prompt": "a red house, \\[brackets\\]",
    "negative": "fog",
    "seed": 12345678901234567890,
    "steps": 20,
    "guidance": 6.5,
    "loras": [],
    "width": 512,
    "height": 768,
    "sampler": "DPM++ 2M Karras",
    "model": "sea",
    "version": "ComfyUI",
}


def test_text_to_image():
    assert from_comfy(graph()) == FOUND


def test_loras_in_the_order_of_loading_through_a_reroute():
    found = from_comfy(
        graph(
            n10=node(
                "LoraLoader",
                lora_name="one/ink.safetensors",
                strength_model=0.8,
                strength_clip=0.5,
                model=["4", 0],
                clip=["4", 1],
            ),
            n11=node("Reroute", **{"": ["10", 0]}),
            n12=node("LoraLoaderModelOnly", lora_name="b.safetensors", strength_model=-1, model=["11", 0]),
            n13=node(
                "LoraLoader", lora_name="unused.safetensors", strength_model=1, strength_clip=1, model=["4", 0], clip=["4", 1]
            ),
            n3=sampler(model=["12", 0]),
        )
        | {"3": sampler(model=["12", 0])}
    )
    assert found["loras"] == [
        {"name": "ink", "strength": 0.8, "hash": "", "text_strength": 0.5},
        {"name": "b", "strength": -1.0, "hash": "", "text_strength": 0.0},
    ]


@pytest.mark.parametrize(
    "loader, loras",
    [
        (
            node(
                "Power Lora Loader (rgthree)",
                lora_1={"on": True, "lora": "a.safetensors", "strength": 0.5},
                model=["4", 0],
                lora_2={"on": False, "lora": "b.safetensors", "strength": 1},
                lora_3={"on": True, "lora": "c", "strength": 1, "strengthTwo": 0},
            ),
            [("a", 0.5, None), ("c", 1.0, 0.0)],
        ),
        (
            node(
                "Lora Loader Stack (rgthree)",
                lora_01="a.safetensors",
                strength_01=0.5,
                lora_02="None",
                strength_02=1,
                model=["4", 0],
            ),
            [("a", 0.5, None)],
        ),
        (
            node(
                "Lora Loader (LoraManager)",
                loras={
                    "__value__": [
                        {"name": "a", "strength": "0.5", "active": True, "clipStrength": 1},
                        {"name": "b", "strength": 1, "active": False},
                    ]
                },
                model=["4", 0],
            ),
            [("a", 0.5, 1.0)],
        ),
        (
            node(
                "Efficient Loader",
                ckpt_name="sea",
                lora_name="a",
                lora_model_strength=0.5,
                lora_clip_strength=0.5,
                lora_stack=["20", 0],
            ),
            [("s", 0.25, None), ("a", 0.5, None)],
        ),
        (node("CR Apply LoRA Stack", model=["4", 0], lora_stack=["21", 0]), [("t", 0.5, 1.0)]),
    ],
)
def test_loaders_of_several_loras(loader, loras):
    stack = node(
        "LoRA Stacker",
        input_mode="simple",
        lora_count=1,
        lora_name_1="s",
        lora_wt_1=0.25,
        model_str_1=1,
        clip_str_1=1,
        lora_name_2="beyond the count",
        lora_wt_2=1,
    )
    switched = node(
        "CR LoRA Stack",
        switch_1="On",
        lora_name_1="t",
        model_weight_1=0.5,
        clip_weight_1=1,
        switch_2="Off",
        lora_name_2="off",
        model_weight_2=1,
        clip_weight_2=1,
    )
    found = from_comfy(graph() | {"10": loader, "20": stack, "21": switched, "3": sampler(model=["10", 0])})
    assert [(one["name"], one["strength"], one.get("text_strength")) for one in found["loras"]] == loras


def test_words_from_primitives_joins_and_switches():
    words = {
        "10": node("PrimitiveStringMultiline", value="a red house"),
        "11": node("StringConcatenate", string_a=["10", 0], string_b="by the sea", delimiter=" "),
        "12": node("ComfySwitchNode", switch=["13", 0], on_true="x", on_false=["11", 0]),
        "13": node("PrimitiveBoolean", value=False),
        "14": node("ShowText|pysssss", text=["12", 0], text_0="of an older run"),
        "15": node("CR Seed", seed=77),
        "6": node("CLIPTextEncode", text=["14", 0], clip=["4", 1]),
        "16": node("PrimitiveInt", value=640),
    }
    found = from_comfy(
        graph() | words | {"3": sampler(seed=["15", 0]), "5": node("EmptyLatentImage", width=["16", 0], height=512)}
    )
    assert (found["prompt"], found["seed"], found["width"]) == ("a red house by the sea", 77, 640)
    wildcard = node("ImpactWildcardProcessor", wildcard_text="a {red|blue} house", populated_text="a blue house", seed=5)
    assert (
        from_comfy(graph() | {"10": wildcard, "6": node("CLIPTextEncode", text=["10", 0], clip=["4", 1])})["prompt"]
        == "a blue house"
    )


def test_conditioning_joined_bent_and_emptied():
    more = {
        "10": node("CLIPTextEncode", text="a boat", clip=["4", 1]),
        "11": node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["10", 0]),
        "12": node("ControlNetApplyAdvanced", positive=["11", 0], negative=["13", 0], control_net=["14", 0], image=["15", 0]),
        "13": node("ConditioningZeroOut", conditioning=["6", 0]),
        "14": node("ControlNetLoader"),
        "15": node("LoadImage", image="x"),
    }
    found = from_comfy(graph() | more | {"3": sampler(positive=["12", 0], negative=["12", 1])})
    assert found["prompt"] == "a red house, \\[brackets\\], a boat" and found["negative"] == ""
    assert found["other"] == {"positive prompts": "2 joined into one", "ComfyUI nodes": "ControlNetApplyAdvanced"}
    both = node("CLIPTextEncodeSDXL", text_g="a house", text_l="a house", clip=["4", 1], width=1024)
    assert from_comfy(graph() | {"6": both})["prompt"] == "a house"


def test_custom_samplers_and_guiders():
    parts = {
        "10": node("RandomNoise", noise_seed=7),
        "11": node("CFGGuider", model=["4", 0], positive=["6", 0], negative=["7", 0], cfg=4),
        "12": node("KSamplerSelect", sampler_name="euler_ancestral"),
        "13": node("BasicScheduler", scheduler="beta", steps=24, denoise=1),
        "14": node("SplitSigmas", sigmas=["13", 0], step=0),
        "3": node(
            "SamplerCustomAdvanced", noise=["10", 0], guider=["11", 0], sampler=["12", 0], sigmas=["14", 0], latent_image=["5", 0]
        ),
    }
    assert from_comfy(graph() | parts) == FOUND | {"seed": 7, "steps": 24, "guidance": 4.0, "sampler": "Euler a Beta"}
    basic = {
        "11": node("BasicGuider", model=["4", 0], conditioning=["16", 0]),
        "16": node("FluxGuidance", guidance=3.5, conditioning=["6", 0]),
    }
    found = from_comfy(graph() | parts | basic)
    assert found["prompt"] == FOUND["prompt"] and found["negative"] == "" and "guidance" not in found
    assert found["other"] == {"Flux guidance": "3.5"}
    custom = {
        "3": node(
            "SamplerCustom",
            noise_seed=8,
            cfg=2,
            model=["4", 0],
            positive=["6", 0],
            negative=["7", 0],
            sampler=["12", 0],
            sigmas=["15", 0],
            latent_image=["5", 0],
        ),
        "15": node("KarrasScheduler", steps=9),
    }
    found = from_comfy(graph() | parts | custom)
    assert (found["seed"], found["steps"], found["sampler"], found["guidance"]) == (8, 9, "Euler a Karras", 2.0)


def test_of_two_passes_the_first():
    second = {
        "10": node("LatentUpscale", samples=["3", 0], width=1024, height=1536),
        "11": sampler(seed=1, steps=9, latent_image=["10", 0], denoise=0.5),
        "8": node("VAEDecode", samples=["11", 0], vae=["4", 2]),
    }
    assert from_comfy(graph() | second) == FOUND | {"other": {"ComfyUI samplers": "1 more in its graph"}}


def test_over_a_picture():
    loaded = {"5": node("VAEEncode", pixels=["10", 0], vae=["4", 2]), "10": node("LoadImage", image="x.png")}
    found = from_comfy(graph() | loaded | {"3": sampler(denoise=0.6)})
    assert found["init_strength"] == 0.6 and "width" not in found
    advanced = node(
        "KSamplerAdvanced",
        **{key: value for key, value in sampler()["inputs"].items() if key not in ("seed", "denoise")},
        noise_seed=5,
        start_at_step=12,
        end_at_step=10000,
    )
    found = from_comfy(graph() | loaded | {"3": advanced})
    assert found["init_strength"] == 0.4 and found["seed"] == 5


def test_loaders_that_do_everything():
    efficient = {
        "4": node("Efficient Loader", ckpt_name="sea.safetensors", lora_name="None", lora_model_strength=1, lora_clip_strength=1,
                  positive="a red house", negative="fog", empty_latent_width=512, empty_latent_height=768,
                  clip_skip=-1),
        "3": node("KSampler (Efficient)", seed=5, steps=20, cfg=6.5, sampler_name="dpmpp_2m", scheduler="karras", denoise=1,
                  model=["4", 0], positive=["4", 1], negative=["4", 2], latent_image=["4", 3]),
        "9": node("SaveImage", images=["3", 5])}
    meant = FOUND | {"prompt": "a red house", "seed": 5}
    assert from_comfy(efficient) == meant
    efficient["10"] = node("PrimitiveString", value="a red house")
    efficient["4"]["inputs"]["positive"] = ["10", 0]
    assert from_comfy(efficient) == meant
    easy = {
        "4": efficient["4"] | {"class_type": "easy fullLoader"}, "10": efficient["10"],
        "5": node("easy preSampling", pipe=["4", 0], seed=5, steps=20, cfg=6.5, sampler_name="dpmpp_2m", scheduler="karras",
                  denoise=1),
        "3": node("easy kSampler", pipe=["5", 0], image_output="Save")}
    assert from_comfy(easy) == meant


def test_contexts_and_unpacked_pipes_keep_positive_and_negative_apart():
    ctx = {
        "10": node("Context (rgthree)", model=["4", 0], positive=["6", 0], negative=["7", 0], latent=["5", 0], seed=["13", 0]),
        "11": node("Context (rgthree)", base_ctx=["10", 0]), "13": node("Seed (rgthree)", seed=5),
        "3": sampler(seed=["11", 8], model=["11", 1], positive=["11", 4], negative=["11", 5], latent_image=["11", 6])}
    assert from_comfy(graph() | ctx) == FOUND | {"seed": 5}
    pipe = {
        "10": node("ToBasicPipe", model=["4", 0], clip=["4", 1], vae=["4", 2], positive=["6", 0], negative=["7", 0]),
        "11": node("FromBasicPipe", basic_pipe=["10", 0]), "12": node("Reroute", **{"": ["11", 4]}),
        "3": sampler(model=["11", 0], positive=["11", 3], negative=["12", 0])}
    assert from_comfy(graph() | pipe) == FOUND
    bent = {
        "10": node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["14", 0], image=["15", 0]),
        "11": node("Reroute", **{"": ["10", 1]}), "3": sampler(positive=["10", 0], negative=["11", 0])}
    assert from_comfy(graph() | bent)["negative"] == "fog"


def test_pipes_and_group_ids():
    pipe = {
        "10": node("ToBasicPipe", model=["4", 0], clip=["4", 1], vae=["4", 2], positive=["6", 0], negative=["7", 0]),
        "3": node(
            "ImpactKSamplerBasicPipe",
            basic_pipe=["10", 0],
            seed=3,
            steps=20,
            cfg=6.5,
            sampler_name="dpmpp_2m",
            scheduler="karras",
            latent_image=["5", 0],
            denoise=1,
        ),
    }
    assert from_comfy(graph() | pipe) == FOUND | {"seed": 3}
    grouped = {
        f"30:{key}": node(
            one["class_type"],
            **{name: [f"30:{value[0]}", value[1]] if isinstance(value, list) else value for name, value in one["inputs"].items()},
        )
        for key, one in graph().items()
    }
    assert from_comfy(grouped) == FOUND


def test_tags_are_words_to_comfyui():
    found = from_comfy(graph() | {"6": node("CLIPTextEncode", text="a house <lora:x:1> embedding:sea.pt", clip=["4", 1])})
    assert found["prompt"] == "a house embedding:sea.pt" and found["loras"] == []
    assert found["other"] == {"LoRA tags in the positive prompt": "x", "embeddings": "sea.pt"}


@pytest.mark.parametrize(
    "nodes, why",
    [
        ({"3": None}, "no sampler"),
        ({"6": node("TextGenerate", prompt="write a prompt", clip=["4", 1])}, "TextGenerate"),
        (
            {"6": node("CLIPTextEncode", text=["10", 0], clip=["4", 1]), "10": node("OllamaGenerate", prompt="describe")},
            "OllamaGenerate",
        ),
        ({"6": node("CLIPTextEncode", text=["10", 0], clip=["4", 1]), "10": node("Mystery", a=1)}, "Mystery"),
        ({"6": node("StableZero123_Conditioning", clip_vision=["4", 1], init_image=["4", 0])}, "StableZero123_Conditioning"),
        ({"6": node("CLIPTextEncode", text=["99", 0], clip=["4", 1])}, "leads nowhere"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_its_name(nodes, why):
    wanted = {key: value for key, value in (graph() | nodes).items() if value}
    if nodes.get("6", {}).get("class_type") == "TextGenerate":
        wanted |= {"10": nodes["6"], "6": node("CLIPTextEncode", text=["10", 0], clip=["4", 1])}
    with pytest.raises(UnknownNode, match=why):
        from_comfy(wanted)


def test_circles_and_heaps_end():
    began = time.process_time()
    circle = graph() | {"6": node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["6", 0])}
    ladder = (
        graph()
        | {
            str(100 + step): node("ConditioningCombine", conditioning_1=[str(101 + step), 0], conditioning_2=[str(101 + step), 0])
            for step in range(90)
        }
        | {"190": graph()["6"], "3": sampler(positive=["100", 0])}
    )
    pipes = (
        graph()
        | {
            str(step): node("X", pipe_a=[str((step + 1) % 60 + 200), 0], pipe_b=[str((step + 7) % 60 + 200), 0])
            for step in range(200, 260)
        }
        | {"3": node("K", seed=1, steps=["200", 0], cfg=["200", 0], pipe=["200", 0])}
    )
    words = graph() | {str(step): node("Text Concatenate", text_a=[str(step + 1), 0]) for step in range(200, 260)} | {
        "6": node("CLIPTextEncode", text=["200", 0], clip=["4", 1])}
    deep = graph() | {str(step): node("ConditioningConcat", conditioning_to=[str(step + 1), 0]) for step in range(100, 155)} | {
        str(step): node("Text Concatenate", text_a=[str(step + 1), 0]) for step in range(200, 255)} | {
        "155": node("CLIPTextEncode", text=["200", 0], clip=["4", 1]), "255": node("Mystery"), "3": sampler(positive=["100", 0])}
    for hostile in (circle, ladder, words, deep, pipes | {"9": node("SaveImage", images=["3", 0])}):
        with pytest.raises(UnknownNode):
            from_comfy(hostile)
    many = {str(step): sampler(latent_image=[str(step + 1), 0]) for step in range(3000)}
    with pytest.raises(UnknownNode):
        from_comfy(many)
    for odd in (
        {},
        {"1": 5, "2": {"inputs": []}, "3": {"class_type": [], "inputs": {"seed": [["x"], 1], "steps": float("nan")}}},
    ):
        with pytest.raises(UnknownNode):
            from_comfy(odd)
    assert time.process_time() - began < 5


def worded(given, **nodes):
    return graph(n6=node("CLIPTextEncode", text=given, clip=["4", 1]), **nodes)


@pytest.mark.parametrize("change, words", [
    (node("StringReplace", string="a RED house", find="RED", replace="blue"), "a blue house"),
    (node("Text Find and Replace", text=["11", 0], find="RED", replace="blue"), "a blue house"),
    (node("StringFunction|pysssss", action="replace", tidy_tags="no", text_a="a RED house", text_b="RED", text_c="blue"),
     "a blue house"),
    (node("StringFunction|pysssss", action="append", tidy_tags="yes", text_a="a house", text_b="sea", text_c=""), "a house, sea"),
    (node("StringTrim", string="  a house ", mode="Both"), None),
    (node("StringSubstring", string="a RED house", start=0, end=1), None),
    (node("RegexReplace", string="a RED house", regex_pattern="[A-Z]+", replace="blue"), None),
    (node("StringFunction|pysssss", action="replace", text_a="a RED house", text_b="/[A-Z]+/", text_c="blue"), None),
    (node("Text Load Line From File", multiline_text="one\ntwo", mode="index", index=1), None),
    (node("CR Prompt List", multiline_text="one\ntwo", start_index=0), None),
    (node("easy promptLine", prompt="one\ntwo", start_index=1, max_rows=1), None),
    (node("CaseConverter", string="RED", mode="lowercase"), None),
    (node("CR Multi-Line Prompt", prompt="one\ntwo"), "one\ntwo"),
    (node("Primitive string multiline [Crystools]", string="one\ntwo"), "one\ntwo"),
])
def test_a_node_that_changes_words_never_passes_for_one_that_holds_them(change, words):
    told = worded(["10", 0], n10=change, n11=node("PrimitiveString", value="a RED house"))
    if words is not None:
        assert from_comfy(told)["prompt"] == words
        return
    with pytest.raises(UnknownNode, match=change["class_type"].split("|")[0]):
        from_comfy(told)


def test_a_schedule_of_prompts_is_no_prompt():
    with pytest.raises(UnknownNode, match="BatchPromptSchedule"):
        from_comfy(graph(n6=node("BatchPromptSchedule", text='"0": "a house",\n"24": "a boat"', max_frames=48, clip=["4", 1])))


@pytest.mark.parametrize("counts", [
    node("SimpleMath+", value="a*2", a=10), node("CR Math Operation", a=20, b=2, operation="subtract"),
    node("MathExpression|pysssss", expression="a+5", a=15), node("RandomInt", value=4, min=1, max=30, seed=9)])
def test_a_computed_number_is_named_and_not_guessed(counts):
    found = from_comfy(graph(n3=sampler(steps=["10", 0]), n10=counts))
    assert "steps" not in found and counts["class_type"] in found["other"]["steps"]


def test_the_name_of_a_sampler_from_another_node():
    context = node("Context Big (rgthree)", model=["4", 0], positive=["6", 0], negative=["7", 0], latent=["5", 0], seed=5,
                   steps=9, cfg=3.5, sampler="euler_ancestral", scheduler="normal")
    linked = sampler(model=["10", 1], positive=["10", 4], negative=["10", 5], latent_image=["10", 6], seed=["10", 8],
                     steps=["10", 9], cfg=["10", 11], sampler_name=["10", 12], scheduler=["10", 13])
    assert from_comfy(graph(n10=context, n3=linked)) == FOUND | {
        "seed": 5, "steps": 9, "guidance": 3.5, "sampler": "Euler a"}
    config = node("KSampler Config (rgthree)", steps_total=30, cfg=8, sampler_name="dpmpp_2m", scheduler="karras")
    assert from_comfy(graph(n10=config, n3=sampler(sampler_name=["10", 3], scheduler=["10", 4]))) == FOUND
    unknown = from_comfy(graph(n10=node("Sampler Roulette", odds=3), n3=sampler(sampler_name=["10", 0])))
    assert "sampler" not in unknown and unknown["other"] == {"sampler": "comes from Sampler Roulette"}


@pytest.mark.parametrize("loader", [
    node("LoraTagLoader", model=["4", 0], clip=["4", 1], text="<lora:ink:0.7> and words", normalize_weight=False),
    node("ImpactWildcardEncode", model=["4", 0], clip=["4", 1], wildcard_text="{a|b} <lora:other:1>",
         populated_text="b <lora:ink:0.7>", mode="populate", seed=4),
    node("Power Prompt (rgthree)", prompt="a boat <lora:ink:0.7>", opt_model=["4", 0], opt_clip=["4", 1]),
    node("ttN pipeLoader_v2", ckpt_name="sea.safetensors", loras="<lora:ink:0.7>", positive="a boat", negative="", seed=3)])
def test_tags_that_a_node_on_the_models_way_reads_are_loras(loader):
    chained = {"model_pipe" if "pipe" in loader["class_type"] else "model": ["10", 0]}
    found = from_comfy(graph(n10=loader, n3=sampler(**chained)))
    assert found["loras"] == [{"name": "ink", "strength": 0.7, "hash": ""}]
    said = from_comfy(graph(n6=loader, n3=sampler(model=["6", 0]))) if "prompt" in loader["inputs"] else None
    assert said is None or said["prompt"] == "a boat" and "other" not in said


def test_the_tuple_of_efficient_sdxl():
    found = from_comfy({
        "1": node("Eff. Loader SDXL", base_ckpt_name="xl.safetensors", refiner_ckpt_name="r.safetensors", positive="a dog",
                  negative="fog", empty_latent_width=1024, empty_latent_height=768),
        "2": node("KSampler SDXL (Eff.)", noise_seed=9, steps=24, cfg=6.5, sampler_name="dpmpp_2m", scheduler="karras",
                  start_at_step=0, refine_at_step=20, sdxl_tuple=["1", 0], latent_image=["1", 1]),
        "3": node("SaveImage", images=["2", 3])})
    assert found == {"prompt": "a dog", "negative": "fog", "seed": 9, "steps": 24, "guidance": 6.5, "loras": [], "width": 1024,
                     "height": 768, "sampler": "DPM++ 2M Karras", "model": "xl", "version": "ComfyUI"}
