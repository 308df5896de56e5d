"""A prompt with `(word:1.2)`, `[word]` and BREAK -> features of the text encoders, however long it is.

Knows nothing about LoRAs or denoising. compel weights the words and joins the windows of a long prompt, so a weight acts as it
does in InvokeAI.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from sdlora.base.load import Base
from sdlora.draw.grammar import Fragment, parse
from sdlora.errors import UserError

if TYPE_CHECKING:
    from compel.embeddings_provider import EmbeddingsProviderMulti

MAX_WEIGHTS, MAX_WINDOWS = 75, 10
Part = list[Fragment]


def measured(base: Base, prompt: str) -> tuple[list[Part], list[int]]:
    """Return a prompt's parts between BREAKs as weighted fragments, and how many tokens each part has.

    Raises UserError: a wrong weight, too many weights, more tokens than the base reads.
    """
    parts = parse(prompt)
    if sum(weight != 1 for part in parts for text, weight in part if text.strip()) > MAX_WEIGHTS:
        raise UserError(f"The prompt gives weights to more than {MAX_WEIGHTS} words.", "Give weights to fewer words.")
    window = base.tokenizers[0].model_max_length - 2
    lengths = [sum(len(base.tokenizers[0](text, verbose=False).input_ids) - 2 for text, _ in part if text.strip())
               for part in parts]
    if sum(max(1, -(-length // window)) for length in lengths) > MAX_WINDOWS:
        raise UserError(f"The prompt is too long: {sum(lengths)} tokens, and {base.title} reads at most {MAX_WINDOWS * window}.",
                        "Make it shorter.")
    return parts, lengths


@torch.no_grad()
def encode(base: Base, prompt: str) -> dict[str, Tensor]:
    """Return the features of a prompt as Base.encode_text gives them for one; states (1, windows x tokens, width).

    Without weights and within one window they are the same bits. "pooled" is that of the first window, without weights.
    Raises UserError for a prompt that is far too long.
    """
    parsed, lengths = measured(base, prompt)
    parts = [[(text, weight) for text, weight in part if text.strip()] for part in parsed]
    features = base.encode_text([" ".join("".join(text for text, _ in part) for part in parsed)])
    window = base.tokenizers[0].model_max_length - 2
    plain = all(weight == 1 for part in parts for _, weight in part)
    if plain and len(parts) == 1 and lengths[0] <= window:
        return features
    parts = [part or [("", 1.0)] for part in parts]
    states = provider(base).get_embeddings_for_weighted_prompt_fragments(
        [[text for text, _ in part] for part in parts], [[weight for _, weight in part] for part in parts],
        device=str(base.device))
    assert isinstance(states, Tensor)
    return features | {"states": states}


def provider(base: Base) -> "EmbeddingsProviderMulti":
    """Return compel's encoder for the text encoders of a base; a long prompt is cut after a comma or a full stop.

    compel brings diffusers' pipelines along (a second), so it is imported by the first prompt that needs it.
    """
    from compel.embeddings_provider import EmbeddingsProviderMulti, ReturnedEmbeddingsType, SplitLongTextMode

    layer = (ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED if base.family == "sdxl"
             else ReturnedEmbeddingsType.LAST_HIDDEN_STATES_NORMALIZED)
    return EmbeddingsProviderMulti(
        base.tokenizers, cast(list, base.text_encoders), truncate=False, returned_embeddings_type=layer,
        split_long_text_mode=SplitLongTextMode.PHRASES | SplitLongTextMode.COPY_FIRST_CLS_TOKEN)


def stacked(features: list[dict[str, Tensor]], encoded: Callable[[str], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the features of single prompts as those of all, (n, ...). Shorter ones get empty windows, as compel gives them.

    encoded(""): the features of an empty prompt, with the same LoRAs in the text encoders.
    """
    longest = max(each["states"].shape[1] for each in features)
    if any(each["states"].shape[1] < longest for each in features):
        empty = encoded("")["states"]
        features = [each | {"states": torch.cat([each["states"], *[empty] * ((longest - each["states"].shape[1])
                                                                             // empty.shape[1])], 1)} for each in features]
    return {key: torch.cat([each[key] for each in features]) for key in features[0]}
