"""The networks in plain diffusers, and a plain CLIPTokenizer in which every word of the captions is one token."""

import json
from random import Random

import torch
from diffusers import StableDiffusionPipeline
from PIL import ImageChops
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sdlora.mini.network import (
    MAX_TERMINAL_SNR,
    MAX_TOKENS,
    Shape,
    empty_tokenizer,
    fresh,
    grow,
    load_networks,
    load_tokenizer,
    save_networks,
    schedule,
    set_latent_scale,
    token_ids,
)
from sdlora.mini.scenes import random_scene, training_caption, vocabulary
from sdlora.storage import shipped
from tests.mini.test_build import MICRO


def test_shipped_tokenizer_knows_every_word():
    tokenizer = load_tokenizer(shipped("assets", "mini"))
    assert isinstance(tokenizer, CLIPTokenizer)
    for word in vocabulary():
        assert len(tokenizer(word).input_ids) == 3, word


def test_grown_from_nothing_and_read_back(tmp_path):
    tokenizer = grow(empty_tokenizer(), vocabulary())
    tokenizer.save_pretrained(tmp_path)
    text = "watercolor of a red house, meadow, Ünknown wörds, 猫"
    assert token_ids(CLIPTokenizer.from_pretrained(tmp_path), [text]) == token_ids(tokenizer, [text])
    assert tokenizer.unk_token_id not in tokenizer("stglass 猫").input_ids[1:-1]


def test_growing_keeps_old_ids():
    small = grow(empty_tokenizer(), ["red", "house", "lighthouse"])
    large = grow(small, ["houseboat", "redder", "mug"])
    assert token_ids(small, ["red house, lighthouse"]) == token_ids(large, ["red house, lighthouse"])
    assert len(large("mug houseboat").input_ids) == 4


def test_captions_fit():
    tokenizer, rng = grow(empty_tokenizer(), vocabulary()), Random(1)
    captions = [training_caption(random_scene(rng, crowded=0.9), rng) for _ in range(500)]
    assert max(len(ids) for ids in tokenizer(captions).input_ids) <= MAX_TOKENS


def test_growing_the_shipped_tokenizer_by_its_own_words_changes_nothing():
    shipped_one = load_tokenizer(shipped("assets", "mini"))
    assert grow(shipped_one, vocabulary()).backend_tokenizer.to_str() == shipped_one.backend_tokenizer.to_str()


def test_what_is_written_loads_in_plain_diffusers(tmp_path):
    save_networks(fresh(MICRO), tmp_path / "base")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base").to(torch.float32)
    image = pipeline("a red house", num_inference_steps=2, generator=torch.manual_seed(0)).images[0]
    assert image.size == (32, 32)


def test_the_latent_scale_limits_the_terminal_snr():
    vae = fresh(MICRO).vae
    left = set_latent_scale(vae, 30 * torch.randn(64, 1, 1, 1) + torch.randn(64, 4, 4, 4))
    assert left <= MAX_TERMINAL_SNR * 1.001
    assert schedule().config.prediction_type == "epsilon"


def test_the_shipped_base_is_small_and_loads():
    folder = shipped("assets", "mini")
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 40_000_000
    assert not [p for p in folder.rglob("*") if p.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]
    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 3, "guidance_scale": 5.0}
    one = pipeline("a red house, meadow, in daylight", generator=torch.manual_seed(1), **options).images[0]
    two = pipeline("a blue boat, sea, at night", generator=torch.manual_seed(1), **options).images[0]
    assert one.size == (128, 128)
    assert ImageChops.difference(one, two).getbbox()


def test_a_grown_text_encoder_answers_as_before(tmp_path):
    networks = fresh(MICRO)
    networks.text = CLIPTextModel(CLIPTextConfig(**{**networks.text.config.to_dict(), "max_position_embeddings": 20}))
    save_networks(networks, tmp_path, torch.float32)
    grown = load_networks(tmp_path)
    assert grown.text.config.num_hidden_layers == Shape().text_layers > 1
    ids = torch.tensor(token_ids(grown.tokenizer, ["a red house, sea, and more"]))
    before, after = (text(part).last_hidden_state for text, part in ((networks.text, ids[:, :20]), (grown.text, ids)))
    assert torch.allclose(before, after[:, :20], atol=1e-6) and after.shape[1] == MAX_TOKENS


def test_the_use_of_a_tokenizer_is_not_written_with_it(tmp_path):
    networks = load_networks(shipped("assets", "mini"))
    token_ids(networks.tokenizer, ["a red house"])
    save_networks(networks, tmp_path)
    folders = tmp_path, shipped("assets", "mini")
    written, ours = (json.loads((folder / "tokenizer" / "tokenizer.json").read_text()) for folder in folders)
    assert written["truncation"] is None and written["padding"] is None
    assert written["model"] == ours["model"]
