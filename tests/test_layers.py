"""What ruff cannot say: who may import whom, how large things may grow, who may write files."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "sdlora").rglob("*.py")) + [ROOT / "app.py"]
LEVELS = [{"errors", "families", "config", "parsing", "storage", "processes"}, {"dataset", "base", "lora"}, {"train", "draw"},
          {"jobs", "library"}, {"mini", "bench"}, {"cli", "ui", "app"}]
SIDEWAYS = {("train", "draw"), ("config", "errors"), ("config", "storage"), ("storage", "errors"), ("parsing", "config"),
            ("parsing", "errors"), ("parsing", "storage"), ("processes", "errors"), ("processes", "storage"), ("cli", "ui"),
            ("app", "ui"), ("bench", "mini")}
HEAVY = {"torch", "diffusers", "transformers", "accelerate", "peft", "safetensors.torch"}
LIGHT = ["errors.py", "families.py", "config.py", "parsing.py", "storage.py", "processes.py", "train/events.py", "train/plan.py",
         "train/speed.py", "train/verdict.py", "jobs/table.py", "lora/tools/report.py", "lora/math/blocks.py",
         "draw/grammar.py", "draw/grid.py", "draw/sheet.py", "draw/samplers.py"]
LIGHT_FOLDERS = ("ui", "library", "dataset", "cli", "lora/formats", "draw/infotext")


def part(path: Path) -> str:
    """The part of the house a file belongs to: "train" for sdlora/train/loop.py, "config" for sdlora/config.py."""
    return path.relative_to(ROOT / "sdlora").parts[0].removesuffix(".py") if path.is_relative_to(ROOT / "sdlora") else "app"


def level(name: str) -> int:
    return next((number for number, names in enumerate(LEVELS) if name in names), len(LEVELS))


def imports(tree: ast.AST, *, top_only: bool = False) -> set[str]:
    """Names of the modules a tree imports; `top_only` leaves out imports inside functions."""
    found, waiting = set(), list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return found


def parsed(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downward(path):
    mine = part(path)
    for name in imports(parsed(path)):
        if not name.startswith("sdlora."):
            continue
        theirs = name.split(".")[1]
        if theirs.startswith("__") or mine.startswith("__"):
            continue
        fine = theirs == mine or level(theirs) < level(mine) or (mine, theirs) in SIDEWAYS
        assert fine, f"{mine} imports {name}: upward or sideways"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_gradio_and_torch_stay_in_their_rooms(path):
    tree, mine = parsed(path), part(path)
    roots = {name.split(".")[0] for name in imports(tree)}
    assert "gradio" not in roots or mine in ("ui", "app")
    if mine in ("ui", "app", "library", "dataset", "errors", "families", "config", "storage", "processes"):
        assert not roots & HEAVY
    relative = path.relative_to(ROOT / "sdlora").as_posix() if mine != "app" else "app.py"
    if relative in LIGHT or relative.startswith(LIGHT_FOLDERS):
        assert not {name.split(".")[0] for name in imports(tree, top_only=True)} & HEAVY


def test_the_web_process_never_loads_torch():
    code = "import sys, app, sdlora.ui.launch; sys.exit(bool({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def depth(node: ast.AST, here: int = 0) -> int:
    """Deepest nesting of if/for/while/with/try; an elif is not deeper than its if."""
    nests = isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try | ast.AsyncFor | ast.AsyncWith)
    here += nests
    deepest = here
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse and len(node.orelse) == 1
        deepest = max(deepest, depth(child, here - 1 if is_elif else here))
    return deepest


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_budgets(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400, "a file has at most 400 lines"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno - node.lineno < 60, f"{node.name}() is longer than 60 lines"
        assert depth(node) <= 4, f"{node.name}() nests deeper than 4"
        command = part(path) == "cli" or path.name == "__main__.py"
        count = len(node.args.args) + len(node.args.kwonlyargs) - (node.args.args[:1] != [] and node.args.args[0].arg == "self")
        assert command or count <= 7, f"{node.name}() takes {count} parameters"


def test_only_storage_renames_into_place():
    """A final path is written by storage.write_atomic alone."""
    for path in SOURCES:
        if path.name != "storage.py":
            for node in ast.walk(parsed(path)):
                if isinstance(node, ast.Attribute):
                    assert ast.unparse(node) not in ("os.replace", "os.rename"), f"{path.name} renames by itself"


def test_nothing_forbidden_is_used():
    forbidden = {"pickle", "yaml", "dill", "cloudpickle", "marshal", "shelve"}
    for path in SOURCES:
        tree = parsed(path)
        assert not {name.split(".")[0] for name in imports(tree)} & forbidden, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "torch.save", "os.system"), f"{path}: {called}"
                assert not any(k.arg == "shell" and ast.unparse(k.value) == "True" for k in node.keywords), path


def test_lines_end_only_at_line_ends():
    """str.splitlines also breaks at U+2028, U+0085, vertical tab...: captions, prompts and JSON lines fall apart there."""
    for path in SOURCES:
        called = {node.attr for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)}
        assert "splitlines" not in called, path


def test_reading_from_pictures_to_a_file_is_short():
    """README's reading order is at most 16 whole files of 2,400 lines, and all that the session needs, but for side rooms."""
    listed = (ROOT / "README.md").read_text(encoding="utf-8").split("**From a folder of pictures to a LoRA file**", 1)[1]
    order, _, aside = listed.split("\n\n", 1)[0].partition("Side rooms")
    path = [ROOT / "sdlora" / name for name in re.findall(r"`([\w/]+\.py)`", order)]
    side_rooms = {ROOT / "sdlora" / name for name, reason in re.findall(r"`([\w/]+\.py)` \((\w[^)]+)\)", aside)}
    session = ROOT / "sdlora" / "train" / "session.py"
    used = {ROOT / f"{name.replace('.', '/')}.py" for name in imports(parsed(session)) if name.startswith("sdlora.")}
    assert session in path and {file for file in used if file.is_file()} <= {*path, *side_rooms}
    assert len(set(path)) == len(path) <= 16
    assert sum(file.read_text(encoding="utf-8").count("\n") for file in path) <= 2400
