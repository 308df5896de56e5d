"""Files of ours and of others: written, read, and opened by diffusers with PEFT."""

import json

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from sdlora.errors import UserError
from sdlora.lora.formats import reading
from sdlora.lora.formats.header import header, refuse_size
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.formats.writing import same_change, write
from sdlora.lora.math.delta import Adapter, delta
from sdlora.lora.tools.report import inspect
from sdlora.storage import shipped

PATHS = [f"down_blocks.0.attentions.0.transformer_blocks.0.{name}"
         for name in ("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_v")]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def style(paths=PATHS, family="mini", rank=4, alpha=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for path in paths:
        out, width = family_table(family)[path][:2]
        made[path] = Adapter("lora", {"down": torch.randn(rank, width, generator=generator) / 4,
                                      "up": torch.randn(out, rank, generator=generator) / 4}, alpha, rank,
                             path.split(":")[0] if ":" in path else "unet")
    return made


def verified(path, expected):
    """Read a file that must make the changes of these adapters."""
    found = reading.read(path)
    assert found.adapters.keys() == expected.keys()
    assert all(same_change(adapter, found.adapters[name]) for name, adapter in expected.items())
    return found


def changes(adapters):
    return {path: delta(adapter, torch.zeros(adapter.tensors["up"].shape[0], adapter.tensors["down"].shape[1]))
            for path, adapter in adapters.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_what_is_written_is_read_back(tmp_path, dialect, dtype):
    meant = style([*PATHS, "te1:text_model.encoder.layers.0.mlp.fc1"])
    path = write(tmp_path / "a.safetensors", meant, {"ss_x": "ü"}, dialect=dialect, dtype=dtype, family="mini")
    again = verified(path, meant)
    assert (again.dialect, again.family, again.families, again.problems) == (dialect, "mini", ("mini",), ())
    assert again.metadata["ss_x"] == "ü" and load_file(path)                 # the library opens it too
    rounded = {key: Adapter("lora", {role: value.to(DTYPES[dtype]) for role, value in adapter.tensors.items()}, adapter.alpha,
                            adapter.rank, adapter.part) for key, adapter in meant.items()}
    expected = changes(rounded)
    for key, change in changes(again.adapters).items():
        assert torch.equal(change, expected[key]) and again.adapters[key].part == meant[key].part


def test_the_same_style_makes_the_same_bytes_and_its_own_hash(tmp_path):
    paths = [write(tmp_path / name, style(seed=seed), {"ss_a": "1", "ss_b": "2", "sshs_model_hash": "old"}, family="mini")
             for name, seed in (("a.safetensors", 0), ("b.safetensors", 0), ("c.safetensors", 1))]
    contents = [path.read_bytes() for path in paths]
    assert contents[0] == contents[1] != contents[2]
    hashes = [header(path).metadata["sshs_model_hash"] for path in paths]
    assert len(set(hashes)) == 2 and "old" not in hashes and not hashes[0].startswith("e3b0c442")
    assert header(paths[0]).metadata["modelspec.hash_sha256"] == "0x" + hashes[0]


def test_a_value_too_large_for_the_format_is_refused_and_the_old_file_stays(tmp_path):
    path = write(tmp_path / "a.safetensors", style(), {}, family="mini")
    before, big = path.read_bytes(), style()
    big[PATHS[0]].tensors["up"][0, 0] = big[PATHS[0]].tensors["down"][0, 0] = 1e6
    with pytest.raises(UserError, match="fp16"):
        write(path, big, {}, family="mini")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.safetensors"]
    verified(write(path, big, {}, dtype="bf16", family="mini"), big)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
                                   torch.float8_e5m2])
