"""Adapters -> a LoRA file that other programs read. Knows nothing about training, drawing or other people's files.

Importing it does not import torch: the functions that handle tensors do, inside themselves.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from sdlora import storage
from sdlora.errors import UserError
from sdlora.lora.formats import dialects
from sdlora.lora.formats.header import TORCH_NAMES, contents

if TYPE_CHECKING:
    from sdlora.lora.math.delta import Adapter, Adapters, Dtype, Tensor

FILE_NAMES = {name: key for key, name in TORCH_NAMES.items()}
KOHYA_SUFFIXES = {  # {kind: {role: suffix}} beside those of ANY_KIND
    "lora": {"down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight"},
    "loha": {role: f"hada_{role}" for role in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    "lokr": {role: f"lokr_{role}" for role in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    "oft": {"blocks": "oft_blocks", "diag": "oft_diag", "rescale": "rescale"},
    "glora": {role: f"{role}.weight" for role in ("a1", "a2", "b1", "b2", "bm")},
    "full": {"diff": "diff", "set": "set_weight"}, "ia3": {"weight": "weight", "on_input": "on_input"}}
ANY_KIND = {"dora_scale": "dora_scale", "diff_b": "diff_b"}
WITHOUT_ALPHA = {"full", "ia3"}
FileDtype = Literal["fp16", "bf16", "fp32"] | None  # the number format of a file; None: every tensor keeps its own
MOST_LOST = 0.5  # share of the change that rounding may lose: with more, no file is written
LEGACY_SPAN = slice(0x100000, 0x110000)  # the bytes of the file that kohya's first hash covers


def write(path: Path, adapters: "Adapters", metadata: dict[str, str], *, dialect: Literal["kohya", "diffusers"] = "kohya",
          dtype: FileDtype = "fp16", family: str) -> Path:
    """Write `adapters` atomically with safe metadata and fresh hashes. The same input gives the same bytes.

    Factors that the number format holds badly are balanced first (rounding.balanced). kohya files hold every kind, diffusers
    files plain LoRA and DoRA (tools.convert.to_form makes others into that). Raises UserError when a kind, or a value, or most
    of the change does not fit the file, or the disk refuses; an old file is then untouched.
    """
    import torch

    from sdlora.lora.math.rounding import DTYPES, balanced, lost

    number_format = DTYPES[dtype]
    adapters = {module: balanced(adapter, number_format) for module, adapter in adapters.items()}
    if (share := lost(adapters, number_format)) > MOST_LOST:
        raise UserError(f"{Path(path).name} was not written: its values are so small that {dtype} would lose {share:.0%}.",
                        "Save it as bf16 or fp32." if dtype == "fp16" else "Save it as fp32.")
    if dialect == "kohya":
        tensors, config = kohya_tensors(adapters, number_format, family), {}
    else:
        tensors, config = diffusers_tensors(adapters, number_format)
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise UserError(f"{Path(path).name} was not written: {name} does not fit the number format {dtype}.",
                            "Save it as bf16 or fp32, or use an earlier checkpoint.")
    return storage.write_atomic(Path(path), serialized(tensors, without_hashes({"format": "pt"} | metadata | config)))


def kohya_tensors(adapters: "Adapters", dtype: "Dtype | None", family: str) -> "dict[str, Tensor]":
    """Return tensors by kohya's names, with an alpha wherever the kind has one; in fp32 where `dtype` cannot hold it exactly."""
    import torch

    tensors = {}
    for path, adapter in sorted(adapters.items()):
        if not kohya_holds(adapter):
            raise UserError(f"{path} is of a kind that kohya files cannot hold.", "Convert it to a plain LoRA first.")
        try:
            name = dialects.kohya_name(path, family)
        except ValueError as error:
            raise UserError(f"{path} has no name in kohya files: {family} has no such module.",
                            "Write a diffusers file.") from error
        for role, value in adapter.tensors.items():
            tensors[f"{name}.{kohya_suffix(adapter, role)}"] = cast(shaped(adapter, role, value), dtype)
        if adapter.kind not in WITHOUT_ALPHA:
            kept = dtype or next(iter(adapter.tensors.values())).dtype
            alpha = torch.tensor(adapter.alpha, dtype=torch.float32)
            exact = kept.itemsize > 1 and alpha.to(kept).float() == alpha
            tensors[f"{name}.alpha"] = alpha.to(kept) if exact else alpha
    return tensors


def kohya_holds(adapter: "Adapter") -> bool:
    """Return whether a kohya file has a name for every tensor. It has none for the OFT of PEFT, which rotates inputs."""
    return adapter.tensors.keys() <= KOHYA_SUFFIXES[adapter.kind].keys() | ANY_KIND.keys()


