"""Every kind of fine texture is fine, and the same seed gives the same pixels."""

import pytest
import torch

from sdlora.mini.fine_textures import TRAINED, UNSEEN
from sdlora.mini.pictures import one_texture_images
from sdlora.train.carry import high_pass


@pytest.mark.parametrize("name", [*TRAINED, *UNSEEN])
def test_every_kind_of_fine_texture_is_fine_and_repeats(name):
    kind = (TRAINED | UNSEEN)[name]
    first, again = (one_texture_images(kind, 1, 3, 64)[0] for _ in range(2))
    assert first.tobytes() == again.tobytes() and first.size == (64, 64)
    pixels = torch.tensor(list(first.tobytes())).view(1, 64, 64, 3).permute(0, 3, 1, 2) / 127.5 - 1
    assert high_pass(pixels, 1 / 8).square().mean() > 1e-3


def test_unseen_kinds_are_not_trained_on():
    assert not TRAINED.keys() & UNSEEN.keys() and len(UNSEEN) >= 5
