"""The classifier learns what pictures show, in whatever style they are drawn, and is trained once."""

import torch

from sdlora.mini.classifier import CLASSIFIER_PX, Classifier, accuracy, load_classifier, measured_scenes, train_classifier
from sdlora.mini.pictures import as_tensor
from sdlora.mini.render import render
from sdlora.mini.strangers import STRANGERS

SCENES = measured_scenes(64, 77)


def test_the_classifier_learns():
    torch.manual_seed(0)
    model = Classifier(8)
    pictures = as_tensor(render(scene, CLASSIFIER_PX) for scene in SCENES)
    losses = list(train_classifier(model, SCENES, pictures, epochs=12))
    assert losses[-1] < 0.95 * losses[0]
    scenes = measured_scenes(8, 1)
    shares = accuracy(model, as_tensor(render(scene, CLASSIFIER_PX) for scene in scenes), scenes)
    assert shares.keys() == {"object", "colour", "setting", "time", "style"} and all(0 <= share <= 1 for share in shares.values())


def test_it_is_trained_once(tmp_path):
    path, styles = tmp_path / "work" / "classifier.safetensors", [None, STRANGERS[0].style] * 4
    first = load_classifier(path, SCENES[:8], styles, CLASSIFIER_PX)
    again = load_classifier(path, [], [], CLASSIFIER_PX)
    pictures = as_tensor(render(scene, CLASSIFIER_PX) for scene in SCENES[:8])
    assert accuracy(first, pictures, SCENES[:8]) == accuracy(again, pictures, SCENES[:8])