def kohya_suffix(adapter: "Adapter", role: str) -> str:
    """Return the end of a tensor's name. The differences of a norm have names of their own, which readers expect as a pair."""
    if adapter.kind == "full" and {"diff", "diff_b"} <= adapter.tensors.keys() and adapter.tensors["diff"].ndim == 1:
        return {"diff": "w_norm", "diff_b": "b_norm"}[role]
    return (KOHYA_SUFFIXES[adapter.kind] | ANY_KIND)[role]


def shaped(adapter: "Adapter", role: str, value: "Tensor") -> "Tensor":
    """Return a magnitude of DoRA in the shape of kohya files, (out, 1) or (out, 1, 1, 1); all other tensors as they are."""
    if role == "dora_scale" and value.ndim == 1:
        return value.reshape(-1, *[1] * (max(each.ndim for each in adapter.tensors.values()) - 1))
    return value


def cast(value: "Tensor", dtype: "Dtype | None") -> "Tensor":
    """Return `value` on the CPU as `dtype`; None keeps its own, and so do whole numbers."""
    value = value.detach().cpu()
    return value.to(dtype) if dtype and value.is_floating_point() else value


def diffusers_tensors(adapters: "Adapters", dtype: "Dtype | None") -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Return tensors by PEFT's names, and the metadata with their alphas, which many readers ignore: see alpha_placement()."""
    import torch

    placement = alpha_placement(adapters, dtype)
    dtype = torch.float32 if placement == "fp32" else dtype
    tensors, configs = {}, {}
    for path, adapter in sorted(adapters.items()):
        if not diffusers_holds(adapter):
            raise UserError(f"{path} is of a kind that diffusers files cannot hold.", "Write a kohya file, or convert it first.")
        name = dialects.diffusers_name(path)
        alpha = adapter.alpha if placement == "header" else float(adapter.rank)
        up = adapter.tensors["up"] if placement in ("kept", "header") else folded(adapter, dtype)
        down = cast(adapter.tensors["down"], dtype)
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": cast(up, dtype)}
        if "dora_scale" in adapter.tensors:
            magnitude = cast(adapter.tensors["dora_scale"], dtype)
            tensors[f"{name}.lora_magnitude_vector.weight"] = magnitude.reshape((1, -1, 1, 1) if down.ndim == 4 else -1)
        part, _, module = name.partition(".")
        module = module.removeprefix("text_model.")  # PEFT matches endings; newer transformers lost this level
        config = configs.setdefault(part, {"target_modules": [], "rank_pattern": {}, "alpha_pattern": {}, "use_dora": []})
        config["target_modules"].append(module)
        config["rank_pattern"][module] = adapter.rank
        config["alpha_pattern"][module] = int(alpha) if alpha == int(alpha) else alpha
        config["use_dora"].append("dora_scale" in adapter.tensors)
    fields = {f"{part}.{key}": value for part, config in configs.items() for key, value in peft_config(config).items()}
    return tensors, {"lora_adapter_metadata": json.dumps(fields, sort_keys=True)}


def peft_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return PEFT's LoraConfig of one part. Raises UserError where only some modules are DoRA, which it cannot express."""
    if len(set(config["use_dora"])) > 1:
        raise UserError("Some modules are DoRA and some are not, which a diffusers file cannot say.", "Write a kohya file.")
    rank, alpha = max(config["rank_pattern"].values()), max(config["alpha_pattern"].values())
    return {"target_modules": config["target_modules"], "use_dora": config["use_dora"][0], "r": rank, "lora_alpha": alpha,
            "rank_pattern": {key: value for key, value in config["rank_pattern"].items() if value != rank},
            "alpha_pattern": {key: value for key, value in config["alpha_pattern"].items() if value != alpha}}


def diffusers_holds(adapter: "Adapter") -> bool:
    """Return whether a diffusers file can hold an adapter as it is: up x down, perhaps with DoRA's magnitude of every output."""
    if adapter.kind != "lora" or not adapter.tensors.keys() <= {"up", "down", "dora_scale"}:
        return False
    scale = adapter.tensors.get("dora_scale")
    return scale is None or scale.shape[0] == scale.numel() == adapter.tensors["up"].shape[0]


def alpha_placement(adapters: "Adapters", dtype: "Dtype | None") -> Literal["kept", "folded", "header", "fp32"]:
    """Return where alpha / rank goes in a diffusers file, so that no bit of dW is lost.

    kept: it is 1 everywhere. folded: it goes into `up`, exactly (a power of two). Else, with the number format free, the file
    becomes fp32 with it folded; with the number format given, it stays in the header.
    """
    if all(adapter.alpha == adapter.rank for adapter in adapters.values()):
        return "kept"
    if all(diffusers_holds(adapter) and folds_exactly(adapter, dtype) for adapter in adapters.values()):
        return "folded"
    return "header" if dtype else "fp32"


def folded(adapter: "Adapter", dtype: "Dtype | None") -> "Tensor":
    """Return `up` times alpha / rank."""
    up = cast(adapter.tensors["up"], dtype)
    return (up.double() * adapter.scale).to(up.dtype)


