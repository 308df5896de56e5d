"""Merging in place: the sum it should be, the bits it had before, and no LoRA that silently does nothing."""

import pytest
import torch

from sdlora.base.load import load_base
from sdlora.draw.apply import Applied, find
from sdlora.errors import UserError
from sdlora.lora.blend import Ingredient
from sdlora.lora.delta import Adapter

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
STATES = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT = "te1:text_model.encoder.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu", parts=("text", "unet"))


def adapter(base, path, seed=0, rank=2, alpha=1.0):
    out, width = find(base, path).weight.shape
    generator = torch.Generator().manual_seed(seed)
    tensors = {"up": torch.randn(out, rank, generator=generator), "down": torch.randn(rank, width, generator=generator)}
    return Adapter("lora", tensors, alpha, rank, "te1" if path.startswith("te1") else "unet")


def bits(base):
    models = [base.unet, *base.text_encoders]
    return [{name: value.clone() for name, value in model.state_dict().items()} for model in models]


def same(one, other):
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def test_the_sum_is_exact_and_clear_restores_every_bit(mini):
    before = bits(mini)
    first = {path: adapter(mini, path, 1) for path in (QUERY, STATES, TEXT)}
    second = {QUERY: adapter(mini, QUERY, 2, rank=3)}
    weights = {path: find(mini, path).weight.clone() for path in first}
    applied = Applied(mini)
    reports = applied.set([Ingredient(first, 0.8), Ingredient(second, -0.5)])
    assert [report.modules for report in reports] == [3, 1] and not reports[0].absent
    for path, weight in weights.items():
        wanted = weight.double()
        for adapters, strength in ((first, 0.8), (second, -0.5)):
            if path in adapters:
                a = adapters[path]
                wanted = wanted + strength * a.alpha / a.rank * a.tensors["up"].double() @ a.tensors["down"].double()
        assert torch.allclose(find(mini, path).weight.double(), wanted, atol=1e-5)
        assert not torch.equal(find(mini, path).weight, weight)
    merged = bits(mini)
    applied.set([Ingredient(second, -0.5), Ingredient(first, 0.8)])
    assert same(bits(mini), merged)
    applied.clear()
    assert same(bits(mini), before)


def test_switching_a_hundred_times_leaves_no_trace(mini):
    before, applied = bits(mini), Applied(mini)
    one, other = ({QUERY: adapter(mini, QUERY, seed)} for seed in (1, 2))
    for _ in range(50):
        applied.set([Ingredient(one, 0.7)])
        applied.set([Ingredient(other, 1.3), Ingredient(one, 0.2)])
    applied.set([Ingredient(one)])
    once = find(mini, QUERY).weight.clone()
    applied.clear()
    applied.set([Ingredient(one)])
    assert torch.equal(find(mini, QUERY).weight, once)
    applied.clear()
    assert same(bits(mini), before)


def test_strength_zero_is_the_base(mini):
    before, applied = bits(mini), Applied(mini)
    (report,) = applied.set([Ingredient({QUERY: adapter(mini, QUERY)}, 0.0)])
    assert report.modules == 1 and same(bits(mini), before)


def test_what_does_not_fit_is_refused_and_nothing_changes(mini):
    before, applied = bits(mini), Applied(mini)
    elsewhere = {"down_blocks.7.attentions.0.proj_in": adapter(mini, QUERY)}
    wide = Adapter("lora", {"up": torch.ones(320, 2), "down": torch.ones(2, 768)}, 1.0, 2, "unet")
    odd = Adapter("lora", {"up": torch.ones(5, 2), "down": torch.ones(2, 7)}, 1.0, 2, "unet")
    refused = ((elsewhere, "style changes nothing in Mini"), ({STATES: wide}, "style was made for Stable Diffusion 1.x"),
               ({QUERY: odd}, "style does not fit Mini"))
    for adapters, said in refused:
        with pytest.raises(UserError, match=said):
            applied.set([Ingredient({QUERY: adapter(mini, QUERY)}), Ingredient(adapters, name="style")])
        assert same(bits(mini), before)
    (report,) = applied.set([Ingredient(elsewhere | {QUERY: adapter(mini, QUERY)})])
    assert report.modules == 1 and report.absent == ("down_blocks.7.attentions.0.proj_in",)
    applied.clear()


def test_half_precision_is_rounded_once(mini):
    half = load_base("mini", "cpu", parts=("unet",), dtype=torch.float16)
    path, a = QUERY, adapter(mini, QUERY, alpha=0.01)
    weight = find(half, path).weight.clone()
    applied = Applied(half)
    applied.set([Ingredient({path: a}), Ingredient({path: adapter(mini, path, 3, alpha=0.01)})])
    b = adapter(mini, path, 3, alpha=0.01)
    wanted = weight.float() + sum(x.scale * x.tensors["up"] @ x.tensors["down"] for x in (a, b))
    assert (find(half, path).weight.float() - wanted).abs().max() <= 2 ** -11 * wanted.abs().max() * 1.01
    applied.clear()
    assert torch.equal(find(half, path).weight, weight)
