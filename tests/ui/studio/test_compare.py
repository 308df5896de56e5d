"""Act 3 draws two pictures that differ only in the LoRA, and begins with two samples of its run."""

import pytest

from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs.table import Table
from sdlora.ui import loras
from sdlora.ui.studio import compare
from tests.ui.gallery.conftest import put


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    monkeypatch.setattr(compare, "ensure_worker", lambda: None)


def test_base_and_lora_are_drawn_with_the_same_settings():
    put("ink")
    compare.draw("lora:ink", "a house", 0.7, 3, "fog", 12, 4)
    (first, alone), (second, mixed) = draws.items_of(draws.draw_folder(Table().jobs("draw")[-1].target))
    assert (first, second) == compare.LABELS and alone.loras == () and mixed.loras[0].strength == 0.7
    assert alone == mixed.model_copy(update={"loras": ()}) and (alone.seed, alone.negative, alone.steps) == (3, "fog", 12)
    with pytest.raises(UserError, match="no LoRA to try yet"):
        compare.draw(None, "a house", 1, 1, "", 20, 5)
    with pytest.raises(UserError, match="Seed must be"):
        compare.draw("lora:ink", "a house", 1, -1, "", 20, 5)


def test_the_first_comparison_comes_from_the_samples_of_the_run(folder, monkeypatch):
    monkeypatch.setattr(loras.runs, "lora_file", lambda run, step: run.folder / f"{step}.safetensors")
    lora = compare.checkpoint_lora(folder.name, None)
    assert lora == f"point:{folder.name}:20" and compare.checkpoint_lora(folder.name, 0) == lora
    base, style = compare.first_comparison(loras.find(lora))
    assert base.size == style.size and base.tobytes() != style.tobytes()
