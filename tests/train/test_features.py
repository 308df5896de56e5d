"""What a base's own networks see: texture and colour in features, its own prompts in its own pictures."""

import pytest
import torch
from PIL import Image, ImageFilter

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.draw.pipeline import Picture, draw
from sdlora.train.features import POSITIONS, Recognition, distance, features, joined

PROMPTS = ["a red house, meadow, in daylight", "a yellow cat, city, at night"]


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu")


@pytest.fixture(scope="module")
def drawn(mini):
    """A picture of each prompt by the base itself."""
    config = DrawConfig(prompts=tuple(PROMPTS), steps=12)
    return [event.image for event in draw(mini, config) if isinstance(event, Picture)]


def noise(seed):
    pixels = torch.randint(0, 256, (128, 128, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def test_features_have_a_size_of_their_own_for_any_picture(mini):
    found = features(mini, noise(0))
    assert [len(level) for level in found.levels] == [POSITIONS, POSITIONS] and found.layout.shape == (1, 16 * 64)


def test_texture_and_colour_are_distances_and_equal_pictures_are_not(mini, drawn):
    def seen(*pictures):
        return joined([features(mini, picture) for picture in pictures])

    plain = seen(*drawn)
    assert distance(plain, plain) == 0
    for change in (lambda image: image.filter(ImageFilter.GaussianBlur(3)), lambda image: image.convert("L").convert("RGB"),
                   lambda image: Image.blend(image, noise(1), 0.2)):
        assert distance(seen(*map(change, drawn)), plain) > 0.05


def test_the_base_recognises_its_own_prompts_and_not_the_wrong_ones(mini, drawn):
    right, wrong = (Recognition(mini, prompts, ["a green tree, sea, at dawn"]) for prompts in (PROMPTS, PROMPTS[::-1]))
    assert right.answers(drawn) == [True] * 4
    assert wrong.answers(drawn).count(True) <= 1
    grey = [Image.new("RGB", (128, 128), (120, 110, 100))] * 2
    assert right.answers(grey).count(True) < 4, "mush shows no prompt"
