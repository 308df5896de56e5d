"""Files made to hurt: each is refused by a sentence, nothing hangs, nothing is unpickled."""

import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from sdlora.config import LoraChoice
from sdlora.errors import UserError
from sdlora.lora.formats import reading
from sdlora.lora.formats.header import NUMPY, Header, header
from sdlora.lora.formats.layout import layout
from sdlora.lora.math.low_rank import Limit
from sdlora.lora.tools import convert
from sdlora.lora.tools.report import inspect

NAME = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


def packed(head, data=b""):
    """A safetensors file with this header: a dict, a JSON text or raw bytes."""
    raw = head if isinstance(head, bytes) else (head if isinstance(head, str) else json.dumps(head)).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(shape, begin, dtype="F32", size=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + int(np.prod(shape, dtype=object)) * size]}


def lora(changes=None, alpha=4.0, down=(4, 128), up=(192, 4), fill=0.01):
    """A small valid LoRA for mini, with entries of its header replaced or removed (None)."""
    parts = [
        (f"{NAME}.alpha", np.float32(alpha)),
        (f"{NAME}.lora_down.weight", np.full(down, fill, "<f4")),
        (f"{NAME}.lora_up.weight", np.full(up, fill, "<f4")),
    ]
    head, data = {}, b""
    for name, value in parts:
        head[name] = entry(value.shape, len(data))
        data += value.tobytes()
    for name, value in (changes or {}).items():
        head = {key: kept for key, kept in head.items() if key != name} | ({name: value} if value is not None else {})
    return packed(head, data)


