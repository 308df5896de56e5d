"""A real studio in a process of its own and a real Chromium; without Chromium the tests skip, under CI=true they fail."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
HERE = ("http://127.0.0.1:", "data:", "blob:")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def chromium_path() -> str | None:
    """The Chromium of this machine."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def chromium():
    """A browser that reaches this machine only. It ends with its module: its event loop would be in other tests' way."""
    path = chromium_path()
    if path is None:
        missing = "no Chromium on this machine: install it (apt install chromium) to test the page"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=90_000)  # one number for all modules: a slow machine with other work starts a drawing in 20 s
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Studio:
    """`python app.py` on a data folder of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.process = home, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def start(self, *arguments: str, **environment: str) -> float:
        """Start it; returns after how many seconds the page answered."""
        began = time.monotonic()
        command = [sys.executable, "app.py", "--port", str(self.port), "--data", str(self.home), *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment)
        while time.monotonic() - began < 120:
            try:
                with urlopen(self.url, timeout=5) as answer:
                    if answer.status == 200:
                        return time.monotonic() - began
            except (URLError, OSError):
                assert self.process.poll() is None, "app.py ended"
                time.sleep(0.1)
        raise TimeoutError("app.py did not answer")

    def stop(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)
        self.process.wait(30)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A running studio; its worker ends when its data folder is gone."""
    home = tmp_path_factory.mktemp("studio") / "home"
    running = Studio(home)
    running.start()
    yield running
    running.stop(signal.SIGTERM)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def page(chromium):
    """A window of 1280 px; errors of scripts and requests to anywhere else fail the test, dialogs are answered with yes."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    window, errors, abroad = context.new_page(), [], []
    window.set_default_timeout(120_000)
    window.on("pageerror", lambda error: errors.append(str(error)))
    window.on("request", lambda request: None if request.url.startswith(HERE) else abroad.append(request.url))
    window.on("dialog", lambda dialog: dialog.accept())
    yield window
    context.close()
    assert not errors, errors
    assert not abroad, abroad
