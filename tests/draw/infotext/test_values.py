"""Untrusted values: what is used, and that everything else is nothing."""

import pytest

from sdlora.draw.infotext.values import (
    as_hash,
    as_list,
    as_number,
    as_text,
    brief,
    file_name,
    is_number,
    json_object,
    lora,
    number,
)


def test_json_that_is_no_object_is_empty():
    assert json_object('{"a": "line\nbreak"}\0') == {"a": "line\nbreak"} and json_object("[1]") == json_object("[" * 10**5) == {}


def test_files_are_named_without_folder_and_ending():
    names = ("a\\b.safetensors", "/x/y.PT", "urn:air:sd1:lora:civitai:1@2", "None", "v1.5", 7)
    assert [file_name(name) for name in names] == ["b", "y", "civitai 1@2", "", "v1.5", ""]


@pytest.mark.parametrize(("value", "kind", "read"), [
    ("20.0", int, 20), ("7.5", float, 7.5), ("9" * 20, int, 10**20 - 1), (7.0, int, 7), (7.5, int, None), (True, int, None),
    ("nan", float, None), (float("inf"), float, None), (10**400, float, None), ("1" + "0" * 400, int, None), ([], float, None),
    ("7,5", float, None)])
def test_numbers_are_finite_or_nothing(value, kind, read):
    assert as_number(value, kind) == read
    assert not isinstance(value, str) or "0" * 400 in value or number(value, kind) == read
    assert is_number(10**400) is False


def test_lists_texts_and_hashes():
    assert as_list("['a', 'b']") == as_list("a, b") == ["a", "b"] and as_list(5) == [5] and as_list(None) == []
    assert as_text(" a\r\nb ") == "a\nb" and as_text("None") == as_text(5) == ""
    assert as_hash("0123ABCD") == "0123abcd" and as_hash("0123") == as_hash("xyzxyz") == as_hash(None) == ""
    assert brief("False") == brief([]) == brief(0) == "" and brief({"a": 1}) == '{"a": 1}'


def test_a_lora_has_a_text_strength_where_it_differs():
    assert lora("a", None) == {"name": "a", "strength": 1.0, "hash": ""} == lora("a", 1.0, 1.0)
    assert lora("a", 0.5, 0.0, "ab")["text_strength"] == 0.0
