"""Every spelling, and diffusers' own converter as the judge of block names."""

from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)

from sdlora.families import FAMILIES
from sdlora.lora.formats.dialects import diffusers_name, from_ldm, kohya_name, parse_names, to_ldm, unflatten
from sdlora.lora.formats.module_tables import family_table

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
FLAT = BLOCK.replace(".", "_")
TEXT = "text_model.encoder.layers.0"
FLAT_TEXT = "encoder.layers.0"                                 # as transformers names it since 5.6
SPELLINGS = [
    (f"lora_unet_{FLAT}_attn1_to_q.lora_down.weight", f"{BLOCK}.attn1.to_q", "down", "kohya"),
    (f"lora_unet_{FLAT}_ff_net_0_proj.lora_up.weight", f"{BLOCK}.ff.net.0.proj", "up", "kohya"),
    (
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.alpha",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "alpha",
        "kohya",
    ),
    ("lora_unet_down_blocks_0_resnets_0_conv_shortcut.lora_mid.weight", "down_blocks.0.resnets.0.conv_shortcut", "mid", "kohya"),
    ("lora_unet_time_embedding_linear_1.alpha", "time_embedding.linear_1", "alpha", "kohya"),
    ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", f"te1:{TEXT}.mlp.fc1", "up", "kohya"),
    ("lora_te1_text_model_encoder_layers_0_self_attn_k_proj.alpha", f"te1:{TEXT}.self_attn.k_proj", "alpha", "kohya"),
    ("lora_te2_text_model_encoder_layers_31_mlp_fc2.lora_up.weight", "te2:text_model.encoder.layers.31.mlp.fc2", "up", "kohya"),
    (
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_down.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "down",
        "kohya (sgm block names)",
    ),
    (
        "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2.lora_up.weight",
        "mid_block.attentions.0.transformer_blocks.9.ff.net.2",
        "up",
        "kohya (sgm block names)",
    ),
    ("lora_unet_output_blocks_0_1_proj_out.alpha", "up_blocks.0.attentions.0.proj_out", "alpha", "kohya (sgm block names)"),
    (f"{BLOCK}.attn1.processor.to_q_lora.down.weight", f"{BLOCK}.attn1.to_q", "down", "diffusers (attention processors)"),
    (f"unet.{BLOCK}.attn1.processor.to_out_lora.up.weight", f"{BLOCK}.attn1.to_out.0", "up", "diffusers (attention processors)"),
    (
        f"text_encoder.{TEXT}.self_attn.to_out_lora.down.weight",
        f"te1:{TEXT}.self_attn.out_proj",
        "down",
        "diffusers (attention processors)",
    ),
    (f"unet.{BLOCK}.attn1.to_out.0.lora.up.weight", f"{BLOCK}.attn1.to_out.0", "up", "diffusers (lora.down)"),
    (f"text_encoder.{TEXT}.mlp.fc1.lora_linear_layer.down.weight", f"te1:{TEXT}.mlp.fc1", "down", "diffusers (lora.down)"),
    (f"unet.{BLOCK}.attn1.to_q.lora_A.weight", f"{BLOCK}.attn1.to_q", "down", "diffusers (PEFT)"),
    ("unet.down_blocks.0.resnets.0.conv1.lora_B.weight", "down_blocks.0.resnets.0.conv1", "up", "diffusers (PEFT)"),
    (f"text_encoder_2.{TEXT}.self_attn.q_proj.lora_A.weight", f"te2:{TEXT}.self_attn.q_proj", "down", "diffusers (PEFT)"),
    (f"{BLOCK}.attn1.to_q.lora_B.weight", f"{BLOCK}.attn1.to_q", "up", "diffusers (PEFT, no prefix)"),
    (f"base_model.model.{BLOCK}.attn2.to_k.lora_A.weight", f"{BLOCK}.attn2.to_k", "down", "diffusers (PEFT)"),
    (f"base_model.model.{TEXT}.mlp.fc1.lora_A.weight", f"te1:{TEXT}.mlp.fc1", "down", "diffusers (PEFT)"),
    (f"text_encoder.{FLAT_TEXT}.mlp.fc1.lora_A.weight", f"te1:{TEXT}.mlp.fc1", "down", "diffusers (PEFT)"),
    ("text_encoder_2.text_projection.lora_A.weight", "te2:text_projection", "down", "diffusers (PEFT)"),
    ("lora_te2_text_projection.lora_up.weight", "te2:text_projection", "up", "kohya"),
    (f"unet.{BLOCK}.attn1.to_q.lora_A.style.weight", f"{BLOCK}.attn1.to_q", "down", "diffusers (PEFT)"),
    (f"unet.{BLOCK}.attn1.to_q.lora_magnitude_vector", f"{BLOCK}.attn1.to_q", "magnitude", "diffusers (PEFT)"),
    (f"unet.{BLOCK}.attn1.to_q.lora_magnitude_vector.weight", f"{BLOCK}.attn1.to_q", "magnitude", "diffusers (PEFT)"),
    (f"unet.{BLOCK}.attn1.to_q.lora_magnitude_vector.style.weight", f"{BLOCK}.attn1.to_q", "magnitude", "diffusers (PEFT)"),
    (f"unet.{BLOCK}.attn1.to_q.lora_B.default.bias", f"{BLOCK}.attn1.to_q", "bias", "diffusers (PEFT)"),
    (f"base_model.model.{BLOCK}.attn1.to_q.hada_w1_a", f"{BLOCK}.attn1.to_q", "hada_w1_a", "diffusers (lora_down)"),
    (f"base_model.model.{BLOCK}.attn1.to_q.lokr_w2_b.style", f"{BLOCK}.attn1.to_q", "lokr_w2_b", "diffusers (lora_down)"),
    (f"base_model.model.{BLOCK}.attn1.to_q.oft_R.weight", f"{BLOCK}.attn1.to_q", "oft_R", "diffusers (PEFT)"),
    ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight", f"{BLOCK}.attn1.to_q", "up", "comfyui"),
    ("diffusion_model.input_blocks.1.0.in_layers.0.diff_b", "down_blocks.0.resnets.0.norm1", "diff_b", "comfyui"),
    ("diffusion_model.out.0.diff", "conv_norm_out", "diff", "comfyui"),
    ("input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight", f"{BLOCK}.attn1.to_q", "up", "comfyui"),
    (f"text_encoders.clip_l.transformer.{TEXT}.mlp.fc1.lora_up.weight", f"te1:{TEXT}.mlp.fc1", "up", "comfyui"),
    (f"text_encoders.clip_h.transformer.{TEXT}.mlp.fc1.lora_up.weight", f"te1:{TEXT}.mlp.fc1", "up", "comfyui"),
    ("text_encoders.clip_g.transformer.text_projection.lora_up.weight", "te2:text_projection", "up", "comfyui"),
    (f"lycoris_{FLAT}_attn1_to_q.lokr_w1", f"{BLOCK}.attn1.to_q", "lokr_w1", "simpletuner (LyCORIS)"),
    (f"oft_unet_{FLAT}_attn1_to_q.oft_blocks", f"{BLOCK}.attn1.to_q", "oft_blocks", "kohya"),
    ("lora_unet_output_blocks_3_0_in_layers_0.w_norm", "up_blocks.1.resnets.0.norm1", "diff", "kohya (sgm block names)"),
    ("lora_te_encoder_layers_0_mlp_fc1.alpha", f"te1:{TEXT}.mlp.fc1", "alpha", "kohya"),
    *((f"lora_unet_{FLAT}_attn1_to_q.{leaf}", f"{BLOCK}.attn1.to_q", part, "kohya") for leaf, part in (
        ("hada_t1", "hada_t1"), ("lokr_w1_a", "lokr_w1_a"), ("dora_scale", "dora_scale"), ("a1.weight", "a1"),
        ("oft_diag", "oft_diag"), ("rescale", "rescale"), ("diff", "diff"), ("b_norm", "diff_b"), ("on_input", "on_input"),
        ("set_weight", "set_weight"), ("scale", "scale"))),
]
MENDED = [
    (f"unet.unet.{BLOCK}.attn1.to_q.lora_A.weight", f"{BLOCK}.attn1.to_q", "down", "doubled prefix"),
    (f"base_model.model.base_model.model.{BLOCK}.attn1.to_q.lora_A.weight", f"{BLOCK}.attn1.to_q", "down", "doubled prefix"),
    (f"lora_unet_lora_unet_{FLAT}_attn1_to_q.alpha", f"{BLOCK}.attn1.to_q", "alpha", "doubled prefix"),
    (f"lora_unet_{FLAT}_attn1_to_q_lora_down_weight", f"{BLOCK}.attn1.to_q", "down", "underscores"),
    (f"lora_unet_{FLAT}_attn1_to_q_lora_up.weight", f"{BLOCK}.attn1.to_q", "up", "underscores"),
    (f"lora_unet_{FLAT}_attn1_to_q_alpha", f"{BLOCK}.attn1.to_q", "alpha", "underscores"),
    (f"unet.{BLOCK}.attn1.processor.to_out_lora_down.weight", f"{BLOCK}.attn1.to_out.0", "down", "underscores"),
]


