"""What of other programs' prompts acts, what is named, and that plain text comes through as it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlora.draw.grammar import MAX_CHARACTERS, literal, notes, parse, problem, simplified


def words(prompt):
    return " | ".join("".join(text for text, _ in part) for part in parse(prompt))


@pytest.mark.parametrize(("prompt", "drawn", "named"), [
    ("a <hypernet:oil:0.5> house", "a  house", "<hypernet:oil:0.5> is left out: sdlora does not use hypernetworks"),
    ("a <HyperNet:oil:1> house", "a  house", "hypernetworks"),
    ("a <LORA:oil:1> house", "a  house", "<LORA:oil:1> is left out: LoRAs are named in the prompt of a picture only"),
    ("a <segment:face> house", "a  house", "<segment:face> is left out: sdlora does not know"),
    ("a [red:blue:0.5] house", "a red house", "[red:blue:0.5] changes words"),
    ("a [blue:10] house", "a blue house", "[blue:10] changes words"),
    ("a [blue::0.5] house", "a blue house", "[blue::0.5] changes words"),
    ("a [:blue:.5] house", "a blue house", "[:blue:.5] changes words"),
    ("a [red|blue|green] house", "a red house", "[red|blue|green] changes words"),
    ("a [(red:1.2):[blue|green]:5] house", "a red house", "[(red:1.2):blue:5] changes words"),
    ("a [a (red|big) cat:dog:3]", "a a red|big cat", "changes words"),
    ("a cat :1.2 AND a dog:0.5", "a cat, a dog", "AND divides a prompt"),
    ("a {red|blue} house", "a {red|blue} house", "{red|blue} looks like a choice of Dynamic Prompts"),
    ("a __colour__ house", "a __colour__ house", "__colour__ looks like a wildcard"),
    ("a house, embedding:bad_hands", "a house, embedding:bad_hands", "looks like an embedding"),
    ("a red++ house", "a red++ house", "red++ looks like a weight"),
    ("a sea-- house", "a sea-- house", "sea-- looks like a weight"),
    ("(cat)++", "cat++", ")++ looks like a weight"), ("a (red cat)-- here", "a red cat-- here", ")-- looks like a weight"),
    ("a (cat)+, sea", "a cat+, sea", ")+ looks like a weight"), ("a (red cat)1.3", "a red cat1.3", ")1.3 looks like a weight"),
    ("a [[cat]:dog:0,5]", "a cat", "[[cat]:dog:0,5] changes words"),
])
def test_what_does_not_act_is_named(prompt, drawn, named):
    assert words(prompt) == drawn
    assert named in " ".join(notes(prompt)) and notes(prompt, prompt) == notes(prompt)


@pytest.mark.parametrize(("prompt", "drawn", "named"), [
    ("a cat AND_PERP a dog:0.5", "a cat, a dog", "AND_PERP divides a prompt into several pictures"),
    ("a cat AND_SALT_WIDE a dog", "a cat, a dog", "AND_SALT_WIDE divides a prompt"),
    ("a AND_TOPK b AND c", "a, b, c", "AND_TOPK divides a prompt"),
    ("a AND_ALIGN_4_8 b", "a, b", "AND_ALIGN_4_8 divides a prompt"),
    ("a cat AND_PERP fog :-0.5", "a cat", '"fog" is left out: its weight is below 0'),
    ("a AND", "a", "AND divides a prompt"), ("AND a", "a", "AND divides a prompt"), ("a AND  AND b", "a, b", "AND divides"),
    ("AND", "", "AND divides"),
    ("at 12:30 ADDCOL sea", "at 12:30, sea", "ADDCOL divides"), ("a cat, AND a dog, ", "a cat, a dog", "AND divides"),
    ("sky ADDCOL sea", "sky, sea", "ADDCOL divides a prompt into regions"), ("sky ADDROW", "sky", "ADDROW divides"),
    ("best ADDCOMM sky ADDBASE sea", "best, sky, sea", "ADDBASE divides a prompt into regions"),
])
def test_what_divides_a_prompt_is_named_and_all_of_it_is_one(prompt, drawn, named):
    assert words(prompt) == drawn and named in " ".join(notes(prompt))


@pytest.mark.parametrize(("prompt", "drawn", "named"), [
    ("a <fromto[0.5]:red,blue> cat", "a  cat", "<fromto[0.5]:red,blue> is left out: sdlora does not know"),
    ("a <random[1-2, ]:red|blue> cat", "a  cat", "is left out"), ("a <my-macro:red> cat", "a  cat", "<my-macro:red> is left out"),
    ("a <setvar[x]:<random:red,blue>> cat", "a  cat", "is left out"), ("a <wildcard:> cat", "a  cat", "is left out"),
    ("a <lora :x:1> cat", "a  cat", "<lora :x:1> is left out: write it as <lora:x:1>."),
    ("a <lora: x:1> cat", "a  cat", "is left out: LoRAs are named in the prompt of a picture only"),
    ("a cat <lora:x:1", "a cat <lora:x:1", "<lora:x:1 is never closed with >"),
    ("a cat <fromto[0.5]:red,blue", "a cat <fromto0.5:red,blue", "is never closed"),
    ("<hypernet:oil, a cat <segment:face>", "<hypernet:oil, a cat ", "<hypernet:oil is never closed"),
    ("a <cat-toy> on a table", "a <cat-toy> on a table", "<cat-toy> looks like an embedding"),
])
def test_tags_are_left_out_and_named(prompt, drawn, named):
    assert words(prompt) == drawn and named in " ".join(notes(prompt))


@pytest.mark.parametrize(("prompt", "named"), [
    ("(cat:1,2)", "(cat:1,2)"), ("a (red cat:0,85 ) here", "(red cat:0,85 )"), ("(cat:,5)", "(cat:,5)"),
    ("（cat：1.2）", "（cat：1.2）"), ("(cat：1.2)", "(cat：1.2)"),
    ("1.2::cat::", "1.2::cat::"), ("sea, -1::hat, bow::, sky", "-1::hat, bow::"), ("1.5::rain", "1.5::"),
    ("cat::1 dog::2", "cat::1"), ("hot:: dog", "hot::"), ("cat::-.5 dog", "cat::-.5"), ("cat::2", "cat::2"),
])
def test_weights_of_other_programs_are_named_with_our_way_to_write_them(prompt, named):
    [note] = [note for note in notes(prompt) if note.startswith(f"{named} looks like a weight")]
    assert note.endswith("Write (word:1.2) for a weight.")


@pytest.mark.parametrize(("prompt", "named"), [
    ("a cat --ar 16:9", "--ar 16:9"), ("a cat --v 6 --stylize 100", "--stylize 100"), ("a cat --v 6.1", "--v 6.1"),
    ("a cat --ar 3:2 --v 6 --s 9 --no dogs", "--no"), ("a cat --niji 5", "--niji 5"),
    ("a cat —ar 16:9", "—ar 16:9"), ("a cat --tile", "--tile"), ("a cat --style raw", "--style"),
    ("a cat --n blurry --w 512 --d 7", "--d 7"), ("a --negative_prompt blurry", "--negative_prompt"), ("--S 5", "--S 5"),
    ('("a cat", "a dog").and()', ".and()"), ('("a", "b").blend(0.7,0.3)', ".blend(0.7,0.3)"),
    ("a cat.swap(dog)", ".swap(dog)"), ('a "cat".swap("dog", s_start=0.1)', '.swap("dog", s_start=0.1)'),
    ("a cat withLora(ink,0.8)", "withLora(ink,0.8)"), ("sky COUPLE MASK(0 0.5) sea", "MASK(0 0.5)"),
])
def test_grammar_of_other_programs_is_named(prompt, named):
    assert any(note.startswith(f"{named} looks like") for note in notes(prompt))


@pytest.mark.parametrize(("prompt", "drawn"), [
    ("a BREAK", "a"), ("a BREAK b BREAK ", "a | b"), ("BREAK a", " | a"), ("BREAK", "")])
def test_nothing_behind_the_last_break_is_no_part(prompt, drawn):
    assert words(prompt) == drawn


@pytest.mark.parametrize("prompt", [
    "a 16:9 poster", "a cat :: a dog", "a cat :)", ":( or :-)", "Band of Brothers and sisters", "std::vector on a screen",
    "a house -- the old one -- at night", "a house --the old one", "--a ruin", "a boat —no sails – about 3",
    "rock-and-roll", "1,200 boats, 1:1,5",
    "a (cat::0.5)", "a map (scale 5:1)", "the end.", "A. and B. (both)", "x.and y", "a <3 b", "1 < 2 > 0",
    "ANDROID, SANDY, ADDRESS, ADDCOLOUR",
    "a mask (red), an area (blue)", "dimensions 3.5, 2.1", "12:30:15", "re: a cat", "email a@b.c", "(a)-(b)", r"\(cat\)1.5",
    "a+b", "https://example.org/a::b"])
def test_ordinary_words_are_not_called_grammar(prompt):
    assert simplified(prompt) == (prompt, [])


@pytest.mark.parametrize("prompt", [
    "a red house, meadow", "a (red:1.2) [blue] house", r"a \[red:blue:0.5\] house", "at 12:30", "[12:30 on the clock]",
    "a < b: c", "salt and pepper", "BRAND new", "a_b__c", "well-known", "I <3 boats", "[[old], (new:0.9)]"])
def test_what_acts_and_what_is_text_is_not_named(prompt):
    assert simplified(prompt) == (prompt, [])


@pytest.mark.parametrize("text", [
    "time (12:30)", r"\(x\)", "[a:b:0.5] and [a|b]", "((((((", r"\\", "(word:99)", "a [trigger] (", r"C:\pictures\[new]",
    "5] a)", "(cat)++ (a)1.3", "(a:1,2)", "a AND", "AND_PERP b:-1", "ADDCOL", "<fromto[0.5]:a,b>", "<lora :x:1>", "<lora:x:1",
    "<my-tag:a <b:c>>"])
def test_plain_text_comes_through(text):
    drawn = words(literal(text)).replace("< ", "<")
    assert drawn.lower() == text.lower() and notes(literal(text)) == [] and problem(literal(text)) is None
    assert all(weight == 1 for part in parse(literal(text)) for _, weight in part)


def test_words_of_the_grammar_are_read_the_same_by_a_text_encoder():
    assert literal("a BREAK AND b") == "a break and b" and literal("<lora:x:1>") == "< lora:x:1>"


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab ()[]:|\\<>.,1_BREAKNDlor", max_size=60))
def test_any_text_comes_through_as_the_same_tokens(text):
    tokens = words(literal(text)).replace(" ", "").lower()
    assert tokens == text.replace(" ", "").lower()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab ()[]:|\\<>.1", max_size=60))
def test_no_prompt_is_a_crash(text):
    problem(text)
    notes(text)


def test_deep_and_long_prompts_are_read_at_once():
    for piece in ("[", "(", "[a|", "a:", "<a:", "|", "{", "__", "\\", "AND ", "a+", "a-"):
        problem(piece * (MAX_CHARACTERS // len(piece)))
    for piece in ("1::", "a::1 ", "--", " --a", "(a:1,", "<a[", "<a <a:b>", ".and(", ")1.", "ADDCOL", "AND_", "：", "::"):
        notes(piece * (MAX_CHARACTERS // len(piece)))
    notes("<a:" * (MAX_CHARACTERS // 4) + ">" * (MAX_CHARACTERS // 4))
    assert "too long" in problem("a" * (MAX_CHARACTERS + 1)).message


def test_a_prompt_that_cannot_be_drawn_is_quoted():
    assert problem("time (12:30)").message == (
        'The prompt "time (12:30)" cannot be drawn. A word in the prompt has the weight 30; it must be from 0 to 10.')
    assert "has the weight 10.00001; it must be from 0 to 10." in problem("a (red:10.00001) house").message
    assert problem("a (red:1.2) house") is None
