"""PEFT's configuration of a module: alpha, rank, rsLoRA. Knows nothing about tensors or files.

It lies in the header under `lora_adapter_metadata` (diffusers, fields prefixed by the part) or in adapter_config.json beside
the file. Patterns are matched as peft.utils.other.get_pattern_key matches them: the first whose regular expression is the
module's name or ends it after a dot. A hostile expression could run for hours, so risky ones are refused.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeGuard

from sdlora.lora.formats.dialects import WORDS

SEGMENTS = {*WORDS, *map(str, range(100))}  # patterns of these alone need no regular expression
RISKY = re.compile(r"[)*+}][*+{]|\\[1-9]|\(\?")  # a repeated repetition, a back reference, a look around
MAX_PATTERN, MAX_REPETITIONS, MAX_EXPRESSIONS = 200, 3, 200
MAX_SECONDS = 2.0  # for all expressions of one table together


def harmless(pattern: str) -> bool:
    """Return whether a pattern can be matched in little time."""
    return len(pattern) <= MAX_PATTERN and not RISKY.search(pattern) and len(re.findall("[*+{]", pattern)) <= MAX_REPETITIONS


@dataclass
class Patterns:
    """One `alpha_pattern` or `rank_pattern`. by_pattern: its JSON; spent: seconds of matching so far."""
    by_pattern: Mapping[str, Any]
    spent: float = field(default=0.0)

    @cached_property
    def literal(self) -> dict[str, int]:
        """{pattern that is just the end of a module's name: its place in the order}."""
        return {key: place for place, key in enumerate(self.by_pattern) if SEGMENTS.issuperset(key.removeprefix("^").split("."))}

    @cached_property
    def expressions(self) -> list[tuple[int, re.Pattern]]:
        """The other patterns, (place in the order, expression). Raises ValueError for one that is none or could run away."""
        found = []
        for place, key in enumerate(self.by_pattern):
            if key in self.literal:
                continue
            if not harmless(key) or len(found) == MAX_EXPRESSIONS:
                raise ValueError(f"the pattern {key[:60]!r} could run for hours")
            try:
                found.append((place, re.compile(rf"(.*\.)?({key})$")))
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"the pattern {key[:60]!r} is no regular expression") from error
        return found

    def value(self, module: str) -> Any:
        """Return the value of this module, None where no pattern matches it. Raises ValueError for a risky pattern."""
        ends = [module[at:] for at in range(len(module)) if not at or module[at - 1] == "."]
        best = min((self.literal[end] for end in (f"^{module}", *ends) if end in self.literal), default=len(self.by_pattern))
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
        return list(self.by_pattern.values())[best] if best < len(self.by_pattern) else None


NEEDED = {"peft_type", "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules",
          "num_cayley_neumann_terms", "use_cayley_neumann"}
SERIES = 5  # PEFT's own default


@dataclass
class Config:
    """One PEFT configuration. fields: its JSON."""
    fields: Mapping[str, Any]

    @cached_property
    def alphas(self) -> Patterns:
        return Patterns(self.table("alpha_pattern"))

    @cached_property
    def ranks(self) -> Patterns:
        return Patterns(self.table("rank_pattern"))

    def table(self, name: str) -> Mapping[str, Any]:
        """Return a field that holds a table, {} where it holds none."""
        table = self.fields.get(name)
        return table if isinstance(table, dict) else {}

    def alpha(self, module: str, rank: int) -> float | None:
        """Return alpha such that alpha / rank is PEFT's scale of a module (rsLoRA included); None where it is not given."""
        alpha = first(module, self.alphas)
        alpha = self.fields.get("lora_alpha", self.fields.get("alpha")) if alpha is None else alpha
        if not number(alpha):
            return None
        return float(alpha) * (math.sqrt(rank) if self.fields.get("use_rslora") is True else 1.0)

    def rank(self, module: str) -> int:
        """Return the rank by the configuration, 0 where it is not given. Some LoKr modules have none in their shapes."""
        rank = first(module, self.ranks)
        rank = self.fields.get("r") if rank is None else rank
        return int(rank) if number(rank) else 0

    @property
    def series(self) -> int:
        """How many terms of a series PEFT makes its rotations from, 0 where it solves for them (OFTConfig)."""
        terms = self.fields.get("num_cayley_neumann_terms", SERIES)
        if self.fields.get("use_cayley_neumann", True) is not True:
            return 0
        return int(terms) if number(terms) and terms <= 100 else SERIES


def first(module: str, patterns: Patterns) -> Any:
    """Return the value of a module by its name, or by that without CLIP's `text_model.`, which not every transformers has."""
    value = patterns.value(module)
    return patterns.value(module.removeprefix("text_model.")) if value is None and module.startswith("text_model.") else value


def number(value: Any) -> TypeGuard[float]:
    """Return whether it is a usable alpha or rank: a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


def configs_of(metadata: Mapping[str, str]) -> dict[str, Config]:
    """Return the configurations of a header by their prefix ("unet", "text_encoder", "text_encoder_2", or "" without one)."""
    try:
        parsed = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    fields: dict[str, dict[str, Any]] = {}
    for key, value in parsed.items() if isinstance(parsed, dict) else ():
        prefix, _, name = key.rpartition(".")
        fields.setdefault(prefix, {})[name] = value
    return {prefix: Config(found) for prefix, found in fields.items()}


def needed(text: str) -> str:
    """Return adapter_config.json with the fields in NEEDED only, without private ones such as paths and the base's name."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return "{}"
    kept = {key: value for key, value in parsed.items() if key in NEEDED} if isinstance(parsed, dict) else {}
    return json.dumps(kept, sort_keys=True)