@pytest.mark.parametrize(("name", "path", "role", "spelling"), SPELLINGS, ids=[entry[0] for entry in SPELLINGS])
def test_every_spelling_is_understood(name, path, role, spelling):
    found = parse_names([name])
    assert found.modules == {path: {role: name}}
    assert (found.spelling, found.dialect) == (spelling, spelling.split()[0])
    assert not found.unknown and not found.kinds


@pytest.mark.parametrize(("name", "path", "part", "says"), MENDED, ids=[entry[0] for entry in MENDED])
def test_what_can_be_mended_is_mended_and_said(name, path, part, says):
    found = parse_names([name])
    assert found.modules == {path: {part: name}} and not found.unknown
    assert says in next(iter(found.repairs)) and list(found.repairs.values()) == [1]


@pytest.mark.parametrize(("leaf", "kind"), [("boft_R", "BOFT of PEFT"), ("boft_R.default", "BOFT of PEFT"), ("lora_E", "AdaLoRA"),
                                            ("lambda_layer", "T-LoRA"), ("reshape_weight", "resized LoRA (reshape_weight)")])
def test_kinds_we_do_not_read_are_named(leaf, kind):
    assert list(parse_names([f"base_model.model.{BLOCK}.attn1.to_q.{leaf}"]).kinds.values()) == [kind]


