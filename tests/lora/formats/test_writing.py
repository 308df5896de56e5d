"""Files of every kind: LyCORIS, diffusers with PEFT and our own reader find the change that was meant."""

import hashlib
import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from lycoris.modules import get_module, make_module
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, safe_open, save
from torch import nn

from sdlora.errors import UserError
from sdlora.lora.formats import reading, writing
from sdlora.lora.formats.header import header
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.math.delta import Adapter, delta
from sdlora.storage import shipped
from tests.lora.formats.test_reading import style, verified

TABLE = family_table("mini")
LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
SQUARE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
POINT = "down_blocks.0.attentions.0.proj_in"
TEXT = "te1:text_model.encoder.layers.1.self_attn.k_proj"


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) / 4


def adapter(kind, path, rank=4, alpha=2.0):
    """One of every kind and form for a module of mini; rank 0 where the kind has none."""
    out, width, *kernel = TABLE[path]
    flat = width * (kernel[0] * kernel[1] if kernel else 1)
    ones = [1] * len(kernel)
    low = {"down": numbers(rank, width, *kernel), "up": numbers(out, rank, *ones)}
    half = {f"w{n}_{x}": numbers(*shape, seed=n) for n in (1, 2) for x, shape in (("a", (out, rank)), ("b", (rank, flat)))}
    tensors = {
        "lora": low, "dora": low | {"dora_scale": numbers(out, 1, *ones).abs() + 1},
        "tucker": {"down": numbers(rank, width, 1, 1), "mid": numbers(rank, rank, *kernel), "up": numbers(out, rank, 1, 1)},
        "loha": half, "lokr": {"w1": numbers(4, 4), "w2_a": numbers(out // 4, rank), "w2_b": numbers(rank, flat // 4)},
        "lokr whole": {"w1": numbers(4, 4), "w2": numbers(out // 4, width // 4, *kernel)},
        "oft": {"blocks": numbers(out // 8, 8, 8) / 8, "rescale": numbers(out, 1, *ones).abs() + 1},
        "glora": {"a1": numbers(width, rank), "a2": numbers(rank, width), "b1": numbers(out, rank), "b2": numbers(rank, width)},
        "full": {"diff": numbers(*TABLE[path]), "diff_b": numbers(out)},
        "ia3": {"weight": numbers(out, 1, *ones), "on_input": torch.tensor(False)}}[kind]
    name = {"dora": "lora", "tucker": "lora", "lokr whole": "lokr"}.get(kind, kind)
    rank, alpha = (0, 0.0) if kind in ("lokr whole", "oft", "full", "ia3") else (rank, alpha)
    return Adapter(name, tensors, alpha, rank, path.split(":")[0] if ":" in path else "unet")


CASES = [("lora", LINEAR), ("lora", CONV), ("lora", POINT), ("dora", LINEAR), ("dora", CONV), ("tucker", CONV), ("loha", LINEAR),
         ("lokr", LINEAR), ("lokr whole", LINEAR), ("lokr whole", CONV), ("oft", SQUARE), ("glora", SQUARE), ("full", LINEAR),
         ("full", CONV)]  # LyCORIS 4.1.3 cannot open its own IA3


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_lycoris_finds_the_change_in_a_kohya_file(tmp_path, kind, path):
    """LyCORIS is the trainer these kinds come from."""
    meant = adapter(kind, path)
    made = writing.write(tmp_path / "a.safetensors", {path: meant}, {}, dtype=None, family="mini")
    weight = numbers(*TABLE[path], seed=9)
    original = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], bias=True) if weight.ndim == 4 else \
        nn.Linear(weight.shape[1], weight.shape[0])
    original.weight.data.copy_(weight)
    name = "lora_unet_" + path.replace(".", "_")
    theirs = make_module(*get_module(load_file(made), name), name, original)
    with torch.no_grad():
        merged, bias = theirs.get_merged_weight(1.0, weight.shape)
        if kind in ("loha", "lokr"):  # LyCORIS 4.1.3 merges them with alpha / rank twice, and draws with it once
            merged = weight + theirs.get_weight(weight.shape)
    assert torch.allclose(merged - weight, delta(meant, weight), atol=2e-5)
    assert bias is None or kind != "full" or torch.allclose(bias, original.bias + meant.tensors["diff_b"])


@pytest.mark.parametrize("dtype", [None, "fp16", "bf16", "fp32"])
def test_our_reader_finds_every_kind_again(tmp_path, dtype):
    meant = {f"{path}": adapter(kind, path) for kind, path in (("lora", LINEAR), ("loha", SQUARE), ("tucker", CONV))}
    meant |= {TEXT: adapter("dora", TEXT), POINT: adapter("lokr", POINT), "mid_block.resnets.0.conv1": adapter(
        "lokr whole", "mid_block.resnets.0.conv1"), "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": adapter(
        "oft", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")}
    again = verified(writing.write(tmp_path / "a.safetensors", meant, {}, dtype=dtype, family="mini"), meant)
    for path, each in meant.items():
        found, weight = again.adapters[path], numbers(*TABLE[path], seed=9)
        assert found.kind == each.kind and found.part == each.part
        assert torch.allclose(delta(found, weight), delta(each, weight), atol={None: 0, "fp32": 0}.get(dtype, 2e-2))


def test_tensors_are_copied_bit_for_bit_in_their_own_format(tmp_path):
    formats = {LINEAR: torch.float16, SQUARE: torch.bfloat16, CONV: torch.float32, TEXT: torch.float8_e4m3fn}
    meant = {}
    for path, kind in formats.items():
        made = adapter("lora", path, alpha=4.0)
        meant[path] = Adapter("lora", {role: value.to(kind) for role, value in made.tensors.items()}, 4.0, 4, made.part)
    for dialect, names in (("kohya", ("lora_up.weight", "lora_down.weight")), ("diffusers", ("lora_B.weight", "lora_A.weight"))):
        file = tmp_path / f"{dialect}.safetensors"
        kept = load_file(writing.write(file, meant, {}, dialect=dialect, dtype=None, family="mini"))
        for path, each in meant.items():
            prefix = writing.dialects.kohya_name(path, "mini") if dialect == "kohya" else writing.dialects.diffusers_name(path)
            for role, leaf in zip(("up", "down"), names, strict=True):
                value = kept[f"{prefix}.{leaf}"]
                assert value.dtype == each.tensors[role].dtype
                assert torch.equal(value.view(torch.uint8), each.tensors[role].view(torch.uint8))


@pytest.mark.parametrize(("alpha", "dtype", "placement"), [
    (4.0, "fp16", "kept"), (8.0, "fp16", "folded"), (0.5, None, "folded"), (3.0, "fp16", "header"), (3.0, None, "fp32")])
def test_where_alpha_goes_in_a_diffusers_file(tmp_path, alpha, dtype, placement):
    made = adapter("lora", LINEAR, alpha=alpha)
    made = Adapter("lora", {role: value.half() for role, value in made.tensors.items()}, alpha, 4, "unet")
    kind = {"fp16": torch.float16, None: None}[dtype]
    assert writing.alpha_placement({LINEAR: made}, kind) == placement
    path = writing.write(tmp_path / "a.safetensors", {LINEAR: made}, {}, dialect="diffusers", dtype=dtype, family="mini")
    with safe_open(path, "pt") as opened:
        told = json.loads(opened.metadata()["lora_adapter_metadata"])
        up = opened.get_tensor(f"unet.{LINEAR}.lora_B.weight")
    assert told["unet.lora_alpha"] == (3 if placement == "header" else 4)
    assert up.dtype == (torch.float32 if placement == "fp32" else torch.float16)
    again, zeros = reading.read(path).adapters[LINEAR], torch.zeros(TABLE[LINEAR])
    exact = torch.equal if placement != "fp32" else torch.allclose
    assert exact(delta(again, zeros), delta(made, zeros))


@pytest.fixture(scope="module")
def pipe():
    made = StableDiffusionPipeline.from_pretrained(shipped("assets", "mini"), dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


def peft_changes(pipe, path):
    """{canonical path: W' - W} of a file as diffusers and PEFT apply it to mini, and the weights."""
    pipe.load_lora_weights(str(path))
    changes, weights = {}, {}
    for prefix, model in (("", pipe.unet), ("te1:text_model.", pipe.text_encoder)):
        for name, layer in [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]:
            before = layer.get_base_layer().weight.detach().clone()
            layer.merge()
            weights[prefix + name.removeprefix("text_model.")] = before
            changes[prefix + name.removeprefix("text_model.")] = layer.get_base_layer().weight.detach() - before
            layer.get_base_layer().weight.data.copy_(before)
    pipe.unload_lora_weights()
    return changes, weights


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_diffusers_and_peft_make_the_same_change(tmp_path, pipe, kind, dtype):
    """Different ranks, alphas that are no powers of two, linear and convolution, UNet and text encoder."""
    meant = {path: adapter(kind, path, rank, alpha) for path, rank, alpha in (
        (LINEAR, 4, 3.0), (SQUARE, 8, 8.0), (CONV, 2, 1.0), (POINT, 4, 4.0), (TEXT, 6, 1.0))}
    path = writing.write(tmp_path / "a.safetensors", meant, {}, dialect="diffusers", dtype=dtype, family="mini")
    changes, weights = peft_changes(pipe, path)
    assert changes.keys() == meant.keys() == reading.read(path).adapters.keys()
    for name, change in changes.items():
        assert change.abs().max() > 1e-3
        assert torch.allclose(change, delta(reading.read(path).adapters[name], weights[name]), atol=2e-5), name
        assert dtype != "fp32" or torch.allclose(change, delta(meant[name], weights[name]), atol=2e-5), name


def test_what_a_diffusers_file_cannot_hold_is_a_sentence(tmp_path):
    for kind, path in (("loha", LINEAR), ("tucker", CONV), ("full", LINEAR)):
        with pytest.raises(UserError, match="cannot hold"):
            writing.write(tmp_path / "a.safetensors", {path: adapter(kind, path)}, {}, dialect="diffusers", family="mini")
    mixed = {LINEAR: adapter("lora", LINEAR), SQUARE: adapter("dora", SQUARE)}
    with pytest.raises(UserError, match="Some modules are DoRA"):
        writing.write(tmp_path / "a.safetensors", mixed, {}, dialect="diffusers", family="mini")
    assert list(tmp_path.glob("*.safetensors")) == []


def test_other_metadata_over_the_same_bytes(tmp_path):
    path = writing.write(tmp_path / "a.safetensors", {LINEAR: adapter("loha", LINEAR), TEXT: adapter("lora", TEXT)},
                       {"ss_x": "1", "sdlora_note": "old"}, dtype=None, family="mini")
    out = writing.rewrite(path, tmp_path / "b.safetensors", {"ss_x": "1", "sdlora_note": "new", "sshs_model_hash": "f" * 64})
    before, after = load_file(path), load_file(out)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    told, new = header(path).metadata, header(out).metadata
    assert new == told | {"sdlora_note": "new"} and len(new["sshs_model_hash"]) == 64
    assert writing.rewrite(out, out, told).read_bytes() == path.read_bytes()


def test_the_hashes_are_those_of_kohya(tmp_path):
    """sd-scripts/library/train_util.py: SHA-256 of all that follows the header; 8 letters of that of the second MB's start."""
    big = {LINEAR: Adapter("lora", {"down": numbers(1500, TABLE[LINEAR][1]), "up": numbers(TABLE[LINEAR][0], 1500)}, 1.0, 1500,
                           "unet")}
    told = {"ss_output_name": "a", "sdlora_note": "not hashed", "modelspec.title": "nor this"}
    path = writing.write(tmp_path / "a.safetensors", big, told, dtype="fp32", family="mini")
    raw, metadata = path.read_bytes(), header(path).metadata
    start = 8 + int.from_bytes(raw[:8], "little")
    assert metadata["sshs_model_hash"] == hashlib.sha256(raw[start:]).hexdigest()
    assert metadata["modelspec.hash_sha256"] == "0x" + metadata["sshs_model_hash"]
    alone = save(load_file(path), {"ss_output_name": "a"})
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(alone[0x100000:0x110000]).hexdigest()[:8]


def test_a_module_that_sdxl_has_not_is_a_sentence(tmp_path):
    adapters = {"down_blocks.0.conv": Adapter("lora", {"up": torch.ones(4, 2), "down": torch.ones(2, 4)}, 2.0, 2, "unet")}
    with pytest.raises(UserError, match="down_blocks.0.conv has no name"):
        writing.write(tmp_path / "a.safetensors", adapters, {}, family="sdxl")


def test_a_kind_without_a_name_is_a_sentence(tmp_path):
    odd = Adapter("oft", {"inputs": torch.eye(8).repeat(2, 1, 1)}, 0.0, 0, "unet")
    with pytest.raises(UserError, match="cannot hold"):
        writing.write(tmp_path / "a.safetensors", {SQUARE: odd}, {}, family="mini")


NAMES = {  # what A1111, ComfyUI, InvokeAI and kohya's own tools all read
    "sd1": {"down_blocks.0.attentions.0.proj_in": "lora_unet_down_blocks_0_attentions_0_proj_in",
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0":
                "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
            "te1:text_model.encoder.layers.0.mlp.fc1": "lora_te_text_model_encoder_layers_0_mlp_fc1"},
    "sdxl": {"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q":
                 "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
             "mid_block.attentions.0.transformer_blocks.9.ff.net.2": "lora_unet_middle_block_1_transformer_blocks_9_ff_net_2",
             "up_blocks.0.attentions.1.proj_out": "lora_unet_output_blocks_1_1_proj_out",
             "up_blocks.0.upsamplers.0.conv": "lora_unet_output_blocks_2_2_conv",
             "down_blocks.0.downsamplers.0.conv": "lora_unet_input_blocks_3_0_op",
             "down_blocks.2.resnets.1.time_emb_proj": "lora_unet_input_blocks_8_0_emb_layers_1",
             "te1:text_model.encoder.layers.0.self_attn.k_proj": "lora_te1_text_model_encoder_layers_0_self_attn_k_proj",
             "te2:text_model.encoder.layers.31.mlp.fc2": "lora_te2_text_model_encoder_layers_31_mlp_fc2"}}
LEAVES = {"lora": "lora_down.weight lora_up.weight alpha", "dora": "lora_down.weight lora_up.weight dora_scale alpha",
          "tucker": "lora_down.weight lora_mid.weight lora_up.weight alpha",
          "loha": "hada_w1_a hada_w1_b hada_w2_a hada_w2_b alpha",
          "lokr": "lokr_w1 lokr_w2_a lokr_w2_b alpha", "lokr whole": "lokr_w1 lokr_w2 alpha", "oft": "oft_blocks rescale alpha",
          "glora": "a1.weight a2.weight b1.weight b2.weight alpha", "full": "diff diff_b", "ia3": "weight on_input"}


@pytest.mark.parametrize("family", NAMES)
def test_modules_are_named_as_all_programs_read_them(family):
    for path, name in NAMES[family].items():
        one = Adapter("lora", {"down": torch.ones(1, 2), "up": torch.ones(2, 1)}, 1.0, 1, "unet")
        assert set(writing.kohya_tensors({path: one}, None, family)) == {
            f"{name}.{leaf}" for leaf in ("lora_down.weight", "lora_up.weight", "alpha")}


@pytest.mark.parametrize("kind", LEAVES)
def test_the_leaves_of_every_kind_are_those_of_lycoris(kind):
    path = CONV if kind == "tucker" else SQUARE
    named = writing.kohya_tensors({path: adapter(kind, path)}, None, "mini")
    assert {name.partition(".")[2] for name in named} == set(LEAVES[kind].split())
    norm = Adapter("full", {"diff": torch.ones(4), "diff_b": torch.ones(4)}, 0.0, 0, "unet")
    assert {name.partition(".")[2] for name in writing.kohya_tensors({"conv_norm_out": norm}, None, "mini")} == {
        "w_norm", "b_norm"}


def test_reading_back_notices_a_damaged_copy_and_modules_that_are_missing_or_surplus(tmp_path):
    meant = style()
    path = writing.write(tmp_path / "a.safetensors", meant, {}, family="mini")
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(UserError, match="differs in 1 modules"):
        writing.read_back(path, meant, "mini")
    with pytest.raises(UserError, match="differs"):
        writing.read_back(writing.write(path, dict(list(meant.items())[1:]), {}, family="mini"), meant, "mini")
    with pytest.raises(UserError, match="differs in 3 modules"):  # down, up and alpha
        writing.read_back(writing.write(path, meant, {}, family="mini"), dict(list(meant.items())[1:]), "mini")
    held = writing.read_back(path, meant, "mini")
    assert held.keys() == meant.keys() and all(writing.same_change(meant[name], held[name]) for name in meant)
