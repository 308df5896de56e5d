"""Commands as another program calls them."""

import sys
import types

import pytest
from PIL import Image
from typer.testing import CliRunner

from sdlora.cli import main
from sdlora.cli.main import build
from tests.jobs import fake_run


@pytest.fixture
def run():
    """Return a function that runs a command line in this process; it raises what the command raises."""
    app = build()

    def call(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result
    return call


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "stained-glass"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (96, 96), (number * 60, 90, 200 - number * 40)).save(folder / f"a red house {number}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n not a picture")
    return folder


@pytest.fixture
def sdlora(monkeypatch, capfd):
    """Runs a command; gives (exit code, stdout, stderr). Training is tests.jobs.fake_run, 20 steps at most a second."""
    session = types.ModuleType("sdlora.train.session")
    session.run_training = fake_run.run_training
    monkeypatch.setitem(sys.modules, "sdlora.train.session", session)
    monkeypatch.setenv("FAKE_SECONDS", "0.001")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sdlora", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main.run()
        return int(left.value.code or 0), *capfd.readouterr()

    return run
