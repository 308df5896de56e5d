"""A paused run as a folder, without training."""

import pytest
from PIL import Image

from sdlora.config import from_preset
from sdlora.jobs import run as runs
from sdlora.train import events


@pytest.fixture
def folder(tmp_path):
    """A run of 40 steps with samples at 0 and 20 and a checkpoint at 20, known by its events alone."""
    config = from_preset("quick", "mini", 12, name="Hatching <b>", trigger="htchng", steps=40)
    made = runs.create_run(config, tmp_path)
    (made / "samples").mkdir()
    written = [events.Prepared(0, 40, 11, "cat.png", (), 1.0)]
    for step in (0, 20):
        Image.new("RGB", (128, 128), (step * 5, 90, 60)).save(made / "samples" / f"{step:06d}-0.png")
        written.append(events.Sample(step, 0, "htchng, a cat", 1, f"samples/{step:06d}-0.png"))
    point = made / "checkpoints" / "step-000020"
    point.mkdir(parents=True)
    for name in ("state.json", "lora.safetensors"):
        (point / name).write_text("{}")
    written.append(events.Step(20, 40, 0.1, 0.2, 1e-3, 95.0))
    (made / "events.jsonl").write_text("".join(events.to_json(event) + "\n" for event in written))
    return made