def test_the_vector_of_ia3_is_one_only_beside_its_switch():
    vector, switch = (f"lora_unet_{FLAT}_attn1_to_q.{leaf}" for leaf in ("weight", "on_input"))
    assert parse_names([vector, switch]).modules == {f"{BLOCK}.attn1.to_q": {"weight": vector, "on_input": switch}}
    assert parse_names([vector]).unknown == [vector]


def test_a_module_spelled_twice_is_read_once_and_halves_are_never_mixed():
    sgm = [f"lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.{leaf}"
           for leaf in ("lora_down.weight", "alpha", "lora_up.weight")]
    plain = [f"lora_unet_{FLAT}_attn1_to_q.{leaf}" for leaf in ("lora_up.weight", "lora_down.weight", "alpha")]
    other = "lora_unet_input_blocks_2_1_proj_in.lora_up.weight"
    found = parse_names([*(name for pair in zip(sgm, plain, strict=True) for name in pair), other])
    assert sorted(found.modules[f"{BLOCK}.attn1.to_q"].values()) == sorted(plain)
    assert found.modules["down_blocks.0.attentions.1.proj_in"] == {"up": other}      # what only one spelling has is kept
    assert found.repeated == dict.fromkeys(sgm, "the same module in a second spelling") and not found.unknown


def test_of_two_adapters_in_one_file_one_is_read():
    names = [f"unet.{BLOCK}.attn1.to_q.lora_{half}.{adapter}.weight" for half in "AB" for adapter in ("one", "two")]
    found = parse_names([*names, f"unet.{BLOCK}.attn1.to_q.alpha"])
    assert found.modules == {f"{BLOCK}.attn1.to_q": {"down": names[0], "up": names[2], "alpha": f"unet.{BLOCK}.attn1.to_q.alpha"}}
    assert found.repeated == dict.fromkeys(names[1::2], "a second adapter in the same file")


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight",
        "unet:0:up",
        "<s1>",
        "hello",
        "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight",
        "lora_unet_.alpha",
        "lora_unet_down_blocks_0_evil.alpha",
        "conv_in.weight",
        "",
    ],
)
def test_other_names_are_not_guessed_at(name):
    assert parse_names([name]).unknown == [name]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_module_of_every_family_survives_writing_and_reading(family):
    for path in family_table(family):
        assert list(parse_names([kohya_name(path, family) + ".alpha"]).modules) == [path]
        assert list(parse_names([diffusers_name(path) + ".lora_A.weight"]).modules) == [path]


def test_kohya_names_of_sdxl_mean_to_diffusers_what_they_mean_to_us():
    paths = [path for path, shape in family_table("sdxl").items() if len(shape) > 1
             and ("transformer_blocks" in path or path.endswith(("proj_in", "proj_out")))]
    names = {
        f"{kohya_name(path, 'sdxl')}.lora_{half}.weight": torch.full((1, 1), float(number))
        for number, path in enumerate(paths)
        for half in ("down", "up")
    }
    mapped = _maybe_map_sgm_blocks_to_diffusers(dict(names), SimpleNamespace(layers_per_block=2))
    theirs, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
    assert len(theirs) == len(names) == 2 * 722
    for name, value in theirs.items():
        assert list(parse_names([name]).modules) == [paths[int(value)]]


def test_flat_names_are_split_only_at_words_of_the_field():
    assert unflatten("down_blocks_0_resnets_1_time_emb_proj") == "down_blocks.0.resnets.1.time_emb_proj"
    assert unflatten("down_blocks_0_") == "down_blocks.0"
    assert unflatten("rm_rf") is None


def test_sgm_names_go_both_ways_for_all_of_sdxl():
    paths = [path for path in family_table("sdxl") if ":" not in path]
    assert len({to_ldm(path) for path in paths}) == len(paths)
    assert all(from_ldm(to_ldm(path)) == path for path in paths)
    assert from_ldm("output_blocks.2.1.conv") == "up_blocks.0.upsamplers.0.conv"  # SD 1.x has no attention there


@pytest.mark.parametrize("path", ["mid_block", "text_model.encoder.layers.0.mlp.fc1", "down_blocks.0.attentions"])
def test_other_paths_have_no_such_name(path):
    assert from_ldm(path) is None
    with pytest.raises(ValueError, match="no sgm name"):
        to_ldm(path)
