"""The classifier learns what pictures show, in whatever style they are drawn; the shipped one can read them."""

from dataclasses import replace

import torch
from safetensors.torch import load_file

from sdlora.mini.classifier import (
    CLASSIFIER_PX,
    UNASKED,
    Classifier,
    accuracy,
    classifier_input,
    in_any_style,
    labels,
    load_classifier,
    measured_pairs,
    measured_scenes,
    own_colours,
    train_classifier,
    write_classifier,
)
from sdlora.mini.pictures import HELD_OUT, as_tensor
from sdlora.mini.render import render

SCENES = measured_scenes(64, 77)


def test_the_classifier_learns():
    torch.manual_seed(0)
    model = Classifier(8)
    x = classifier_input(as_tensor(render(scene, CLASSIFIER_PX) for scene in SCENES))
    losses = list(train_classifier(model, x, labels(SCENES, [None] * 64), epochs=12))
    assert losses[-1] < 0.95 * losses[0]


def test_what_a_picture_does_not_show_is_not_asked():
    scenes, styles = in_any_style(8, 3)
    assert [style is None for style in styles] == [True, True, False, False, False, False, True, True]
    found = labels(scenes, styles)
    asked = {name: (answers != UNASKED).tolist() for name, answers in found.items()}
    one, own = [True] * 6 + [False] * 2, [style is None for style in styles]
    assert asked["object"] == asked["colour"] == one and asked["style"] == own and all(asked["setting"])
    assert asked["left object"] == asked["right colour"] == [not single for single in one]


def test_colours_are_read_at_the_thing_that_has_them():
    """A picture that shows the second thing on the left is right; one with the colours exchanged is wrong."""
    scenes = measured_pairs(40, HELD_OUT)
    model = load_classifier()
    turned = [replace(s, things=tuple(replace(t, place=2 - t.place) for t in s.things)) for s in scenes]
    a, b = zip(*(s.things for s in scenes), strict=True)
    exchanged = [replace(s, things=(replace(x, colour=y.colour), replace(y, colour=x.colour)))
                 for s, x, y in zip(scenes, a, b, strict=True)]
    shares = [own_colours(model, as_tensor(render(scene) for scene in drawn), scenes) for drawn in (scenes, turned, exchanged)]
    assert shares[0] > 0.9 and shares[1] > 0.9 and shares[2] < 0.1, shares


def test_it_is_written_in_half_precision_the_same_every_time_and_loaded(tmp_path):
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    losses = [list(write_classifier(path, 12, epochs=6)) for path in paths]
    assert len(losses[0]) == 1 and losses[0] == losses[1] and paths[0].read_bytes() == paths[1].read_bytes()
    written, loaded = load_file(paths[0]), load_classifier(paths[0]).state_dict()
    assert written["body.0.weight"].dtype == torch.float16 and loaded["body.0.weight"].dtype == torch.float32
    assert all(torch.equal(written[name].to(value.dtype), value) for name, value in loaded.items())


def test_the_shipped_one_reads_renders():
    scenes = measured_scenes(40, HELD_OUT)
    shares = accuracy(load_classifier(), as_tensor(render(scene) for scene in scenes), scenes)
    assert all(share >= 0.9 for name, share in shares.items() if name != "style"), shares
