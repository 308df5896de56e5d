"""LoRA files made of valid safetensors and impossible contents: any kind, any leaf, any shape, any value.

Every door answers with what it read or with one sentence; nothing else is ever raised, and nothing takes long.
"""

import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdlora.errors import UserError
from sdlora.lora.formats import reading
from sdlora.lora.formats.cloneofsimo import BLOCKS
from sdlora.lora.formats.header import header
from sdlora.lora.formats.kinds import PARTS, UNSUPPORTED
from sdlora.lora.formats.layout import layout
from sdlora.lora.tools import report

PATH = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
MODULES = [f"lora_unet_{PATH.replace('.', '_')}.", f"unet.{PATH}.", f"base_model.model.{PATH}.", f"{PATH}.", "lora_unet_conv_in.",
           "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.", "lora_te_text_model_encoder_layers_0_mlp_fc1.",
           "lycoris_conv_in.", "oft_unet_conv_in.", "unet.mid_block.resnets.0.norm1.", "text_encoder.text_projection."]
LEAVES = sorted([*PARTS, "weight", "lora_A.style.weight", "lora_B.style.weight", "_lora_down_weight", *UNSUPPORTED])
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I32": 4, "BOOL": 1}


def packed(tensors, metadata):
    """{name: (dtype, shape, a byte to repeat)} -> the bytes of a file."""
    head, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, shape, byte) in tensors.items():
        size = int(np.prod(shape, dtype=object)) * SIZES[dtype]
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + size]}
        data += bytes([byte]) * size
    raw = json.dumps(head).encode()
    return len(raw).to_bytes(8, "little") + raw + data


DOORS = {"read": reading.read, "inspect": report.inspect, "summary": report.summary,
         "header": lambda path: layout(path.name, header(path)), "no data": lambda path: layout(path.name, header(path), b"")}


def refusals(path):
    """Open a file by everything that takes files of strangers; return how many refused it, each by a sentence.

    They must agree: a file that is read has the modules of its header and its report, all of finite numbers.
    """
    answers = {}
    for name, door in DOORS.items():
        try:
            answers[name] = door(path)
        except UserError as error:
            assert path.name in str(error) and str(error).isprintable() and len(str(error)) < 500 and error.hint
    if "read" in answers:
        assert answers.keys() == DOORS.keys() and answers["summary"]["burnt"] == []
        adapters = answers["read"].adapters
        assert adapters.keys() == answers["header"].modules.keys() and answers["summary"]["modules"] == len(adapters) > 0
        assert all(bool(value.float().isfinite().all()) for adapter in adapters.values() for value in adapter.tensors.values())
    elif "summary" in answers:
        assert answers["summary"]["burnt"]  # the one reason to report on a file that is not read
    return len(DOORS) - len(answers)


SHAPE = st.lists(st.sampled_from([1, 2, 3, 4, 8, 128, 192]), max_size=5)
TENSOR = st.tuples(st.sampled_from(sorted(SIZES)), SHAPE.filter(lambda shape: np.prod(shape, dtype=object) < 50_000),
                   st.sampled_from([0, 1, 0x3C, 0x3F, 0x7F, 0xFF]))
METADATA = st.fixed_dictionaries({}, optional={
    "lora_adapter_metadata": st.sampled_from(["{", "[]", '{"unet.lora_alpha": 1e999}', '{"unet.alpha_pattern": {"(a+)+": 2}}',
                                              '{"r": 0, "lora_alpha": 4}', '{"unet.alpha_pattern": [1], "unet.r": "x"}']),
    "sdlora_settings": st.sampled_from(["{", "[1]", '{"trigger": 3}']), "unet": st.sampled_from(["[1]", "x", '["GEGLU"]'])})


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.dictionaries(st.builds(lambda module, leaf: module + leaf if not leaf.startswith("_") else module[:-1] + leaf,
                                 st.sampled_from(MODULES), st.sampled_from(LEAVES)), TENSOR, min_size=1, max_size=7), METADATA)
