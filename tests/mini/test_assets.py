"""What ships: the base loads in plain diffusers and is small; the example sets are what their code draws."""

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import ImageChops

from sdlora.dataset.picture import open_picture
from sdlora.mini.examples import CONTENT, SETS, SIZE_PX, example
from sdlora.mini.measure import write_table
from sdlora.storage import shipped

EXAMPLES = shipped("assets", "examples")


def test_base_is_small_and_loads():
    folder = shipped("assets", "mini")
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 40_000_000
    assert not [p for p in folder.rglob("*") if p.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]
    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    words = {"num_inference_steps": 3, "guidance_scale": 5.0}
    one = pipeline("a red house, meadow, in daylight", generator=torch.manual_seed(1), **words).images[0]
    two = pipeline("a blue boat, sea, at night", generator=torch.manual_seed(1), **words).images[0]
    assert one.size == (128, 128)
    assert ImageChops.difference(one, two).getbbox()


@pytest.mark.parametrize("which", SETS, ids=lambda s: s.name)
def test_example_set_is_complete(which):
    folder = EXAMPLES / which.name
    pictures = sorted(folder.glob("*.png"))
    assert 12 <= len(pictures) <= 16
    about = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    assert about == {"title": which.title, "trigger": which.trigger, "sentence": which.sentence}
    for path in pictures:
        text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        assert text.startswith("[trigger] a") and which.trigger not in text
        assert open_picture(path).size == (SIZE_PX, SIZE_PX)


@pytest.mark.parametrize("which", SETS, ids=lambda s: s.name)
def test_example_set_is_what_its_code_draws(which):
    first, words = example(which, 0)
    path = sorted((EXAMPLES / which.name).glob("*.png"))[0]
    assert path.with_suffix(".txt").read_text(encoding="utf-8").strip() == words
    # Another Pillow may round an edge differently; a changed drawing differs by far more.
    difference = ImageChops.difference(first, open_picture(path)).convert("L")
    assert sum(difference.histogram()[32:]) < 0.01 * SIZE_PX**2
    assert len(CONTENT) == len(list((EXAMPLES / which.name).glob("*.png")))


def test_table_replaces_the_old_one(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Base\n\nHistory.\n", encoding="utf-8")
    write_table(readme, [("speed", "9 s", "<= 6 s")], "2026-11-01")
    write_table(readme, [("speed", "4 s", "<= 6 s")], "2026-11-22")
    text = readme.read_text(encoding="utf-8")
    assert "9 s" not in text and "| speed | 4 s | <= 6 s |" in text and "History." in text
