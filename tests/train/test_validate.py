"""What sample pictures show: style, content and copying, on pictures whose truth is known."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from sdlora.base.load import load_base
from sdlora.config import DrawConfig
from sdlora.draw.pipeline import Picture, draw
from sdlora.mini.classifier import measured_scenes
from sdlora.mini.render import render
from sdlora.mini.scenes import caption
from sdlora.mini.strangers import STRANGERS
from sdlora.train.features import pixels_of
from sdlora.train.samples import sample_path
from sdlora.train.validate import Validator, has_samples, history, mentions, usual_distance

RISO = next(stranger.style for stranger in STRANGERS if stranger.name == "riso")
SCENES = measured_scenes(6, 3, plain=1.0)
ASKED = [replace(scene, layout=scene.layout ^ 99) for scene in SCENES[:2]]
PROMPTS = [f"qiv {caption(scene, styled=False)}" for scene in ASKED]
ARTISTS, OTHERS = ([render(scene, 128, RISO) for scene in scenes] for scenes in (SCENES[2:], ASKED))


def write(folder, step, pictures):
    (folder / "samples").mkdir(exist_ok=True)
    for index, picture in enumerate(pictures):
        picture.save(folder / sample_path(step, index))


@pytest.fixture(scope="module")
def validator(tmp_path_factory):
    folder, base = tmp_path_factory.mktemp("run"), load_base("mini", "cpu")
    config = DrawConfig(prompts=tuple(prompt.removeprefix("qiv ") for prompt in PROMPTS), steps=12)
    write(folder, 0, [event.image for event in draw(base, config) if isinstance(event, Picture)])
    latents = torch.cat([base.encode_pictures(pixels_of(picture))[0] for picture in ARTISTS])
    return Validator(base, folder, PROMPTS, "qiv", ["a.png", "b.png", "c.png", "d.png"], latents)


def found(validator, step, pictures):
    write(validator.folder, step, pictures)
    return validator.validate(step, None)


def test_before_training_there_is_no_style_and_all_content(validator):
    before = validator.validate(0, 0.5)
    assert (before.step, before.loss, before.style, before.content) == (0, 0.5, 0.0, 1.0) and before.copying > 0.5


def test_other_pictures_in_the_style_have_it_and_copy_nothing(validator):
    real = found(validator, 10, OTHERS)
    assert real.style > 60 and real.content > 0.5 and real.copying > 0.6


def test_a_training_picture_is_a_copy_and_named(validator):
    copied = found(validator, 20, [OTHERS[0], ARTISTS[2]])
    assert copied.copying < 0.5 and (copied.prompt_index, copied.picture) == (1, "c.png")


def test_mush_shows_no_prompt(validator):
    mush = found(validator, 30, [Image.new("RGB", (128, 128), (122, 110, 98))] * 2)
    assert mush.content < 0.75 and mush.style < 60


def test_a_resumed_run_remembers_what_came_before(validator):
    for step in (0, 10, 30):
        found(validator, step, OTHERS)
    assert [each.step for each in history(validator.folder, 10)] == [0, 10]
    found(validator, 20, OTHERS)
    assert [each.step for each in history(validator.folder, 99)] == [0, 10, 20], "what was found after a rewind is gone"


def test_a_step_without_all_its_samples_has_none(validator):
    write(validator.folder, 40, OTHERS[:1])
    assert has_samples(validator.folder, 0, 2) and not has_samples(validator.folder, 40, 2)


def test_a_single_picture_or_equal_ones_are_no_measure_of_copying():
    assert usual_distance(torch.randn(1, 4)) is None and usual_distance(torch.ones(3, 4)) is None
    assert usual_distance(torch.tensor([[0.0], [1.0], [4.0]])) == 1


def test_a_damaged_history_is_no_history(tmp_path):
    for content in ("{", "[3]", '[{"step": 1, "party": 2}]'):
        (tmp_path / "validation.json").write_text(content)
        assert history(tmp_path, 9) == []


def test_the_trigger_is_a_word_of_its_own():
    assert mentions("a Qiv, house", "qiv") and not mentions("a qivel house", "qiv") and mentions("anything", "")
