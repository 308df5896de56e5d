"""The table of the base's README, and the classifier that it is measured with."""

import torch

from sdlora.mini.measure import CLASSIFIER_PX, Classifier, accuracy, measured_scenes, train_classifier, write_table
from sdlora.mini.pictures import as_tensor
from sdlora.mini.render import render


def test_the_classifier_learns():
    torch.manual_seed(0)
    model = Classifier(8)
    losses = list(train_classifier(model, scenes=64, epochs=12))
    assert losses[-1] < 0.95 * losses[0]
    scenes = measured_scenes(8, 1)
    shares = accuracy(model, as_tensor(render(scene, CLASSIFIER_PX) for scene in scenes), scenes)
    assert shares.keys() == {"object", "colour", "setting", "time", "style"} and all(0 <= share <= 1 for share in shares.values())


def test_table_replaces_the_old_one(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# Base\n\nHistory.\n", encoding="utf-8")
    write_table(readme, [("speed", "9 s", "<= 6 s")], "2026-11-01")
    write_table(readme, [("speed", "4 s", "<= 6 s")], "2026-11-22")
    text = readme.read_text(encoding="utf-8")
    assert "9 s" not in text and "| speed | 4 s | <= 6 s |" in text and "History." in text
