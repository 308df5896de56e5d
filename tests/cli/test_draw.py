"""`sdlora draw` as another program calls it: files, JSON lines, exit sentences."""

import json

import pytest
from PIL import Image

from sdlora import storage
from sdlora.cli import draw
from sdlora.draw.infotext.picture import read_infotext
from sdlora.errors import UserError
from sdlora.jobs.execute import DRAWING_LOCK
from sdlora.jobs.lock import is_held
from tests.library.test_lora_tags import lora


def test_prompt_i_picture_j(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a blue boat, sea\n\n", encoding="utf-8-sig")
    result = run("draw", "a red house", "--prompts-file", tmp_path / "prompts.txt", "--count", 2, "--steps", 1, "--seed", 5,
                 "--size", "64x72", "--out", tmp_path / "out", "--json", "--device", "cpu")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000-00.png", "000-01.png", "001-00.png", "001-01.png"]
    assert [line["event"] for line in lines] == ["picture"] * 4 + ["done"]
    settings = read_infotext(tmp_path / "out" / "001-01.png")
    assert (settings["prompt"], settings["seed"], settings["width"], settings["height"]) == ("a blue boat, sea", 6, 64, 72)
    assert lines[3]["file"] == str(tmp_path / "out" / "001-01.png") and lines[3]["seed"] == 6


def test_lines_of_a_prompts_file_have_settings_of_their_own(run, tmp_path):
    (tmp_path / "p.txt").write_bytes("# two\na cat --s 2 --d 9 --w 72 --h 64 --n dogs --cn x.png\na dog\na fox".encode("utf-16"))
    result = run("draw", "a red house", "--prompts-file", tmp_path / "p.txt", "--steps", 1, "--size", "64x64", "--seed", 5,
                 "--out", tmp_path / "out", "--json", "--device", "cpu")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["prompt_index"] for line in lines[:-1]] == [0, 1, 2, 3] and lines[-1]["pictures"] == 4
    said = [read_infotext(tmp_path / "out" / f"{n:03d}-00.png") for n in range(4)]
    assert [(s["prompt"], s["steps"], s["seed"], s["width"]) for s in said] == [
        ("a red house", 1, 5, 64), ("a cat", 2, 9, 72), ("a dog", 1, 5, 64), ("a fox", 1, 5, 64)]
    assert said[1]["negative"] == "dogs" and "--cn x.png is not used" in result.stderr


def test_a_wrong_setting_names_its_line(run, tmp_path):
    (tmp_path / "p.txt").write_text("# no\na cat --s 900\na cow --w 9")
    with pytest.raises(UserError, match="Line 2 of the prompts: steps must be"):
        run("draw", "--prompts-file", tmp_path / "p.txt", "--out", tmp_path)


SMALL = ("--steps", 1, "--size", "64x64", "--device", "cpu")
BAD = [("(a cow:99)", "weight 99"), ("a cow <lora:gone:1>", "no style called 'gone'"),
       ("a cow --s 900", "Line 2 of the prompts: steps"),
       ("cow " * 900, "too long")]


@pytest.mark.parametrize("bad, said", BAD, ids=[bad[:12] for bad, _ in BAD])
def test_a_bad_prompt_costs_its_pictures_only(run, tmp_path, bad, said):
    (tmp_path / "p.txt").write_text(f"a dog\n{bad}\na cat\na fox --s 2\n")
    result = run("draw", "a red house", "--prompts-file", tmp_path / "p.txt", "--count", 2, "--out", tmp_path / "out", "--json",
                 *SMALL)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    drawn = [(line["prompt_index"], line["image_index"]) for line in lines if line["event"] == "picture"]
    assert drawn == [(prompt, image) for prompt in (0, 1, 3, 4) for image in (0, 1)] and result.exit_code == 2
    failed, = (line for line in lines if line["event"] == "failed")
    assert said in failed["message"] and failed["prompt_index"] == 2 and failed["prompt"].startswith(bad[:5])
    assert (lines[-1]["event"], lines[-1]["pictures"], lines[-1]["failed"]) == ("done", 8, 1)
    known = said != "too long"  # only the base knows that
    assert result.stderr.count(said) == 1 + known and (lines[0] == failed) == known
    assert not list((tmp_path / "out").glob("002-*")) and (tmp_path / "out" / "004-01.png").exists()


def test_what_was_not_drawn_is_told_before_the_first_and_after_the_last_picture(run, tmp_path, monkeypatch):
    seen = []
    real = draw.write_pictures
    monkeypatch.setattr(draw, "write_pictures", lambda *all_: seen.append(len(all_)) or real(*all_))
    result = run("draw", "a dog", "(a cow:99)", "[a cow] (x:-1)", "--out", tmp_path, *SMALL)
    shown = result.output
    assert seen and result.exit_code == 2 and "1 picture in" in shown and "2 prompts could not be drawn" in shown
    assert shown.index("weight 99") < shown.index("000-00.png") < shown.rindex("weight 99")


@pytest.mark.parametrize("prompts, said", [(["(a:99)", "(b:98)"], "weight 99"), (["a <lora:gone:1>", "(b:98)"], "called 'gone'")])
def test_where_every_prompt_is_bad_the_base_is_not_loaded(run, tmp_path, monkeypatch, prompts, said):
    monkeypatch.setattr("sdlora.base.load.load_base", lambda *_: pytest.fail("it loaded the base"))
    with pytest.raises(UserError, match=said):
        run("draw", *prompts, "--out", tmp_path / "out", *SMALL)
    assert not (tmp_path / "out").exists()


