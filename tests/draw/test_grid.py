"""Axes as A1111 writes them, cells that differ in just that, an order that shares work, and limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlora.config import DrawConfig, LoraChoice
from sdlora.draw.grid import KINDS, BadValue, cells, lora_axis, pairs_axis, parse, sheet_settings, tried
from sdlora.draw.infotext.a1111 import from_text, to_text
from sdlora.errors import UserError
from tests.draw.a1111_reader import parse_generation_parameters

TWO = DrawConfig(prompts=("a red house",), loras=({"file": "a/ink.safetensors", "text_strength": 0.5},
                                                  {"file": "wood.safetensors"}))


@pytest.mark.parametrize("text, values", [
    ("strength=0,0.5,1", (0.0, 0.5, 1.0)), ("seed=1-4", (1, 2, 3, 4)), ("Seeds = 3, 5-6", (3, 5, 6)),
    ("strength=0-1 (+0.25)", (0.0, 0.25, 0.5, 0.75, 1.0)), ("strength=0-0.3 (+0.1)", (0.0, 0.1, 0.2, 0.3)),
    ("strength=-1-1 [5]", (-1.0, -0.5, 0.0, 0.5, 1.0)), ("strength=1-0 (-0.5)", (1.0, 0.5, 0.0)),
    ("steps=10-31 [3]", (10, 20, 31)),
    ("cfg=4-5", (4.0, 5.0)), ("strength=-1--0.5 (+0.5)", (-1.0, -0.5)), ("seed=7-7", (7,)), ("strength=0-1 [1]", (0.0,)),
    ("sampler=Euler,DPM++ 2M Karras", ("Euler", "DPM++ 2M Karras")), ("prompt=a house, sea|a boat", ("a house, sea", "a boat")),
    ('prompt=a boat,"a house, sea"', ("a boat", "a house, sea")), ("blocks=style|1,0,1|", ("style", "1,0,1", "")),
    ("prompt=a [a|b] c | d", ("a [a|b] c", "d")), ("prompt=a (red, big) boat, b", ("a (red, big) boat", "b")),
    ('prompt="a|b",c', ("a|b", "c")), ('prompt="say ""hi"", you" , b', ('say "hi", you', "b")), ("prompt={a|b}", ("{a|b}",)),
    ("replace=<lora:a|b:1>|(x|y)", ("<lora:a|b:1>", "(x|y)")), ("negative=a [b|c", ("a [b", "c")), ("prompt=", ("",)),
    ("replace=house,boat", ("house", "boat")), ("denoise=0.4,0.6", (0.4, 0.6)), ("points=run-1:100", ("run-1:100",))])
def test_axes_are_read(text, values):
    axis = parse(text)
    assert axis.values == values and len(axis.labels) == len(values) and all(axis.labels)


@pytest.mark.parametrize("text", [
    "", "x=1", "strength", "strength=", "=1", "seed=1.5", "seed=4-1", "seed=1-1000000000", "pairs=1", "seed2=1",
    "strength=0-1 (+0)", "strength=1e5",
    "seed=99999999999", "strength=0-1 (+0.0001)", "seed=1-9 [999]", "strength=nan", "strength=0-1 (-1)",
    "strength=" + "1," * 65, "prompt=" + "a|" * 65, "strength1000=1", "strengthstrength=1"])
def test_what_is_no_axis_is_a_sentence(text):
    with pytest.raises(UserError):
        parse(text)


@given(st.text(max_size=40), st.sampled_from(["strength", "seed", "prompt", "blocks", "lora"]))
def test_no_text_is_more_than_a_sentence(text, kind):
    try:
        assert len(parse(f"{kind}={text}").values) <= 64
    except UserError as error:
        assert error.hint


def by_place(made):
    return {(cell.column, cell.row): cell.config for cell in made}


def test_cells_differ_in_their_axes_only():
    made = cells(TWO, parse("strength2=0,0.5,1"), parse("seed=5,6"))
    places = by_place(made)
    assert len(made) == 6 and places[1, 1].seed == 6 and [lora.strength for lora in places[1, 1].loras] == [1.0, 0.5]
    back = places[1, 1].model_copy(update={"seed": 1, "loras": TWO.loras})
    assert back == TWO
    assert {cell.name: cell.label for cell in made}["01-02"] == "LoRA 2 strength 1 · seed 6"


def test_every_kind_of_axis_changes_what_it_names():
    def second(text, config=TWO):
        return by_place(cells(config, parse(text)))[1, 0]
    assert second("guidance=4,7").guidance == 7 and second("sampler=Euler,DDIM").sampler == "DDIM"
    assert second("steps=4,7").steps == 7 and second("method=sum,switch").method == "switch"
    assert second("prompt=x|y").prompts == ("y",) and second("negative=x|y").negative == "y"
    assert second("replace=red,blue").prompts == ("a blue house",) and second("denoise=0.1,0.2").init_strength == 0.2
    assert [lora.blocks for lora in second("blocks=|style").loras] == ["style", "style"]
    assert [(lora.start, lora.end) for lora in second("end1=1,0.5").loras] == [(0, 0.5), (0, 1)]
    strong = second("strength=0,0.5").loras
    assert [(lora.strength, lora.text_strength) for lora in strong] == [(0.5, None), (0.5, None)]
    both = by_place(cells(TWO, parse("text1=0.25"), parse("strength=0.5")))[0, 0].loras[0]  # whichever side they stand on
    assert (both.strength, both.text_strength) == (0.5, 0.25)


def test_pairs_and_lora_axes():
    base, blend = (by_place(cells(TWO, pairs_axis(TWO)))[column, 0] for column in (0, 1))
    assert base.loras == () and blend == TWO and pairs_axis(TWO).labels == ("base alone", "with ink + wood")
    axis = lora_axis("point", [("base alone", None), ("step 100", TWO.loras[1])])
    made = by_place(cells(DrawConfig(prompts=("x",)), axis))
    assert made[0, 0].loras == () and made[1, 0].loras == (TWO.loras[1],)


@pytest.mark.parametrize("config, x, y, said", [
    (TWO, "seed=1-21", "steps=1-20", "too large"), (TWO, "strength=9", None, "strength must be"),
    (TWO, "seed=-1", None, "seed must be"),
    (TWO, "strength3=1", None, "needs LoRA 3"), (DrawConfig(prompts=("x",)), "strength=1", None, "needs LoRA 1"),
    (TWO, "replace=cat,dog", None, "not in the prompt"), (TWO, "method=best", None, "method must be"),
    (DrawConfig(prompts=("x", "y")), "seed=1", None, "one prompt"), (DrawConfig(count=2), "seed=1", None, "one prompt")])
def test_grids_that_cannot_be_are_sentences(config, x, y, said):
    with pytest.raises(UserError, match=said):
        cells(config, parse(x), parse(y) if y else None)
    with pytest.raises(UserError, match="no LoRA to compare"):
        pairs_axis(DrawConfig())


def test_a_bad_value_costs_its_cells_and_comes_first():
    def resolve(config):
        if "<lora:nope:1>" in config.prompts[0]:
            raise UserError("There is no style called 'nope'.")
        return config

    made = cells(TWO, parse("strength=0,9,1,x"), parse("prompt=a|<lora:nope:1>|(a:99)"), resolve)
    places = {(cell.column, cell.row): cell.problem and cell.problem.message for cell in made}
    assert [cell.config is None for cell in made] == [True] * 10 + [False] * 2 and places[0, 0] is places[2, 0] is None
    assert "strength must be" in places[1, 0] and "'x' is no number" in places[3, 0] and "nope" in places[0, 1]
    assert "weight 99" in places[0, 2] and {cell.name: cell.label for cell in made}["00-03"] == "strength x · a"


@pytest.mark.parametrize("text, values", [("seed=1,1.5,2", (1, None, 2)), ("strength=0,4-1,1", (0.0, None, 1.0)),
                                          ("steps=1-2 (+0.5)", (1, None, 2)), ("guidance=1e3,2", (None, 2.0))])
def test_what_is_no_number_is_one_value(text, values):
    axis = parse(text)
    assert tuple(None if isinstance(value, BadValue) else value for value in axis.values) == values and all(axis.labels)
    assert all(value.why.hint for value in axis.values if isinstance(value, BadValue))


def test_a_file_that_cannot_be_used_is_one_value():
    def choices(name):
        if name == "nope":
            raise UserError("There is no nope.")
        return [(name, LoraChoice(file=f"{name}.safetensors"))]

    axis = lora_axis("lora", tried(["ink", "nope", "oil"], choices))
    assert axis.labels == ("ink", "nope", "oil")
    said = [(cell.column, cell.problem and str(cell.problem)) for cell in cells(DrawConfig(prompts=("x",)), axis)]
    assert said == [(1, "There is no nope."), (0, None), (2, None)]
    with pytest.raises(UserError, match="no nope"):
        lora_axis("lora", tried(["nope", "nope"], choices))


@pytest.mark.parametrize("text, said", [("blocks=|nope", "no block weights"), ("blocks=style only|1,2", "weights were given")])
def test_block_weights_are_looked_at_where_the_base_is_known(text, said):
    bad, good = cells(TWO, parse(text), family="sd1")
    assert said in bad.problem.message and good.problem is None
    assert all(cell.config for cell in cells(TWO, parse(text)))


def test_equal_blends_and_texts_are_drawn_together():
    made = cells(TWO, parse("strength=0,1"), parse("prompt=x|y|x"))
    assert [(cell.column, cell.row) for cell in made] == [(0, 0), (0, 2), (0, 1), (1, 0), (1, 2), (1, 1)]
    changes = cells(TWO, parse("seed=1-8"), parse("strength=0,1,0"))
    strengths = [cell.config.loras[0].strength for cell in changes]
    assert strengths == sorted(strengths)


def test_a_sheet_says_what_its_cells_have_in_common_and_its_axes():
    x, y = parse("seed=1,2"), parse("prompt=a, b|c")
    drawn = [{"prompt": prompt, "negative": "n", "seed": seed, "steps": 5, "sampler": "DDIM", "width": 64, "height": 64,
              "loras": [{"name": "ink", "hash": "0123456789ab", "strength": 0.5}]} for prompt in ("a, b", "c") for seed in (1, 2)]
    settings = sheet_settings(drawn, x, y)
    assert "seed" not in settings and settings["steps"] == 5 and settings["loras"] == drawn[0]["loras"]
    found = parse_generation_parameters(to_text(settings))
    assert (found["Script"], found["X Type"], found["X Values"], found["Y Type"]) == ("X/Y/Z plot", "Seed", "1, 2", "Prompt")
    assert found["Y Values"] == '"a, b", c' and found["Steps"] == "5" and "Seed" not in found
    assert from_text(to_text(settings)) == settings
    told = sheet_settings(drawn, parse("seed=1,2.5,2"))
    assert told["other"]["X Values"] == "1, 2.5, 2"


def test_columns_of_one_title_are_told_apart_by_their_files():
    named = [("small", "a/rank4.safetensors"), ("small", "a/strong.safetensors"), ("ink", "b/ink.safetensors"),
             ("small", "c/strong.safetensors")]
    axis = lora_axis("lora", [*((title, LoraChoice(file=file)) for title, file in named), ("base alone", None)])
    assert axis.labels == ("rank4", "a/strong", "ink", "c/strong", "base alone")


@pytest.mark.parametrize("kind", [kind for kind, (values, _) in KINDS.items() if values is not str])
def test_the_hint_of_an_axis_is_an_axis(kind):
    with pytest.raises(UserError) as caught:
        parse(f"{kind}=x")
    for example in caught.value.hint.removeprefix("Write it as ").removesuffix(".").split(" or "):
        assert len(cells(TWO, parse(example))) > 1


def test_words_change_before_the_prompt_is_resolved():
    def resolve(config):
        return config.model_copy(update={"prompts": (config.prompts[0].upper(),), "loras": config.loras[:1]})

    made = cells(TWO, parse("strength=0,1"), parse("replace=red|blue"), resolve)
    assert {(cell.config.prompts[0], len(cell.config.loras), cell.config.loras[0].strength) for cell in made} == {
        (f"A {colour} HOUSE", 1, strength) for colour in ("RED", "BLUE") for strength in (0.0, 1.0)}
    assert {cell.label for cell in made} == {f"strength {at} · {colour}" for at in (0, 1) for colour in ("red", "blue")}
