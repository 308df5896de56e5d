"""What stays with a base between two pictures: the LoRAs it holds, how a pair shares it, and the texts it has read.

Knows nothing about denoising, and nothing about files.
"""

import weakref
from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor

from sdlora.base.load import Base
from sdlora.draw.apply import Applied, Matched
from sdlora.draw.compose import Multipliers, Scores, scored
from sdlora.draw.prompt import encode
from sdlora.lora.math.blend import Ingredient

MOST_TEXTS = 64
EASELS: weakref.WeakKeyDictionary[Base, "Easel"] = weakref.WeakKeyDictionary()


def easel_of(base: Base) -> "Easel":
    """The one of this base; it goes when the base goes."""
    if base not in EASELS:
        EASELS[base] = Easel(base)
    return EASELS[base]


class Easel:
    """A base with a blend in it that can be mixed anew from step to step, and its texts."""

    def __init__(self, base: Base) -> None:
        self.base = weakref.proxy(base)  # what is kept beside a base must not keep the base
        self.applied = Applied(base)
        self.loras: tuple[Ingredient, ...] = ()
        self.mixed: Multipliers | None = None
        self.judged: tuple[tuple, Scores] = (), {}  # of the last pair
        self.texts: OrderedDict[tuple, dict[str, Tensor]] = OrderedDict()

    def load(self, loras: Sequence[Ingredient]) -> list[Matched]:
        """Take these LoRAs in, weights untouched. Raises UserError when one does not fit."""
        self.loras, self.mixed = tuple(loras), None
        return self.applied.load(self.loras)

    def mix(self, multipliers: Multipliers) -> None:
        """The weights with each LoRA's strength times its multiplier."""
        if multipliers != self.mixed:
            self.applied.mix(multipliers)
            self.mixed = multipliers

    def clear(self) -> None:
        """The weights as they were before any LoRA, to the bit."""
        self.applied.clear()
        self.loras, self.mixed = (), None

    def scores(self) -> Scores:
        """How much style and subject, the two LoRAs that are loaded, want each module (compose.scored); once for a pair."""
        pair = tuple((self.applied.shelf.ready(lora.adapters).digest, lora.strength, lora.family, *sorted(lora.blocks.items()))
                     for lora in self.loras)
        if self.judged[0] != pair:
            self.judged = pair, scored(*self.loras, self.applied.pristine)
        return self.judged[1]

    def read(self, prompt: str, factors: tuple[float, ...]) -> dict[str, Tensor]:
        """The features of a prompt (draw.prompt.encode) with each LoRA's changes to the text encoders times its factor.

        The last 64 are kept.
        """
        of_text = [(lora, factor) for lora, factor in zip(self.loras, factors, strict=True)
                   if any(":" in path for path in lora.adapters)]
        # by content: so no text keeps a LoRA in memory, and one that is read from its file again is known
        key = (prompt, *sorted((self.applied.shelf.ready(lora.adapters).digest,
                                lora.strength if lora.text_strength is None else lora.text_strength,
                                lora.blocks.get("BASE", 1.0), factor) for lora, factor in of_text if factor))
        if key not in self.texts:
            if of_text:
                self.mix(factors)
            self.texts[key] = encode(self.base, prompt)
        self.texts.move_to_end(key)
        while len(self.texts) > MOST_TEXTS:
            self.texts.popitem(last=False)
        return self.texts[key]
