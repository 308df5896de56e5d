"""Downloads happen only when asked, show how far they are, can be cancelled, and take nothing but owner/name."""

import time

import pytest

from sdlora.errors import UserError
from sdlora.ui.studio import bases


@pytest.fixture(autouse=True)
def no_download():
    bases.current.clear()
    yield
    bases.current.clear()


@pytest.mark.parametrize("name", ["", "sd15", "../../etc",
                                  "https://evil.example/a/b", "a/b/c", "/etc/passwd", "own er/name", None, 3])
def test_only_owner_and_name(name):
    with pytest.raises(UserError):
        bases.begin(name)
    assert not bases.current


def test_known_models_tell_size_and_licence_without_network():
    for known in bases.catalog.KNOWN.values():
        facts = bases.known_facts(known.id)
        assert known.licence in facts and "GB" in facts


def test_a_download_tells_how_far_it_is_and_can_be_cancelled(monkeypatch):
    def slow(hub_id, progress, cancelled):
        while not cancelled():
            progress(500, 1000)
            time.sleep(0.01)
        raise UserError(f"The download of {hub_id} was stopped.")

    monkeypatch.setattr(bases.download, "download", slow)
    bases.begin("owner/name")
    bases.begin("owner/other")
    assert bases.current[0].id == "owner/name", "one at a time"
    wait_for(lambda: bases.current[0].done == 500)
    bases.stop()
    wait_for(lambda: bases.current[0].ended)
    assert "stopped" in bases.current[0].problem


def wait_for(true) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
