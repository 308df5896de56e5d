"""What PEFT's configuration says about a module: alpha, rank, rsLoRA. Knows nothing about tensors or files.

It lies in the header under `lora_adapter_metadata` (diffusers, fields prefixed by the part) or in adapter_config.json beside
the file. Patterns are matched as peft.utils.other.get_pattern_key matches them: the first whose regular expression is the
module's name or ends it after a dot. A stranger's expression may be made to run for hours, so those are refused.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sdlora.lora.formats.dialects import WORDS

SEGMENTS = {*WORDS, *map(str, range(100))}  # of module names as they are; else a dot may mean any sign
RISKY = re.compile(r"[)*+}][*+{]|\\[1-9]|\(\?")                # a repeated repetition, a back reference, a look around
MAX_PATTERN, MAX_REPETITIONS, MAX_EXPRESSIONS = 200, 3, 200
MAX_SECONDS = 2.0                                              # for all expressions of one table together


def harmless(pattern: str) -> bool:
    """Whether matching it takes polynomial time, and little of that."""
    return len(pattern) <= MAX_PATTERN and not RISKY.search(pattern) and len(re.findall("[*+{]", pattern)) <= MAX_REPETITIONS


@dataclass
class Patterns:
    """One `alpha_pattern` or `rank_pattern`, ready to be asked for many modules."""
    told: Mapping[str, object]
    spent: float = field(default=0.0)

    @cached_property
    def literal(self) -> dict[str, int]:
        """{patterns that are just the end of a module's name: their place in the order}."""
        return {key: place for place, key in enumerate(self.told) if SEGMENTS.issuperset(key.removeprefix("^").split("."))}

    @cached_property
    def values(self) -> list[object]:
        """What is told, in the order of the patterns."""
        return list(self.told.values())

    @cached_property
    def expressions(self) -> list[tuple[int, re.Pattern]]:
        """The other patterns, (place in the order, expression). Raises ValueError for one that is none or could run away."""
        found = []
        for place, key in enumerate(self.told):
            if key in self.literal:
                continue
            if not harmless(key) or len(found) == MAX_EXPRESSIONS:
                raise ValueError(f"the pattern {key[:60]!r} could run for hours")
            try:
                found.append((place, re.compile(rf"(.*\.)?({key})$")))
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"the pattern {key[:60]!r} is no regular expression") from error
        return found

    def value(self, module: str) -> object | None:
        """What is told for this module, None where no pattern matches it. Raises ValueError for a pattern we refuse."""
        ends = [module[at:] for at in range(len(module)) if not at or module[at - 1] == "."]
        best = min((self.literal[end] for end in (f"^{module}", *ends) if end in self.literal), default=len(self.told))
        for place, expression in self.expressions:
            if place >= best:
                break
            began = time.monotonic()
            hit = expression.match(module)
            self.spent += time.monotonic() - began
            if self.spent > MAX_SECONDS:
                raise ValueError(f"the pattern {expression.pattern[:60]!r} takes too long")
            if hit:
                best = place
        return self.values[best] if best < len(self.values) else None


NEEDED = {"peft_type", "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules",
          "num_cayley_neumann_terms", "use_cayley_neumann"}
SERIES = 5                                                     # PEFT's own default


@dataclass
class Config:
    """One PEFT configuration. `told`: its JSON fields."""
    told: Mapping[str, object]

    @cached_property
    def alphas(self) -> Patterns:
        return Patterns(self.table("alpha_pattern"))

    @cached_property
    def ranks(self) -> Patterns:
        return Patterns(self.table("rank_pattern"))

    def table(self, name: str) -> Mapping[str, object]:
        told = self.told.get(name)
        return told if isinstance(told, dict) else {}

    def alpha(self, module: str, rank: int) -> float | None:
        """alpha of a module such that alpha / rank is PEFT's scale (rsLoRA included); None where it is not told."""
        alpha = first(module, self.alphas)
        alpha = self.told.get("lora_alpha", self.told.get("alpha")) if alpha is None else alpha
        if not number(alpha):
            return None
        return float(alpha) * (math.sqrt(rank) if self.told.get("use_rslora") is True else 1.0)

    def rank(self, module: str) -> int:
        """The rank by the configuration, 0 where it is not told: some LoKr modules have none in their shapes."""
        rank = first(module, self.ranks)
        rank = self.told.get("r") if rank is None else rank
        return int(rank) if number(rank) else 0


    @property
    def series(self) -> int:
        """How many terms of a series PEFT makes its rotations from, 0 where it solves for them (OFTConfig)."""
        terms = self.told.get("num_cayley_neumann_terms", SERIES)
        if self.told.get("use_cayley_neumann", True) is not True:
            return 0
        return int(terms) if number(terms) and terms <= 100 else SERIES


def first(module: str, patterns: Patterns) -> object | None:
    """The value of a module, by its name with or without CLIP's `text_model.`, which some transformers have and some have not."""
    told = patterns.value(module)
    return patterns.value(module.removeprefix("text_model.")) if told is None and module.startswith("text_model.") else told


def number(value: object) -> bool:
    """Whether it is a usable alpha or rank: a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


def configs_of(metadata: Mapping[str, str]) -> dict[str, Config]:
    """The configurations of a header by their prefix ("unet", "text_encoder", "text_encoder_2", or "" for a part alone)."""
    try:
        told = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    fields: dict[str, dict[str, object]] = {}
    for key, value in told.items() if isinstance(told, dict) else ():
        prefix, _, name = key.rpartition(".")
        fields.setdefault(prefix, {})[name] = value
    return {prefix: Config(found) for prefix, found in fields.items()}


def needed(text: str) -> str:
    """adapter_config.json without what is nobody's business (paths, the base's name): the fields that change what it does."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return "{}"
    kept = {key: value for key, value in told.items() if key in NEEDED} if isinstance(told, dict) else {}
    return json.dumps(kept, sort_keys=True)
