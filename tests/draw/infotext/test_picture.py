"""Infotext in files: written and read as PNG, JPEG and WebP, turned into settings, and what cannot be used is named."""

import gzip
import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdlora.config import DrawConfig
from sdlora.draw.infotext.picture import not_taken, read_infotext, settings_from, write_picture
from sdlora.errors import UserError
from tests.draw.infotext.test_image_text import hide

SETTINGS = {"prompt": "a red house, (meadow:1.2)", "negative": "blurry, text", "steps": 20, "sampler": "DPM++ 2M",
            "guidance": 5.5, "seed": 42, "width": 128, "height": 192, "model": "sdlora mini", "model_hash": "db80aea1b4",
            "loras": [{"name": "stained-glass", "strength": 0.8, "hash": "a33ded9e396c"},
                      {"name": "木版", "strength": -1.0, "start": 0.0, "end": 0.5, "hash": "0123456789ab"}],
            "version": "sdlora 0.1.0"}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_carries_its_settings(tmp_path, suffix):
    path = write_picture(tmp_path / f"picture{suffix}", Image.new("RGB", (64, 64), "red"), SETTINGS)
    assert read_infotext(path) == SETTINGS
    with Image.open(path) as opened:
        assert opened.convert("RGB").getpixel((3, 3))[0] > 250


def test_settings_are_fields_of_a_drawing():
    fields = settings_from(SETTINGS)
    assert fields.pop("loras") == [{"name": "stained-glass", "hash": "a33ded9e396c", "strength": 0.8},
                                   {"name": "木版", "hash": "0123456789ab", "strength": -1.0, "start": 0.0, "end": 0.5}]
    config = DrawConfig(**fields)
    assert (config.prompts, config.seed, config.width, config.height, config.base) == (
        ("a red house, (meadow:1.2)",), 42, 128, 192, "mini")
    assert not_taken(SETTINGS) == []


def test_what_is_out_of_range_or_unknown_is_named_not_used():
    found = {"prompt": "x", "steps": 500, "sampler": "Restart", "seed": -1, "width": 513, "guidance": 0.5,
             "negative": "", "init_strength": 0.4,
             "loras": [{"name": "a", "strength": 9.0, "hash": "", "dyn": "8"}, {"name": "b", "strength": 1.0, "hash": ""}],
             "other": {"Clip skip": "2", "Script": "X/Y/Z plot"}}
    fields = settings_from(found)
    assert fields == {"prompts": ("x",), "negative": "", "init_strength": 0.4,
                      "loras": [{"name": "a", "hash": ""}, {"name": "b", "hash": "", "strength": 1.0}]}
    assert not_taken(found) == ["steps: 500", "sampler: Restart", "guidance: 0.5", "seed: -1", "width: 513", "strength of a: 9.0",
                                "rank cut of a (dyn=8)", "Clip skip: 2", "the picture it was drawn over"]


def test_a_picture_of_invokeai(tmp_path):
    info = PngInfo()
    info.add_text("invokeai_metadata", json.dumps({"positive_prompt": "a cat", "seed": 3, "scheduler": "euler"}))
    info.add_text("invokeai_graph", "{}")
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png", pnginfo=info)
    assert settings_from(read_infotext(tmp_path / "x.png")) == {
        "prompts": ("a cat",), "negative": "", "seed": 3, "sampler": "Euler", "loras": []}


