"""The README must name what is there: every module in the tree, the commands CI runs, the pictures it shows."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_module_stands_in_the_tree():
    tree = README.split("app.py                   starts", 1)[1].split("```", 1)[0]
    named = set(re.findall(r"[\w/]+\.py", tree))
    for path in (ROOT / "sdlora").rglob("*.py"):
        if path.parent.name != "cli" and not path.name.startswith("__"):
            relative = path.relative_to(ROOT / "sdlora").as_posix()
            assert {path.name, relative, f"{path.parent.name}/{path.name}"} & named, f"{relative} is not in the README's tree"


def test_the_tree_names_nothing_that_is_gone():
    names = {path.name for path in ROOT.rglob("*.py")}
    tree = README.split("app.py                   starts", 1)[1].split("```", 1)[0]
    for name in re.findall(r"[\w]+\.py", tree):
        assert name in names, f"the README names {name}, which does not exist"


def test_its_commands_and_pictures_exist():
    assert 'pip install -e ".[test]" && pytest' in README and "pip install -e . && python app.py" in README
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), f"{picture} is missing"
