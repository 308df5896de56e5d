"""Values from other programs' metadata -> values of the types we need, or nothing. For all readers of infotext.

Knows nothing about which program wrote them. What comes in may be anything that JSON or a text can hold, and is bounded.
"""

import json
import math
import re
import sys
from pathlib import PureWindowsPath
from typing import Any

Settings = dict[str, Any]  # under the keys of pipeline.Picture
MAX_CHARACTERS = 200_000
MAX_LORAS = 64
UNSET = {"", "none", "null", "undefined", "unknown"}  # what programs write where a setting is not set
HASH = re.compile("[0-9a-fA-F]{6,64}")


def number(text: str, kind: type) -> Any:
    """Return the finite int or float (`kind`) that a text is, None for everything else; 20.0 is a whole number."""
    try:
        value = kind(re.sub(r"\.0{1,9}$", "", text))
        return value if math.isfinite(value) else None
    except (ValueError, OverflowError):  # hundreds of digits are an int that no float can hold
        return None


def is_number(value: object) -> bool:
    """Return whether this is a number that a float can hold: JSON has integers of any length, NaN and infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def as_number(value: Any, kind: type) -> Any:
    """Return a finite number of this kind, also from "7.5"; integers keep all their digits. None for everything else."""
    if isinstance(value, str):
        value = number(value, int) if re.fullmatch(r"\s*-?\d{1,400}\s*", value) else number(value, float)
    return kind(value) if is_number(value) and (kind is float or value == int(value)) else None


def as_text(value: object) -> str:
    """Return a text with "\\n" as line ends; "" for what is no text or says "None"."""
    text = value[:MAX_CHARACTERS].replace("\r\n", "\n").strip() if isinstance(value, str) else ""
    return "" if text in ("None", "null", "undefined") else text


def as_list(value: Any) -> list:
    """Return a list as it is, the parts of "a, b" or "['a', 'b']", a single value in a list; [] for None."""
    if isinstance(value, str):
        value = re.sub(r"^\s*\[(.*)\]\s*$", r"\1", value[:MAX_CHARACTERS], flags=re.S)
        value = [part for whole in value.split(",") if (part := whole.strip(" '\"\n"))]
    return value[:1000] if isinstance(value, list) else [] if value is None else [value]


def as_dict(value: object) -> dict[str, Any]:
    """Return an object of JSON as it is; {} for everything else."""
    return value if isinstance(value, dict) else {}


def list_or_empty(value: object) -> list:
    """Return a list of JSON as it is; [] for everything else."""
    return value if isinstance(value, list) else []


def dicts_in(value: object) -> list[dict[str, Any]]:
    """Return the objects in a list of JSON; [] for what is no list."""
    return [one for one in list_or_empty(value) if isinstance(one, dict)]


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text; {} where it is none."""
    try:
        return as_dict(json.loads(text.strip().strip("\0"), strict=False))
    except (ValueError, RecursionError):
        return {}


def file_name(name: object) -> str:
    """Return "strong" for "style/strong.safetensors", "civitai 12@34" for "urn:air:sd1:lora:civitai:12@34"."""
    if as_text(name).startswith("urn:air:"):
        return " ".join(as_text(name).split(":")[-2:])[:100]
    stem = PureWindowsPath(as_text(name)[:1000]).name
    stem = re.sub(r"\.(safetensors|ckpt|pt|pth|bin|sft|gguf)$", "", stem, flags=re.I)
    return "" if stem.lower() in UNSET else stem


def as_hash(text: object) -> str:
    """Return 6 to 64 hex digits in lower case; "" for everything else."""
    return text.lower() if isinstance(text, str) and HASH.fullmatch(text) else ""


def lora(name: str, strength: float | None, text_strength: float | None = None, hash_: str = "") -> Settings:
    """Return a LoRA of a picture's settings; a strength of None is 1, `text_strength` stands there where it differs."""
    strength = 1.0 if strength is None else strength
    different = text_strength is not None and text_strength != strength
    return {"name": name, "strength": strength, "hash": hash_} | ({"text_strength": text_strength} if different else {})


def others(fields: dict[str, Any], titles: dict[str, str]) -> dict[str, str]:
    """Return {title: value in a few words} of the fields in `titles` that are set: those that sdlora does not have."""
    return {title: text for field, title in titles.items() if (text := brief(fields.get(field)))}


def brief(value: object) -> str:
    """Return a setting of another program in a few words; "" where it is not set."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    unset = UNSET | {"default (model)", "[]", "false"}
    return "" if value in (False, 0, [], {}, None) or text.strip().lower() in unset else text[:100]
