"""`sdlora grid` as another program calls it: cells and a sheet that say how they were drawn, in any order the same pictures."""

import json
import shutil

import pytest
from PIL import Image

from sdlora.cli import grid
from sdlora.draw.infotext.picture import read_infotext
from sdlora.errors import UserError
from sdlora.storage import data_folder
from tests.library.test_lora_tags import lora

SMALL = ("--steps", 1, "--size", "64x64", "--device", "cpu")


@pytest.fixture
def cells(run):
    """Return a function that runs a command and returns its JSON lines."""
    return lambda *words: [json.loads(line) for line in run(*words).stdout.splitlines() if line.startswith("{")]


def pixels(path):
    with Image.open(path) as opened:
        return opened.convert("RGB").tobytes()


def test_cells_and_sheet_say_how_they_were_drawn(cells, tmp_path):
    file, told = lora("ink", 0.1, folder=tmp_path)
    lines = cells("grid", "a red house", "--x", "strength=0,1", "--y", "seed=3,4", "--lora", file, "--out", tmp_path / "out",
                "--json", *SMALL)
    assert [line["event"] for line in lines] == ["picture"] * 4 + ["done"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00-00.png", "00-01.png", "01-00.png", "01-01.png", "grid.png"]
    cell, sheet = read_infotext(tmp_path / "out" / "01-01.png"), read_infotext(tmp_path / "out" / "grid.png")
    assert cell["seed"] == 4 and cell["loras"] == [{"name": "ink", "hash": told, "strength": 1.0}]
    assert sheet["other"] == {"Script": "X/Y/Z plot", "X Type": "LoRA strength", "X Values": "0, 1", "Y Type": "Seed",
                              "Y Values": "3, 4"}
    assert "seed" not in sheet and sheet["steps"] == 1 and lines[-1]["sheet"] == str(tmp_path / "out" / "grid.png")
    # strength 0 is the base, and a cell is what `draw` draws by itself
    cells("draw", "a red house", "--seed", 4, "--out", tmp_path / "base", *SMALL)
    cells("draw", "a red house", "--seed", 4, "--lora", file, "--out", tmp_path / "with", *SMALL)
    assert pixels(tmp_path / "out" / "01-00.png") == pixels(tmp_path / "base" / "000-00.png")
    assert pixels(tmp_path / "out" / "01-01.png") == pixels(tmp_path / "with" / "000-00.png")
    assert pixels(tmp_path / "out" / "01-01.png") != pixels(tmp_path / "out" / "01-00.png")


def test_pairs_tags_and_names_of_the_shelf(cells, tmp_path):
    file, _ = lora("ink", 0.1)
    pairs = cells("grid", "a house <lora:ink:0.5>", "--pairs", "--out", tmp_path / "a", "--json", *SMALL)
    assert [(line["label"], [one["strength"] for one in line["loras"]], line["prompt"]) for line in pairs[:-1]] == [
        ("base alone", [], "a house"), ("with ink", [0.5], "a house")]
    axis = cells("grid", "a house", "--x", f"lora=none|ink|{file}:0.5", "--out", tmp_path / "b", "--json", *SMALL)
    assert [line["label"] for line in axis[:-1]] == ["base alone", "ink", "ink:0.5"]
    assert pixels(tmp_path / "a" / "00-01.png") == pixels(tmp_path / "b" / "00-02.png")


def test_axes_of_words_act_before_tags_leave_the_prompt(cells, tmp_path):
    for name, value in (("ink", 0.1), ("oil", 0.2)):
        lora(name, value)
    found = cells("grid", "a house <LORA:ink:0.5>", "--x", "replace=<LORA:ink:0.5>|<lora:oil:0.25>", "--y", "strength=1,2",
                "--out", tmp_path / "a", "--json", *SMALL)[:-1]
    assert {(line["column"], line["row"]): [(one["name"], one["strength"]) for one in line["loras"]] for line in found} == {
        (0, 0): [("ink", 1.0)], (1, 0): [("oil", 1.0)], (0, 1): [("ink", 2.0)], (1, 1): [("oil", 2.0)]}
    assert {line["prompt"] for line in found} == {"a house"}


def test_a_bad_cell_costs_one_cell(cells, tmp_path):
    *lines, done = cells("grid", "a house", "--x", "prompt=a house|(a:99)", "--y", "sampler=Euler|DPM2 a", "--size", "64x64",
                       "--steps", 2, "--out", tmp_path, "--json")
    bad = {(line["column"], line["row"]): line["message"] for line in lines if line["event"] == "failed"}
    assert set(bad) == {(1, 0), (0, 1), (1, 1)} and "weight 99" in bad[1, 0] and "2 steps" in bad[0, 1]
    assert (done["pictures"], done["failed"]) == (1, 3) and (tmp_path / "00-00.png").exists() and (tmp_path / "grid.png").exists()
    with pytest.raises(UserError, match="weight 99"):
        cells("grid", "(a:99)", "--x", "seed=1,2", "--out", tmp_path, *SMALL)


def test_saved_points_of_a_run(cells, tmp_path):
    folder = data_folder("runs", "20260101-000000-ink")
    for step, value in ((100, 0.1), (200, 0.2)):
        point = folder / "checkpoints" / f"step-{step:06d}"
        point.mkdir(parents=True)
        shutil.copy(lora("lora", value, folder=tmp_path)[0], point / "lora.safetensors")
        (point / "state.json").write_text("{}")
    axis = grid.axis("point=none|20260101-000000-ink")
    assert axis.labels == ("base alone", "step 100", "step 200") and axis.values[0] is None
    assert grid.axis(f"point={folder}:200").values[0].file == str(point / "lora.safetensors")
    drawn = cells("grid", "a house", "--x", "point=20260101-000000-ink", "--out", tmp_path / "out", "--json", *SMALL)
    assert [line["label"] for line in drawn[:-1]] == ["step 100", "step 200"]
    assert drawn[1]["loras"][0]["name"] == "20260101-000000-ink step-000200"
    for wrong in ("point=20260101-000000-ink:300", "point=nope", "point=../../etc", "point=a\0b"):
        with pytest.raises(UserError):
            grid.axis(wrong)


@pytest.mark.parametrize("x, bad, said", [
    ("strength=0,1,5", 2, "strength must be"), ("strength=-9,0,1", 0, "strength must be"),
    ("blocks=|nope|MID", 1, "no block weights"), ("sampler=Euler,Eulr", 1, "Did you mean Euler"),
    ("seed=1,x,3", 1, "'x' is no number"),
    ("lora=none|nope|ink", 1, "no style called 'nope'"), ("prompt=a|b <lora:nope:1>|c", 1, "no style called 'nope'"),
    ("replace=<lora:nope:1>|<lora:ink:0.5>|", 0, "no style called 'nope'"), ("steps=1,0", 1, "steps must be"),
    ("lora=ink|{file}:9", 1, "strength must be"), ("point=none|nope", 1, "nope"), ("prompt=(b:99)|b", 0, "weight 99")])
def test_a_bad_value_costs_its_cells_and_is_told_before_the_first_picture(run, tmp_path, monkeypatch, x, bad, said):
    lora("ink", 0.1)
    file, _ = lora("ink", 0.1, folder=tmp_path)
    prompt = "a house <lora:nope:1>" if x.startswith("replace") else "a house"
    result = run("grid", prompt, "--x", x.format(file=file), "--y", "guidance=1,2", "--lora", file, "--out", tmp_path / "out",
                    "--json", *SMALL)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    columns = 1 + max(line["column"] for line in lines[:-1])
    assert [line["event"] for line in lines] == ["failed"] * 2 + ["picture"] * 2 * (columns - 1) + ["done"]
    assert {(line["column"], line["row"]) for line in lines[:2]} == {(bad, 0), (bad, 1)} and result.exit_code == 2
    assert all(said in f"{line['message']} {line['hint']}" for line in lines[:2]) and result.stderr.count("guidance 1") == 1
    assert said in result.stderr and (lines[-1]["pictures"], lines[-1]["failed"]) == (2 * columns - 2, 2)
    assert not (tmp_path / "out" / f"00-0{bad}.png").exists() and (tmp_path / "out" / "grid.png").exists()


def test_a_grid_of_which_nothing_can_be_drawn_is_refused_before_the_base_is_loaded(cells, tmp_path, monkeypatch):
    monkeypatch.setattr("sdlora.base.load.load_base", lambda *_: pytest.fail("it loaded the base"))
    file, _ = lora("ink", 0.1, folder=tmp_path)
    for x, said in (("strength=5,9", "strength must be"), ("blocks=nope|nix", "no block weights"), ("lora=nope|nix", "no style"),
                    ("prompt=(a:99)|<lora:nope:1>", "weight 99"), ("strenth=0,1", "is no axis")):
        with pytest.raises(UserError, match=said):
            cells("grid", "x", "--x", x, "--lora", file, "--out", tmp_path / "out", *SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words, said", [
    (["x", "--x", "size=1"], "no axis"), (["x", "--pairs"], "no LoRA to compare"), (["x"], "needs LoRA 1"),
    (["x", "--pairs", "--x", "seed=1"], "are the columns already"), (["x", "--x", "seed=1", "--lora", "no.st"], "no.st"),
    (["x", "--x", "lora=nope"], "no style called"), (["x <lora:nope:1>", "--x", "seed=1"], "no style called"),
    (["x", "--x", "sampler=Eulr,nope"], "no sampler")])
def test_mistakes_are_sentences(cells, words, said, tmp_path):
    with pytest.raises(UserError, match=said):
        cells("grid", *words, "--out", tmp_path, *SMALL)
