"""Settings written as text -> values: `--set rank=8`, lists, and the number that a mistyped one probably means.

Knows nothing about where the text comes from. Values are checked against their limits by config.make.
"""

import re
import unicodedata
from decimal import Decimal
from itertools import pairwise
from math import prod
from typing import Any

from pydantic import ValidationError

from sdlora.config import MAX_SHOWN, TrainConfig, allowed_values, format_value, may_be_none, nearest_setting, value_type
from sdlora.errors import UserError
from sdlora.storage import clean_text

FIELDS = TrainConfig.model_fields
BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}
PIECE = re.compile(  # a part in quotes, an escaped character, a bracket, a separator, other characters
    r'(?<![^|,])\s*"(?:[^"]|"")*"(?=\s*(?:[|,]|$))|\\.|(?P<open>[(\[{]|<(?=[A-Za-z_]))|(?P<close>[)\]}>])|[|,]|[^|,\\()\[\]{}<>]+|.',
    re.DOTALL)
NUMERAL = re.compile(  # 1,5e-4  5 x 10^-5  1/1000  10 %  2.5k  500 steps
    r"(?:(?P<digits>[+-]?[\d.,'_ ]*\d[.,]?)(?:e(?P<e>[+-]?\d{1,3})|\s*[*x×·]\s*10(?P<times>(?:\^|\*\*|(?=[+-]))[+-]?\d{1,3}))?"
    r"|10(?P<power>(?:\^|\*\*)[+-]?\d{1,3}))\s*(?:/\s*(?P<below>[1-9]\d{0,9}))?\s*(?P<unit>%?[A-Za-z ]{0,20})", re.IGNORECASE)
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([,. '_])\d{3}(?:\1\d{3})*(?:(?!\1)[.,]\d+)?")
UNITS = {"%": Decimal("0.01"), "percent": Decimal("0.01"), "k": 1000, "thousand": 1000, "M": 10**6, "million": 10**6,
         **dict.fromkeys(["f", "px", "pixel", "pixels", "step", "steps", "round", "rounds", "picture", "pictures"], 1)}


def parse_sets(pairs: list[str]) -> dict[str, Any]:
    """Return the values of "key=text" pairs, typed by TrainConfig's fields: ["rank=8"] -> {"rank": 8}. Raises UserError."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if key not in FIELDS:
            raise UserError(f"There is no setting {key!r}.", nearest_setting(key))
        if not equals:
            raise UserError(f"--set {pair} has no value.", f"Write it as --set {key}={example(key)}.")
        values[key] = parse_value(key, text.strip())
    return values


def parse_value(key: str, text: str) -> Any:
    """Return the value of setting `key` written as text. Raises UserError when it is no such value."""
    field = FIELDS[key]
    kind = value_type(field)
    if may_be_none(field) and text.lower() in ("none", "off", ""):
        return None
    if kind is tuple:
        return tuple(filter(None, split_list(text, "|")))
    try:
        return kind(text)  # pydantic would read "16.0" as a whole number
    except ValueError as error:
        raise UserError(f"{key} must be {allowed_values(field)}, got {clean_text(repr(text), MAX_SHOWN)}.",
                        number_hint(key, text)) from error


def split_list(text: str, separator: str) -> list[str]:
    """Return the parts between separators, | or a comma; one in brackets or quotes does not count: "a [b|c] | d" has two."""
    cuts: list[int] = []
    opened: list[tuple[str, int]] = []  # brackets, each with the number of cuts before it
    for found in PIECE.finditer(text):
        if found[0] == separator:
            cuts.append(found.start())
        elif found["open"]:
            opened.append((found[0], len(cuts)))
        elif found["close"] and any(bracket == BRACKETS[found[0]] for bracket, _ in opened):
            while (last := opened.pop())[0] != BRACKETS[found[0]]:
                pass
            del cuts[last[1]:]
    return [text[begin + 1:end].strip() for begin, end in pairwise([-1, *cuts, len(text)])]


def number_hint(key: str, text: str) -> str:
    """Return how a number that `text` probably means is written, where the setting takes it; else an example."""
    meant = [value for value in possible_numbers(text) if fits(key, value)]
    if value_type(FIELDS[key]) is int:
        meant = meant[:1]  # "1.000" steps are a thousand
    if not meant:
        return f"For example: {key}={example(key)}."
    return f"Write it as {' or '.join(f'{key}={format_value(value)}' for value in dict.fromkeys(meant))}."


def example(key: str) -> str:
    """Return a value of a setting as text: its default, where that shows how it is written."""
    examples = {"name": "My style", "trigger": "mystyle", "default_caption": "a drawing", "sample_prompts": "a house | a boat"}
    default = FIELDS[key].default
    return examples.get(key) or ("none" if default is None else format_value(default))


def possible_numbers(text: str) -> list[Decimal]:
    """Return the numbers a text may mean where Python reads none: decimal comma, thousands, powers, fractions, units."""
    text = re.sub("[⁺⁻]?[⁰¹²³⁴-⁹]+", r"^\g<0>", text)
    text = unicodedata.normalize("NFKC", text).translate({ord("−"): "-", ord("–"): "-", ord("’"): "'"})
    found = NUMERAL.fullmatch(text.strip())
    words = found["unit"].replace("%", "% ").split() if found else []
    factors = [UNITS.get(word) or UNITS.get(word.lower() if len(word) > 1 or word in "KF" else "", 0) for word in words]
    if not found or 0 in factors:
        return []
    digits = found["digits"] or "1"
    grouped = GROUPED.fullmatch(digits)
    spellings = [digits.replace(grouped[1], "")] if grouped else []
    if re.fullmatch(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)", digits):
        spellings.append(digits)
    power = int((found["e"] or found["times"] or found["power"] or "0").lstrip("^*"))
    values = [Decimal(spelling.replace(",", ".")).scaleb(power) * prod(factors) for spelling in spellings]
    return [Decimal(f"{value / int(found['below']):.6g}") for value in values] if found["below"] else values


def fits(key: str, value: Decimal) -> bool:
    """Return whether a setting takes this number."""
    kind = value_type(FIELDS[key])
    try:
        return not (kind is int and value % 1) and bool(TrainConfig.model_validate({key: kind(value)}))
    except (ValidationError, ArithmeticError):
        return False
