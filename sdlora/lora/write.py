"""Adapters -> the bytes of a LoRA file that everybody reads. Knows nothing about training, drawing or other people's files.

Importing it does not import torch: the functions that handle tensors do, inside themselves.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sdlora import storage
from sdlora.errors import UserError
from sdlora.lora import dialects

if TYPE_CHECKING:
    from sdlora.lora.delta import Adapter, Adapters, Dtype, Tensor

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
               "F8_E5M2": "float8_e5m2"}
FILE_NAMES = {name: key for key, name in TORCH_NAMES.items()}


def write(path: Path, adapters: "Adapters", metadata: dict[str, str], *, dialect: Literal["kohya", "diffusers"] = "kohya",
          dtype: Literal["fp16", "bf16", "fp32"] = "fp16", family: str) -> Path:
    """Write `adapters` atomically with safe metadata and fresh hashes. The same input gives the same bytes.

    Raises UserError when a value does not fit the number format or the disk refuses; an old file is then untouched.
    """
    import torch

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    tensors, said = kohya_tensors(adapters, kind, family) if dialect == "kohya" else diffusers_tensors(adapters, kind)
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{Path(path).name} was not written: {name} does not fit the number format {dtype}.",
                            "Save it as bf16 or fp32, or use an earlier saved point.")
    metadata = {str(key): str(value) for key, value in ({"format": "pt"} | metadata | said).items()
                if not key.startswith("sshs_") and key != "modelspec.hash_sha256"}
    return storage.write_atomic(Path(path), serialized(tensors, metadata | hashes(tensors, metadata)))


def kohya_tensors(adapters: "Adapters", kind: "Dtype", family: str) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """kohya names with an alpha for every module; an alpha that `kind` cannot hold exactly stays fp32."""
    import torch

    tensors = {}
    for path, adapter in sorted(adapters.items()):
        name = dialects.kohya_name(path, family)
        for role, value in adapter.tensors.items():
            tensors[f"{name}.lora_{role}.weight"] = value.detach().cpu().to(kind)
        alpha = torch.tensor(adapter.alpha, dtype=torch.float32)
        tensors[f"{name}.alpha"] = alpha.to(kind) if alpha.to(kind).float() == alpha else alpha
    return tensors, {}


def diffusers_tensors(adapters: "Adapters", kind: "Dtype") -> "tuple[dict[str, Tensor], dict[str, str]]":
    """PEFT names. This format keeps alpha in the header only and half of the readers ignore it there.

    So the scale goes into `up` where that is exact in every module (a power of two, say), else alpha stays in the header.
    """
    tensors, configs = {}, {}
    scaled = {path: folded(adapter, kind) for path, adapter in adapters.items()}
    fold = None not in scaled.values()
    for path, adapter in sorted(adapters.items()):
        if "mid" in adapter.tensors:
            raise UserError(f"{path} is a Tucker convolution, which diffusers files cannot hold.", "Write a kohya file.")
        name = dialects.diffusers_name(path)
        alpha = float(adapter.rank) if fold else adapter.alpha
        tensors[f"{name}.lora_A.weight"] = adapter.tensors["down"].detach().cpu().to(kind)
        tensors[f"{name}.lora_B.weight"] = scaled[path] if fold else adapter.tensors["up"].detach().cpu().to(kind)
        part, _, module = name.partition(".")
        module = module.removeprefix("text_model.")            # PEFT matches endings; newer transformers lost this level
        config = configs.setdefault(part, {"target_modules": [], "rank_pattern": {}, "alpha_pattern": {}})
        config["target_modules"].append(module)
        config["rank_pattern"][module] = adapter.rank
        config["alpha_pattern"][module] = int(alpha) if alpha == int(alpha) else alpha
    said = {}
    for part, config in configs.items():
        config["r"] = max(config["rank_pattern"].values())
        config["lora_alpha"] = max(config["alpha_pattern"].values())
        config["rank_pattern"] = {key: rank for key, rank in config["rank_pattern"].items() if rank != config["r"]}
        config["alpha_pattern"] = {key: a for key, a in config["alpha_pattern"].items() if a != config["lora_alpha"]}
        said |= {f"{part}.{key}": value for key, value in config.items()}
    return tensors, {"lora_adapter_metadata": json.dumps(said, sort_keys=True)}


def folded(adapter: "Adapter", kind: "Dtype") -> "Tensor | None":
    """`up` with alpha / rank in it, so that alpha may equal the rank; None where that would change a bit of dW."""
    up = adapter.tensors["up"].detach().cpu().to(kind)
    scaled = (up.double() * adapter.scale).to(kind)
    return scaled if (scaled.double() == up.double() * adapter.scale).all() else None


def hashes(tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> dict[str, str]:
    """kohya's two hashes, made over a file with only ss_* metadata as kohya does, and ModelSpec's of the tensor bytes."""
    alone = serialized(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    start = 8 + int.from_bytes(alone[:8], "little")
    content = hashlib.sha256(alone[start:]).hexdigest()
    found = {"sshs_model_hash": content, "modelspec.hash_sha256": f"0x{content}"}
    if len(alone) > 0x100000:                                  # below 1 MB it would be the hash of nothing, alike for all files
        found["sshs_legacy_hash"] = hashlib.sha256(alone[0x100000:0x110000]).hexdigest()[:8]
    return found


def serialized(tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file in a fixed order (the library orders metadata differently every time)."""
    import torch

    entries, parts, at = {"__metadata__": dict(sorted(metadata.items()))}, [], 0
    for name in sorted(tensors, key=lambda key: (-tensors[key].element_size(), key)):
        value = tensors[name].contiguous()
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        entries[name] = {"dtype": FILE_NAMES[str(value.dtype).removeprefix("torch.")], "shape": list(value.shape),
                         "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    head = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def same(meant: "Adapter", kept: "Adapter") -> bool:
    """Whether `kept` makes the change that was meant, bit for bit after the cast to the file's number format."""
    for role, value in kept.tensors.items():
        expected = meant.tensors[role].detach().cpu().to(value.dtype).double()
        factor = meant.scale / kept.scale if role == "up" else 1.0
        if not (expected * factor == value.double()).all():
            return False
    return kept.tensors.keys() == meant.tensors.keys()
