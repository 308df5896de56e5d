"""The README must name what is there: every module in the tree, the commands CI runs, the pictures it shows."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree_lines() -> list[tuple[str, str, int]]:
    """Return (full path, comment, column of the comment) of every line of the README's tree."""
    text = README.split("app.py  ", 1)[1].split("```", 1)[0]
    folders: list[str] = []
    found = []
    for line in ("app.py  " + text).rstrip().split("\n"):
        parts = re.fullmatch(r"( *)(\S+)( *)(.*)", line)
        depth = len(parts[1]) // 2
        folders[depth:] = [parts[2]]
        found.append(("".join(folders[:depth]) + parts[2], parts[4], parts.start(4)))
    return found


def test_the_tree_is_the_tree():
    """One line a file, by its full path; one comment each, in one column."""
    named = [path for path, _, _ in tree_lines() if path.endswith(".py") and path.startswith("sdlora/")]
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sdlora").rglob("*.py") if not path.name.startswith("__")}
    assert sorted(named) == sorted(there)
    assert all((ROOT / path).exists() for path, _, _ in tree_lines())
    assert {column for path, comment, column in tree_lines() if comment} == {26}
    assert not [path for path, comment, _ in tree_lines() if not comment and path.endswith(".py")]


def test_its_commands_and_pictures_exist():
    assert 'pip install -e ".[test]" && pytest' in README and "pip install -e . && python app.py" in README
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), f"{picture} is missing"