DOWN, UP, ALPHA = f"{NAME}.lora_down.weight", f"{NAME}.lora_up.weight", f"{NAME}.alpha"
GOOD = lora()
ONE = {"a.alpha": entry((), 0)}
BROKEN = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "length zero": bytes(8) + b"{}",
    "length 2**63": (2**63).to_bytes(8, "little") + b"{" * 99,
    "length beyond the file": (10**8 + 1).to_bytes(8, "little") + b"{}",
    "one byte short": GOOD[:-1],
    "half": GOOD[: len(GOOD) // 2],
    "trailing zip": GOOD + b"PK\x03\x04",
    "not JSON": packed(b"{hello}"),
    "not UTF-8": packed(b'{"\xff\xfe": 1}'),
    "deep": packed('{"a":' * 5000 + "1" + "}" * 5000),
    "a list": packed("[1]"),
    "leading space": packed(" " + json.dumps(ONE), bytes(4)),
    "twice the same name": packed('{"a.alpha":%s,"a.alpha":%s}' % ((json.dumps(ONE["a.alpha"]),) * 2), bytes(4)),
    "twice the same field": packed('{"a.alpha":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}', bytes(4)),
    "NaN in the header": packed('{"a.alpha":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
    "a number of 5,000 digits": packed('{"a.alpha":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % ("9" * 5000), bytes(4)),
    "no tensors": packed({}),
    "only metadata": packed({"__metadata__": {"format": "pt"}}),
    "metadata of numbers": packed({"__metadata__": {"a": 1}} | ONE, bytes(4)),
    "metadata a list": packed({"__metadata__": []} | ONE, bytes(4)),
    "overlap": packed({"a.alpha": entry((2,), 0), "b.alpha": entry((2,), 4)}, bytes(12)),
    "hole": packed({"a.alpha": entry((), 0), "b.alpha": entry((), 8)}, bytes(12)),
    "wrong size": packed({"a.alpha": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
    "overflow": packed({"a.alpha": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)),
    "negative": packed({"a.alpha": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, bytes(4)),
    "backwards": packed({"a.alpha": {"dtype": "F32", "shape": [], "data_offsets": [4, 0]}}, bytes(4)),
    "true as a size": packed({"a.alpha": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, bytes(4)),
    "three offsets": packed({"a.alpha": {"dtype": "F32", "shape": [], "data_offsets": [0, 4, 4]}}, bytes(4)),
    "unknown format": packed({"a.alpha": {"dtype": "F3", "shape": [], "data_offsets": [0, 4]}}, bytes(4)),
    "format a list": packed({"a.alpha": {"dtype": [], "shape": [], "data_offsets": [0, 4]}}, bytes(4)),
    "zero size": packed({"a.alpha": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
    "a path as a name": packed({"../../etc/x": entry((), 0)}, bytes(4)),
    "a long name": packed({"a" * 10**6: entry((), 0)}, bytes(4)),
    "control characters": packed({"a\x1b[31m": entry((), 0)}, bytes(4)),
    "unknown names": packed({"hello": entry((), 0)}, bytes(4)),
    "20,001 tensors": packed({f"a{i}.alpha": entry((), 4 * i) for i in range(20_001)}, bytes(80_004)),
    "down without up": lora({UP: None})[: -192 * 4 * 4],
    "alpha NaN": lora(alpha=float("nan")),
    "alpha -1": lora(alpha=-1.0),
    "ranks that differ": lora(down=(3, 128)),
    "a vector": lora({UP: entry((768,), 4 + 2048)}),
    "whole numbers": lora({UP: entry((192, 4), 4 + 2048, "I32")}),
    "an alpha of two": lora({ALPHA: entry((2,), 0, "F16", 2)}),
}
SAYS = {
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
    "a web page": (b"<!DOCTYPE html><html><title>404</title></html>", "web page"),
    "a JSON error": (b'{"error": "not found"}', "JSON"),
    "a zip": (b"PK\x03\x04" + bytes(60), "zip or a pickle"),
    "a GGUF": (b"GGUF\3\0\0\0" + bytes(60), "GGUF model, not a LoRA. Choose the .safetensors file"),
    "a gzip": (b"\x1f\x8b\x08" + bytes(60), "gzip archive, not a LoRA"),
    "a 7z": (b"7z\xbc\xaf\x27\x1c" + bytes(60), "7z archive"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + bytes(60), "a picture, not a LoRA"),
    "JSON that ends early": (packed('{"a.alpha": {"dtype": "F'), "damaged header: it is no JSON from character 23 on"),
    "a header that is no text": (packed(b'{"\xff\xfe": 1}'), "it is no text from byte 3 on"),
    "numbers of 4 bits": (packed({"a.lora_A.weight": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, bytes(1)),
                          "bad.safetensors keeps its numbers as F4, which sdlora does not read"),
    "complex numbers": (packed({"a.alpha": {"dtype": "C64", "shape": [], "data_offsets": [0, 8]}}, bytes(8)), "as C64"),
    "a pickle": (b"\x80\x04\x95" + bytes(60), "pickle"),
    "half a LoHa": (packed({f"{NAME}.hada_w1_a": entry((4, 4), 0)}, bytes(64)), "has no hada_w1_b"),
    "a LoHa in a LoRA": (lora({ALPHA: None, f"{NAME}.hada_t1": entry((), 0)}), "mixes LoRA with hada_t1"),
    "a DoRA of another width": (lora({ALPHA: None, f"{NAME}.dora_scale": entry((), 0)}), "dora_scale of the shape"),
    "PEFT's BOFT": (packed({"base_model.model.mid_block.x.boft_R": entry((4, 4), 0)}, bytes(64)), "BOFT of PEFT"),
    "an SD 3 LoRA": (packed({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": entry((4, 4), 0)}, bytes(64)), "SD 3"),
    "a Flux LoRA with CLIP": (packed({
        "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": entry((4, 4), 0),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": entry((4, 4), 64),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": entry((4, 4), 128)}, bytes(192)), "Flux"),
    "a LoRA of a stranger's UNet": (packed({
        "lora_unet_blocks_0_attn_qkv.lora_down.weight": entry((4, 4), 0),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": entry((4, 4), 64),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": entry((4, 4), 128)}, bytes(192)), "does not know"),
    "a ControlNet": (packed({"control_model.input_blocks.0.0.weight": entry((4,), 0)}, bytes(16)), "ControlNet"),
    "a VAE": (packed({"decoder.mid.block_1.conv1.weight": entry((4,), 0)}, bytes(16)), "a VAE"),
    "a Flux LoRA": (packed({"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": entry((4, 4), 0)}, bytes(64)), "Flux"),
    "a whole model": (packed({"model.diffusion_model.input_blocks.0.0.weight": entry((4,), 0)}, bytes(16)), "whole base model"),
    "an embedding": (packed({"emb_params": entry((2, 768), 0)}, bytes(6144)), "textual inversion"),
    "one layer of a positional LoRA": (packed({"unet:0:up": entry((4, 4), 0)}, bytes(64)), "cloneofsimo.*numbers 1 layers"),
    "values that are no numbers": (lora(fill=float("nan")), "is broken.*NaN"),
    "infinite values": (lora(fill=float("inf")), "is broken.*NaN"),
    "a huge header": ((26 * 2**20).to_bytes(8, "little") + b"{" + b" " * (26 * 2**20), "header of 27 MB"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_a_sentence(tmp_path, name):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(BROKEN[name])
    for door in (reading.read, inspect):
        began = time.process_time()
        with pytest.raises(UserError, match="bad.safetensors") as caught:
            door(path)
        assert caught.value.hint and len(str(caught.value)) < 400 and str(caught.value).isprintable()
        assert time.process_time() - began < 3


@pytest.mark.parametrize("name", SAYS)
def test_the_sentence_names_what_the_file_is(tmp_path, name):
    content, says = SAYS[name]
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=says):
        reading.read(tmp_path / "bad.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin", ".pth", ".PKL"])
def test_pickles_are_not_even_opened(tmp_path, suffix):
    with pytest.raises(UserError, match="pickle"):
        reading.read(tmp_path / f"style{suffix}")  # the file does not exist: its name is enough


def test_what_is_odd_but_right_is_read_with_a_note(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(GOOD)
    assert inspect(path)["matched"] == inspect(path)["modules"] == 1 and reading.read(path).problems == ()
    path.write_bytes(lora(alpha=0.0))
    assert (
        reading.read(path).adapters[next(iter(reading.read(path).adapters))].alpha == 4.0
        and "alpha is 0" in reading.read(path).problems[0]
    )
    path.write_bytes(lora(fill=0.0))
    assert "changes nothing" in inspect(path)["problems"][0]
    path.write_bytes(lora(fill=float("nan")))
    assert "It is broken" in inspect(path)["problems"][0]
    path.write_bytes(lora(down=(4, 4096)))
    assert inspect(path)["matched"] == 0 and "another kind of base" in inspect(path)["problems"][0]
    path.write_bytes(
        packed(
            {"__metadata__": {"<img onerror=x>": "<script>" + "x" * 10_000}}
            | json.loads(GOOD[8 : 8 + int.from_bytes(GOOD[:8], "little")]),
            GOOD[8 + int.from_bytes(GOOD[:8], "little") :],
        )
    )
    assert len(inspect(path)["metadata"]["<img onerror=x>"]) == 2000


def test_fields_that_the_format_does_not_name_are_ignored_as_the_library_does(tmp_path):
    head, data = json.loads(GOOD[8:8 + int.from_bytes(GOOD[:8], "little")]), GOOD[8 + int.from_bytes(GOOD[:8], "little"):]
    (tmp_path / "a.safetensors").write_bytes(packed({name: told | {"nbytes": 1} for name, told in head.items()}, data))
    assert inspect(tmp_path / "a.safetensors")["matched"] == 1


def test_one_layer_of_more_numbers_than_any_weight_is_refused_by_its_header(tmp_path):
    """Below 2 GB, but in fp64 a factor of this rank alone takes 2 GB."""
    path, rank = tmp_path / "a.safetensors", 2**21
    content = packed({DOWN: entry((rank, 128), 0, "F16", 2), UP: entry((192, rank), rank * 256, "F16", 2)})
    path.write_bytes(content)
    with path.open("rb+") as sparse:
        sparse.truncate(len(content) + rank * 640)
    with pytest.raises(UserError, match="a.safetensors.*268 million numbers"):
        layout("a.safetensors", header(path))


@pytest.mark.parametrize("dtype", ["U16", "U32", "U64", "I64", "BOOL", "F16"])
def test_the_switch_of_an_ia3_may_have_any_number_format(tmp_path, dtype):
    size = NUMPY[dtype].itemsize
    path = tmp_path / "a.safetensors"
    path.write_bytes(packed({f"{NAME}.weight": entry((128,), 0), f"{NAME}.on_input": entry((1,), 512, dtype, size)},
                            np.full(128, 0.5, np.float32).tobytes() + bytes([0] * (size - 1) + [1 if dtype != "F16" else 60])))
    adapter, = reading.read(path).adapters.values()
    assert adapter.kind == "ia3" and bool(adapter.tensors["on_input"]) and inspect(path)["matched"] == 1


def weightless(shapes):
    """Small tensors of zeros, by name."""
    head, data = {}, b""
    for name, shape in shapes.items():
        head[name] = entry(shape, len(data))
        data += bytes(4 * int(np.prod(shape)))
    return packed(head, data)


HUGE = {  # a few kB that claim weights of gigabytes
    "a LoHa": {f"{NAME}.hada_w{n}_{half}": (60_000, 1)[::1 if half == "a" else -1] for n in (1, 2) for half in "ab"},
    "a LoKr": {f"{NAME}.lokr_w1": (250, 250), f"{NAME}.lokr_w2": (250, 250)},
    "many of them": {f"{NAME.replace('mid_block', f'up_blocks_{block}')}.hada_w{n}_{half}":
                     (10_000, 1)[::1 if half == "a" else -1] for block in range(50) for n in (1, 2) for half in "ab"}}


@pytest.mark.parametrize("name", HUGE)
def test_huge_weights_that_a_small_file_claims_are_refused_by_every_door(tmp_path, name):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(weightless(HUGE[name]))
    doors = (reading.read, inspect, lambda path: convert.convert_file(path, tmp_path / "out.safetensors", "diffusers"),
             lambda path: convert.resize_file(path, tmp_path / "out.safetensors", Limit(rank=1)),
             lambda path: convert.merge_files([LoraChoice(file=str(path))], tmp_path / "out.safetensors"))
    for door in doors:
        with pytest.raises(UserError, match="bad.safetensors.*claims to change"):
            door(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="could not be opened"):
        header(tmp_path / "none.safetensors")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 2**63) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TENSOR = (
    st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "X"]),
            "shape": st.lists(st.integers(-1, 4), max_size=3),
            "data_offsets": st.lists(st.integers(-1, 40), min_size=1, max_size=3),
        }
    )
    | JSON
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.dictionaries(st.sampled_from([ALPHA, DOWN, UP, "__metadata__", "x"]), TENSOR, max_size=4), st.binary(max_size=40))
def test_any_header_gives_a_header_or_a_sentence_and_never_more_than_the_library_takes(tmp_path_factory, head, data):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(packed(head, data))
    try:
        found = header(path)
    except UserError:
        return
    assert isinstance(found, Header)
    with safe_open(path, "np") as opened:
        assert set(opened.keys()) == set(found.tensors)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_wrong_byte_is_read_or_refused_but_never_a_traceback(tmp_path_factory, place, flip):
    path = tmp_path_factory.getbasetemp() / "flip.safetensors"
    content = bytearray(GOOD)
    content[place % 400] ^= flip  # the header is where it can hurt
    path.write_bytes(content)
    for door in (reading.read, inspect):
        try:
            door(path)
        except UserError:
            continue
        try:
            with safe_open(path, "np") as opened:
                assert len(list(opened.keys())) == 3
        except SafetensorError:
            pytest.fail("we read what the library refuses")
