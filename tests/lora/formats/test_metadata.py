"""What a file says about itself: everything the readers need, nothing the artist would not give away."""

import base64
import hashlib
import io
import json
import time

import pytest
from PIL import Image

from sdlora.config import TrainConfig
from sdlora.lora.formats import metadata
from sdlora.lora.formats.header import header
from sdlora.lora.formats.metadata import BaseFacts, Training, private, stripped
from sdlora.lora.formats.writing import write
from tests.lora.formats.test_reading import style

CONFIG = TrainConfig(name="Stained glass", trigger="stglass", base="/home/ann/models/mine", rank=8, steps=300,
                     default_caption="my secret caption", sample_prompts=("a private prompt",))
MINI = BaseFacts("mini", "Mini", "ab" * 32, "epsilon", 128)
TRAINING = Training(12, "cd" * 32, 300, "run-1", "2026-11-22T03:00:00+00:00")
MINIMUM = ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args")
READ_BY_OTHERS = ("ss_output_name", "ss_sd_model_name", "ss_resolution", "ss_num_train_images", "ss_steps", "ss_learning_rate",
                  "ss_seed", "ss_training_started_at", "modelspec.sai_model_spec", "modelspec.architecture", "modelspec.title",
                  "modelspec.implementation", "modelspec.resolution", "modelspec.date", "modelspec.trigger_phrase",
                  "modelspec.prediction_type")


def test_every_key_that_readers_look_for_is_there_and_is_text():
    told = metadata.build(CONFIG, MINI, TRAINING)
    assert set(MINIMUM) | set(READ_BY_OTHERS) <= set(told)
    assert all(isinstance(value, str) and value for value in told.values())
    assert (told["ss_network_dim"], told["ss_network_alpha"], told["ss_network_args"]) == ("8", "8.0", "{}")
    assert told["modelspec.trigger_phrase"] == told["sdlora_trigger"] == "stglass"
    assert TrainConfig(**{**json.loads(told["sdlora_settings"]), "base": "mini"}).rank == 8


def test_no_caption_and_no_path_leaves_the_house():
    text = json.dumps(metadata.build(CONFIG, MINI, TRAINING))
    assert "/home" not in text and "secret" not in text and "private" not in text


