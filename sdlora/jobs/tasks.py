"""Answering the questions of `desk.py` inside the drawing process, between two pictures.

Knows nothing about pages. A question is asked of files and, where weights matter, of the base that is loaded anyway.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sdlora.config import LoraChoice, make
from sdlora.errors import UserError
from sdlora.jobs import desk
from sdlora.jobs.execute import log_bug
from sdlora.storage import data_folder, home, read_json, shipped, slug, write_json

MOST_TRIES = 2
MOST_MEASURED = 4
MEASURED: dict[tuple, tuple[list, object]] = {}
Loaded = Callable[[str, str], object]  # (spec, device) -> the base, loaded once


def answer_all(base: Loaded) -> bool:
    """Answer every waiting question; False when none waits. base(spec, device) -> the loaded base.

    A question that ended the process twice is not tried again.
    """
    asked = desk.waiting()
    for ask in asked:
        kind = ""
        try:
            told = read_json(ask)
            kind = told["kind"]
            if told["tries"] >= MOST_TRIES:
                raise UserError("The drawing process ended unexpectedly, twice.", "Choose other files or fewer of them.")
            write_json(ask, {**told, "tries": told["tries"] + 1})
            result = ANSWERS[kind](told["payload"], data_folder("desk", ask.stem), base)
            desk.answer(ask, kind, "done", readable(result))
        except UserError as error:
            desk.answer(ask, kind, "failed", {}, error.message, error.hint)
        except Exception as error:  # noqa: BLE001  one broken question must not end the drawing process
            desk.answer(ask, kind, "failed", {}, *log_bug(error, home() / "logs" / "drawer.log"))
    return bool(asked)


def readable(value: object) -> object:
    """`value` as JSON can hold it: a number that is none becomes null."""
    if isinstance(value, dict):
        return {str(key): readable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [readable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(payload: dict, folder: Path, base: Loaded) -> dict:
    """{"id", "file"} -> what `lora.report.inspect` says of it, the id, and which metadata is better not given away.

    The thumbnail that may lie in the metadata is left out.
    """
    from sdlora.base.catalog import identity
    from sdlora.lora.formats.privacy import private
    from sdlora.lora.tools.report import inspect

    told = inspect(Path(payload["file"]), identity=identity(shipped("assets", "mini")))
    hidden = private(told["metadata"])
    told["metadata"] = {key: said for key, said in told["metadata"].items() if not key.endswith("thumbnail")}
    return {**told, "id": payload["id"], "private": hidden}


def interference(payload: dict, folder: Path, base: Loaded) -> dict:
    """{"base", "ids", "loras", "together"} -> what `lora.overlap.interference` says of the blend, and ids and together again.

    together: whether the LoRAs are summed. Where they take turns or are averaged each is measured as if it acted alone.
    """
    from sdlora.draw.loras import ingredient
    from sdlora.lora.tools import interference

    loaded = base(payload["base"], "auto")
    ingredients = [ingredient(make(LoraChoice, lora), loaded) for lora in payload["loras"]]
    try:
        known = measured(loaded, ingredients)
        told = interference.interference(ingredients if payload["together"] else in_turn(ingredients), measured=known)
    except ValueError as error:
        told = f"One of these LoRAs does not fit {loaded.title} ({error})."
        raise UserError(told, "Choose others, or another base.") from error
    return {**told.plain(), "ids": payload["ids"], "together": payload["together"]}


def in_turn(ingredients: list) -> list:
    """The LoRAs at moments of their own: such do not add up."""
    count = len(ingredients)
    return [replace(each, start=place / count, end=(place + 1) / count) for place, each in enumerate(ingredients)]


def measured(base: object, ingredients: list) -> object:
    """What holds at any strengths, measured once for these files on this base: a slider moves without waiting."""
    from sdlora.draw.fit import match
    from sdlora.draw.session import session_of
    from sdlora.lora.tools.geometry import measure

    loras = [each.adapters for each in ingredients]
    key = base.identity, *map(id, loras)
    if key not in MEASURED:
        for each in ingredients:
            match(base, each.name, each.adapters)  # says which one does not fit, and why
        pristine = {path: session_of(base).applied.pristine(path) for adapters in loras for path in adapters}
        # the LoRAs are kept too, so that no other one gets their ids
        MEASURED[key] = loras, measure(loras, {path: weight for path, weight in pristine.items() if weight is not None})
        while len(MEASURED) > MOST_MEASURED:
            del MEASURED[next(iter(MEASURED))]
    return MEASURED[key][1]


def save(payload: dict, folder: Path, base: Loaded) -> dict:
    """{"base", "loras", "name", "method", "rank", "together"} -> the blend as one file.

    Result: file name loras together energy ranks notes.
    """
    from sdlora.base import catalog
    from sdlora.base.weights import Weights
    from sdlora.lora.tools.convert import merge_files

    choices = [make(LoraChoice, lora) for lora in payload["loras"]]
    out = folder / f"{slug(payload['name'])}.safetensors"
    weights = Weights(catalog.resolve(payload["base"]))
    told = merge_files(choices, out, method=payload["method"], rank=payload["rank"], weights=weights)
    made_of = {key: payload[key] for key in ("name", "loras", "together")}
    return {"file": out.name, **made_of, **{key: told[key] for key in ("energy", "ranks", "notes")}}


def convert(payload: dict, folder: Path, base: Loaded) -> dict:
    """{"file", "name", "base", "way", "about", "cover"} -> {"file", "note"}: kohya, diffusers, or a zip with card and cover.

    base: a spec for kinds whose change depends on the weights, "" where none is at hand. What is nobody's business does not go
    into the zip.
    """
    from sdlora.base import catalog
    from sdlora.base.weights import Weights
    from sdlora.lora.formats import metadata, privacy
    from sdlora.lora.formats.header import header
    from sdlora.lora.formats.writing import rewrite
    from sdlora.lora.tools import card
    from sdlora.lora.tools.convert import convert_file

    path, name = Path(payload["file"]), slug(payload["name"])
    if payload["way"] != "zip":
        out = folder / f"{name}-{payload['way']}.safetensors"
        weights = Weights(catalog.resolve(payload["base"])) if payload["base"] else None
        told = convert_file(path, out, payload["way"], weights=weights)
        lost = told["problems"] + ([f"{len(told['left_out'])} entries have no place in such a file."] if told["left_out"] else [])
        return {"file": out.name, "note": " ".join([f"{told['alpha'].capitalize()}.", *lost])}
    open_told = metadata.filled(privacy.stripped(header(path).metadata), **payload["about"])
    copy = rewrite(path, folder / f"{name}.safetensors", open_told)
    cover = [(Path(payload["cover"]), "")] if payload["cover"] else []
    return {"file": card.pack(copy, folder / f"{name}.zip", cover).name, "note": ""}


ANSWERS = {"report": report, "interference": interference, "save": save, "convert": convert}