def test_prompts_may_name_different_styles(run, tmp_path):
    for name, value in (("ink", 0.1), ("oil", 0.2)):
        lora(name, value)
    result = run("draw", "a dog <lora:ink:0.5>", "a cat", "a fox <lora:oil:1>", "--out", tmp_path, "--json", *SMALL)
    found = [json.loads(line) for line in result.stdout.splitlines()][:-1]
    assert [[one["name"] for one in line["loras"]] for line in found] == [["ink"], [], ["oil"]] and result.exit_code == 0


def test_a_prompt_that_fails_while_it_is_drawn_does_not_end_the_others(run, tmp_path, monkeypatch):
    from sdlora.draw import pipeline

    real = pipeline.draw_all

    def breaks(base, config, *rest):
        for event in real(base, config, *rest):
            if event.prompt_index == config.prompts.index("a cat") and event.image_index == 1:
                raise ZeroDivisionError("a bug of ours")
            yield event

    monkeypatch.setattr(pipeline, "draw_all", lambda base, config, *rest: (
        breaks if "a cat" in config.prompts else real)(base, config, *rest))
    result = run("draw", "a dog", "a cat", "a fox", "--count", 2, "--out", tmp_path, "--json", *SMALL)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["event"] for line in lines] == ["picture"] * 3 + ["failed"] + ["picture"] * 2 + ["done"]
    assert lines[3]["prompt"] == "a cat" and "code" in lines[3]["message"] and result.exit_code == 2


def test_a_strength_follows_the_last_colon_only_as_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(draw.Path, "is_file", lambda path: True)
    for text, file, strength in (("a.safetensors", "a.safetensors", 1.0), ("a.safetensors:0.8", "a.safetensors", 0.8),
                                 (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
                                 (r"C:\loras\a.safetensors:-.5", r"C:\loras\a.safetensors", -0.5), ("a:b", "a:b", 1.0)):
        assert draw.parse_lora(text) == {"file": file, "strength": strength}
    assert draw.parse_lora("a, b.safetensors:0.8,te=0.5,blocks=1,0,0.5,end=0.9") == {
        "file": "a, b.safetensors", "strength": 0.8, "text_strength": "0.5", "blocks": "1,0,0.5", "end": "0.9"}


def test_a_picture_to_begin_from_and_a_sampler_are_told_in_the_picture(run, tmp_path):
    begin, mask = Image.new("RGB", (96, 64), "navy"), Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 48, 64))
    begin.save(tmp_path / "begin.png")
    mask.save(tmp_path / "mask.png")
    run("draw", "a red house", "--init", tmp_path / "begin.png", "--mask", tmp_path / "mask.png", "--strength", 0.5, "--steps", 4,
        "--sampler", "euler a", "--size", "96x64", "--out", tmp_path / "out", "--device", "cpu")
    settings = read_infotext(tmp_path / "out" / "000-00.png")
    assert (settings["sampler"], settings["init_strength"], settings["width"]) == ("Euler a", 0.5, 96)
    drawn = Image.open(tmp_path / "out" / "000-00.png")
    assert drawn.crop((64, 0, 96, 64)).getcolors() == [(32 * 64, (0, 0, 128))]
    assert drawn.crop((0, 0, 32, 64)).getcolors() != [(32 * 64, (0, 0, 128))]


def test_training_beside_waits_while_pictures_are_drawn(run, tmp_path, monkeypatch):
    held = []
    monkeypatch.setattr("sdlora.draw.pipeline.draw", lambda *ignored: held.append(is_held(storage.home() / DRAWING_LOCK)) or [])
    run("draw", "x", "--out", tmp_path, "--device", "cpu")
    assert held == [True] and not is_held(storage.home() / DRAWING_LOCK)


@pytest.mark.parametrize("words, said", [
    (["draw"], "nothing to draw"), (["draw", "x", "--size", "big"], "not a size"),
    (["draw", "x", "--lora", "no.st:1"], "no LoRA file"), (["draw", "x", "--sampler", "Eulr"], "Did you mean Euler"),
    (["draw", "x", "--lora", "{lora}:9"], "^strength must be a number from -4 to 4"),
    (["draw", "x", "--lora", "{lora},te=x"], "^text_strength must"),
    (["draw", "x", "--mask", "m.png"], "A mask needs"), (["draw", "<lora:gone:1> x"], "no style called 'gone'"),
    (["draw", "x", "--size", "65x64"], "width must be"), (["draw", "x", "--base", "nope"], "no base model"),
    (["draw", "x", "--steps", "0"], "steps must be"),
])
def test_mistakes_are_sentences(run, tmp_path, words, said):
    (tmp_path / "a.safetensors").touch()
    with pytest.raises(UserError, match=said):
        run(*(word.replace("{lora}", str(tmp_path / "a.safetensors")) for word in words))


def test_a_place_for_no_pictures_is_refused_before_the_first_is_drawn(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(draw, "write_pictures", lambda *ignored: pytest.fail("it began to draw"))
    with pytest.raises(UserError, match="Choose another place for --out"):
        run("draw", "x", "--out", tmp_path / "file")
