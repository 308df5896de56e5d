"""Patterns are matched as PEFT matches them, and never for long."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from sdlora.lora.formats.peft_config import Config, Patterns, configs_of

MODULES = ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.resnets.0.conv1", "conv_in",
           "text_model.encoder.layers.10.mlp.fc1", "up_blocks.1.attentions.0.proj_in", "xconv_in"]
KEYS = ["to_q", "attn1.to_q", "conv_in", "^conv_in", "^to_q", ".*attn1.*", r"mid_block\..*", "blocks.0", "conv1|proj_in",
        r"layers\.(1|10)\.mlp\.fc1", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", r"up_blocks\.\d\..+", "fc."]


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.sampled_from(KEYS), unique=True, max_size=6), st.sampled_from(MODULES))
def test_the_first_matching_pattern_is_pefts(keys, module):
    told = {key: number for number, key in enumerate(keys)}
    assert Patterns(told).value(module) == told.get(get_pattern_key(keys, module))


def test_alpha_and_rank_follow_patterns_and_rslora():
    config = Config({"r": 8, "lora_alpha": 16, "use_rslora": True, "rank_pattern": {"to_k": 4}, "alpha_pattern": {"to_q": 2}})
    assert config.alpha("a.to_q", 4) == 4.0                    # 2 / sqrt(4) is 4 / 4
    assert config.alpha("a.to_v", 16) == 64.0 and (config.rank("a.to_k"), config.rank("a.to_v")) == (4, 8)
    assert Config({}).alpha("a", 4) is None and Config({"alpha": 3}).alpha("a", 4) == 3.0


def test_clip_matches_with_and_without_its_outer_level():
    config = Config({"lora_alpha": 1, "alpha_pattern": {"^encoder.layers.0.mlp.fc1": 5,
                                                        "^text_model.encoder.layers.1.mlp.fc1": 6}})
    assert [config.alpha(f"text_model.encoder.layers.{layer}.mlp.fc1", 1) for layer in (0, 1, 2)] == [5.0, 6.0, 1.0]


def test_800_patterns_for_800_modules_take_no_time():
    names = [f"down_blocks.{i}.attentions.{j}.to_q" for i in range(20) for j in range(40)]
    patterns, began = Patterns({name: number for number, name in enumerate(names)}), time.process_time()
    assert [patterns.value(name) for name in names] == list(range(800)) and time.process_time() - began < 1


@pytest.mark.parametrize("pattern", ["(a+)+", "(.*)*", "(a|aa)+b", r"(.)\1", "(?:a+)+", "a{2}{3}", "((", "[", "a*" * 4,
                                     ".*" + "x" * 200])
def test_a_dangerous_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="pattern"):
        Patterns({pattern: 1}).value("a" * 100)


def test_a_header_is_taken_apart_by_its_prefixes():
    found = configs_of({"lora_adapter_metadata": '{"unet.r": 4, "text_encoder_2.lora_alpha": 2, "r": 1}'})
    assert {prefix: config.fields for prefix, config in found.items()} == {
        "unet": {"r": 4}, "text_encoder_2": {"lora_alpha": 2}, "": {"r": 1}}
    assert configs_of({"lora_adapter_metadata": "[" * 50_000}) == {} == configs_of({})
