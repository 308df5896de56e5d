"""What a hostile browser sends, the bugs that it finds, and a paused run."""

import traceback

import pytest
from PIL import Image

from sdlora.config import from_preset
from sdlora.jobs import run as runs
from sdlora.train import events
from sdlora.ui import validation

HOSTILE = [None, True, 3.7, -1, 2**63, float("nan"), "x" * 10_001, "../../etc/passwd", "1 OR 1=1'; DROP TABLE jobs",
           "<script>alert(1)</script>", "\0",
           "\ud800", [], [[]], {}, {"id": "../x", "step": "7"}, "point:../x:3", "lora:nothing", "a", ""]


@pytest.fixture
def bugs(monkeypatch):
    """The bugs that handlers reported; a test may not leave any."""
    found = []
    monkeypatch.setattr(validation, "log_bug", lambda error: found.append("".join(traceback.format_exception(error))) or "TEST")
    validation.logged_bugs.clear()
    return found


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
