"""Commands as another program calls them."""

import pytest
from typer.testing import CliRunner

from sdlora.cli.main import build


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
