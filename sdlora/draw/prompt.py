"""A prompt with `(word:1.2)`, `[word]` and BREAK -> what the text encoders make of it, however long it is.

Knows nothing about LoRAs or denoising. compel weighs the words and joins the windows of a long prompt, so a weight acts as it
does in InvokeAI.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdlora.base.load import Base
from sdlora.draw.grammar import Fragment, parse
from sdlora.errors import UserError

if TYPE_CHECKING:
    from compel.embeddings_provider import EmbeddingsProviderMulti

MOST_PARTS, MOST_WINDOWS = 75, 10
Part = list[Fragment]


def measured(base: Base, prompt: str) -> tuple[list[Part], list[int]]:
    """A prompt -> its parts between BREAKs as weighed words, and how many tokens each has.

    Raises UserError: a weight that is none, too many weights, more words than the base reads.
    """
    parts = parse(prompt)
    if sum(weight != 1 for part in parts for text, weight in part if text.strip()) > MOST_PARTS:
        raise UserError(f"The prompt gives weights to more than {MOST_PARTS} words.", "Give weights to fewer words.")
    window = base.tokenizers[0].model_max_length - 2
    lengths = [sum(len(base.tokenizers[0](text, verbose=False).input_ids) - 2 for text, _ in part if text.strip())
               for part in parts]
    if sum(max(1, -(-length // window)) for length in lengths) > MOST_WINDOWS:
        raise UserError(f"The prompt is too long: {sum(lengths)} tokens, and {base.title} reads at most {MOST_WINDOWS * window}.",
                        "Make it shorter.")
    return parts, lengths


@torch.no_grad()
def encode(base: Base, prompt: str) -> dict[str, Tensor]:
    """A prompt -> features as Base.encode_text gives them for one; states (1, windows x tokens, width).

    Without weights and within one window: those very bits. "pooled" is that of the first window, without weights.
    Raises UserError for a prompt that is far too long.
    """
    parsed, lengths = measured(base, prompt)
    parts = [[(text, weight) for text, weight in part if text.strip()] for part in parsed]
    features = base.encode_text([" ".join("".join(text for text, _ in part) for part in parsed)])
    window = base.tokenizers[0].model_max_length - 2
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
