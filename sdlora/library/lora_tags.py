"""Find the files of the shelf that are meant by `<lora:name:0.8>` in a prompt, or by names and hashes inside a picture.

Knows nothing about torch or drawing. A name is looked up in the index and is never a path.
"""

import difflib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdlora.config import DrawConfig, LoraChoice, make
from sdlora.draw.infotext.a1111 import take_tags
from sdlora.errors import UserError
from sdlora.library.search import HASH_SECONDS, LoraEntry, by_hash, by_name, names, short_names
from sdlora.storage import MAX_NAME, clean_text

SETTINGS = tuple(field for field in LoraChoice.model_fields if field != "file")


def resolve(prompt: str) -> tuple[str, list[LoraChoice]]:
    """Return the prompt without its `<lora:name:0.8>` tags, and the files these name; the strengths of one file are summed.

    As A1111: `<lora:name>`, `<lora:name:text:unet>`, te= unet= and the lbw= of lora-block-weight. Raises UserError: an unknown
    name (the hint says the most similar one), a strength that is no number or beyond -4 to 4, a file that cannot be used.
    """
    try:
        words, tags = take_tags(prompt, strict=True)
    except ValueError as error:
        raise UserError(f"A <lora:...> in the prompt is not understood: {error}.", "Write it as <lora:name:0.8>.") from error
    summed: dict[tuple[str, str], dict[str, float]] = {}
    for tag in tags:
        if "dyn" in tag:
            raise UserError(f"<lora:{tag['name']}> asks for a cut of its rank (dyn), which sdlora does not do.",
                            "Leave that out, or make a smaller file with: sdlora resize.")
        entry = find_named(str(tag["name"]))
        total = summed.setdefault((str(entry.path), str(tag.get("blocks", ""))), {"strength": 0.0, "text_strength": 0.0})
        total["strength"] += tag["strength"]
        total["text_strength"] += tag.get("text_strength", tag["strength"])
    return words, [choice(file, {"blocks": blocks, **total}) for (file, blocks), total in summed.items()]


def choice(file: str, settings: dict[str, Any]) -> LoraChoice:
    """Return a LoraChoice; a text strength equal to the strength is left out. Raises UserError for a number out of range."""
    if settings.get("text_strength") == settings.get("strength"):
        settings = {key: value for key, value in settings.items() if key != "text_strength"}
    return make(LoraChoice, {"file": file, **settings})


def find_named(name: str) -> LoraEntry:
    """Return the file with this file name, name on the shelf, or name that its trainer gave it, perhaps behind its folder's.

    Raises UserError: no such file, several that match the name equally well, or one that cannot be used.
    """
    found = [] if name.startswith("/") or ".." in name else by_name(name)
    if len(found) > 1:
        raise UserError(f"There are {len(found)} styles called {clean_text(name, MAX_NAME)!r} on the shelf.",
                        f"Write which one: {', '.join(short_names(found)[:8])}.")
    if not found:
        raise UserError(f"There is no style called {clean_text(name, MAX_NAME)!r} on the shelf.", suggestion(name))
    entry = found[0]
    if entry.problem:
        raise UserError(f"The style {entry.name} cannot be used: {entry.problem}", "Take it out of the prompt.")
    return entry


def suggestion(name: str) -> str:
    """Return a hint with the name on the shelf that is most similar to `name`."""
    known = {title.casefold(): title for title in names()}
    close = difflib.get_close_matches(name[:MAX_NAME].casefold(), known, n=1, cutoff=0.5)
    return f"Did you mean <lora:{known[close[0]]}:1>?" if close else "Add its file to the shelf, or take it out of the prompt."


def find_loras(loras: Sequence[dict[str, Any]]) -> tuple[list[LoraChoice], list[str]]:
    """Return (files of the shelf, sentences on missing or differing ones) for LoRAs as `infotext.settings_from` gives them.

    The hash decides, then the name. For all together no more than HASH_SECONDS are spent on hashing.
    """
    choices, sentences = [], []
    until = time.monotonic() + HASH_SECONDS
    for lora in loras:
        name, claimed = clean_text(str(lora["name"]), MAX_NAME), str(lora.get("hash", ""))
        same = by_hash(claimed, until - time.monotonic()) if claimed else None
        found = [same] if same else by_name(name, any_folder=True)
        if len(found) > 1:
            sentences.append(f"{name} is left out. {len(found)} files on your shelf have this name: "
                             f"{', '.join(short_names(found)[:8])}. Choose one of them.")
            continue
        if not found or found[0].problem:
            why = found[0].problem if found else f"It is not on your shelf{f' (hash {claimed})' if claimed else ''}."
            sentences.append(f"{name} is left out. {why}")
            continue
        entry = found[0]
        if claimed and same is None:
            sentences.append(f"{entry.name} on your shelf has the name that the picture gives, but may be another file: "
                             "its hash differs.")
        choices.append(choice(str(entry.path), {key: lora[key] for key in SETTINGS if key in lora}))
    return choices, sentences


def settings_of(picture: Path) -> tuple[dict[str, Any], list[str]]:
    """Return (fields of DrawConfig, sentences about what could not be taken over) of a picture of any program.

    Raises UserError when the file is no picture or does not say how it was drawn.
    """
    from sdlora.draw.infotext.picture import not_taken, read_infotext, settings_from

    found = read_infotext(picture)
    fields = settings_from(found)
    choices, sentences = find_loras(fields["loras"])
    if "prompts" not in fields:
        sentences.append("The picture has no prompt.")
    if left := not_taken(found):
        sentences.append(f"Not taken over: {'; '.join(left)}.")
    return fields | {"loras": choices}, sentences


def with_tags(config: DrawConfig) -> DrawConfig:
    """Return the drawing with the tags of its prompts turned into LoRAs, after those it has. Raises UserError.

    All prompts of one drawing share its LoRAs: they must name the same ones.
    """
    taken = [resolve(prompt) for prompt in config.prompts]
    if any(choices != taken[0][1] for _, choices in taken):
        raise UserError("The prompts name different styles, and pictures drawn together share theirs.",
                        "Give every prompt the same <lora:...>, or draw them one after the other.")
    if not taken[0][1]:
        return config
    prompts = tuple(words for words, _ in taken)
    return make(DrawConfig, config.model_dump() | {"prompts": prompts, "loras": (*config.loras, *taken[0][1])})
