"""One LoRA in every spelling gives the same adapters; what cannot be read is named; families come from widths."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sdlora.errors import UserError
from sdlora.lora.formats import reading
from sdlora.lora.formats.header import header
from sdlora.lora.formats.layout import layout, open_lora
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.tools.report import inspect
from tests.lora.spellings import RANK, every_spelling, flat, halves, kohya

BLOCK = {"mini": "down_blocks.0", "sd1": "down_blocks.0", "sd2": "down_blocks.0", "sdxl": "down_blocks.1"}
FAMILIES = ("mini", "sd1", "sd2", "sdxl")


def paths(family):
    block = f"{BLOCK[family]}.attentions.0"
    text = "te1:text_model.encoder.layers.0."
    own = [f"{block}.transformer_blocks.0.{name}" for name in ("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "ff.net.0.proj")]
    own += [f"{block}.proj_in", "mid_block.resnets.0.conv1", "mid_block.resnets.1.time_emb_proj", "conv_in"]
    own += ["time_embedding.linear_1"]
    own += [text + "self_attn.q_proj", text + "self_attn.out_proj", text + "mlp.fc1"]
    if family == "sdxl":
        own += ["te2:text_model.encoder.layers.31.mlp.fc2", "te2:text_model.encoder.layers.0.self_attn.k_proj"]
        own += ["te2:text_projection", "add_embedding.linear_1"]
    return own


PAIRS = {family: halves(family, paths(family)) for family in FAMILIES}
CASES = [(family, name) for family in FAMILIES for name in every_spelling(PAIRS[family], family)]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_spelling_of_one_lora_is_the_same_lora(tmp_path, family, name):
    tensors, metadata, scale, pairs = every_spelling(PAIRS[family], family)[name]
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    found = reading.read(tmp_path / "a.safetensors")
    assert (found.family, found.families) == (family, (family,))
    assert found.adapters.keys() == pairs.keys() and len(pairs) >= 3
    for path, adapter in found.adapters.items():
        down, up = pairs[path]
        assert torch.equal(adapter.tensors["down"], down) and torch.equal(adapter.tensors["up"], up)
        assert (adapter.rank, adapter.scale, adapter.part) == (RANK, scale, path.partition(":")[0] if ":" in path else "unet")


@pytest.mark.parametrize(("name", "says"), [
    ("kohya, prefix twice", "doubled prefix"), ("D4, prefix twice", "doubled prefix"),
    ("kohya, leaves with underscores", "underscores"), ("kohya, both", "left out: the same module in a second spelling")])
def test_what_was_mended_is_said(tmp_path, name, says):
    tensors, metadata, *_ = every_spelling(PAIRS["sdxl"], "sdxl")[name]
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    assert any(says in problem for problem in reading.read(tmp_path / "a.safetensors").problems)


def test_a_header_alone_tells_kind_rank_and_family(tmp_path):
    tensors, metadata, *_ = every_spelling(PAIRS["sd1"], "sd1")["kohya"]
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    whole, bare = open_lora(tmp_path / "a.safetensors")[2], layout("a", header(tmp_path / "a.safetensors"))
    assert (whole.kind, whole.rank, whole.families, whole.spelling) == (bare.kind, bare.rank, bare.families, bare.spelling)
    assert bare.kind == "LoCon" and bare.rank == RANK and not bare.notes


def saved(folder, tensors, metadata=None):
    save_file(tensors, folder / "a.safetensors", metadata)
    return folder / "a.safetensors"


def test_embeddings_inside_are_named_and_left_out(tmp_path):
    tensors = every_spelling(PAIRS["mini"], "mini")["kohya"][0]
    tensors |= {"bundle_emb.frog.string_to_param.*": torch.ones(2, 768), "bundle_emb.cat.clip_l": torch.ones(2, 768)}
    found = reading.read(saved(tmp_path, tensors))
    assert "It carries the embeddings cat, frog, which are left out." in found.problems


def test_a_scale_key_stands_for_alpha(tmp_path):
    """A1111: `scale` is taken in place of alpha / rank."""
    path = paths("mini")[2]
    tensors = kohya({path: PAIRS["mini"][path]}, lambda p: flat(p) + ".") | {f"{flat(path)}.scale": torch.tensor(0.25)}
    assert reading.read(saved(tmp_path, tensors)).adapters[path].scale == 0.25
    whole = {f"{flat(path)}.diff": torch.ones(family_table("mini")[path]), f"{flat(path)}.scale": torch.tensor(0.25)}
    assert reading.read(saved(tmp_path, whole)).adapters[path].tensors["diff"].unique().tolist() == [0.25]
    turned = {f"{flat(path)}.oft_blocks": torch.zeros(8, 8, 8), f"{flat(path)}.scale": torch.tensor(0.25)}
    with pytest.raises(UserError, match="a scale of its own, 0.25"):
        reading.read(saved(tmp_path, turned))


@pytest.mark.parametrize(("leaf", "role"), [("diff", "diff"), ("set_weight", "set"), ("w_norm", "diff")])
def test_whole_weights_keep_their_shape(tmp_path, leaf, role):
    path = "mid_block.resnets.0.norm1" if leaf == "w_norm" else "conv_in"
    value = torch.randn(family_table("sd1")[path])
    bias = "b_norm" if leaf == "w_norm" else "diff_b"
    found = reading.read(saved(tmp_path, {f"{flat(path)}.{leaf}": value, f"{flat(path)}.{bias}": torch.ones(value.shape[0])}))
    adapter = found.adapters[path]
    assert adapter.kind == "full" and adapter.rank == 0 and torch.equal(adapter.tensors[role], value)
    assert adapter.tensors["diff_b"].shape == (value.shape[0],) and set(found.families) >= {"sd1", "sd2"}


def test_a_bias_alone_is_a_change_too(tmp_path):
    found = reading.read(saved(tmp_path, {"diffusion_model.out.2.diff_b": torch.ones(4)}))
    assert found.adapters["conv_out"].tensors.keys() == {"diff_b"} and found.adapters["conv_out"].kind == "full"


@pytest.mark.parametrize(("part", "families"), [
    ("te1:text_model.encoder.layers.0.mlp.fc1", {"sd1": ("sd1", "sdxl"), "sd2": ("sd2",)}),
    ("mid_block.resnets.0.conv1", {"sd1": ("sd1", "sd2", "sdxl"), "mini": ("mini",)})])
def test_where_tensors_cannot_tell_the_family_is_a_list(tmp_path, part, families):
    for family, expected in families.items():
        tensors = kohya(halves(family, [part]), lambda p: flat(p) + ".")
        found = reading.read(saved(tmp_path, tensors, {"ss_base_model_version": "sdxl_base_v1-0"}))
        assert found.families == expected and found.family == (expected[0] if len(expected) == 1 else "")


def test_alpha_lies_beside_a_peft_file(tmp_path):
    tensors, *_ = every_spelling(PAIRS["sd1"], "sd1")["D6"]
    path = saved(tmp_path, tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({
        "r": RANK, "lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 1, r".*\.ff\..*": 2}, "peft_type": "LORA"}))
    alphas = {name.rpartition("blocks.0.")[2]: adapter.alpha for name, adapter in reading.read(path).adapters.items()}
    assert (alphas["attn1.to_q"], alphas["ff.net.0.proj"], alphas["attn2.to_k"]) == (1.0, 2.0, 8.0)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"lora_alpha": "x"}', '{"lora_alpha": -1}', '{"alpha_pattern": 3}',
                                  "\x00" * 99, "[" * 100_000, '{"lora_alpha": NaN}', '{"lora_alpha": true, "r": []}'])
def test_a_strange_configuration_beside_it_never_fails(tmp_path, text):
    path = saved(tmp_path, every_spelling(PAIRS["sd1"], "sd1")["D6"][0])
    (tmp_path / "adapter_config.json").write_text(text)
    assert {adapter.scale for adapter in reading.read(path).adapters.values()} == {1.0}


def test_uneven_alphas_and_ranks_stay_apart(tmp_path):
    """What diffusers mis-scales: attention layers whose alpha is not the most common one."""
    tensors = {}
    for number, (path, (down, up)) in enumerate(PAIRS["sd1"].items(), start=1):
        rank = 1 + number % RANK
        tensors |= {f"{flat(path)}.lora_down.weight": down[:rank].contiguous(),
                    f"{flat(path)}.lora_up.weight": up[:, :rank].contiguous(),
                    f"{flat(path)}.alpha": torch.tensor(float(number))}
    found = reading.read(saved(tmp_path, tensors)).adapters
    assert [(found[path].rank, found[path].alpha) for path in PAIRS["sd1"]] == [
        (1 + number % RANK, float(number)) for number in range(1, len(PAIRS["sd1"]) + 1)]


def test_kinds_may_stand_side_by_side(tmp_path):
    path, other = paths("mini")[:2]
    tensors = kohya({path: PAIRS["mini"][path]}, lambda p: flat(p) + ".")
    tensors |= {f"{flat(other)}.hada_{name}": torch.ones(64, 2) if name.endswith("a") else torch.ones(2, 64)
                for name in ("w1_a", "w1_b", "w2_a", "w2_b")}
    plan = open_lora(saved(tmp_path, tensors))[2]
    assert plan.kind == "LoHa + LoRA" and plan.modules[other].rank == 2


def test_parts_of_two_kinds_in_one_module_are_refused(tmp_path):
    path = paths("mini")[0]
    tensors = kohya({path: PAIRS["mini"][path]}, lambda p: flat(p) + ".") | {f"{flat(path)}.diff": torch.ones(64, 64)}
    with pytest.raises(UserError, match="mixes LoRA with diff"):
        open_lora(saved(tmp_path, tensors))


def test_the_second_text_encoder_saved_alone_is_told_by_its_widths(tmp_path):
    path = "te2:text_model.encoder.layers.3.mlp.fc1"
    (down, up), = halves("sdxl", [path]).values()
    found = reading.read(saved(tmp_path, {"base_model.model.text_model.encoder.layers.3.mlp.fc1.lora_A.weight": down,
                                       "base_model.model.text_model.encoder.layers.3.mlp.fc1.lora_B.weight": up}))
    assert list(found.adapters) == [path] and found.family == "sdxl" and found.adapters[path].part == "te2"
    assert any("second text encoder" in problem for problem in found.problems)


def test_a_stranger_with_the_same_blocks_is_no_family(tmp_path):
    """SDXL's refiner reads 1280 wide text states: no family, and a sentence."""
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{flat(path)}.lora_down.weight": torch.ones(2, 1280), f"{flat(path)}.lora_up.weight": torch.ones(768, 2)}
    assert reading.read(saved(tmp_path, tensors)).families == ()
    found = inspect(tmp_path / "a.safetensors")
    assert found["matched"] == 0 and "another kind of base" in found["problems"][-1] and found["blocks"] == {}
