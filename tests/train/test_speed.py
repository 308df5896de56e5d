"""What earlier runs measured decides what the next is promised."""

import pytest

from sdlora.config import TrainConfig
from sdlora.storage import home
from sdlora.train.plan import plan
from sdlora.train.speed import Speed, expected_speed, record_speed


def test_counts_with_what_was_measured():
    config = TrainConfig(steps=600, batch_size=4)
    guess = plan(config, 12, "mini")
    record_speed("mini", "cpu", 4, 128, Speed(2.0, 0.02, 10.0))
    slow = plan(config, 12, "mini")
    assert not guess.measured and slow.measured and slow.minutes > 20 and guess.notes and not slow.notes
    assert plan(config.model_copy(update={"batch_size": 8}), 12, "mini").minutes > 1.8 * slow.minutes
    assert not plan(config, 12, "sd1").measured
    record_speed("mini", "cpu", 4, 128, Speed(1.0, 0.02, 10.0))
    assert expected_speed("mini", "cpu", 4, 128)[0].step == 1.5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"runs": 3}', '{"runs": [3]}', '{"runs": [{"family": "mini"}]}',
                                     '{"runs": [{"family": "mini", "device": "cpu", "batch": 0, "resolution": 128, "step": 0.1, '
                                     '"draw_step": 0.1, "around": 1.0}]}'])
def test_a_damaged_speed_file_is_no_matter(content):
    (home() / "speed.json").write_text(content)
    assert not plan(TrainConfig(steps=100), 12, "mini").measured
    record_speed("mini", "cpu", 1, 128, Speed(0.1, 0.1, 1.0))
    assert plan(TrainConfig(steps=100), 12, "mini").measured
