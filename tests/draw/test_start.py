"""Image-to-image and inpainting against diffusers' own pipelines on the tiny base; sizes; what cannot be begun from."""

import dataclasses

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.draw import samplers
from sdlora.draw.compose import Mix
from sdlora.draw.pipeline import denoise, draw, predictor, scheduler_of
from sdlora.draw.start import begin, size_like
from sdlora.errors import UserError
from tests import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return load_base(str(tiny.write_base(tmp_path_factory.mktemp("tiny") / "base")), "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny.write_pictures(tmp_path_factory.mktemp("pictures"), 1)
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((32, 0, 63, 63), fill=255)
    mask.save(folder / "mask.png")
    Image.new("L", (64, 64)).save(folder / "black.png")
    return folder


def oracle(kind, base, sampler, **settings):
    name, options = samplers.find(sampler)
    even = {"timestep_spacing": "leading"} if name in samplers.EVEN else {}  # these two have no "linspace" that works
    scheduler = getattr(diffusers, name).from_config(base.scheduler_config | options | even | {"clip_sample": False})
    made = kind(base.vae, base.text_encoders[0], base.tokenizers[0], base.unet, scheduler, safety_checker=None,
                feature_extractor=None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made("a red house", generator=torch.Generator().manual_seed(3), output_type="latent", guidance_scale=4.0,
                **settings).images


def last_latents(base, config):
    start = begin(base, config)
    predict = predictor(base, config, "a red house", start.size, None, [(Mix((), ()),)] * config.steps)
    return start, list(denoise(base, config, start, 3, predict))[-1].latents


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler", "Euler a", "Heun", "DDIM", "UniPC", "LCM"])
def test_image_to_image_is_that_of_diffusers(base, files, sampler):
    config = DrawConfig(init=str(files / "00.png"), init_strength=0.7, steps=6, guidance=4.0, sampler=sampler)
    start, ours = last_latents(base, config)
    theirs = oracle(StableDiffusionImg2ImgPipeline, base, sampler, image=start.latents, strength=0.7, num_inference_steps=6)
    assert torch.allclose(ours, theirs, atol=1e-4), (ours - theirs).abs().max()


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.7, 1.0])
def test_plms_believes_in_the_noise_that_is_there(base, files, strength):
    """Told the noise as it is, every step finds that same noise: diffusers' own pipeline is a step behind from the third on."""
    config = DrawConfig(init=str(files / "00.png"), init_strength=strength, steps=10, sampler="PLMS")
    start, seen = begin(base, config), []
    kept = scheduler_of(base, config).alphas_cumprod

    def predict(noisy, timestep, step):
        seen.append((noisy - kept[timestep].sqrt() * start.latents) / (1 - kept[timestep]).sqrt())
        return seen[-1]

    last = list(denoise(base, config, start, 3, predict))[-1].latents
    assert len(seen) == round(10 * strength) + 1 and all(torch.allclose(one, seen[0], atol=1e-3) for one in seen)
    assert (last - start.latents).abs().max() < 0.1


@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler", "Heun", "DDIM"])
@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_inpainting_is_that_of_diffusers(base, files, sampler, strength):
    config = DrawConfig(init=str(files / "00.png"), mask=str(files / "mask.png"), init_strength=strength, steps=6, guidance=4.0,
                        sampler=sampler)
    start, ours = last_latents(base, config)
    theirs = oracle(StableDiffusionInpaintPipeline, base, sampler, image=start.latents, masked_image_latents=start.latents,
                    mask_image=Image.open(files / "mask.png"), strength=strength, num_inference_steps=6, width=64, height=64)
    assert torch.allclose(ours, theirs, atol=1e-4), (ours - theirs).abs().max()
    assert torch.equal(ours[..., :4], start.latents[..., :4]) and not torch.allclose(ours[..., 4:], start.latents[..., 4:])


def test_where_the_mask_is_black_the_pixels_stay(base, files):
    config = DrawConfig(init=str(files / "00.png"), mask=str(files / "mask.png"), steps=2, sampler="Euler")
    made = list(draw(base, config, blend=()))
    before, after = np.asarray(Image.open(files / "00.png")), np.asarray(made[-1].image)
    assert np.array_equal(before[:, :32], after[:, :32]) and not np.array_equal(before[:, 32:], after[:, 32:])
    assert [one.step for one in made[:-1]] == [0] and made[0].steps == 1  # 0.6 x 2 steps
    assert made[-1].settings["init_strength"] == 0.6


def test_strength_decides_how_far_it_goes(base, files):
    def off(strength):
        config = DrawConfig(init=str(files / "00.png"), init_strength=strength, steps=10, sampler="DDIM")
        start = begin(base, config)
        predict = predictor(base, config, "", start.size, None, [(Mix((), ()),)] * 10)
        return (list(denoise(base, config, start, 1, predict))[-1].latents - start.latents).abs().mean()

    assert off(0.1) < off(0.5) < off(1.0)


def test_a_side_not_asked_for_follows_the_picture(base):
    wide = Image.new("RGB", (300, 100))
    big = dataclasses.replace(base, resolution=512)
    width, height = size_like(big, wide, None, None)
    assert (width % 16, height % 16) == (0, 0) and 2.8 < width / height < 3.2 and 0.9 < width * height / 512**2 < 1.1
    assert size_like(big, wide, 384, None) == (384, 128) and size_like(big, wide, 64, 64) == (64, 64)
    assert size_like(big, Image.new("RGB", (64, 512)), 2048, None) == (2048, 2048)


@pytest.mark.parametrize("settings, said", [
    ({"init": "", "mask": "mask.png"}, "A mask needs the picture"), ({"init": "gone.png"}, "gone.png could not be opened"),
    ({"init": "00.png", "mask": "black.png"}, "black.png is black all over"), ({"init": "00.txt"}, "is not a picture"),
    ({"width": 72, "height": 76}, "multiple of 8")])
def test_what_cannot_be_begun_from_is_a_sentence(base, files, settings, said):
    settings = {key: str(files / value) if value and key in ("init", "mask") else value for key, value in settings.items()}
    with pytest.raises(UserError, match=said):
        begin(base, DrawConfig.model_construct(**(DrawConfig().model_dump() | settings)))


def test_an_inpainting_base_is_named(base):
    nine = UNet2DConditionModel(sample_size=8, in_channels=9, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
                                down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), mid_block_type=None)
    with pytest.raises(UserError, match="inpainting model with 9 channels"):
        begin(dataclasses.replace(base, unet=nine), DrawConfig())
