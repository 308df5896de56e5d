"""What a file says about itself: everything the readers need, nothing the artist would not give away."""

import base64
import io
import json

import pytest
from PIL import Image

from sdlora.config import TrainConfig
from sdlora.lora import file, metadata
from sdlora.lora.metadata import BaseFacts, Making
from tests.lora.test_file import style

CONFIG = TrainConfig(name="Stained glass", trigger="stglass", base="/home/ann/models/mine", rank=8, steps=300,
                     default_caption="my secret caption", sample_prompts=("a private prompt",))
MINI = BaseFacts("mini", "Mini", "ab" * 32, "epsilon", 128)
MAKING = Making(12, "cd" * 32, 300, 0.1, "run-1", "2026-11-22T03:00:00+00:00")
MINIMUM = ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args")
READ_BY_OTHERS = ("ss_output_name", "ss_sd_model_name", "ss_resolution", "ss_num_train_images", "ss_steps", "ss_learning_rate",
                  "ss_seed", "ss_training_started_at", "modelspec.sai_model_spec", "modelspec.architecture", "modelspec.title",
                  "modelspec.implementation", "modelspec.resolution", "modelspec.date", "modelspec.trigger_phrase",
                  "modelspec.prediction_type")


def test_every_key_that_readers_look_for_is_there_and_is_text():
    told = metadata.build(CONFIG, MINI, MAKING)
    assert set(MINIMUM) | set(READ_BY_OTHERS) <= set(told)
    assert all(isinstance(value, str) and value for value in told.values())
    assert (told["ss_network_dim"], told["ss_network_alpha"], told["ss_network_args"]) == ("8", "8.0", "{}")
    assert told["modelspec.trigger_phrase"] == told["sdlora_trigger"] == "stglass"
    assert TrainConfig(**{**json.loads(told["sdlora_settings"]), "base": "mini"}).rank == 8


def test_no_caption_and_no_path_leaves_the_house():
    text = json.dumps(metadata.build(CONFIG, MINI, MAKING))
    assert "/home" not in text and "secret" not in text and "private" not in text


@pytest.mark.parametrize(("family", "prediction", "version", "architecture"), [
    ("mini", "epsilon", "sdlora_mini", "sdlora-mini/lora"), ("sd1", "epsilon", "sd_v1", "stable-diffusion-v1/lora"),
    ("sd2", "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    ("sdxl", "epsilon", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora")])
def test_the_family_is_told_in_everybodys_words(family, prediction, version, architecture):
    told = metadata.build(CONFIG, BaseFacts(family, "B", "00", prediction, 512), MAKING)
    assert (told["ss_base_model_version"], told["modelspec.architecture"]) == (version, architecture)
    assert told["ss_v2"] == str(family == "sd2")


def test_the_thumbnail_is_a_small_jpeg():
    told = metadata.build(CONFIG, MINI, MAKING, Image.new("RGB", (300, 200), "red"))
    head, _, data = told["modelspec.thumbnail"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert head == "data:image/jpeg;base64" and picture.size == (256, 256) and picture.format == "JPEG"


@pytest.fixture
def shelf(tmp_path):
    path = file.write(tmp_path / "glass.safetensors", style(), metadata.build(CONFIG, MINI, MAKING), family="mini")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "sample.png")
    return path


def test_sidecars_are_written_and_rewritten(shelf):
    assert len(metadata.write_sidecars(shelf, shelf.with_name("sample.png"))) == 2
    card = json.loads(shelf.with_suffix(".json").read_text())
    assert card["activation text"] == "stglass" and card["sd version"] == "Unknown" and card["sdlora"]
    with Image.open(shelf.with_suffix(".png")) as cover:
        cover.load()
        assert cover.text["sdlora"] == "cover" and cover.getpixel((0, 0)) == (0, 0, 255)
    assert len(metadata.write_sidecars(shelf, shelf.with_suffix(".png"))) == 2


def test_a_sidecar_of_somebody_else_is_left_alone(shelf):
    shelf.with_suffix(".json").write_text('{"activation text": "mine"}')
    Image.new("RGB", (9, 9)).save(shelf.with_suffix(".png"))
    before = [shelf.with_suffix(suffix).read_bytes() for suffix in (".json", ".png")]
    assert metadata.write_sidecars(shelf, shelf.with_name("sample.png")) == []
    assert [shelf.with_suffix(suffix).read_bytes() for suffix in (".json", ".png")] == before
    shelf.with_suffix(".json").write_text("not json")
    assert metadata.write_sidecars(shelf) == []


def test_the_hash_of_the_file_does_not_depend_on_what_is_said_about_it(shelf):
    other = file.write(shelf.with_name("b.safetensors"), style(), {"sdlora_trigger": "other"}, family="mini")
    assert file.header(shelf).metadata["sshs_model_hash"] == file.header(other).metadata["sshs_model_hash"]
