"""Whether a LoRA fits a base: no LoRA that silently does nothing, and a sentence for what does not fit."""

import pytest
import torch

from sdlora.base.load import load_base
from sdlora.draw.fit import BIAS, find_module, match
from sdlora.errors import UserError
from sdlora.lora.math.delta import Adapter

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
STATES = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
ELSEWHERE = "down_blocks.7.attentions.0.proj_in"


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu", parts=("text", "unet"))


def low_rank(out, width, **more):
    return Adapter("lora", {"up": torch.ones(out, 2), "down": torch.ones(2, width), **more}, 1.0, 2, "unet")


def of_query(base):
    return low_rank(*find_module(base, QUERY).weight.shape)


def test_what_does_not_fit_is_refused(mini):
    bias = Adapter("full", {"diff": torch.zeros(find_module(mini, OUT).weight.shape), "diff_b": torch.ones(7)}, 0.0, 0, "unet")
    refused = (({ELSEWHERE: of_query(mini)}, "style changes nothing in Mini"),
               ({STATES: low_rank(320, 768)}, "style was made for Stable Diffusion 1.x"),
               ({QUERY: low_rank(5, 7)}, "style does not fit Mini"),
               ({QUERY: low_rank(5, 7, dora_scale=torch.ones(5, 1))}, "style does not fit Mini"),
               ({OUT: bias}, "style does not fit Mini"))
    for adapters, said in refused:
        with pytest.raises(UserError, match=said):
            match(mini, "style", adapters)


def test_modules_that_the_base_lacks_are_reported(mini):
    found = match(mini, "style", {ELSEWHERE: of_query(mini), QUERY: of_query(mini)})
    assert found.report.modules == 1 and found.report.absent == (ELSEWHERE,) and list(found.targets) == [QUERY]


def test_a_bias_is_a_target_of_its_own_and_an_absent_one_is_reported(mini):
    both = Adapter("full", {"diff": torch.zeros(64, 64), "diff_b": torch.ones(64)}, 0.0, 0, "unet")
    found = match(mini, "style", {QUERY: both, OUT: Adapter("full", {"diff_b": torch.ones(192)}, 0.0, 0, "unet")})
    assert found.report.modules == 2 and found.report.biases == (QUERY,)
    assert list(found.targets) == [QUERY, OUT + BIAS] and found.targets[OUT + BIAS] is find_module(mini, OUT).bias


def test_text_encoders_are_found_flat_or_below_text_model(mini):
    path = "text_model.encoder.layers.1.self_attn.q_proj"
    assert find_module(mini, f"te1:{path}") is not None and find_module(mini, f"te2:{path}") is None
