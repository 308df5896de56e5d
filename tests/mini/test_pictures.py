"""The same seed gives the same picture, another seed another one."""

import pytest

from sdlora.mini.pictures import fine_texture, texture


@pytest.mark.parametrize("draw", [texture, fine_texture])
def test_textures_repeat(draw):
    assert draw(5, 64).tobytes() == draw(5, 64).tobytes() != draw(6, 64).tobytes()
