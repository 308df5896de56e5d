"""The report of a file, and what the artist writes about it."""

from sdlora.library import search
from sdlora.ui.gallery import report
from tests.ui.gallery.conftest import put


def test_notes_of_the_artist_are_kept():
    put("one")
    assert report.save_facts(["one", {"name": "Uno", "trigger": "unostyle", "tags": "a, b,, c", "notes": "n"}]) == {}
    entry = search.find("one")
    assert (entry.name, entry.trigger, entry.tags, entry.notes) == ("Uno", "unostyle", ("a", "b", "c"), "n")
    assert "name" in report.save_facts(["one", {"name": ""}])["problem"]
