"""What shapes alone say of a module agrees with what its mathematics accepts."""

import math

import pytest
import torch

from sdlora.families import FAMILIES
from sdlora.lora.formats.kinds import PARTS, UNSUPPORTED, fits, kind_of, split_suffix, unsupported_kind, weight_size
from sdlora.lora.formats.layout import MOST_VALUES
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.math.delta import Adapter, delta

LINEAR, CONV, TUCKER = (32, 24), (32, 24, 3, 3), {"down": (2, 24, 1, 1), "mid": (2, 2, 3, 3), "up": (32, 2, 1, 1)}
KINDS = {  # parts, the weight they are for, rank
    "lora": ({"down": (2, 24), "up": (32, 2)}, LINEAR, 2), "1x1": ({"down": (2, 24, 1, 1), "up": (32, 2, 1, 1)}, LINEAR, 2),
    "convolution": ({"down": (2, 24, 3, 3), "up": (32, 2, 1, 1)}, CONV, 2), "tucker": (TUCKER, CONV, 2),
    "loha": ({"hada_w1_a": (32, 3), "hada_w1_b": (3, 24), "hada_w2_a": (32, 3), "hada_w2_b": (3, 24)}, LINEAR, 3),
    "loha of a convolution": ({"hada_w1_a": (32, 3), "hada_w1_b": (3, 216), "hada_w2_a": (32, 3), "hada_w2_b": (3, 216)},
                              CONV, 3),
    "loha with cores": ({"hada_w1_a": (3, 32), "hada_w1_b": (3, 24), "hada_t1": (3, 3, 3, 3), "hada_w2_a": (3, 32),
                         "hada_w2_b": (3, 24), "hada_t2": (3, 3, 3, 3)}, CONV, 3),
    "lokr": ({"lokr_w1": (4, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 6)}, LINEAR, 2),
    "lokr whole": ({"lokr_w1": (4, 4), "lokr_w2": (8, 6, 3, 3)}, CONV, 0),
    "lokr in factors": ({"lokr_w1_a": (4, 1), "lokr_w1_b": (1, 4), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 54)}, (32, 24 * 9), 2),
    "oft": ({"oft_blocks": (4, 8, 8), "rescale": (32, 1)}, LINEAR, 0), "boft": ({"oft_blocks": (2, 8, 4, 4)}, CONV, 0),
    "glora": ({"a1": (24, 2), "a2": (2, 24), "b1": (32, 2), "b2": (2, 24)}, LINEAR, 2),
    "full": ({"diff": (32, 24, 3, 3), "diff_b": (32,)}, CONV, 0), "norm": ({"diff": (32,)}, (32,), 0),
    "set": ({"set_weight": (32, 24)}, LINEAR, 0), "bias": ({"diff_b": (32,)}, LINEAR, 0)}


@pytest.mark.parametrize("name", KINDS)
def test_kind_rank_and_weight_are_told(name):
    parts, weight, rank = KINDS[name]
    found = kind_of(parts)
    assert found.rank == rank and fits(found.weight, weight)
    assert not fits(found.weight, (weight[0] + 1, *weight[1:]))
    tensors = {found.roles[part]: torch.randn(shape) / 9 for part, shape in parts.items()}
    adapter = Adapter(found.kind, tensors, 1.0 if found.rank else 0.0, found.rank, "unet")
    assert delta(adapter, torch.randn(weight)).shape == weight
    if found.kind != "full" and math.prod(weight[1:]) == 24:
        with pytest.raises(ValueError):
            delta(adapter, torch.randn(weight[0] + 1, *weight[1:]))


@pytest.mark.parametrize(("parts", "says"), [
    ({"down": (2, 24)}, "no up half"), ({"up": (2, 24)}, "no down half"), ({"down": (2, 24), "up": (32, 3)}, "do not fit"),
    ({"hada_w1_a": (32, 3)}, "no hada_w1_b"), ({"oft_blocks": (4, 8, 7)}, "square"), ({"alpha": ()}, "nothing to scale"),
    ({"down": (2, 24), "up": (32, 2), "diff": (1,)}, "mixes LoRA with diff"),
    ({"a1": (2, 2), "a2": (2, 2), "b1": (2, 2)}, "no b2"),
    ({"down": (2, 24), "up": (32, 2), "dora_scale": (31, 1)}, "neither side"), ({"lokr_w1": (2, 2)}, "no lokr_w2_a"),
    ({"down": (2, 24), "up": (32, 2), "alpha": (2,)}, "not one number"), ({"weight": (3,)}, "on_input"),
    ({"diff": (1, 2, 3)}, "which no weight has"), ({"down": (1, 10**7), "up": (10**7, 1)}, "10000000 x 10000000, which no"),
    ({"lokr_w1": (10**4, 10), "lokr_w2": (10**4, 10)}, "claims to change"),
    ({"hada_w1_a": (10**5, 1), "hada_w1_b": (1, 10**5), "hada_w2_a": (10**5, 1), "hada_w2_b": (1, 10**5)}, "claims to change"),
    ({"down": (2, 24, 1, 1), "mid": (2, 2, 99, 1), "up": (32, 2, 1, 1)}, "32 x 24 x 99 x 1, which no"),
    ({"oft_blocks": (4, 8, 8), "oft_diag": (4, 8, 8)}, "two rotations")])
def test_what_does_not_fit_is_said(parts, says):
    with pytest.raises(ValueError, match=says):
        kind_of(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_a_family_can_be_changed(family):
    table = family_table(family)
    assert all(kind_of({"diff": shape}).weight == shape for shape in table.values())
    assert sum(map(weight_size, table.values())) < MOST_VALUES


def test_the_switch_of_ia3_tells_its_side():
    parts = {"weight": (24,), "on_input": ()}
    assert [kind_of(parts, switch).weight for switch in (True, False, None)] == [(None, 24), (24, None), (None, None)]


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
