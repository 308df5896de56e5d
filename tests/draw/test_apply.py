"""Merging in place: the sum it should be, the bits it had before, and no LoRA that silently does nothing."""

import gc
import tracemalloc
import weakref

import pytest
import torch

from sdlora.base.load import load_base
from sdlora.draw import apply
from sdlora.draw.apply import Applied
from sdlora.draw.fit import BIAS, find_module
from sdlora.errors import UserError
from sdlora.lora.math import blocks
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter
from tests.lora.blended import blend, blend_biases

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
STATES = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT = "te1:text_model.encoder.layers.1.self_attn.q_proj"
CONV = "up_blocks.1.resnets.0.conv1"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"


@pytest.fixture(scope="module")
def mini():
    return load_base("mini", "cpu", parts=("text", "unet"))


def adapter(base, path, seed=0, rank=2, alpha=1.0):
    out, width = find_module(base, path).weight.shape
    generator = torch.Generator().manual_seed(seed)
    tensors = {"up": torch.randn(out, rank, generator=generator), "down": torch.randn(rank, width, generator=generator)}
    return Adapter("lora", tensors, alpha, rank, "te1" if path.startswith("te1") else "unet")


def attention(base, seed, rank=4):
    """A LoRA on every attention projection of the UNet."""
    paths = [path for path, _ in base.unet.named_modules() if path.endswith(("to_q", "to_k", "to_v", "to_out.0"))]
    return {path: adapter(base, path, seed * 1000 + place, rank, alpha=0.1) for place, path in enumerate(paths)}


def mixed(base, seed):
    """A LoRA of several kinds: plain on two shapes, DoRA, a dense difference with a bias, a convolution."""
    generator = torch.Generator().manual_seed(seed)
    out, width = find_module(base, QUERY).weight.shape
    conv = find_module(base, CONV).weight
    dora = adapter(base, QUERY, seed)
    scale = torch.rand(out, 1, generator=generator) + 0.5
    diff = torch.randn(find_module(base, OUT).weight.shape, generator=generator) * 0.1
    return {QUERY: Adapter("lora", dora.tensors | {"dora_scale": scale}, 1.0, 2, "unet"),
            OUT: Adapter("full", {"diff": diff, "diff_b": torch.randn(diff.shape[0], generator=generator)}, 0.0, 0, "unet"),
            STATES: adapter(base, STATES, seed + 50),
            CONV: Adapter("lora", {"up": torch.randn(conv.shape[0], 3, 1, 1, generator=generator),
                                   "down": torch.randn(3, *conv.shape[1:], generator=generator) * 0.01}, 3.0, 3, "unet")}


def bits(base):
    models = [base.unet, *base.text_encoders]
    return [{name: value.clone() for name, value in model.state_dict().items()} for model in models]


def same(one, other):
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a)


def test_the_sum_is_exact_and_clear_restores_every_bit(mini):
    before = bits(mini)
    first = {path: adapter(mini, path, 1) for path in (QUERY, STATES, TEXT)}
    second = {QUERY: adapter(mini, QUERY, 2, rank=3)}
    weights = {path: find_module(mini, path).weight.clone() for path in first}
    applied = Applied(mini)
    reports = applied.set([Ingredient(first, 0.8), Ingredient(second, -0.5)])
    assert [report.modules for report in reports] == [3, 1] and not reports[0].absent
    for path, weight in weights.items():
        wanted = weight.double()
        for adapters, strength in ((first, 0.8), (second, -0.5)):
            if path in adapters:
                a = adapters[path]
                wanted = wanted + strength * a.alpha / a.rank * a.tensors["up"].double() @ a.tensors["down"].double()
        assert torch.allclose(find_module(mini, path).weight.double(), wanted, atol=1e-5)
        assert not torch.equal(find_module(mini, path).weight, weight)
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
    once = find_module(mini, QUERY).weight.clone()
    applied.clear()
    applied.set([Ingredient(one)])
    assert torch.equal(find_module(mini, QUERY).weight, once)
    applied.clear()
    assert same(bits(mini), before)


def test_strength_zero_is_the_base(mini):
    before, applied = bits(mini), Applied(mini)
    (report,) = applied.set([Ingredient({QUERY: adapter(mini, QUERY)}, 0.0)])
    assert report.modules == 1 and same(bits(mini), before)


def test_what_does_not_fit_is_refused_and_nothing_changes(mini):
    before, applied = bits(mini), Applied(mini)
    odd = Adapter("lora", {"up": torch.ones(5, 2), "down": torch.ones(2, 7)}, 1.0, 2, "unet")
    with pytest.raises(UserError, match="style does not fit Mini"):
        applied.set([Ingredient({QUERY: adapter(mini, QUERY)}), Ingredient({QUERY: odd}, name="style")])
    assert same(bits(mini), before)


