"""Prompts against A1111's own examples, compel's own syntax, and the base without any of it."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdlora.base.load import load_base
from sdlora.draw.grammar import parse
from sdlora.draw.prompt import encode, stacked
from sdlora.errors import UserError

PROMPT = "a red house and a blue boat, meadow, in daylight"


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu", parts=("text", "unet"))


@pytest.mark.parametrize("prompt, fragments", [  # from the docstring of A1111's parse_prompt_attention
    ("normal text", [("normal text", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    (r"\(literal\]", [("(literal]", 1.0)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    ("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
     [("a ", 1.0), ("house", 1.573), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55), (", sun, ", 1.1),
      ("sky", 1.4641), (".", 1.1)]),
    ("it is 12:30) here", [("it is 12:30) here", 1.0)]),
])
def test_the_grammar_is_that_of_a1111(prompt, fragments):
    assert parse(prompt) == [fragments]


def test_break_divides_a_prompt():
    assert parse("a (cat BREAK dog)") == [[("a ", 1.0), ("cat", 1.1)], [("dog)", 1.0)]]


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=r"ab ()[]:\.,1B", max_size=40))
def test_no_prompt_is_a_crash(prompt):
    try:
        for part in parse(prompt):
            assert all(0 <= weight <= 10 and text for text, weight in part)
    except UserError as error:
        assert "weight" in str(error)


def test_without_weights_the_bits_are_those_of_the_base(mini):
    for prompt in (PROMPT, "", r"a red house \(old\)"):
        theirs = mini.encode_text([prompt.replace("\\", "")])
        assert torch.equal(encode(mini, prompt)["states"], theirs["states"])
    assert torch.equal(encode(mini, "a [(red)] house")["states"], mini.encode_text(["a red house"])["states"])


def test_weights_are_those_of_compel(mini):
    from compel import Compel
    theirs = Compel(tokenizer=mini.tokenizers[0], text_encoder=mini.text_encoders[0], truncate_long_prompts=False)
    for ours, same in (("a red house, (blue boat:1.3), meadow", "a red house, (blue boat)1.3, meadow"),
                       ("a (red:0.4) house", "a (red)0.4 house")):
        with torch.no_grad():
            wanted = theirs(same)
        assert torch.allclose(encode(mini, ours)["states"], wanted, atol=1e-5)
        assert not torch.allclose(wanted, mini.encode_text([ours])["states"], atol=0.1)


def test_both_text_encoders_of_sdxl_are_weighed(mini):
    from compel import Compel, ReturnedEmbeddingsType
    torch.manual_seed(0)
    config = mini.text_encoders[0].config
    tiny = {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings, "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_id, "pad_token_id": config.pad_token_id}
    encoders = [CLIPTextModel(CLIPTextConfig(hidden_size=8, **tiny)).eval(),
                CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=16, projection_dim=12, **tiny)).eval()]
    sdxl = dataclasses.replace(mini, family="sdxl", text_encoders=encoders, tokenizers=mini.tokenizers * 2)
    ours, window = encode(sdxl, f"{PROMPT}, (blue boat:1.3), {PROMPT}"), config.max_position_embeddings
    theirs = Compel(sdxl.tokenizers, encoders, truncate_long_prompts=False, requires_pooled=[False, True],
                    returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED)
    with torch.no_grad():
        states, _ = theirs(f"{PROMPT}, (blue boat)1.3, {PROMPT}")
    assert ours["states"].shape == (1, window, 24) and ours["pooled"].shape == (1, 12)
    assert torch.allclose(ours["states"], states, atol=1e-5)
    assert torch.equal(ours["pooled"], sdxl.encode_text([PROMPT + ", blue boat, " + PROMPT])["pooled"])
    assert stacked([encode(sdxl, ""), ours], lambda text: encode(sdxl, text))["pooled"].shape == (2, 12)


def test_nothing_of_a_long_prompt_is_lost(mini):
    window = mini.tokenizers[0].model_max_length
    long = encode(mini, ", ".join([*[PROMPT] * 6, "a yellow cat"]))["states"]
    other = encode(mini, ", ".join([*[PROMPT] * 6, "a green tree"]))["states"]
    assert long.shape == other.shape and long.shape[1] > window and long.shape[1] % window == 0
    assert torch.equal(long[:, :window], other[:, :window]) and not torch.equal(long[:, -window:], other[:, -window:])
    assert encode(mini, f"{PROMPT} BREAK {PROMPT}")["states"].shape[1] == 2 * window
    both = stacked([encode(mini, ""), {"states": long}], lambda text: encode(mini, text))
    nothing = mini.encode_text([""])["states"]
    assert both["states"].shape == (2, *long.shape[1:]) and torch.equal(both["states"][:1, -window:], nothing)


@pytest.mark.parametrize("prompt, said", [
    ("(red:11) house", "weight 11"), ("(red:-1)", "weight -1"), ("(red:1.2.3)", "no weight"), ("(" * 99 + "red", "weight"),
    ("cat " * 600, "too long: 600 tokens"), ("(a" * 9999, "too long: 19998 characters"), ("[a] b " * 76, "more than 75 words")])
def test_what_cannot_be_read_is_a_sentence(mini, prompt, said):
    with pytest.raises(UserError, match=said):
        encode(mini, prompt)
