"""What a VAE loses of fine lines is measured and told."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from sdlora.base.load import load_base
from sdlora.dataset.folder import read_dataset
from sdlora.storage import shipped
from sdlora.train import carry
from sdlora.train.carry import carry_note, fine_energy, high_pass


def waves(pitch):
    """Vertical waves of `pitch` px, (1, 3, 64, 64)."""
    return torch.sin(torch.arange(64) * 2 * math.pi / pitch).expand(1, 3, 64, 64)


def test_only_frequencies_above_the_limit_are_kept():
    assert torch.allclose(high_pass(waves(4)), waves(4), atol=1e-4)
    assert high_pass(waves(16)).abs().max() < 1e-4


@pytest.mark.parametrize(("factor", "kept"), [(1.0, 1.0), (0.5, 0.25), (0.0, 0.0), (2.0, 1.0)])
def test_energy_is_lost_and_never_won(factor, kept):
    left, had = fine_energy(waves(4), factor * waves(4))
    assert left / had == pytest.approx(kept)


def test_a_window_that_gains_does_not_make_up_for_one_that_loses():
    before, after = waves(4).clone(), waves(4).clone()
    before[..., 32:], after[..., :32] = 0, 0
    left, had = fine_energy(before, after)
    assert left < 0.15 * had


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu")


def noisy(folder: Path):
    """Two pictures of colour noise, which no VAE of factor 8 carries."""
    for number in range(2):
        pixels = torch.randint(0, 256, (128, 128, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return read_dataset(folder).examples


def test_pictures_that_the_base_cannot_carry_are_told(mini, tmp_path):
    note = carry_note(mini, noisy(tmp_path), 128)
    assert note and note.startswith("Mini (built in) keeps ") and "% of the fine lines" in note


def test_pictures_that_it_carries_or_that_have_nothing_fine_are_fine(mini, tmp_path, monkeypatch):
    monkeypatch.setattr(carry, "LEAST", 0.0)
    assert carry_note(mini, read_dataset(shipped("assets", "examples") / "woodcut").examples, 128) is None
    monkeypatch.setattr(carry, "LEAST", 2.0)
    Image.new("RGB", (128, 128), (90, 120, 60)).save(tmp_path / "plain.png")
    assert carry_note(mini, read_dataset(tmp_path).examples, 128) is None and carry_note(mini, [], 128) is None


def test_a_picture_that_is_gone_does_not_count(mini, tmp_path):
    examples = noisy(tmp_path)
    (tmp_path / "0.png").unlink()
    assert carry_note(mini, examples, 128)
