"""The table of the base's README."""

from sdlora.mini.measure import write_table


def test_table_replaces_the_old_one(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Base\n\nHistory.\n", encoding="utf-8")
    write_table(readme, [("speed", "9 s", "<= 6 s")], "2026-11-01")
    write_table(readme, [("speed", "4 s", "<= 6 s")], "2026-11-22")
    text = readme.read_text(encoding="utf-8")
    assert "9 s" not in text and "| speed | 4 s | <= 6 s |" in text and "History." in text