@pytest.mark.parametrize(("family", "prediction", "version", "architecture"), [
    ("mini", "epsilon", "sdlora_mini", "sdlora-mini/lora"), ("sd1", "epsilon", "sd_v1", "stable-diffusion-v1/lora"),
    ("sd2", "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v/lora"),
    ("sdxl", "epsilon", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora")])
def test_the_family_is_told_in_everybodys_words(family, prediction, version, architecture):
    told = metadata.build(CONFIG, BaseFacts(family, "B", "00", prediction, 512), TRAINING)
    assert (told["ss_base_model_version"], told["modelspec.architecture"]) == (version, architecture)
    assert told["ss_v2"] == str(family == "sd2")


def test_the_thumbnail_is_a_small_jpeg():
    told = metadata.build(CONFIG, MINI, TRAINING, Image.new("RGB", (300, 200), "red"))
    head, _, data = told["modelspec.thumbnail"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert head == "data:image/jpeg;base64" and picture.size == (256, 256) and picture.format == "JPEG"


@pytest.fixture
def shelf(tmp_path):
    path = write(tmp_path / "glass.safetensors", style(), metadata.build(CONFIG, MINI, TRAINING), family="mini")
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
    other = write(shelf.with_name("b.safetensors"), style(), {"sdlora_trigger": "other"}, family="mini")
    assert header(shelf).metadata["sshs_model_hash"] == header(other).metadata["sshs_model_hash"]


def test_a_merge_says_what_it_was_made_from_and_takes_no_hash_along():
    sources = [metadata.build(CONFIG, MINI, TRAINING) | {"sshs_model_hash": "a" * 64},
               {"ss_output_name": "other, style", "modelspec.trigger_phrase": "oth"}]
    recipe = {"method": "concat", "sources": [{"name": "a", "hash": "1"}]}
    told = metadata.merged(sources, "mini", title="both", ranks=[8, 4], alphas=[8.0, 4.0], recipe=recipe)
    assert set(MINIMUM) <= set(told) and (told["ss_network_dim"], told["ss_network_alpha"]) == ("Dynamic", "Dynamic")
    assert told["modelspec.merged_from"] == "Stained glass, other  style" and told["modelspec.title"] == "both"
    assert json.loads(told["sdlora_recipe"]) == recipe and told["sdlora_trigger"] == "stglass, oth"
    assert told["sdlora_base_identity"] == "ab" * 32 and "sshs_model_hash" not in told and "ss_num_train_images" not in told
    one = metadata.derived(sources[0], title="small", ranks=[4, 4], alphas=[2.5, 2.5], recipe={})
    assert (one["ss_network_dim"], one["ss_network_alpha"], one["ss_output_name"]) == ("4", "2.5", "small")
    assert one["sdlora_trigger"] == "stglass" and one["ss_num_train_images"] == "12"
    assert metadata.merged([{}], "", title="x", ranks=[1], alphas=[1.0], recipe={}).keys() >= {"ss_v2", "modelspec.title"}


def test_the_artists_fields_are_filled_and_emptied():
    told = metadata.with_fields({"a": "b"}, author="Ann", licence="CC BY 4.0", consent="own pictures", note="be\nkind")
    assert told == {"a": "b", "modelspec.author": "Ann", "modelspec.license": "CC BY 4.0", "sdlora_consent": "own pictures",
                    "sdlora_note": "be kind"}
    assert metadata.with_fields(told, author="", note=None) == {key: told[key] for key in told if key != "modelspec.author"}
    assert json.loads(metadata.sidecar(told))["notes"] == "be kind"


def test_the_names_of_a_file_out_there(shelf):
    """Civitai's: sha256sum of the file, its first ten letters, twelve of the hash inside."""
    found, whole = metadata.file_hashes(shelf), hashlib.sha256(shelf.read_bytes()).hexdigest()
    assert found == {"sha256": whole, "AutoV2": whole[:10], "AutoV3": header(shelf).metadata["sshs_model_hash"][:12]}


KOHYA = {  # from sd-scripts' train_network.py; the values are made up
    "ss_sd_model_name": "/home/ann/models/v1-5.safetensors", "ss_dataset_dirs": '{"10_ann": {"n_repeats": 10, "img_count": 20}}',
    "ss_tag_frequency": '{"10_ann": {"ann in her garden": 1}}', "ss_session_id": "123456789", "ss_network_dim": "16",
    "ss_base_model_version": "sd_v1", "ss_output_name": "garden", "ss_datasets": "[]", "ss_learning_rate": "0.0001",
    "modelspec.title": "garden", "modelspec.thumbnail": "data:image/jpeg;base64,/9j/4AAQ/home/",
    "modelspec.license": "CC BY 4.0, ask ann@example.org", "modelspec.trigger_phrase": "grdn style"}
HIDDEN = {"ss_sd_model_name", "ss_dataset_dirs", "ss_tag_frequency", "ss_session_id", "ss_datasets"}


def test_kohyas_metadata_is_told_apart():
    found = private(KOHYA)
    assert set(found) == HIDDEN and found["ss_sd_model_name"] == "a path on somebody's computer"
    assert stripped(KOHYA) == {key: value for key, value in KOHYA.items() if key not in HIDDEN}
    assert private(stripped(KOHYA)) == {}


@pytest.mark.parametrize("value", [r"C:\\Users\\ann\\x", "D:/train/x", "/root/x", "~/pictures", '{"path": "/mnt/nas/x"}',
                                   r"\\\\server\\share", "write to ann@example.org", "hf_" + "a" * 30, "https://a.b/?token=abc"])
def test_paths_addresses_and_keys_are_found_anywhere(value):
    assert set(private({"my_key": value})) == {"my_key"}


@pytest.mark.parametrize("value", ["0.0001", "(512, 512)", "epsilon", "networks.lora", "https://huggingface.co/a/b", "1/2",
                                   "a: b", "https://github.com/Stability-AI/generative-models", "red/blue", "x/home improvement"])
def test_ordinary_values_are_not(value):
    assert private({"my_key": value}) == {}


def test_our_own_files_hold_little_that_is_private():
    config = TrainConfig(name="Glass", trigger="gls", base="/home/ann/models/mine", default_caption="my caption")
    told = metadata.build(config, BaseFacts("mini", "Mini", "ab" * 32, "epsilon", 128),
                          Training(12, "cd" * 32, 300, "run-1", "2026-11-22T03:00:00+00:00"))
    assert set(private(told)) == {"sdlora_run", "ss_training_started_at", "ss_training_comment"}


@pytest.mark.parametrize("letters", ["x", "x.", "x@", "@x.", "a-b_", "\\\\", "?key="])
def test_long_words_are_searched_in_no_time_and_to_their_end(letters):
    value = letters * 200_000
    began = time.process_time()
    private({"my_key": value})
    assert set(private({"my_key": f"{value} /home/ann/x"})) == {"my_key"} and time.process_time() - began < 3
