"""What came from the browser is checked; a bug becomes a code."""

import pytest

from sdlora.errors import UserError
from sdlora.ui import validation


def test_a_bug_becomes_a_code_and_its_traceback_stays_in_the_log(own_home):
    @validation.guarded_server
    def broken(data: object) -> dict:
        return {}["secret"]

    sentence = broken(None)["problem"]
    code = sentence.split("code ")[1][:4]
    assert "secret" not in sentence and code in (own_home / "logs" / "page.log").read_text()
    assert "KeyError: 'secret'" in (own_home / "logs" / "page.log").read_text()


@pytest.mark.parametrize("value", [True, None, "3", 3.7, float("nan"), -1, 2**63, [1]])
def test_whole_numbers_are_whole(value):
    with pytest.raises(UserError):
        validation.whole_number(value, 0, 2**32 - 1, "seed")
    assert validation.whole_number(3.0, 0, 9, "seed") == 3


@pytest.mark.parametrize("value", [True, None, "1", float("nan"), float("inf"), -0.1, 4.1, [1]])
def test_numbers_are_numbers_in_their_range(value):
    with pytest.raises(UserError, match="strength must be a number from 0 to 4"):
        validation.number(value, 0, 4, "strength")
    assert validation.number(4, 0, 4, "strength") == 4.0


@pytest.mark.parametrize("value", ["", "../x", "a..b", "a/b", ".hidden", "x" * 200, None, 3])
def test_an_id_is_never_a_path(value):
    with pytest.raises(UserError, match="That run is not there any more"):
        validation.an_id(value, "run")
    assert validation.an_id("20260101-000000-ab", "run") == "20260101-000000-ab"


def test_uploads_are_files_of_the_upload_folder_only(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    inside = tmp_path / "uploads" / "a" / "x.png"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"x")
    assert validation.uploads([str(inside)]) == [inside]
    for wrong in ("/etc/passwd", str(tmp_path / "uploads" / ".." / "y.png"), 3, None):
        with pytest.raises(UserError):
            validation.uploads([wrong])
