"""What other trainers write into their files about the artist's computer and pictures is found; what is of use stays."""

import time

import pytest

from sdlora.config import TrainConfig
from sdlora.lora.formats import metadata
from sdlora.lora.formats.metadata import BaseFacts, Making
from sdlora.lora.formats.privacy import private, stripped

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
                          Making(12, "cd" * 32, 300, 0.1, "run-1", "2026-11-22T03:00:00+00:00"))
    assert set(private(told)) == {"sdlora_run", "ss_training_started_at", "ss_training_comment"}


@pytest.mark.parametrize("letters", ["x", "x.", "x@", "@x.", "a-b_", "\\\\", "?key="])
def test_long_words_are_searched_in_no_time_and_to_their_end(letters):
    value = letters * 200_000
    began = time.monotonic()
    private({"my_key": value})
    assert set(private({"my_key": f"{value} /home/ann/x"})) == {"my_key"} and time.monotonic() - began < 3
