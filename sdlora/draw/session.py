"""What stays with a base between two pictures: the LoRAs loaded into it, their K-LoRA scores, and encoded prompts.

Knows nothing about denoising, and nothing about files.
"""

import weakref
from collections.abc import Sequence

from cachetools import LRUCache
from torch import Tensor

from sdlora.base.load import Base
from sdlora.draw.apply import Applied
from sdlora.draw.compose import Multipliers, Scores, klora_scores
from sdlora.draw.fit import MatchReport
from sdlora.draw.prompt import encode
from sdlora.lora.math.blend import Ingredient

MAX_TEXTS = 64
SESSIONS: weakref.WeakKeyDictionary[Base, "DrawSession"] = weakref.WeakKeyDictionary()


def session_of(base: Base) -> "DrawSession":
    """Return the session of this base; it is freed with the base."""
    if base not in SESSIONS:
        SESSIONS[base] = DrawSession(base)
    return SESSIONS[base]


class DrawSession:
    """A base with a blend in it whose strengths can change from step to step, and the prompts encoded with it."""

    def __init__(self, base: Base) -> None:
        self.base = weakref.proxy(base)  # a session must not keep its base alive
        self.applied = Applied(base)
        self.loras: tuple[Ingredient, ...] = ()
        self.multipliers: Multipliers | None = None
        self.scored: tuple[tuple, Scores] = (), {}  # the last pair and its scores
        self.texts: LRUCache[tuple, dict[str, Tensor]] = LRUCache(MAX_TEXTS)

    def load(self, loras: Sequence[Ingredient]) -> list[MatchReport]:
        """Load these LoRAs, weights untouched. Raises UserError when one does not fit."""
        self.loras, self.multipliers = tuple(loras), None
        return self.applied.load(self.loras)

    def mix(self, multipliers: Multipliers) -> None:
        """Merge each LoRA's strength times its multiplier into the weights."""
        if multipliers != self.multipliers:
            self.applied.mix(multipliers)
            self.multipliers = multipliers

    def clear(self) -> None:
        """Restore the weights as they were before any LoRA, to the bit."""
        self.applied.clear()
        self.loras, self.multipliers = (), None

    def digest(self, lora: Ingredient) -> bytes:
        """Return the hash of a LoRA's content: a LoRA that was read from its file again has the same one."""
        return self.applied.cache.prepared(lora.adapters).digest

    def scores(self) -> Scores:
        """Return the K-LoRA scores (compose.klora_scores) of style and subject, the two loaded LoRAs; computed once a pair."""
        pair = tuple((self.digest(lora), lora.strength, lora.family, *sorted(lora.blocks.items())) for lora in self.loras)
        if self.scored[0] != pair:
            style, subject = self.loras
            self.scored = pair, klora_scores(style, subject, self.applied.pristine)
        return self.scored[1]

    def encode(self, prompt: str, factors: tuple[float, ...]) -> dict[str, Tensor]:
        """Return the features of a prompt (draw.prompt.encode) with each LoRA's text encoder part times its factor.

        The last MAX_TEXTS are cached.
        """
        of_text = [(lora, factor) for lora, factor in zip(self.loras, factors, strict=True)
                   if any(":" in path for path in lora.adapters)]
        # by content: so no cached text keeps a LoRA in memory, and one that is read from its file again is found
        key = (prompt, *sorted((self.digest(lora), lora.strength if lora.text_strength is None else lora.text_strength,
                                lora.blocks.get("BASE", 1.0), factor) for lora, factor in of_text if factor))
        features = self.texts.get(key)
        if features is None:
            if of_text:
                self.mix(factors)
            features = self.texts[key] = encode(self.base, prompt)
        return features
