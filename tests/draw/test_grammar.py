"""What of other programs' prompts acts, what is named, and that plain text comes through as it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlora.draw.grammar import MOST_LETTERS, literal, notes, parse, problem, simplified


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
    ("a cat :1.2 AND a dog:0.5", "a cat, a dog", "AND parts a prompt"),
    ("a {red|blue} house", "a {red|blue} house", "{red|blue} looks like a choice of Dynamic Prompts"),
    ("a __colour__ house", "a __colour__ house", "__colour__ looks like a wildcard"),
    ("a house, embedding:bad_hands", "a house, embedding:bad_hands", "looks like an embedding"),
    ("a red++ house, (sea)--", "a red++ house, sea--", "red++ looks like a weight"),
])
def test_what_does_not_act_is_named(prompt, drawn, named):
    assert words(prompt) == drawn
    assert named in " ".join(notes(prompt)) and notes(prompt, prompt) == notes(prompt)


@pytest.mark.parametrize("prompt", [
    "a red house, meadow", "a (red:1.2) [blue] house", r"a \[red:blue:0.5\] house", "at 12:30", "[12:30 on the clock]",
    "a < b: c", "salt and pepper", "BRAND new", "a_b__c", "well-known", "I <3 boats", "[[old], (new:0.9)]"])
def test_what_acts_and_what_is_text_is_not_named(prompt):
    assert simplified(prompt) == (prompt, [])


@pytest.mark.parametrize("text", [
    "time (12:30)", r"\(x\)", "[a:b:0.5] and [a|b]", "((((((", r"\\", "(word:99)", "a [trigger] (", r"C:\pictures\[new]",
    "5] a)"])
def test_plain_text_comes_through(text):
    assert words(literal(text)) == text and notes(literal(text)) == [] and problem(literal(text)) is None
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
        problem(piece * (MOST_LETTERS // len(piece)))
        notes(piece * (MOST_LETTERS // len(piece)))
    assert "too long" in problem("a" * (MOST_LETTERS + 1)).message


def test_a_prompt_that_cannot_be_drawn_is_quoted():
    assert problem("time (12:30)").message == (
        'The prompt "time (12:30)" cannot be drawn. A word in the prompt has the weight 30; it must be from 0 to 10.')
    assert problem("a (red:1.2) house") is None