def test_every_number_format_is_read_with_and_without_torch(tmp_path, dtype):
    value = {path: adapter for path, adapter in style().items()}
    tensors = {}
    for path, adapter in value.items():
        flat = "lora_unet_" + path.replace(".", "_")
        tensors |= {f"{flat}.lora_{role}.weight": kept.to(dtype) for role, kept in adapter.tensors.items()}
        tensors[f"{flat}.alpha"] = torch.tensor([4.0], dtype=torch.float16)    # odd shape and format: still one number
    save_file(tensors, tmp_path / "a.safetensors")
    read = reading.read(tmp_path / "a.safetensors")
    for path, adapter in read.adapters.items():
        flat = "lora_unet_" + path.replace(".", "_")
        assert adapter.alpha == 4.0
        assert all(kept.dtype == dtype and torch.equal(kept.float(), tensors[f"{flat}.lora_{role}.weight"].float())
                   for role, kept in adapter.tensors.items())
    norm = sum(change.square().sum() for change in changes(read.adapters).values()).sqrt()
    weights = load_file(shipped("assets", "mini", "unet", "diffusion_pytorch_model.safetensors"))
    against = sum(weights[f"{path}.weight"].float().square().sum() for path in read.adapters).sqrt()
    assert inspect(tmp_path / "a.safetensors")["push"] == pytest.approx(float(norm / against), rel=1e-3)


def test_alpha_comes_from_the_header_where_no_tensor_says_it(tmp_path):
    told = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}, "unet.use_rslora": False}
    tensors = {f"unet.{path}.lora_{letter}.weight": torch.ones((4, 64) if letter == "A" else (64, 4))
               for path in PATHS[:2] for letter in "AB"}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(told)})
    assert {key: adapter.alpha for key, adapter in reading.read(tmp_path / "a.safetensors").adapters.items()} == {
        PATHS[0]: 2.0, PATHS[1]: 8.0}
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 16, "use_rslora": True}))
    save_file({f"base_model.model.{key[5:]}": value for key, value in tensors.items()}, tmp_path / "b.safetensors")
    assert reading.read(tmp_path / "b.safetensors").adapters[PATHS[0]].alpha == 32.0     # rsLoRA: 16 / sqrt(4) = 32 / 4


def test_sdxl_is_written_as_kohya_writes_it(tmp_path):
    paths = ["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "te2:text_model.encoder.layers.0.mlp.fc1"]
    path = write(tmp_path / "a.safetensors", style(paths, "sdxl"), {}, family="sdxl")
    with safe_open(path, "pt") as opened:
        names = sorted(opened.keys())
    assert names[0] == "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha"
    assert names[3] == "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.alpha"
    assert reading.read(path).family == "sdxl"


def test_reading_a_header_does_not_need_torch():
    import subprocess
    import sys
    code = "import sys; import sdlora.lora.formats.reading, sdlora.lora.formats.metadata; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def packed(path, tensors, metadata="absent"):
    """A file whose header is written by hand: metadata may be what the library never writes."""
    save_file(tensors, path)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8:8 + length])
    head.pop("__metadata__", None)
    text = json.dumps(head if metadata == "absent" else {"__metadata__": metadata} | head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length:])
    return path


def kohya(rank=4, **ranks):
    """Tensors of a kohya file for PATHS; ranks: others for modules whose name ends so."""
    made = {}
    for path in PATHS:
        out, width = family_table("mini")[path][:2]
        own = next((other for end, other in ranks.items() if path.endswith(end)), rank)
        name = "lora_unet_" + path.replace(".", "_")
        made |= {f"{name}.lora_up.weight": torch.ones(out, own), f"{name}.lora_down.weight": torch.ones(own, width),
                 f"{name}.alpha": torch.tensor(2.0)}
    return made


@pytest.mark.parametrize("metadata", ["absent", None, {}])
def test_metadata_may_be_null_or_missing_as_in_the_library(tmp_path, metadata):
    path = packed(tmp_path / "a.safetensors", kohya(), metadata)
    assert reading.read(path).metadata == {} and safe_open(path, "pt").keys()


@pytest.mark.parametrize("metadata", [[], 0, "", {"a": 1}])
def test_other_metadata_is_refused(tmp_path, metadata):
    with pytest.raises(UserError, match="metadata is not made of texts"):
        reading.read(packed(tmp_path / "a.safetensors", kohya(), metadata))


