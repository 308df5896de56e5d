"""Which words of captions a base knows. The embedded base knows a few hundred; Stable Diffusion's encoders read all.

Reads the tokenizer's vocabulary as JSON: no torch.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from sdlora import storage
from sdlora.base import catalog

WORD_END = "</w>"
MOSTLY = 0.5  # share of unknown words from which on captions say little to the base
SHOWN = 4


def words_note(spec: str, captions: Sequence[str], trigger: str = "") -> str | None:
    """Return a sentence when most words of the captions mean nothing to the base, else None. Raises UserError for no base."""
    path = catalog.resolve(spec)
    if catalog.read_family(path).key != "mini":
        return None
    told = [word for caption in captions for word in words_of(caption) if word not in words_of(trigger)]
    known = vocabulary(path / "tokenizer" / "tokenizer.json")
    unknown = [word for word in told if word not in known]
    if not told or len(unknown) / len(told) < MOSTLY:
        return None
    examples = ", ".join(sorted(set(unknown), key=unknown.count, reverse=True)[:SHOWN])
    return (f"{catalog.title(spec)} does not know most words of these captions ({examples} …): it can catch their colours and "
            "textures, not what they show. For the real thing choose Stable Diffusion.")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; digits are none."""
    return re.findall(r"[^\W\d_]+", text.lower())


def vocabulary(path: Path) -> frozenset[str]:
    """Return the whole words that are one token of a CLIP tokenizer."""
    tokens = storage.read_json(path)["model"]["vocab"]
    return frozenset(token.removesuffix(WORD_END) for token in tokens if token.endswith(WORD_END))
