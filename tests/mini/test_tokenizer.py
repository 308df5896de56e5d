"""A plain CLIPTokenizer in which every word of the captions is one token, and none is cut."""

from random import Random

from transformers import CLIPTokenizer

from sdlora.mini.tokenizer import MAX_TOKENS, empty_tokenizer, grow, load_tokenizer, token_ids
from sdlora.mini.words import random_scene, training_caption, vocabulary
from sdlora.storage import shipped


def test_shipped_tokenizer_knows_every_word():
    tokenizer = load_tokenizer(shipped("assets", "mini"))
    assert isinstance(tokenizer, CLIPTokenizer)
    for word in vocabulary():
        assert len(tokenizer(word).input_ids) == 3, word


def test_grown_from_nothing_and_read_back(tmp_path):
    tokenizer = grow(empty_tokenizer(), vocabulary())
    tokenizer.save_pretrained(tmp_path)
    text = "watercolor of a red house, meadow, Ünknown wörds, 猫"
    assert token_ids(CLIPTokenizer.from_pretrained(tmp_path), [text]) == token_ids(tokenizer, [text])
    assert tokenizer.unk_token_id not in tokenizer("stglass 猫").input_ids[1:-1]


def test_growing_keeps_old_ids():
    small = grow(empty_tokenizer(), ["red", "house", "lighthouse"])
    large = grow(small, ["houseboat", "redder", "mug"])
    assert token_ids(small, ["red house, lighthouse"]) == token_ids(large, ["red house, lighthouse"])
    assert len(large("mug houseboat").input_ids) == 4


def test_captions_fit():
    tokenizer, rng = grow(empty_tokenizer(), vocabulary()), Random(1)
    captions = [training_caption(random_scene(rng, crowded=0.9), rng) for _ in range(500)]
    assert max(len(ids) for ids in tokenizer(captions).input_ids) <= MAX_TOKENS