GRAPH = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sea.safetensors"}},
         "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red house", "clip": ["1", 1]}},
         "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog", "clip": ["1", 1]}},
         "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768, "batch_size": 1}},
         "5": {"class_type": "KSampler", "inputs": {
             "seed": 7, "steps": 20, "cfg": 6.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1,
             "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}},
         "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0]}}}
DRAWN = {"nodes": [
    {"id": 1, "type": "CheckpointLoaderSimple", "widgets_values": ["sea.safetensors"]},
    {"id": 2, "type": "CLIPTextEncode", "widgets_values": ["a red house"], "inputs": [{"name": "clip", "link": 1}]},
    {"id": 3, "type": "CLIPTextEncode", "widgets_values": ["fog"], "inputs": [{"name": "clip", "link": 2}]},
    {"id": 4, "type": "EmptyLatentImage", "widgets_values": [512, 768, 1]},
    {"id": 5, "type": "KSampler", "widgets_values": [7, "fixed", 20, 6.5, "dpmpp_2m", "karras", 1], "inputs": [
        {"name": name, "link": link} for name, link in (("model", 3), ("positive", 4), ("negative", 5), ("latent_image", 6))]},
    {"id": 6, "type": "SaveImage", "inputs": [{"name": "images", "link": 7}]}],
    "links": [[1, 1, 1, 2, 0, ""], [2, 1, 1, 3, 0, ""], [3, 1, 0, 5, 0, ""], [4, 2, 0, 5, 1, ""], [5, 3, 0, 5, 2, ""],
              [6, 4, 0, 5, 3, ""], [7, 5, 0, 6, 0, ""]]}
SWARM = {"sui_image_params": {"prompt": "a red house", "negativeprompt": "fog", "seed": 7, "steps": 20, "cfgscale": 6.5,
                              "width": 512, "height": 768, "sampler": "dpmpp_2m", "scheduler": "karras"}}
NOVELAI = {"steps": 20, "sampler": "k_dpmpp_2m", "noise_schedule": "karras", "seed": 7, "scale": 6.5, "uc": "fog", "width": 512,
           "height": 768, "request_type": "PromptGenerateRequest"}
DRAW_THINGS = {"c": "a red house", "uc": "fog", "sampler": "DPM++ 2M Karras", "seed": 7, "scale": 6.5, "steps": 20,
               "size": "512x768"}
FOOOCUS = {"prompt": "a red house", "negative_prompt": "fog", "resolution": "(512, 768)", "guidance_scale": 6.5, "seed": "7",
           "steps": 20, "sampler": "dpmpp_2m", "scheduler": "karras", "base_model": "sea"}
WORDS = "a red house\nNegative prompt: fog\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 7, Size: 512x768"
EASY = {"use_stable_diffusion_model": "sea", "prompt": "a red house", "negative_prompt": "fog", "num_inference_steps": "20",
        "seed": "7", "guidance_scale": "6.5", "sampler_name": "DPM++ 2M Karras", "width": "512", "height": "768"}
MEANT = {"prompts": ("a red house",), "negative": "fog", "seed": 7, "steps": 20, "guidance": 6.5, "width": 512, "height": 768,
         "sampler": "DPM++ 2M Karras", "loras": []}
XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description xmp:CreatorTool="Draw Things"><exif:UserComment><rdf:Alt>
<rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></exif:UserComment></rdf:Description></rdf:RDF></x:xmpmeta>"""


def png(path, texts):
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text if isinstance(text, str) else json.dumps(text))
    Image.new("RGB", (64, 64)).save(path, pnginfo=info)
    return path


@pytest.mark.parametrize("texts", [
    {"parameters": WORDS}, {"parameters": WORDS.replace("\n", " ")}, {"parameters": SWARM, "prompt": GRAPH}, {"prompt": GRAPH},
    {"workflow": DRAWN}, {"prompt": GRAPH, "workflow": DRAWN}, {"parameters": FOOOCUS, "fooocus_scheme": "fooocus"},
    {"Title": "x", "Software": "NovelAI", "Description": "a red house", "Comment": NOVELAI},
    {"Comment": NOVELAI | {"prompt": "a red house"}}, EASY,
    {"parameters": "unknown\nSteps: 1, Seed: 2, Sampler: x", "prompt": GRAPH},
    {"XML:com.adobe.xmp": XMP.format(json.dumps(DRAW_THINGS).replace('"', "&quot;"))}])
def test_a_png_of_any_program_means_the_same(tmp_path, texts):
    found = settings_from(read_infotext(png(tmp_path / "x.png", texts)))
    assert found == MEANT


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("text", [
    WORDS, json.dumps(SWARM), json.dumps(GRAPH), json.dumps(FOOOCUS), json.dumps({"prompt": GRAPH, "workflow": {}}),
    json.dumps({"Comment": json.dumps(NOVELAI), "Description": "a red house", "Software": "NovelAI"}),
    json.dumps({"prompt": json.dumps(GRAPH), "workflow": json.dumps(DRAWN)}), json.dumps(DRAW_THINGS)])
def test_in_the_comment_of_a_jpeg_or_webp(tmp_path, suffix, text):
    for place in (0x8769, None):  # Fooocus and others put the comment outside of its directory
        exif = Image.Exif()
        (exif.get_ifd(place) if place else exif)[0x9286] = b"UNICODE\0" + text.encode("utf-16-be") if place else text
        Image.new("RGB", (64, 64)).save(tmp_path / f"x{suffix}", exif=exif)
        assert settings_from(read_infotext(tmp_path / f"x{suffix}")) == MEANT


def test_comfyui_in_the_tags_of_a_webp(tmp_path):
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = f"prompt:{json.dumps(GRAPH)}", f"workflow:{json.dumps(DRAWN)}"
    Image.new("RGB", (64, 64)).save(tmp_path / "x.webp", exif=exif)
    assert settings_from(read_infotext(tmp_path / "x.webp")) == MEANT


@pytest.mark.parametrize("text", [
    WORDS, json.dumps(SWARM), json.dumps({"Description": "a red house", "Comment": json.dumps(NOVELAI)}),
    json.dumps({"prompt": GRAPH, "workflow": DRAWN})])
def test_hidden_in_the_pixels(tmp_path, text):
    hide(Image.new("RGB", (64, 64), "red"), gzip.compress(text.encode()), "A", b"stealth_pngcomp").save(tmp_path / "x.png")
    assert settings_from(read_infotext(tmp_path / "x.png")) == MEANT


def test_civitais_upscaled_pictures_are_read_from_what_stands_beside_the_graph(tmp_path):
    beside = {"prompt": "a red house", "negativePrompt": "fog", "cfgScale": 6.5, "steps": 20, "seed": 7,
              "sampler": "DPM++ 2M Karras", "width": 512, "height": 768, "resources": [{"modelVersionId": 25, "strength": 1}]}
    graph = {"23": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "urn:air:other:upscaler:civitai:1@2"}},
             "extra": {"airs": []}, "extraMetadata": json.dumps(beside)}
    assert settings_from(read_infotext(png(tmp_path / "x.png", {"prompt": graph}))) == MEANT


def test_seeds_and_schedules_beyond_ours_are_told(tmp_path):
    params = SWARM["sui_image_params"] | {"seed": 2**64 - 1, "sampler": "euler_ancestral", "width": 514}
    found = read_infotext(png(tmp_path / "x.png", {"parameters": {"sui_image_params": params}}))
    assert found["seed"] == 18446744073709551615
    fields = settings_from(found)
    assert fields["sampler"] == "Euler a" and fields["height"] == 768 and not {"seed", "width"} & fields.keys()
    assert not_taken(found) == ["seed: 18446744073709551615 (at most 4294967295)", "width: 514", "schedule: Karras"]


@pytest.mark.parametrize("texts, said", [
    ({"parameters": "None"}, "does not say how it was drawn"), ({"parameters": "just words, no numbers"}, "does not say"),
    ({"parameters": '{"sui_image_params": {"prompt": "a re'}, "drawn in SwarmUI, but its settings could not be read"),
    ({"parameters": '{"prompt": ', "fooocus_scheme": "fooocus"}, "drawn in Fooocus, but"),
    ({"parameters": {"prompt": "a", "colour": 3}}, "a program that sdlora does not know"),
    ({"prompt": {}, "workflow": {}}, "drawn in ComfyUI, but"), ({"prompt": "{" * 1000}, "drawn in ComfyUI, but"),
    ({"prompt": GRAPH | {"2": {"class_type": "Mystery", "inputs": {}}}}, "drawn in ComfyUI, but .* the node Mystery"),
    ({"Software": "NovelAI", "Comment": "{"}, "drawn in NovelAI, but"), ({"invokeai_metadata": "{}"}, "drawn in InvokeAI, but"),
    ({"invokeai_metadata": {"loras": 5}}, "drawn in InvokeAI, but"), ({"generation_data": "x"}, "drawn in TensorArt, but"),
    ({"Description": "a cat --ar 3:2 --v 6 Job ID: 0a1b2c3d-1111-2222-3333-444455556666", "Author": "me"}, "drawn by Midjourney"),
    ({"parameters": "None\nSteps: None, Sampler: None_None, Seed: None, Size: NonexNone"}, "does not say"),
    ({"Description": "a nice cat --ar 16:9 --v 5.2", "Author": "x"}, "drawn by Midjourney"),
    ({"Software": "Adobe Firefly"}, "drawn by Adobe Firefly"), ({"Comment": "Created with GIMP"}, "does not say")])
def test_what_cannot_be_read_is_refused_by_its_programs_name(tmp_path, texts, said):
    with pytest.raises(UserError, match=f"x.png .*{said}"):
        read_infotext(png(tmp_path / "x.png", texts))


def test_what_has_no_infotext_is_a_sentence(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "bare.png")
    camera = Image.Exif()
    camera.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a day at the sea"
    Image.new("RGB", (64, 64)).save(tmp_path / "bare.jpg", exif=camera)
    graph = PngInfo()
    graph.add_text("workflow", "{}")
    Image.new("RGB", (64, 64)).save(tmp_path / "comfy.png", pnginfo=graph)
    said = {"bare.png": "does not say", "bare.jpg": "does not say", "comfy.png": "ComfyUI", "absent.png": "absent.png"}
    for name, words in said.items():
        with pytest.raises(UserError, match=words):
            read_infotext(tmp_path / name)


@pytest.mark.parametrize("texts", [
    {"invokeai_metadata": {"type": "noise", "seed": 5}}, {"parameters": "Steps: 20, Seed: 5, Size: 64x64"}])
def test_a_picture_without_a_prompt_clears_no_field(tmp_path, texts):
    fields = settings_from(read_infotext(png(tmp_path / "x.png", texts)))
    assert fields["seed"] == 5 and not {"prompts", "negative"} & fields.keys()


@pytest.mark.parametrize("said, service", [
    ("<photoshop:Credit>Made with Google AI</photoshop:Credit>", "Gemini or Imagen"),
    ('<rdf:Description DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>',
     "an AI service"),
    ("<Iptc4xmpExt:AISystemUsed>Leonardo.Ai</Iptc4xmpExt:AISystemUsed>", "Leonardo.Ai")])
def test_services_that_name_themselves_in_xmp(tmp_path, said, service):
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{said}</rdf:RDF></x:xmpmeta>'
    with pytest.raises(UserError, match=f"drawn by {service}, which writes no settings"):
        read_infotext(png(tmp_path / "x.png", {"XML:com.adobe.xmp": packet}))
