"""The parts of the VAE's recipe: crops, the loss on local energy, normalized channels, and what they are measured by."""

import pytest
import torch

from sdlora.mini.autoencoder import crops, energy_error, energy_retained, high_band, normalize_channels
from sdlora.mini.network import fresh
from sdlora.mini.pictures import fine_pictures
from tests.mini.test_build import MICRO


def waves(period, side=64, shift=0.0):
    """(1, 3, s, s): a sine of so many pixels."""
    x = torch.arange(side) * 2 * torch.pi / period + shift
    return torch.sin(x).expand(1, 3, side, side).clone()


def test_the_energy_loss_forgives_a_shift_but_not_a_blur():
    sharp, moved, flat = waves(4), waves(4, shift=1.0), torch.zeros(1, 3, 64, 64)
    assert energy_error(sharp, sharp) == 0
    assert energy_error(moved, sharp) < 0.25 * energy_error(flat, sharp)
    assert energy_error(flat, flat + 0.7) < 1e-3                # a plain area has no high band


def test_the_high_band_holds_what_is_fine():
    assert high_band(waves(3)).std() > 0.8 * waves(3).std()
    assert high_band(waves(64)).std() < 0.05


def test_channels_are_normalized_and_pictures_stay_the_same():
    torch.manual_seed(0)
    vae = fresh(MICRO).vae.eval()
    with torch.no_grad():
        vae.quant_conv.weight.mul_(torch.linspace(0.2, 5, len(vae.quant_conv.weight)).view(-1, 1, 1, 1))
        x = torch.rand(8, 3, 32, 32) * 2 - 1
        before = vae.encode(x).latent_dist
        decoded = vae.decode(before.mean).sample
        normalize_channels(vae, before.mean, before.std)
        after = vae.encode(x).latent_dist
        again = vae.decode(after.mean).sample
    sampled = (after.mean.var((0, 2, 3)) + after.std.square().mean((0, 2, 3))).sqrt()
    assert torch.allclose(sampled, torch.ones(4), atol=1e-3)
    assert after.mean.mean((0, 2, 3)).abs().max() < 1e-3
    assert torch.allclose(after.std / after.mean.std((0, 2, 3)).view(1, -1, 1, 1),
                          before.std / before.mean.std((0, 2, 3)).view(1, -1, 1, 1), rtol=1e-3)
    assert torch.allclose(decoded, again, atol=1e-4)


def test_a_channel_of_noise_is_not_amplified():
    torch.manual_seed(0)
    vae = fresh(MICRO).vae.eval()
    with torch.no_grad():
        vae.quant_conv.weight[0] *= 1e-3  # its mean hardly depends on the picture
        vae.quant_conv.weight[4].zero_()
        vae.quant_conv.bias[4] = 0.0  # and its posterior has the deviation 1
        x = torch.rand(8, 3, 32, 32) * 2 - 1
        before = vae.encode(x).latent_dist
        normalize_channels(vae, before.mean, before.std)
        after = vae.encode(x).latent_dist
    assert after.mean[:, 0].std() < 0.01


class Passing:
    """A VAE that gives back what it gets, times a factor."""

    def __init__(self, factor):
        self.factor = factor

    def parameters(self):
        yield torch.zeros(1)

    def encode(self, x, return_dict):
        self.mean = x
        return (self,)

    def decode(self, z, return_dict):
        return (z * self.factor,)


@pytest.mark.parametrize(("factor", "kept"), [(1.0, 1.0), (0.5, 0.25), (0.0, 0.0)])
def test_the_retained_energy_is_measured(factor, kept):
    pictures = fine_pictures(2, 1, 64)
    assert energy_retained(Passing(factor), pictures) == pytest.approx(kept, abs=1e-3)


def test_crops_are_squares_of_the_pictures():
    pictures = torch.arange(2 * 3 * 16 * 16).remainder(256).to(torch.uint8).view(2, 3, 16, 16)
    batch = crops(pictures, 4, 8, torch.Generator().manual_seed(0))
    assert batch.shape == (4, 3, 8, 8) and -1 <= batch.min() and batch.max() <= 1
    whole = crops(pictures, 2, 16, torch.Generator().manual_seed(1))[1].add(1).mul(127.5).round().to(torch.uint8)
    assert any(torch.equal(whole, picture) for picture in pictures)
