"""The sliced Wasserstein distance."""

import pytest
import torch

from sdlora.train.wasserstein import at_shares, sliced_wasserstein


def test_quantiles_are_torchs():
    values = torch.randn(37, 5, generator=torch.Generator().manual_seed(0)).sort(0).values
    shares = torch.linspace(0, 1, 101)
    assert torch.allclose(at_shares(values, shares), torch.quantile(values, shares, dim=0), atol=1e-6)


def test_a_shift_of_all_coordinates_is_measured_as_such():
    gen = torch.Generator().manual_seed(0)
    values = torch.randn(2000, 8, generator=gen)
    assert sliced_wasserstein(values, values[torch.randperm(2000, generator=gen)]) == pytest.approx(0, abs=1e-6)
    assert sliced_wasserstein(values, values + 3) == pytest.approx(3 * (2 / torch.pi) ** 0.5, rel=0.15)
