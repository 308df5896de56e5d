"""The proof of a refactoring must be able to fail: tests/same_bits.py itself takes minutes and is run by hand."""

import numpy as np
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from tests.same_bits import differences, made_of, numbers, steady


def lora(path, value=1.0, **metadata):
    save_file({"weight": np.full((2, 2), value, np.float32)}, path, metadata)
    return made_of(path)


def picture(path, colour, prompt):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", prompt)
    Image.new("RGB", (4, 4), colour).save(path, pnginfo=info)
    return made_of(path)


def test_one_bit_of_a_tensor_is_seen(tmp_path):
    first, same = lora(tmp_path / "a.safetensors"), lora(tmp_path / "b.safetensors")
    assert differences(first, same, "file") == []
    assert differences(first, lora(tmp_path / "c.safetensors", np.nextafter(np.float32(1), np.float32(2))), "file")


def test_metadata_counts_but_for_dates_and_ids(tmp_path):
    first = lora(tmp_path / "a.safetensors", ss_network_dim="4", ss_session_id="1")
    assert differences(first, lora(tmp_path / "b.safetensors", ss_network_dim="4", ss_session_id="2"), "file") == []
    assert differences(first, lora(tmp_path / "c.safetensors", ss_network_dim="8", ss_session_id="1"), "file")


def test_pixels_and_settings_of_a_picture_count(tmp_path):
    first = picture(tmp_path / "a.png", "red", "a house")
    assert differences(first, picture(tmp_path / "b.png", "red", "a house"), "picture") == []
    assert differences(first, picture(tmp_path / "c.png", (254, 0, 0), "a house"), "picture")
    assert differences(first, picture(tmp_path / "d.png", "red", "a horse"), "picture")


def test_a_missing_thing_and_another_number_are_seen():
    assert differences({"a": 1}, {}, "made") and differences({}, {"a": 1}, "made")
    printed = {"event": "step", "step": 3, "loss": 0.25, "seconds_left": 9.0}
    assert numbers(steady(printed)) == [3, 0.25]
