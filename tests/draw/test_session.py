"""What stays with a base: texts are read once, with the LoRAs that act on them, and nothing keeps the base alive."""

import gc
import weakref

import pytest
import torch

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.draw import session
from sdlora.draw.pipeline import Picture, draw
from sdlora.draw.session import session_of
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter
from tests import tiny

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "te1:text_model.encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.write_base(tmp_path_factory.mktemp("tiny") / "base"))


@pytest.fixture
def base(folder):
    return load_base(folder, "cpu")


def ingredient(*paths, **settings):
    sizes = {UNET: 16, TEXT: 128}
    return Ingredient({path: Adapter("lora", {"up": torch.ones(sizes[path], 1), "down": torch.randn(1, sizes[path])}, 1.0, 1,
                                     path.split(":")[0] if ":" in path else "unet") for path in paths}, **settings)


@pytest.fixture
def reads(monkeypatch):
    read, real = [], session.encode
    monkeypatch.setattr(session, "encode", lambda base, prompt: read.append(prompt) or real(base, prompt))
    return read


def pictures(base, *loras, **settings):
    config = DrawConfig(**{"prompts": ("a red house",), "steps": 2} | settings)
    return [made.image.tobytes() for made in draw(base, config, blend=loras or None) if isinstance(made, Picture)]


def test_a_long_prompt_draws_the_same_picture_again(base):
    """What fills up the shorter negative prompt is read with the LoRA too, also when all else is remembered."""
    long = {"prompts": ("a red house, a blue boat, " * 12,), "guidance": 5.0}
    of_text = ingredient(UNET, TEXT)
    assert pictures(base, of_text, **long) == pictures(base, of_text, **long) == pictures(base, of_text, **long)


def test_a_prompt_is_read_once_while_its_text_encoders_stay_the_same(base, reads):
    plain = pictures(base, count=2)
    assert plain == pictures(base, count=2) and reads == ["", "a red house"]
    pictures(base, ingredient(UNET))
    assert reads == ["", "a red house"]  # a LoRA of the UNet alone changes no text
    of_text = ingredient(UNET, TEXT)
    with_text = pictures(base, of_text)
    assert len(reads) == 4 and with_text == pictures(base, of_text) and len(reads) == 4
    assert pictures(base, Ingredient(dict(of_text.adapters))) == with_text and len(reads) == 4  # read from its file again
    assert pictures(base, Ingredient(of_text.adapters, 1.0, 0.5)) != with_text and len(reads) == 6
    assert pictures(base, count=2) == plain and len(reads) == 6


def test_a_lora_that_waits_its_turn_does_not_read_the_prompt(base):
    """Switch with long turns draws what its first LoRA draws alone, text and all."""
    first, second = ingredient(UNET, TEXT), ingredient(UNET, TEXT)
    assert pictures(base, first, second, method="switch", switch_every=9) == pictures(base, first)


def test_a_pair_is_scored_once_while_it_stays_the_same(base, monkeypatch):
    scored, real = [], session.klora_scores
    monkeypatch.setattr(session, "klora_scores", lambda *given: scored.append(given[:2]) or real(*given))
    style, subject = ingredient(UNET), ingredient(UNET)
    first = pictures(base, style, subject, method="style-subject")
    again = [Ingredient(dict(each.adapters), name="read from its file again") for each in (style, subject)]
    assert pictures(base, *again, method="style-subject") == first and len(scored) == 1
    assert pictures(base, subject, style, method="style-subject") and len(scored) == 2
    assert pictures(base, subject, Ingredient(style.adapters, 0.5), method="style-subject") and len(scored) == 3
    pictures(base, subject, Ingredient(style.adapters, blocks={"IN01": 0.5}, family="sd1"), method="style-subject")
    assert len(scored) == 4
    assert pictures(base, style, subject, method="style-subject") == first


def test_a_few_texts_are_kept(base, monkeypatch, reads):
    monkeypatch.setattr(session, "MAX_TEXTS", 3)
    for prompt in ("a cat", "a dog", "a cat", "a bird", "a dog"):
        session_of(base).encode(prompt, ())
    assert reads == ["a cat", "a dog", "a bird"] and len(session_of(base).texts) == 3
    session_of(base).encode("a tree", ())
    session_of(base).encode("a cat", ())
    assert reads[3:] == ["a tree", "a cat"]


def test_drawing_with_weights_as_they_are_keeps_nothing(base):
    list(draw(base, DrawConfig(steps=1), blend=()))
    assert base not in session.SESSIONS


def test_a_session_is_freed_with_its_base(base, folder):
    other = load_base(folder, "cpu")
    pictures(other, ingredient(UNET, TEXT))
    gone, weight = weakref.ref(other), weakref.ref(other.unet.get_submodule(UNET).weight)
    del other
    gc.collect()
    assert gone() is None and weight() is None and base not in session.SESSIONS
