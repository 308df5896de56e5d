"""The CLIP tokenizer of the embedded base: every byte, and one token for each word of its captions.

Merges are appended word by word, so a tokenizer can grow and keep the tokens that it had.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

MAX_TOKENS = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def _byte_letters() -> list[str]:
    """The 256 visible stand-ins for bytes of GPT-2's byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (b for b in range(256) if b not in plain)
    return [chr(b) for b in plain] + [chr(256 + n) for n, _ in enumerate(others)]


def empty_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that knows letters only."""
    letters = _byte_letters()
    vocab = {token: n for n, token in enumerate([START, END, *letters, *(f"{c}</w>" for c in letters)])}
    return CLIPTokenizer(
        vocab=vocab, merges=[], unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=MAX_TOKENS
    )


def grow(tokenizer: CLIPTokenizer, words: list[str]) -> CLIPTokenizer:
    """Return a tokenizer to which every word is one token; ids that were there stay as they were."""
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab: dict[str, int] = data["model"]["vocab"]
    merges = [tuple(pair) for pair in data["model"]["merges"]]
    for word in words:
        parts = _split([*word[:-1], f"{word[-1]}</w>"], merges)
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            merges.append(pair)
            vocab.setdefault("".join(pair), len(vocab))
            parts = _split([*word[:-1], f"{word[-1]}</w>"], merges)
    return CLIPTokenizer(
        vocab=vocab, merges=merges, unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=MAX_TOKENS
    )


def _split(parts: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of one word: the earliest merge first."""
    rank = {pair: n for n, pair in enumerate(merges)}
    while True:
        pairs = [(rank[pair], n) for n, pair in enumerate(pairwise(parts)) if pair in rank]
        if not pairs:
            return parts
        n = min(pairs)[1]
        parts = [*parts[:n], parts[n] + parts[n + 1], *parts[n + 2 :]]


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> list[list[int]]:
    """Captions -> ids of MAX_TOKENS each, padded with END."""
    return tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer of a base folder."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer")
