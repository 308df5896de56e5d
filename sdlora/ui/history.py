"""Drawn pictures with the settings that made them: the history, and any other row of drawn pictures.

The browser gets small pictures; a large one or the file itself is sent when it is asked for.
"""

import base64
from pathlib import Path
from typing import Any

import gradio as gr

from sdlora import storage
from sdlora.jobs.drawings import DrawnPicture, delete_picture, find_picture, list_pictures
from sdlora.ui import words
from sdlora.ui.theme import picture_url, widget
from sdlora.ui.validation import an_id, event_value, guarded_server

SMALL, LARGE = 256, 768
PAGE = 24


def layout(elem_id: str, none: str = "") -> gr.HTML:
    """`none`: what stands there before anything was drawn."""
    calls = "element, props, trigger, server"
    return widget("drawn", calls, elem_id=elem_id, server_functions=[full_picture], data={"none": none})


def update(pictures: list[DrawnPicture] | None = None, *, again: bool = False, pages: int = 1) -> gr.HTML:
    """Return the update that shows these pictures, or the newest of the history. again: with "Use these settings"."""
    found = list_pictures(PAGE * pages) if pictures is None else pictures
    more = pictures is None and len(found) == PAGE * pages
    labels = {
        "older": words.OLDER if more else "",
        "save": words.SAVE,
        "remove": words.REMOVE,
        "sure": words.SURE_PICTURE,
        "again": words.AGAIN if again else "",
    }
    return gr.HTML(data={"cards": [card(picture) for picture in found], "words": labels, "none": words.NO_HISTORY})


def card(picture: DrawnPicture) -> dict:
    return {
        "id": picture.id,
        "src": picture_url(picture.path, SMALL),
        "prompt": picture.prompt or words.NO_PROMPT,
        "line": line(picture.settings),
    }


def line(settings: dict) -> str:
    """Return the settings in one line: "Stained glass 0.8 · seed 3 · 20 steps, CFG 5"."""
    loras = ", ".join(
        f"{Path(str(choice.get('file', ''))).stem} {float(choice.get('strength', 1)):g}" for choice in settings.get("loras", [])
    )
    parts = [
        loras or words.BASE_ALONE,
        words.SEED_SHORT.format(seed=settings.get("seed", "?")),
        words.STEPS_SHORT.format(steps=settings.get("steps", "?"), guidance=f"{float(settings.get('guidance', 0)):g}"),
    ]
    if settings.get("negative"):
        parts.append(words.NEGATIVE_SHORT.format(negative=settings["negative"]))
    return " · ".join(parts)


def remove(event: gr.EventData) -> None:
    """Delete the picture an event names."""
    delete_picture(an_id(event_value(event, "id"), "picture"))


def of_event(event: gr.EventData) -> DrawnPicture:
    """Return the picture an event names."""
    return find_picture(an_id(event_value(event, "id"), "picture"))


def file_name(picture: DrawnPicture) -> str:
    return f"{storage.slug(picture.prompt or 'picture')[:48]}-{picture.seed}.png"


@guarded_server
def full_picture(data: Any) -> dict:
    """Return a picture for page.js: [picture id, "view" | "file"] -> a large copy, or the PNG with its settings inside."""
    picture_id, kind = data if isinstance(data, list) and len(data) == 2 else (None, None)
    picture = find_picture(an_id(picture_id, "picture"))
    if kind == "view":
        return {"src": picture_url(picture.path, LARGE)}
    return {"src": "data:image/png;base64," + base64.b64encode(picture.path.read_bytes()).decode(), "name": file_name(picture)}
