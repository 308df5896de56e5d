"""A shelf with small LoRA files, rows and forms as a browser sends them; no worker is started."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdlora.config import DrawConfig
from sdlora.jobs import drawings as draws
from sdlora.jobs.table import Table
from sdlora.library import search
from sdlora.lora.formats.module_tables import family_table
from sdlora.storage import data_folder
from sdlora.ui.gallery import blend, grid, mixer

KEY = "lora_unet_" + next(path for path in family_table("mini") if path.endswith("attn1.to_q")).replace(".", "_")
SIZE = next(shape for path, shape in family_table("mini").items() if path.endswith("attn1.to_q"))
FORM = {"prompt": "a house", "count": 2, "seed": 7, "base": "", "compare": True, "method": "sum", "switch_every": 5,
        "negative": "", "sampler": "", "steps": 20, "guidance": 5, "width": None, "height": None, "init": None,
        "init_strength": 0.6}


def put(*names: str) -> None:
    """Put small files on the shelf."""
    for number, name in enumerate(names):
        values = {f"{KEY}.lora_up.weight": np.full((SIZE[0], 1), 0.1 + number, np.float32),
                  f"{KEY}.lora_down.weight": np.ones((1, SIZE[1]), np.float32)}
        save_file(values, data_folder("loras") / f"{name}.safetensors", {"ss_output_name": name})


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    for module in (blend, grid):
        monkeypatch.setattr(module, "ensure_worker", lambda: None)


def row(name: str, **settings: object) -> dict:
    return mixer.row_for(search.find(name), **settings)


def form_values(*rows: dict, **settings: object) -> list:
    """What the browser sends of the form with these rows in the mixer."""
    return list(blend.FormValues(rows=list(rows), **{**FORM, **settings}))


def queued() -> tuple[list[tuple[str, DrawConfig]], dict | None]:
    """The items of the newest draw, and its sheet."""
    folder = draws.draw_folder(Table().jobs("draw")[-1].target)
    return draws.items_of(folder), draws.sheet_of(folder)