def test_any_parts_of_any_kind_are_read_or_refused(tmp_path_factory, tensors, metadata):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(packed(tensors, metadata))
    refusals(path)


GOOD = {  # parts that fit each other, by kind
    "lora": {"lora_down.weight": (4, 128), "lora_up.weight": (192, 4), "alpha": ()},
    "dora": {"lora_down.weight": (4, 128), "lora_up.weight": (192, 4), "dora_scale": (192, 1)},
    "loha": {"hada_w1_a": (192, 2), "hada_w1_b": (2, 128), "hada_w2_a": (192, 2), "hada_w2_b": (2, 128)},
    "lokr": {"lokr_w1": (8, 8), "lokr_w2_a": (24, 2), "lokr_w2_b": (2, 16), "alpha": ()},
    "oft": {"oft_blocks": (24, 8, 8), "rescale": (192, 1), "alpha": ()},
    "boft": {"oft_blocks": (3, 24, 8, 8), "alpha": ()},
    "oft of PEFT": {"oft_R.weight": (16, 28)},
    "glora": {"a1.weight": (128, 2), "a2.weight": (2, 128), "b1.weight": (192, 2), "b2.weight": (2, 128)},
    "full": {"diff": (192, 128), "diff_b": (192,)}, "ia3": {"weight": (128,), "on_input": ()}, "ia3 of PEFT": {"ia3_l": (192, 1)}}


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_one_wrong_part_in_a_good_module_is_read_or_refused(tmp_path_factory, kind, data):
    parts = {leaf: ("F32", shape, 0x3C) for leaf, shape in GOOD[kind].items()}
    leaf = data.draw(st.sampled_from(sorted(parts)))
    parts[leaf] = data.draw(TENSOR)
    if data.draw(st.booleans()):
        parts.pop(data.draw(st.sampled_from(sorted(parts))))
    path = tmp_path_factory.getbasetemp() / "wrong.safetensors"
    path.write_bytes(packed({MODULES[0] + leaf: value for leaf, value in parts.items()} or {"x": ("F32", (), 0)}, {}))
    refusals(path)


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_modules_are_good(tmp_path, kind):
    path = tmp_path / "good.safetensors"
    path.write_bytes(packed({MODULES[0] + leaf: ("F16", shape, 0x20) for leaf, shape in GOOD[kind].items()}, {}))
    assert refusals(path) == 0 and report.inspect(path)["matched"] == 1


def test_a_thousand_modules_of_one_number_each_are_fast(tmp_path):
    """19,998 tensors and a table of 5,000 patterns: seconds, not minutes."""
    names = [f"unet.down_blocks.{i}.attentions.{j}.to_q." for i in range(100) for j in range(99)]
    told = {f"down_blocks.{i}.attentions.{j}": 1 for i in range(50) for j in range(99)} | {rf"up\.{i}.*x": 1 for i in range(400)}
    path = tmp_path / "many.safetensors"
    path.write_bytes(packed({name + leaf: ("F16", (1, 1), 0x20) for name in names for leaf in ("lora_A.weight", "lora_B.weight")},
                            {"lora_adapter_metadata": json.dumps({"unet.alpha_pattern": told, "unet.lora_alpha": 1})}))
    began = time.process_time()
    with pytest.raises(UserError, match="many.safetensors"):
        layout(path.name, header(path))
    assert time.process_time() - began < 15


@pytest.mark.parametrize("count", [1, 9, 143, 9999])
def test_strange_numbers_in_positional_files_are_refused(tmp_path, count):
    path = tmp_path / "old.safetensors"
    path.write_bytes(packed({f"unet:{number}:{half}": ("F16", (4, 4), 0) for number in (0, count) for half in ("up", "down")},
                            {}))
    assert refusals(path) == 5 and len(BLOCKS) == 16
