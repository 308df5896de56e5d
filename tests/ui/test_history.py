"""Drawn pictures are shown small with their settings in one line, and sent whole when asked for."""

import base64

import gradio as gr
from PIL import Image

from sdlora.jobs import drawings as draws
from sdlora.storage import data_folder, write_json
from sdlora.ui import history

PICTURE = "20260101-000000-abcdef-000"


def drawn() -> None:
    """One kept picture."""
    path = draws.picture_path(PICTURE)
    Image.new("RGB", (64, 64), "teal").save(data_folder("pictures", "2026-01-01") / path.name)
    settings = {"prompt": "a red house", "seed": 7, "steps": 20, "guidance": 5.0, "negative": "fog",
                "loras": [{"file": "/x/ink.safetensors", "strength": 0.8}]}
    write_json(path.with_suffix(".json"), {"item": "0", "prompt": "a red house", "seed": 7, "settings": settings})


def test_a_card_has_the_settings_in_one_line():
    drawn()
    data = history.update(again=True).props["data"]
    assert [card["prompt"] for card in data["cards"]] == ["a red house"] and not data["words"]["older"]
    assert data["cards"][0]["line"] == "ink 0.8 · seed 7 · 20 steps, CFG 5 · negative: fog"
    assert history.line({}) == "base model alone · seed ? · ? steps, CFG 0"


def test_the_file_is_sent_whole_and_deleted_for_good():
    drawn()
    whole = history.full_picture([PICTURE, "file"])
    assert base64.b64decode(whole["src"].split(",")[1]) == draws.picture_path(PICTURE).read_bytes()
    assert whole["name"] == "a-red-house-7.png" and history.full_picture([PICTURE, "view"])["src"].startswith("sdlora/picture/")
    history.remove(gr.EventData(None, {"id": PICTURE}))
    assert set(history.full_picture([PICTURE, "view"])) == {"problem"} and not history.update().props["data"]["cards"]