def folds_exactly(adapter: "Adapter", dtype: "Dtype | None") -> bool:
    """Return whether folding alpha / rank into `up` rounds nothing."""
    up = cast(adapter.tensors["up"], dtype).double()
    return bool((folded(adapter, dtype).double() == up * adapter.scale).all())


def serialized(tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> bytes:
    """Return a safetensors file with its hashes, in a fixed order (the library orders metadata differently every time)."""
    import torch

    entries, parts, at = {}, [], 0
    for name in sorted(tensors, key=lambda key: (-tensors[key].element_size(), key)):
        value = tensors[name].contiguous()
        parts.append(value.reshape(-1).view(torch.uint8).numpy().data)
        entries[name] = {"dtype": FILE_NAMES[str(value.dtype).removeprefix("torch.")], "shape": list(value.shape),
                         "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    return hashed(entries, b"".join(parts), metadata)


def rewrite(path: Path, out: Path, metadata: dict[str, str]) -> Path:
    """Write the file `path` with other metadata and fresh hashes, every tensor byte for byte; `out` may be `path` itself.

    Raises UserError for a file that is no safetensors, or when the disk refuses.
    """
    found, data = contents(Path(path))
    entries = {name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(found.spans[name])}
               for name, (dtype, shape) in found.tensors.items()}
    return storage.write_atomic(Path(out), hashed(entries, bytes(data), without_hashes({"format": "pt"} | metadata)))


def without_hashes(metadata: dict[str, str]) -> dict[str, str]:
    """Return metadata as strings, without the hashes of another file."""
    return {str(key): str(value) for key, value in metadata.items()
            if not key.startswith("sshs_") and key != "modelspec.hash_sha256"}


def hashed(entries: dict[str, dict], data: bytes, metadata: dict[str, str]) -> bytes:
    """Return a whole file. kohya's two hashes are over a file with only ss_* metadata, ModelSpec's is over the data."""
    content = hashlib.sha256(data).hexdigest()
    hashes = {"sshs_model_hash": content, "modelspec.hash_sha256": f"0x{content}"}
    alone = header_bytes({key: value for key, value in metadata.items() if key.startswith("ss_")}, entries)
    if len(alone) + len(data) > LEGACY_SPAN.start:  # below 1 MB it would be the hash of nothing, alike for all files
        hashes["sshs_legacy_hash"] = hashlib.sha256((alone + data[:LEGACY_SPAN.stop])[LEGACY_SPAN]).hexdigest()[:8]
    return header_bytes(metadata | hashes, entries) + data


def header_bytes(metadata: dict[str, str], entries: dict[str, dict]) -> bytes:
    """Return the bytes of a safetensors header."""
    text = json.dumps({"__metadata__": dict(sorted(metadata.items()))} | entries, ensure_ascii=False, separators=(",", ":"))
    raw = text.encode("utf-8", "replace")
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def same_change(expected: "Adapter", found: "Adapter") -> bool:
    """Return whether both make the same change, bit for bit after the cast to the number format of `found`."""
    from sdlora.lora.math.rounding import balanced

    if (found.kind, found.tensors.keys()) != (expected.kind, expected.tensors.keys()):
        return False
    formats = {value.dtype for value in found.tensors.values() if value.is_floating_point()}
    expected = balanced(expected, min(formats, key=lambda each: each.itemsize)) if formats else expected
    for role, value in found.tensors.items():
        wanted = expected.tensors[role].detach().cpu().to(value.dtype).double()
        factor = expected.scale / found.scale if role == "up" else 1.0
        if not (wanted.flatten() * factor == value.double().flatten()).all():
            return False
    return True


def read_back(path: Path, adapters: "Adapters", family: str) -> "Adapters":
    """Read the kohya file that `write` made of plain LoRA adapters, compare it with them, and return what the file holds.

    Raises UserError when a module is missing, surplus or different after the cast to the file's number format.
    """
    from sdlora.lora.math.delta import Adapter

    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError):
        tensors = {}
    again, wrong = {}, []
    for module, adapter in adapters.items():
        name = dialects.kohya_name(module, family)
        down, up, alpha = (tensors.pop(f"{name}.{leaf}", None) for leaf in ("lora_down.weight", "lora_up.weight", "alpha"))
        if down is None or up is None or alpha is None:
            wrong.append(module)
            continue
        again[module] = Adapter("lora", {"down": down, "up": up}, float(alpha), len(down), adapter.part)
        shapes_differ = any(adapter.tensors[role].shape != value.shape for role, value in again[module].tensors.items())
        wrong += [module] if shapes_differ or not same_change(adapter, again[module]) else []
    wrong += tensors  # that were not written
    if wrong:
        raise UserError(f"{Path(path).name} was written, but read back it differs in {len(wrong)} modules ({wrong[0]}).",
                        "Check the disk, then resume the run to write it again.")
    return again
