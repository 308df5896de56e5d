"""Suffixes of tensor names: split off, or recognized as a kind that is not read."""

import pytest

from sdlora.lora.formats.tensor_suffixes import PARTS, UNSUPPORTED, split_suffix, unsupported_kind


@pytest.mark.parametrize("suffix", PARTS)
def test_every_suffix_is_split_off(suffix):
    found = split_suffix(f"a.b.{suffix}")
    assert found is not None and (found.module, found.part, found.adapter) == ("a.b", PARTS[suffix], "")
    assert unsupported_kind(f"a.b.{suffix}") is None


@pytest.mark.parametrize(("name", "expected"), [
    ("a.lora_A.style.weight", ("a", "down", "PEFT", "style")), ("a_lora_up_weight", ("a", "up", "repaired", "")),
    ("a_alpha", ("a", "alpha", "repaired", "")), ("a.to_q_lora.down.weight", ("a.to_q", "down", "attention processors", "")),
    ("a.lora.up.weight", ("a", "up", "lora.down", ""))])
def test_other_spellings_are_understood(name, expected):
    assert split_suffix(name) == expected


@pytest.mark.parametrize("name", ["a.weight", "alpha", "a.lora_Q.weight", "", "a.alpha.style.weight"])
def test_other_names_have_no_suffix(name):
    assert split_suffix(name) is None


@pytest.mark.parametrize("suffix", UNSUPPORTED)
def test_kinds_that_are_not_read_have_names(suffix):
    assert unsupported_kind(f"a.b.{suffix}") == UNSUPPORTED[suffix]
