"""What several tests of the queue use."""

import pytest

from sdlora.jobs.drawer import Drawer
from tests.jobs.fake_drawing import Loads, fake_draw


@pytest.fixture
def drawer():
    return Drawer(Loads(), fake_draw)
