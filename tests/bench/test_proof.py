"""The proof of the ruler: what it compares with is what it says."""

import torch

from sdlora.bench import proof
from sdlora.bench.proof import blurred, recoloured, tell_apart
from sdlora.bench.ruler import Distances
from sdlora.mini.autoencoder import high_band
from sdlora.mini.strangers import STRANGERS


def noise(count, seed, low=0, high=256):
    return torch.randint(low, high, (count, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_a_blur_keeps_size_and_colour_and_takes_the_texture():
    pictures = noise(3, 0)
    soft = blurred(pictures)
    assert soft.shape == pictures.shape and soft.dtype == torch.uint8
    assert (soft.float().mean((2, 3)) - pictures.float().mean((2, 3))).abs().max() < 3
    assert high_band(soft.float()).square().mean() < 0.1 * high_band(pictures.float()).square().mean()


def test_recoloured_pictures_have_the_histograms_of_the_others():
    like = noise(2, 1, low=40, high=90)
    found = recoloured(noise(3, 0), like)
    assert found.shape == (3, 3, 32, 32)
    shares = torch.linspace(0.01, 0.99, 50)
    for channel in range(3):
        a, b = (torch.quantile(x[:, channel].float().flatten(), shares) for x in (found, like))
        assert (a - b).abs().max() <= 1


def test_telling_apart_compares_pictures_of_other_prompts(monkeypatch):
    chosen, compared = STRANGERS[:3], []

    def distances(a, b):
        compared.append((a, b))
        return Distances(float(a[0] != b[0]), 1.0, float(a[0] == b[0]))

    monkeypatch.setattr(proof, "render_all", lambda stranger, scenes: (stranger.name, tuple(scenes)))
    monkeypatch.setattr(proof, "distances", distances)
    assert tell_apart(chosen, 4) == {"fine": 1.0, "coarse": 0.5, "random": 0.0}
    assert len(compared) == 9 and all(not set(a[1]) & set(b[1]) for a, b in compared)
