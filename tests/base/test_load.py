"""Base against diffusers' own pipeline: the same text states, latents, pixels and predictions."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from sdlora import storage
from sdlora.base.load import load_base, pick_device
from sdlora.errors import UserError

PROMPTS = ["a red house and a blue boat, meadow, in daylight", "", "a cat " * 60]


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu")


@pytest.fixture(scope="module")
def oracle():
    pipeline = StableDiffusionPipeline.from_pretrained(storage.shipped("assets", "mini"), dtype=torch.float32)
    for model in (pipeline.unet, pipeline.vae):
        model.to(memory_format=torch.channels_last)  # the layout decides the last bits
    return pipeline


def test_text_is_what_the_pipeline_encodes(mini, oracle):
    ours = mini.encode_text(PROMPTS)["states"]
    theirs, negative = oracle.encode_prompt(PROMPTS, "cpu", 1, True, negative_prompt=["", "a", "b"])
    assert torch.equal(ours, theirs)
    assert torch.equal(ours[1:2], negative[:1])
    assert not torch.equal(ours[0], ours[1])


def test_overlong_names_what_is_not_read(mini):
    assert mini.overlong(PROMPTS[0]) == ""
    assert mini.overlong("a cat " * 23 + "tree") == "tree"


def test_pictures_go_in_and_out_as_in_the_pipeline(mini, oracle):
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, std = mini.encode_pictures(pixels)
    theirs = oracle.vae.encode(pixels).latent_dist
    assert mean.shape == std.shape == (2, mini.channels, 128 // mini.factor, 128 // mini.factor)
    assert torch.allclose(mean, theirs.mean * oracle.vae.config.scaling_factor)
    assert torch.allclose(std, theirs.std * oracle.vae.config.scaling_factor)
    raw = oracle.vae.decode(mean / oracle.vae.config.scaling_factor).sample.detach()
    for ours, wanted in zip(mini.decode(mean), oracle.image_processor.postprocess(raw), strict=True):
        difference = torch.tensor(list(ours.tobytes())).int() - torch.tensor(list(wanted.tobytes())).int()
        assert difference.abs().max() <= 1


def test_prediction_is_the_unets(mini, oracle):
    noisy = torch.randn(2, mini.channels, 16, 16, generator=torch.Generator().manual_seed(2))
    timesteps, features = torch.tensor([3, 700]), mini.encode_text(PROMPTS[:2])
    wanted = oracle.unet(noisy, timesteps, encoder_hidden_states=features["states"]).sample
    assert torch.equal(mini.predict(noisy, timesteps, features, 128), wanted)


def test_only_the_asked_parts_are_loaded_and_can_be_dropped():
    base = load_base("mini", "cpu", parts=("text", "vae"))
    assert base.unet is None and base.vae is not None and len(base.text_encoders) == 1
    assert not any(parameter.requires_grad for parameter in base.text_encoders[0].parameters())
    base.drop("text", "vae")
    assert base.vae is None and not base.text_encoders and not base.tokenizers


def test_a_device_that_is_not_there_is_a_sentence():
    with pytest.raises(UserError, match="no device 'tpu'"):
        pick_device("tpu")
    assert pick_device("cpu").type == "cpu"
