"""Waiting for a condition, for tests of processes and threads."""

import time


def wait_for(condition, seconds=12):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
