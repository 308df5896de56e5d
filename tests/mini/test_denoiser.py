"""What the denoiser predicts, and how much noise it learns from."""

import pytest
import torch

from sdlora.mini.denoiser import BatchLoss, Denoiser, UnetSettings
from sdlora.mini.latents import CAPTIONS, Examples
from sdlora.mini.network import MAX_TOKENS, fresh
from sdlora.mini.scenes import OBJECTS
from tests.mini.test_build import MICRO

SIDE = MICRO.size_px // 8


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return fresh(MICRO)


@pytest.fixture
def examples():
    return Examples(torch.randn(4, MICRO.latent_channels, SIDE, SIDE).half(),
                    torch.zeros(4, CAPTIONS, MAX_TOKENS, dtype=torch.int16), torch.zeros(4, SIDE, SIDE, dtype=torch.uint8))


def test_noise_and_class_scores_have_the_size_of_the_latents(networks):
    noisy, ids = torch.randn(2, MICRO.latent_channels, SIDE, SIDE), torch.zeros(2, MAX_TOKENS, dtype=torch.long)
    with torch.no_grad():
        noise, scores = Denoiser(networks)(noisy, torch.tensor([10, 900]), ids)
    assert noise.shape == noisy.shape and scores.shape == (2, 1 + len(OBJECTS), SIDE, SIDE)


@pytest.mark.parametrize("centre", [0.4, 1.5])
def test_most_noise_is_where_the_settings_say(networks, examples, centre):
    batches = BatchLoss(networks, examples, UnetSettings(noise_centre=centre), torch.device("cpu"))
    levels = batches.noise_levels(4000, torch.Generator().manual_seed(0))
    assert 0 <= levels.min() and levels.max() < len(batches.signal)
    assert batches.log_noise[levels].median().item() == pytest.approx(centre, abs=0.3)


def test_the_losses_of_one_seed_are_the_same(networks, examples):
    batches = BatchLoss(networks, examples, UnetSettings(batch_size=4), torch.device("cpu"))
    model = Denoiser(networks)
    with torch.no_grad():
        first, again, other = ([loss.item() for loss in batches.losses(model, torch.Generator().manual_seed(seed))]
                               for seed in (1, 1, 2))
    assert first == again != other and min(first) > 0
