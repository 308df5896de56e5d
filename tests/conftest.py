"""What every test gets: a data folder of its own, no network, no pickle; beside other processes of pytest one thread."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores; threads that wait for each other would waste them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import sdlora  # noqa: F401 - sets how OpenMP threads wait, before any test imports torch

LOOPBACK = {"127.0.0.1", "::1", "localhost", "0.0.0.0", ""}
ARMED = [False]


def no_network_no_pickle(event: str, details: tuple) -> None:
    """One audit hook proves two promises in the whole run: nothing leaves this machine, nothing is unpickled."""
    if not ARMED[0]:
        return
    if event == "socket.connect" and isinstance(details[1], tuple) and details[1][0] not in LOOPBACK:
        raise RuntimeError(f"a test tried to reach {details[1][0]}")
    if event == "socket.getaddrinfo" and details[0] is not None and str(details[0]) not in LOOPBACK:
        raise RuntimeError(f"a test tried to look up {details[0]}")
    if event == "pickle.find_class" and details[0].split(".")[0] not in UNPICKLED_BY_OTHERS:
        raise RuntimeError(f"a test unpickled {details[0]}.{details[1]}")


UNPICKLED_BY_OTHERS = {"copyreg", "collections", "builtins", "numpy", "hypothesis"}
sys.addaudithook(no_network_no_pickle)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items):
    """Keep each file in one worker of pytest-xdist, and all that drives a browser in one: a page beside another is slow.

    That group takes longest, so it begins first.
    """
    for item in items:
        browser = item.get_closest_marker("browser") is not None
        item.add_marker(pytest.mark.xdist_group("browser" if browser else str(item.path)))
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """SDLORA_HOME is a fresh folder for each test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SDLORA_HOME", str(folder))
    ARMED[0] = True
    yield folder
    ARMED[0] = False
