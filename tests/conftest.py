"""What every test gets: a data folder of its own, no network, no pickle; beside other processes of pytest one thread."""

import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores; threads that wait for each other would waste them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from xdist.scheduler import LoadScopeScheduling

import sdlora  # noqa: F401 - sets how OpenMP threads wait, before any test imports torch

LOOPBACK = {"127.0.0.1", "::1", "localhost", "0.0.0.0", ""}
ARMED = [False]
BROWSER = "tests/browser/"


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


class ByFile(LoadScopeScheduling):
    """Keeps each file in one process, and all that drives a browser in one: a page beside another is slow.

    --dist loadgroup would do, but pytest 9 does not show xdist 3.8 the groups.
    """

    def _split_scope(self, nodeid):
        file = nodeid.split("::")[0]
        return BROWSER if file.startswith(BROWSER) else file


@pytest.hookimpl(optionalhook=True)  # pytest -p no:xdist knows no such hook
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """Begin with the browser, which takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(BROWSER))


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """SDLORA_HOME is a fresh folder for each test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SDLORA_HOME", str(folder))
    ARMED[0] = True
    yield folder
    ARMED[0] = False
