"""All weights of a base under one set of names, read one at a time; and a copy of a base with some of them replaced.

Knows nothing about LoRA or about models in memory. Names are those of diffusers, with "te1:" or "te2:" before those of the
text encoders, which always have their `text_model.` (newer transformers write CLIP without it).
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdlora import storage
from sdlora.base import catalog
from sdlora.errors import UserError

TEXT_FOLDERS = {"text_encoder": "te1:", "text_encoder_2": "te2:"}
OPEN_CLIP = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1",
             "mlp.c_proj": "mlp.fc2"}
OPEN_CLIP_EDGES = {"token_embedding.weight": "embeddings.token_embedding.weight",
                   "positional_embedding": "embeddings.position_embedding.weight",
                   "ln_final.weight": "final_layer_norm.weight", "ln_final.bias": "final_layer_norm.bias"}
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
STALE = ("sshs_", "modelspec.hash_sha256")  # hashes of what the file held before


@dataclass(frozen=True)
class Location:
    """Where a weight is stored. third: which third of the rows (OpenCLIP has q, k and v in one matrix), or None for all."""
    file: Path
    key: str
    third: int | None = None
    transposed: bool = False


class Weights(Mapping[str, Tensor]):
    """{"mid_block.resnets.0.conv1.weight": tensor in the file's dtype}, read on access. `path`: the resolved base."""

    def __init__(self, path: Path) -> None:
        """Raise UserError when `path` (a folder or file, as catalog.resolve returns it) is no readable base."""
        self.path = path
        self.family = catalog.read_family(path).key
        try:
            self.locations = dict(folder_locations(path) if path.is_dir() else file_locations(path, self.family))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path.name} could not be read ({error}).", "Download it again.") from error

    @cached_property
    def opened(self) -> dict[Path, Any]:
        return {file: safe_open(file, framework="pt") for file in {location.file for location in self.locations.values()}}

    def __getitem__(self, name: str) -> Tensor:
        location = self.locations[name]
        if location.third is None:
            value = self.opened[location.file].get_tensor(location.key)
            return value.T if location.transposed else value
        rows = self.opened[location.file].get_slice(location.key)
        count = rows.get_shape()[0] // 3
        return rows[location.third * count:(location.third + 1) * count]

    def __iter__(self) -> Iterator[str]:
        return iter(self.locations)

    def __len__(self) -> int:
        return len(self.locations)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight without reading it."""
        location = self.locations[name]
        rows, *others = self.opened[location.file].get_slice(location.key).get_shape()
        return tuple(others) + (rows,) if location.transposed else (rows if location.third is None else rows // 3, *others)


def folder_locations(folder: Path) -> Iterator[tuple[str, Location]]:
    """Yield (name, location) of every weight in the UNet and the text encoders of a diffusers folder."""
    for file in catalog.weight_files(folder / "unet"):
        yield from ((key, Location(file, key)) for key in tensor_names(file))
    for part, prefix in TEXT_FOLDERS.items():
        for file in catalog.weight_files(folder / part):
            yield from ((prefix + with_text_model(key), Location(file, key)) for key in tensor_names(file))


def file_locations(path: Path, family: str) -> Iterator[tuple[str, Location]]:
    """Yield (name, location) of every weight in the UNet and the text encoders of a single file with CompVis names."""
    keys = tensor_names(path)
    config = storage.read_json(storage.shipped("assets", "configs", family) / "unet" / "config.json")
    of_unet = convert_ldm_unet_checkpoint({key: key for key in keys}, config)  # it moves values without looking at them
    yield from ((name, Location(path, key)) for name, key in of_unet.items())
    for key in keys:
        for prefix, part in (("cond_stage_model.transformer.", "te1:"), ("conditioner.embedders.0.transformer.", "te1:")):
            if key.startswith(prefix):
                yield part + with_text_model(key.removeprefix(prefix)), Location(path, key)
        for prefix, part in (("cond_stage_model.model.", "te1:"), ("conditioner.embedders.1.model.", "te2:")):
            if key.startswith(prefix):
                yield from ((part + name, location) for name, location in open_clip(path, key, key.removeprefix(prefix)))


def open_clip(path: Path, key: str, rest: str) -> Iterator[tuple[str, Location]]:
    """Yield the Hugging Face name of an OpenCLIP weight, or three of them; none for what CLIPTextModel lacks."""
    if rest in OPEN_CLIP_EDGES:
        yield f"text_model.{OPEN_CLIP_EDGES[rest]}", Location(path, key)
    elif rest == "text_projection":
        yield "text_projection.weight", Location(path, key, transposed=True)
    elif rest.startswith("transformer.resblocks."):
        _, _, layer, inner = rest.split(".", 3)
        owner = f"text_model.encoder.layers.{layer}"
        if inner.startswith("attn.in_proj_"):
            leaf = inner.removeprefix("attn.in_proj_")
            yield from ((f"{owner}.self_attn.{which}_proj.{leaf}", Location(path, key, third))
                        for third, which in enumerate("qkv"))
        else:
            module, _, leaf = inner.rpartition(".")
            yield f"{owner}.{OPEN_CLIP[module]}.{leaf}", Location(path, key)


def with_text_model(key: str) -> str:
    """Return a CLIP name with its `text_model.`; the projection beside the model has none."""
    return key if key.startswith(("text_model.", "text_projection.")) else "text_model." + key


def tensor_names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def write_copy(weights: Weights, changed: Iterable[tuple[str, Tensor]], out: Path, metadata: dict[str, str]) -> Path:
    """Write a copy of the base, whole or not at all, with the `changed` weights (name, tensor) in their old dtype.

    metadata: added to every weight file. One changed tensor is in memory at a time. Other variants of the weights in a
    folder (fp16 doubles, pickles) are not copied: they would still hold the old ones. Raises UserError.
    """
    if weights.path.is_file():
        return storage.write_atomic(out, lambda path: patch(weights, changed, {weights.path: path}, metadata))
    return storage.write_folder(out, lambda folder: fill_folder(weights, changed, folder, metadata))


def fill_folder(weights: Weights, changed: Iterable[tuple[str, Tensor]], folder: Path, metadata: dict[str, str]) -> None:
    """Write a diffusers folder: copy everything that is no weight, rewrite the weight files."""
    source = weights.path
    rewritten = {location.file for location in weights.locations.values()}
    unchanged = {file for part in source.iterdir() if part.is_dir() for file in catalog.weight_files(part)} - rewritten
    for file in sorted(source.rglob("*")):
        target = folder / file.relative_to(source)
        heavy = file.suffix.lower() in {".safetensors", *storage.PICKLES, ".msgpack", ".onnx"}
        if file.is_file() and (file in unchanged or not heavy):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    for file in rewritten:
        (folder / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
    patch(weights, changed, {file: folder / file.relative_to(source) for file in rewritten}, metadata)


def patch(weights: Weights, changed: Iterable[tuple[str, Tensor]], copies: dict[Path, Path], metadata: dict[str, str]) -> None:
    """Copy weight files byte for byte under a new header, then overwrite the changed tensors."""
    spans, handles = {}, {}
    try:
        for file, copy in copies.items():
            handles[file] = copy.open("w+b")
            spans[file] = copy_file(file, handles[file], metadata)
        for name, tensor in changed:
            location = weights.locations[name]
            begin, size, dtype = spans[location.file][location.key]
            value = (tensor.T if location.transposed else tensor).to(dtype).contiguous()
            raw = value.reshape(-1).view(torch.uint8).numpy()
            if raw.nbytes != (size if location.third is None else size // 3):
                raise ValueError(f"{name} has another size than in {location.file.name}")
            handles[location.file].seek(begin + (location.third or 0) * raw.nbytes)
            handles[location.file].write(raw.data)
    finally:
        for handle in handles.values():
            handle.close()


def copy_file(file: Path, handle: BinaryIO, metadata: dict[str, str]) -> dict[str, tuple[int, int, torch.dtype]]:
    """Copy one safetensors file with more metadata -> {key: (first byte, size in bytes, torch dtype)}."""
    with file.open("rb") as source:
        header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
        old = {key: value for key, value in header.pop("__metadata__", {}).items() if not key.startswith(STALE)}
        text = json.dumps({"__metadata__": old | metadata} | header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        handle.write(len(text).to_bytes(8, "little") + text)
        start = handle.tell()
        shutil.copyfileobj(source, handle, 1 << 22)
    return {key: (start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0], DTYPES[entry["dtype"]])
            for key, entry in header.items()}