def test_layers_of_rank_0_are_left_out_and_named(tmp_path):
    save_file(kohya(to_k=0), tmp_path / "a.safetensors")
    found = reading.read(tmp_path / "a.safetensors")
    assert len(found.adapters) == len(PATHS) - 1 and "1 layer has the rank 0" in found.problems[0]
    save_file(kohya(rank=0), tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="b.safetensors changes nothing: the rank of every layer is 0"):
        reading.read(tmp_path / "b.safetensors")


def test_metadata_that_contradicts_the_tensors_is_told(tmp_path):
    for told, says in (({"ss_network_dim": "64", "ss_network_alpha": "2"}, ["the rank 64, its tensors have 4"]),
                       ({"ss_network_dim": "4", "ss_network_alpha": "1.0"}, ["the alpha 1, its tensors have 2"]),
                       ({"ss_network_dim": "Dynamic", "ss_network_alpha": "2.0"}, []), ({}, [])):
        save_file(kohya(), tmp_path / "a.safetensors", told)
        problems = reading.read(tmp_path / "a.safetensors").problems
        assert len(problems) == len(says) and all(part in problem for part, problem in zip(says, problems, strict=True))


def test_a_huge_file_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.safetensors", style(), {}, family="mini")
    monkeypatch.setattr("sdlora.lora.formats.header.MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("sdlora.lora.formats.layout.MAX_FILE_BYTES", 1000)
    monkeypatch.setattr("sdlora.lora.formats.layout.contents", lambda path: pytest.fail("it was read"))
    for door in (reading.read, inspect):
        with pytest.raises(UserError, match="a LoRA has .* at most"):
            door(path)
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(300)}, path)
    with pytest.raises(UserError, match="a whole base model"):
        reading.read(path)


@pytest.mark.parametrize("file_bytes, said", [(2_040_000_000, "2.04 GB; a LoRA has 2 GB"), (2_000_000_001, "2.000000001 GB"),
                                              (3 * 10**9, "3 GB"), (2_260_000_000, "2.3 GB")])
def test_the_size_that_is_told_is_above_the_limit_that_is_told(file_bytes, said):
    refuse_size("a.safetensors", 2 * 10**9)
    with pytest.raises(UserError, match=said):
        refuse_size("a.safetensors", file_bytes)


def test_a_pickle_is_refused_with_a_safe_way_to_convert_it(tmp_path):
    (tmp_path / "old.pt").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        reading.read(tmp_path / "old.pt")
    assert "weights_only=True" in caught.value.hint and "old.safetensors" in caught.value.hint


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "glora"])
def test_a_scale_of_zero_stays_a_change_of_nothing_in_what_is_made_of_it(tmp_path, kind):
    given = {"lora": {"lora_down.weight": (4, 64), "lora_up.weight": (64, 4)},
             "loha": {"hada_w1_a": (64, 4), "hada_w1_b": (4, 64), "hada_w2_a": (64, 4), "hada_w2_b": (4, 64)},
             "lokr": {"lokr_w1": (8, 8), "lokr_w2_a": (8, 4), "lokr_w2_b": (4, 8)},
             "glora": {"a1.weight": (64, 4), "a2.weight": (4, 64), "b1.weight": (64, 4), "b2.weight": (4, 64)}}[kind]
    generator = torch.Generator().manual_seed(0)
    name = f"lora_unet_{PATHS[0].replace('.', '_')}"
    tensors = {f"{name}.{leaf}": torch.randn(shape, generator=generator) for leaf, shape in given.items()}
    save_file(tensors | {f"{name}.scale": torch.tensor(0.0)}, tmp_path / "a.safetensors")
    found = reading.read(tmp_path / "a.safetensors")
    again = reading.read(write(tmp_path / "b.safetensors", found.adapters, {}, family="mini"))
    for adapters in (found.adapters, again.adapters):
        assert not delta(adapters[PATHS[0]], torch.ones(64, 64)).any()