def test_half_precision_is_rounded_once(mini):
    half = load_base("mini", "cpu", parts=("unet",), dtype=torch.float16)
    path, a = QUERY, adapter(mini, QUERY, alpha=0.01)
    weight = find_module(half, path).weight.clone()
    applied = Applied(half)
    applied.set([Ingredient({path: a}), Ingredient({path: adapter(mini, path, 3, alpha=0.01)})])
    b = adapter(mini, path, 3, alpha=0.01)
    wanted = weight.float() + sum(x.scale * x.tensors["up"] @ x.tensors["down"] for x in (a, b))
    assert (find_module(half, path).weight.float() - wanted).abs().max() <= 2 ** -11 * wanted.abs().max() * 1.01
    applied.clear()
    assert torch.equal(find_module(half, path).weight, weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_in_place_are_those_of_blend_to_the_bit(mini, dtype):
    base = load_base("mini", "cpu", parts=("unet",), dtype=dtype)
    loras = [attention(mini, 1), attention(mini, 2, rank=3), mixed(mini, 3), mixed(mini, 4)]
    weights = {path: find_module(base, path).weight.clone() for lora in loras for path in lora}
    biases = {path: find_module(base, path).bias.clone() for path in weights if find_module(base, path).bias is not None}
    before = bits(base)
    ingredients = [Ingredient(loras[place], strength, blocks=blocks.parse(names, "mini"), family="mini")
                   for place, strength, names in ((0, 0.7, ""), (1, -1.3, "OUTALL"), (2, 1, "all"), (3, 0.4, ""))]
    applied = Applied(base)
    applied.set(ingredients)
    wanted, wanted_biases = blend(ingredients, weights), blend_biases(ingredients, biases)
    assert wanted.keys() == weights.keys() and list(wanted_biases) == [OUT]
    assert all(torch.equal(find_module(base, path).weight, value) for path, value in wanted.items())
    assert torch.equal(find_module(base, OUT).bias, wanted_biases[OUT])
    merged = bits(base)
    applied.set(ingredients[::-1])
    assert same(bits(base), merged)
    applied.clear()
    assert same(bits(base), before)


def test_a_mix_changes_only_what_differs_and_is_what_a_fresh_merge_gives(mini):
    before, applied, fresh = bits(mini), Applied(mini), Applied(mini)
    one, other = attention(mini, 1), mixed(mini, 2)
    applied.load([Ingredient(one, 0.8), Ingredient(other, 0.5)])
    assert same(bits(mini), before)                                   # made ready, not merged
    first = {path: 0.25 if path == STATES else 0.0 for path in one}
    steps = [(None, (0.8, 0.5)), ((1, 0), (0.8, 0)), ((0.0, 2.0), (0, 1.0)), ((1.0, 1.0), (0.8, 0.5))]
    states = []
    for multipliers, strengths in steps:
        applied.mix(multipliers)
        states.append(bits(mini))
        applied.mix((0, 0))
        assert same(bits(mini), before)
        fresh.set([Ingredient(one, strengths[0]), Ingredient(other, strengths[1])])
        assert same(bits(mini), states[-1])
        fresh.clear()
    assert same(states[0], states[3]) and not same(states[0], states[1])
    applied.mix((first, {}))
    partly = {path: find_module(mini, path).weight.clone() for path in {*one, *other}}
    applied.clear()
    assert same(bits(mini), before)
    weights = {path: find_module(mini, path).weight for path in partly}
    wanted = weights | blend([Ingredient(other, 0.5)], weights) | blend([Ingredient(one, 0.2), Ingredient(other, 0.5)],
                                                                       {STATES: weights[STATES]})
    assert all(torch.equal(partly[path], wanted[path]) for path in partly)


def test_what_stays_the_same_is_not_merged_again(mini, monkeypatch):
    merged = []
    add = Applied.add
    monkeypatch.setattr(Applied, "add", lambda self, key, change: (merged.append(key), add(self, key, change)))
    applied = Applied(mini)
    one, other = attention(mini, 1), mixed(mini, 2)
    applied.set([Ingredient(one), Ingredient(other)])
    assert sorted(merged) == sorted({*one, *other, OUT + BIAS})
    merged.clear()
    applied.mix((1, 1))
    applied.set([Ingredient(one), Ingredient(other)])
    assert merged == []
    applied.mix((1.0, {path: float(path != CONV) for path in other}))
    assert merged == [] and torch.equal(find_module(mini, CONV).weight, applied.pristine(CONV))
    applied.set([Ingredient(one)])
    assert set(merged) == {QUERY, OUT, STATES}                        # only what both LoRAs changed
    applied.clear()


def test_an_interruption_in_the_middle_leaves_the_base_as_it_was(mini, monkeypatch):
    before, applied = bits(mini), Applied(mini)
    applied.set([Ingredient(attention(mini, 1))])
    calls, add = [], Applied.add

    def interrupted(self, key, change):
        calls.append(key)
        if len(calls) == 40:
            raise KeyboardInterrupt
        add(self, key, change)
    monkeypatch.setattr(Applied, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        applied.set([Ingredient(attention(mini, 2)), Ingredient(mixed(mini, 3))])
    assert same(bits(mini), before) and not applied.merged


def test_a_thousand_switches_grow_nothing_and_move_no_storage(mini):
    before, applied = bits(mini), Applied(mini)
    loras = [{path: adapter(mini, path, seed) for path in (QUERY, STATES)} for seed in range(3)]
    where = [value.data_ptr() for value in mini.unet.parameters()]
    applied.set([Ingredient(lora) for lora in loras])
    gc.collect()
    tracemalloc.start()
    sizes = []
    for number in range(1000):
        applied.set([Ingredient(loras[number % 3], 1 + number / 1000), Ingredient(loras[(number + 1) % 3], 0.5)])
        if number in (199, 999):
            gc.collect()
            tensors = sum(type(each) in (torch.Tensor, torch.nn.Parameter) for each in gc.get_objects())
            sizes.append((tracemalloc.get_traced_memory()[0], tensors, len(applied.originals), len(applied.cache.loras)))
    tracemalloc.stop()
    assert sizes[1][1:] == sizes[0][1:] and sizes[1][2:] == (2, 3)
    assert sizes[1][0] < sizes[0][0] + 80_000                         # 100 bytes a switch would be more; interned names are less
    applied.clear()
    assert same(bits(mini), before) and where == [value.data_ptr() for value in mini.unet.parameters()]


def test_loras_stay_ready_until_memory_is_needed(mini):
    applied = Applied(mini)
    loras = [attention(mini, seed) for seed in range(3)]
    applied.cache.max_bytes = 2 * applied.cache.prepared(loras[0]).nbytes
    ready = [applied.cache.prepared(loras[0])]
    applied.load([Ingredient(loras[1])])
    assert applied.cache.prepared(loras[0]) is ready[0]
    applied.load([Ingredient(loras[2])])
    assert set(applied.cache.loras) == {id(loras[0]), id(loras[2])}   # the one not used for longest went
    applied.cache.max_bytes = 0
    applied.load([Ingredient(loras[1]), Ingredient(loras[2])])
    assert set(applied.cache.loras) == {id(loras[1]), id(loras[2])}   # what is in use stays
    applied.clear()


def test_when_gpu_memory_is_short_the_pristine_copy_lies_elsewhere(mini, monkeypatch):
    asked = []
    monkeypatch.setattr(apply, "has_room", lambda device, nbytes: asked.append(nbytes))
    before, applied = bits(mini), Applied(mini)
    lora = attention(mini, 1)
    applied.set([Ingredient(lora)])
    assert asked == [sum(find_module(mini, path).weight.nbytes for path in lora)]
    assert applied.originals[QUERY].pristine.device.type == "cpu"
    applied.clear()
    assert same(bits(mini), before)


def test_rounding_costs_little_but_in_bf16(mini):
    lost = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        base = load_base("mini", "cpu", parts=("unet",), dtype=dtype)
        applied = Applied(base)
        applied.set([Ingredient({path: adapter(base, path, 1, alpha=0.02) for path in (QUERY, STATES)})])
        lost[dtype] = applied.rounding_error()
    assert lost[torch.float32] < 1e-5 < lost[torch.float16] < 0.002 < lost[torch.bfloat16] < 1
    assert lost[torch.bfloat16] == pytest.approx(8 * lost[torch.float16], rel=0.3)   # three bits less
    assert Applied(mini).rounding_error() == 0


def test_a_part_that_was_loaded_again_is_matched_again():
    base = load_base("mini", "cpu", parts=("unet",))
    applied, lora = Applied(base), {QUERY: adapter(base, QUERY)}
    applied.set([Ingredient(lora)])
    merged = find_module(base, QUERY).weight.clone()
    base.unet = load_base("mini", "cpu", parts=("unet",)).unet
    before = bits(base)
    assert not torch.equal(find_module(base, QUERY).weight, merged)
    applied.set([Ingredient(lora)])
    assert torch.equal(find_module(base, QUERY).weight, merged)
    applied.clear()
    assert same(bits(base), before)


def test_what_is_cached_beside_a_base_does_not_keep_it_alive():
    base = load_base("mini", "cpu", parts=("unet",))
    gone, applied = weakref.ref(base), Applied(base)
    applied.set([Ingredient({QUERY: adapter(base, QUERY)})])
    del base
    gc.collect()
    assert gone() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("room", [True, False])
def test_on_a_gpu_restore_is_exact_order_does_not_matter_and_the_sum_is_that_of_the_cpu(mini, monkeypatch, room):
    monkeypatch.setattr(apply, "has_room", lambda device, nbytes: room)
    base = load_base("mini", "cuda", parts=("unet",))
    before, applied = bits(base), Applied(base)
    ingredients = [Ingredient(attention(mini, 1), 0.7), Ingredient(mixed(mini, 2), -0.4), Ingredient(attention(mini, 3), 1)]
    weights = {path: find_module(base, path).weight.cpu() for each in ingredients for path in each.adapters}
    applied.set(ingredients)
    merged = bits(base)
    for path, wanted in blend(ingredients, weights).items():
        assert torch.allclose(find_module(base, path).weight.cpu().float(), wanted.float(), rtol=2 ** -10, atol=1e-6)
    assert applied.originals[QUERY].pristine.is_cuda == room and applied.rounding_error() < 0.01
    applied.set(ingredients[1:2])
    applied.set(ingredients[::-1])
    assert same(bits(base), merged)
    applied.clear()
    assert same(bits(base), before)
