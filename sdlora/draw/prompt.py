"""A prompt with `(word:1.2)`, `[word]` and BREAK -> what the text encoders make of it, however long it is.

Knows nothing about LoRAs or denoising. The grammar is A1111's (modules/prompt_parser.py, parse_prompt_attention) without its
prompt editing; compel weighs the words and joins the windows of a long prompt, so a weight acts as it does in InvokeAI.
"""

import re
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdlora.base.load import Base
from sdlora.errors import UserError

if TYPE_CHECKING:
    from compel.embeddings_provider import EmbeddingsProviderMulti

TOKEN = re.compile(r"\\([\\()\[\]])|([(\[])|(:\s*([+-]?[.\d]+)\s*\))|([)\]])|([^\\()\[\]:]+|[\\:])")
BREAK = re.compile(r"\s*\bBREAK\b\s*")
WORTH = {"(": 1.1, "[": 1 / 1.1}
PLAIN_BRACKETS = r"Write (word:1.2), or \( for a plain bracket."
HEAVIEST, MOST_PARTS, MOST_WINDOWS, MOST_LETTERS = 10.0, 75, 10, 10_000
Fragment = tuple[str, float]


def parse(prompt: str) -> list[list[Fragment]]:
    """A prompt -> for each part between BREAKs its fragments (text, weight); neighbours of one weight are one fragment.

    A bracket that is never closed reaches to the end of its part; one that was never opened is text, and so is `\\(`.
    Raises UserError for a weight outside 0..10, and for more letters than anybody writes.
    """
    if len(prompt) > MOST_LETTERS:
        raise UserError(f"The prompt is too long: {len(prompt)} letters, at most {MOST_LETTERS}.", "Make it shorter.")
    return [weighed(part) for part in BREAK.split(prompt)]


def weighed(part: str) -> list[Fragment]:
    """The fragments of a prompt without BREAK."""
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where those begin that are still open

    def close(bracket: str, factor: float) -> None:
        begin = opened[bracket].pop()
        weights[begin:] = [weight * factor for weight in weights[begin:]]

    for found in TOKEN.finditer(part):
        escaped, opening, number_end, number, closing, plain = found.groups()
        bracket = "[" if closing == "]" else "("
        if opening:
            opened[opening].append(len(texts))
        elif number_end and opened["("]:
            close("(", as_weight(number))
        elif closing and opened[bracket]:
            close(bracket, WORTH[bracket])
        else:
            texts.append(escaped or number_end or closing or plain)
            weights.append(1.0)
    for bracket, places in opened.items():
        while places:
            close(bracket, WORTH[bracket])
    pairs = zip(texts, (checked(weight) for weight in weights), strict=True)
    return [("".join(text for text, _ in group), weight) for weight, group in groupby(pairs, lambda pair: pair[1])]


def as_weight(number: str) -> float:
    try:
        return float(number)
    except ValueError as error:
        raise UserError(f"{number!r} is no weight for a word in a prompt.", PLAIN_BRACKETS) from error


def checked(weight: float) -> float:
    """A weight without the dust of its factors; UserError outside 0..10."""
    if not 0 <= weight <= HEAVIEST:
        raise UserError(f"A word in the prompt has the weight {weight:g}; it must be from 0 to {HEAVIEST:g}.", PLAIN_BRACKETS)
    return round(weight, 6)


@torch.no_grad()
def encode(base: Base, prompt: str) -> dict[str, Tensor]:
    """A prompt -> features as Base.encode_text gives them for one; states (1, windows x tokens, width).

    Without weights and within one window: those very bits. "pooled" is that of the first window, without weights.
    Raises UserError for a prompt that is far too long.
    """
    parsed = parse(prompt)
    parts = [[(text, weight) for text, weight in part if text.strip()] for part in parsed]
    if sum(weight != 1 for part in parts for _, weight in part) > MOST_PARTS:
        raise UserError(f"The prompt gives weights to more than {MOST_PARTS} words.", "Give weights to fewer words.")
    features = base.encode_text([" ".join("".join(text for text, _ in part) for part in parsed)])
    window = base.tokenizers[0].model_max_length - 2
    lengths = [sum(len(base.tokenizers[0](text, verbose=False).input_ids) - 2 for text, _ in part) for part in parts]
    if sum(max(1, -(-length // window)) for length in lengths) > MOST_WINDOWS:
        raise UserError(f"The prompt is too long: {sum(lengths)} tokens, and {base.title} reads at most {MOST_WINDOWS * window}.",
                        "Make it shorter.")
    plain = all(weight == 1 for part in parts for _, weight in part)
    if plain and len(parts) == 1 and lengths[0] <= window:
        return features
    whole = [part or [("", 1.0)] for part in parts]
    states = provider(base).get_embeddings_for_weighted_prompt_fragments(
        [[text for text, _ in part] for part in whole], [[weight for _, weight in part] for part in whole], device=base.device)
    return features | {"states": states}


def provider(base: Base) -> "EmbeddingsProviderMulti":
    """compel's reader for the text encoders of a base; a long prompt is cut after a comma or a full stop.

    compel brings diffusers' pipelines along (a second), so it is imported by the first prompt that needs it.
    """
    from compel.embeddings_provider import EmbeddingsProviderMulti, ReturnedEmbeddingsType, SplitLongTextMode

    layer = (ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED if base.family == "sdxl"
             else ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED)
    return EmbeddingsProviderMulti(
        base.tokenizers, base.text_encoders, truncate=False, returned_embeddings_type=layer,
        split_long_text_mode=SplitLongTextMode.PHRASES | SplitLongTextMode.COPY_FIRST_CLS_TOKEN)


def together(features: list[dict[str, Tensor]], read: Callable[[str], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Features of one prompt each -> of all, (n, ...); shorter prompts are filled up with windows of nothing, as compel does.

    read: what made the features of a prompt; asked for those of "", with the same LoRAs in the text encoders.
    """
    longest = max(each["states"].shape[1] for each in features)
    if any(each["states"].shape[1] < longest for each in features):
        nothing = read("")["states"]
        features = [each | {"states": torch.cat([each["states"], *[nothing] * ((longest - each["states"].shape[1])
                                                                               // nothing.shape[1])], 1)} for each in features]
    return {key: torch.cat([each[key] for each in features]) for key in features[0]}
