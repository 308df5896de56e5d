"""Slots against kohya's and lora-block-weight's published tables, and against every module a base has."""

import pytest

from sdlora.errors import UserError
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.math import blocks


@pytest.mark.parametrize(("path", "family", "slot"), [
    ("te1:text_model.encoder.layers.3.mlp.fc1", "sd1", "BASE"), ("te2:text_projection", "sdxl", "BASE"),
    ("conv_in", "sd1", "IN00"), ("time_embedding.linear_1", "sdxl", "IN00"), ("add_embedding.linear_1", "sdxl", "IN00"),
    ("down_blocks.0.attentions.1.proj_in", "sd1", "IN02"), ("down_blocks.0.downsamplers.0.conv", "sd1", "IN03"),
    ("down_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q", "sd1", "IN07"),
    ("down_blocks.3.resnets.1.conv1", "sd2", "IN11"), ("mid_block.resnets.1.conv2", "sd1", "MID"),
    ("up_blocks.0.upsamplers.0.conv", "sd1", "OUT02"), ("up_blocks.1.attentions.0.proj_out", "sd1", "OUT03"),
    ("up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2", "sd1", "OUT11"), ("conv_out", "sd1", "OUT11"),
    ("down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q", "sdxl", "IN04"),
    ("down_blocks.2.resnets.1.time_emb_proj", "sdxl", "IN08"), ("up_blocks.0.attentions.1.proj_in", "sdxl", "OUT01"),
    ("up_blocks.1.upsamplers.0.conv", "sdxl", "OUT05"), ("conv_out", "sdxl", "OUT08"),
    ("down_blocks.1.downsamplers.0.conv", "mini", "IN04"), ("up_blocks.2.attentions.1.proj_in", "mini", "OUT05"),
])
def test_a_module_lies_in_the_slot_that_the_original_numbering_gives_it(path, family, slot):
    assert blocks.block_of(path, family) == slot


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "mini"])
def test_the_layouts_cover_every_module_and_the_short_one_every_attention(family):
    short, long = (blocks.SLOTS[family][length] for length in sorted(blocks.SLOTS[family]))
    table = family_table(family)
    assert {blocks.block_of(path, family) for path in table} == set(long)
    with_attention = {blocks.block_of(path, family) for path in table if ".attentions." in path}
    assert with_attention | {"BASE"} == set(short) and [slot for slot in long if slot in short] == list(short)


def test_the_lengths_are_the_known_ones():
    lengths = {family: sorted(layouts) for family, layouts in blocks.SLOTS.items()}
    assert lengths == {"sd1": [17, 26], "sd2": [17, 26], "sdxl": [12, 20], "mini": [11, 14]}


@pytest.mark.parametrize(("name", "numbers"), [                     # lora-block-weight's own lists, 17 slots
    ("INS", "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0"), ("IND", "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0"),
    ("INALL", "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0"), ("MIDD", "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0"),
    ("OUTD", "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0"), ("OUTS", "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1"),
    ("outall", "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1"), ("BASE", "1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0"),
    ("IN05", "0,0,0,0,1,0,0,0,0,0,0,0,0,0,0,0,0"), ("ALL", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1")])
def test_a_named_preset_is_the_list_it_stands_for(name, numbers):
    by_name, by_list = blocks.parse(name, "sd1"), blocks.parse(numbers, "sd1")
    assert [by_name[slot] for slot in blocks.SLOTS["sd1"][17]] == [by_list[slot] for slot in blocks.SLOTS["sd1"][17]]
    assert by_list["IN00"] == 0                                      # as theirs: a slot the list lacks does not act


def test_style_and_content_in_sdxl_are_the_blocks_of_b_lora():
    style, content = blocks.parse("style only", "sdxl"), blocks.parse("content only", "sdxl")
    acts = {path for path in family_table("sdxl") if blocks.block_weight(style, path, "sdxl")}
    assert {path for path in acts if "attn" in path} == {path for path in family_table("sdxl")
                                                         if path.startswith("up_blocks.0.attentions.1.") and "attn" in path}
    assert [slot for slot, weight in content.items() if weight] == ["OUT00"]
    for family in blocks.LEVELS:
        style, content = (set(blocks.PRESETS[name][family]) for name in ("style only", "content only"))
        assert style and content and not style & content


def test_nothing_written_means_one_everywhere_and_numbers_land_where_they_were_written():
    assert blocks.parse(" ", "sdxl") == {} and blocks.block_weight({}, "conv_in", "sdxl") == 1
    parsed = blocks.parse("1, 0.5,-2," + "0," * 8 + "4", "sdxl")
    assert [parsed[slot] for slot in ("BASE", "IN04", "IN05", "OUT05")] == [1, 0.5, -2, 4]


@pytest.mark.parametrize(("text", "family", "said"), [
    ("vivid", "sd1", "no block weights named 'vivid'"), ("1,1,1", "mini", "3 block weights were given, and mini has 11 or 14"),
    ("1," * 16 + "1", "sdxl", "sdxl has 12 or 20"), ("1," * 16 + "nan", "sd1", "got 'nan'"),
    ("1," * 16 + "5", "sd1", "from -4 to 4"), ("1," * 16 + "R", "sd1", "got 'R'"),
    ("1," * 16, "sd1", "got ''"), ("IN11", "sdxl", "no block weights named")])
def test_what_is_no_block_weight_is_said_in_a_sentence(text, family, said):
    with pytest.raises(UserError, match=said):
        blocks.parse(text, family)
