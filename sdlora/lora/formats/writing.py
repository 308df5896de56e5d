"""Adapters -> the bytes of a LoRA file that everybody reads. Knows nothing about training, drawing or other people's files.

Importing it does not import torch: the functions that handle tensors do, inside themselves.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safetensors import SafetensorError, safe_open

from sdlora import storage
from sdlora.errors import UserError
from sdlora.lora.formats import dialects
from sdlora.lora.formats.header import contents

if TYPE_CHECKING:
    from sdlora.lora.math.delta import Adapter, Adapters, Dtype, Tensor

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
               "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
               "BOOL": "bool", "U64": "uint64", "U32": "uint32", "U16": "uint16"}
FILE_NAMES = {name: key for key, name in TORCH_NAMES.items()}
KOHYA_LEAVES = {  # {kind: {role: leaf}} beside those that any kind may have (lora-files.md 2.3)
    "lora": {"down": "lora_down.weight", "up": "lora_up.weight", "mid": "lora_mid.weight"},
    "loha": {role: f"hada_{role}" for role in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    "lokr": {role: f"lokr_{role}" for role in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    "oft": {"blocks": "oft_blocks", "diag": "oft_diag", "rescale": "rescale"},
    "glora": {role: f"{role}.weight" for role in ("a1", "a2", "b1", "b2", "bm")},
    "full": {"diff": "diff", "set": "set_weight"}, "ia3": {"weight": "weight", "on_input": "on_input"}}
ANY_KIND = {"dora_scale": "dora_scale", "diff_b": "diff_b"}
WITHOUT_ALPHA = {"full", "ia3"}
MOST_LOST = 0.5  # of the change: a file that loses more of it is not written
LEGACY_SPAN = slice(0x100000, 0x110000)  # the bytes of the file that kohya's first hash covers


def write(path: Path, adapters: "Adapters", metadata: dict[str, str], *, dialect: Literal["kohya", "diffusers"] = "kohya",
          dtype: Literal["fp16", "bf16", "fp32"] | None = "fp16", family: str) -> Path:
    """Write `adapters` atomically with safe metadata and fresh hashes. The same input gives the same bytes.

    dtype None: every tensor keeps its own; else factors that it holds badly are balanced first (lora.rounding). kohya files hold
    every kind, diffusers files plain LoRA and DoRA (lora.convert makes others into that). Raises UserError when a kind, or a
    value, or most of the change does not fit the file, or the disk refuses; an old file is then untouched.
    """
    import torch

    from sdlora.lora.math.rounding import balanced, lost

    kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, None: None}[dtype]
    adapters = {module: balanced(adapter, kind) for module, adapter in adapters.items()}
    if (share := lost(adapters, kind)) > MOST_LOST:
        raise UserError(f"{Path(path).name} was not written: its values are so small that {dtype} would lose {share:.0%}.",
                        "Save it as bf16 or fp32." if dtype == "fp16" else "Save it as fp32.")
    tensors, said = kohya_tensors(adapters, kind, family) if dialect == "kohya" else diffusers_tensors(adapters, kind)
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise UserError(f"{Path(path).name} was not written: {name} does not fit the number format {dtype}.",
                            "Save it as bf16 or fp32, or use an earlier saved point.")
    return storage.write_atomic(Path(path), serialized(tensors, fresh({"format": "pt"} | metadata | said)))


def kohya_tensors(adapters: "Adapters", kind: "Dtype | None", family: str) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """kohya names with an alpha wherever the kind has one; an alpha that the number format cannot hold exactly stays fp32."""
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
            tensors[f"{name}.{kohya_leaf(adapter, role)}"] = cast(shaped(adapter, role, value), kind)
        if adapter.kind not in WITHOUT_ALPHA:
            format_ = kind or next(iter(adapter.tensors.values())).dtype
            alpha = torch.tensor(adapter.alpha, dtype=torch.float32)
            exact = format_.itemsize > 1 and alpha.to(format_).float() == alpha
            tensors[f"{name}.alpha"] = alpha.to(format_) if exact else alpha
    return tensors, {}


def kohya_holds(adapter: "Adapter") -> bool:
    """Whether a kohya file has a name for every tensor of an adapter; it has none for the OFT of PEFT, which turns inputs."""
    return adapter.tensors.keys() <= KOHYA_LEAVES[adapter.kind].keys() | ANY_KIND.keys()


def kohya_leaf(adapter: "Adapter", role: str) -> str:
    """The end of a tensor's name. The differences of a norm have names of their own, which readers expect as a pair."""
    if adapter.kind == "full" and {"diff", "diff_b"} <= adapter.tensors.keys() and adapter.tensors["diff"].ndim == 1:
        return {"diff": "w_norm", "diff_b": "b_norm"}[role]
    return (KOHYA_LEAVES[adapter.kind] | ANY_KIND)[role]


def shaped(adapter: "Adapter", role: str, value: "Tensor") -> "Tensor":
    """A magnitude of DoRA as kohya files have it: (out, 1) or (out, 1, 1, 1). Everything else as it is."""
    if role == "dora_scale" and value.ndim == 1:
        return value.reshape(-1, *[1] * (max(each.ndim for each in adapter.tensors.values()) - 1))
    return value


def cast(value: "Tensor", kind: "Dtype | None") -> "Tensor":
    """`value` on the CPU in the number format `kind` (None, or no fraction: its own)."""
    value = value.detach().cpu()
    return value.to(kind) if kind and value.is_floating_point() else value


def diffusers_tensors(adapters: "Adapters", kind: "Dtype | None") -> "tuple[dict[str, Tensor], dict[str, str]]":
    """PEFT names. This format keeps alpha in the header only and half of the readers ignore it there: see alpha_goes()."""
    import torch

    way = alpha_goes(adapters, kind)
    kind = torch.float32 if way == "fp32" else kind
    tensors, configs = {}, {}
    for path, adapter in sorted(adapters.items()):
        if not diffusers_holds(adapter):
            raise UserError(f"{path} is of a kind that diffusers files cannot hold.", "Write a kohya file, or convert it first.")
        name = dialects.diffusers_name(path)
        alpha = adapter.alpha if way == "header" else float(adapter.rank)
        up = adapter.tensors["up"] if way in ("kept", "header") else folded(adapter, kind)
        down = cast(adapter.tensors["down"], kind)
        tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": cast(up, kind)}
        if "dora_scale" in adapter.tensors:
            magnitude = cast(adapter.tensors["dora_scale"], kind)
            tensors[f"{name}.lora_magnitude_vector.weight"] = magnitude.reshape((1, -1, 1, 1) if down.ndim == 4 else -1)
        part, _, module = name.partition(".")
        module = module.removeprefix("text_model.")            # PEFT matches endings; newer transformers lost this level
        config = configs.setdefault(part, {"target_modules": [], "rank_pattern": {}, "alpha_pattern": {}, "use_dora": []})
        config["target_modules"].append(module)
        config["rank_pattern"][module] = adapter.rank
        config["alpha_pattern"][module] = int(alpha) if alpha == int(alpha) else alpha
        config["use_dora"].append("dora_scale" in adapter.tensors)
    said = {f"{part}.{key}": value for part, config in configs.items() for key, value in told(config).items()}
    return tensors, {"lora_adapter_metadata": json.dumps(said, sort_keys=True)}


def told(config: dict[str, object]) -> dict[str, object]:
    """PEFT's LoraConfig of one part: what most modules have, and the exceptions. DoRA is for all of a part or for none."""
    if len(set(config["use_dora"])) > 1:
        raise UserError("Some modules are DoRA and some are not, which a diffusers file cannot say.", "Write a kohya file.")
    rank, alpha = max(config["rank_pattern"].values()), max(config["alpha_pattern"].values())
    return {"target_modules": config["target_modules"], "use_dora": config["use_dora"][0], "r": rank, "lora_alpha": alpha,
            "rank_pattern": {key: value for key, value in config["rank_pattern"].items() if value != rank},
            "alpha_pattern": {key: value for key, value in config["alpha_pattern"].items() if value != alpha}}


def diffusers_holds(adapter: "Adapter") -> bool:
    """Whether a diffusers file can hold an adapter as it is: up x down, perhaps with DoRA's magnitude of every output."""
    if adapter.kind != "lora" or not adapter.tensors.keys() <= {"up", "down", "dora_scale"}:
        return False
    scale = adapter.tensors.get("dora_scale")
    return scale is None or scale.shape[0] == scale.numel() == adapter.tensors["up"].shape[0]


def alpha_goes(adapters: "Adapters", kind: "Dtype | None") -> Literal["kept", "folded", "header", "fp32"]:
    """Where alpha / rank goes in a diffusers file, so that no bit of dW is lost.

    kept: it is 1 everywhere. folded: it goes into `up`, exactly (a power of two). Else, with the number format free, the file
    becomes fp32 with it folded; with the number format given, it stays in the header.
    """
    if all(adapter.alpha == adapter.rank for adapter in adapters.values()):
        return "kept"
    if all(diffusers_holds(adapter) and exact(adapter, kind) for adapter in adapters.values()):
        return "folded"
    return "header" if kind else "fp32"


def folded(adapter: "Adapter", kind: "Dtype | None") -> "Tensor":
    """`up` with alpha / rank in it."""
    up = cast(adapter.tensors["up"], kind)
    return (up.double() * adapter.scale).to(up.dtype)


def exact(adapter: "Adapter", kind: "Dtype | None") -> bool:
    """Whether folding alpha / rank into `up` rounds nothing."""
    up = cast(adapter.tensors["up"], kind).double()
    return bool((folded(adapter, kind).double() == up * adapter.scale).all())


def serialized(tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file in a fixed order (the library orders metadata differently every time), with its hashes."""
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
    """The file `path` under other metadata, every tensor byte for byte, with fresh hashes; `out` may be `path` itself.

    Raises UserError for a file that is no safetensors, or when the disk refuses.
    """
    found, data = contents(Path(path))
    entries = {name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(found.spans[name])}
               for name, (dtype, shape) in found.tensors.items()}
    return storage.write_atomic(Path(out), hashed(entries, bytes(data), fresh({"format": "pt"} | metadata)))


def fresh(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata as texts, without the hashes of another file."""
    return {str(key): str(value) for key, value in metadata.items()
            if not key.startswith("sshs_") and key != "modelspec.hash_sha256"}


def hashed(entries: dict[str, dict], data: bytes, metadata: dict[str, str]) -> bytes:
    """A whole file: kohya's two hashes are over a file with only ss_* metadata as kohya makes them, ModelSpec's over the data."""
    content = hashlib.sha256(data).hexdigest()
    hashes = {"sshs_model_hash": content, "modelspec.hash_sha256": f"0x{content}"}
    alone = head({key: value for key, value in metadata.items() if key.startswith("ss_")}, entries)
    if len(alone) + len(data) > LEGACY_SPAN.start:             # below 1 MB it would be the hash of nothing, alike for all files
        hashes["sshs_legacy_hash"] = hashlib.sha256((alone + data[:LEGACY_SPAN.stop])[LEGACY_SPAN]).hexdigest()[:8]
    return head(metadata | hashes, entries) + data


def head(metadata: dict[str, str], entries: dict[str, dict]) -> bytes:
    """Length and JSON of a safetensors header."""
    text = json.dumps({"__metadata__": dict(sorted(metadata.items()))} | entries, ensure_ascii=False, separators=(",", ":"))
    raw = text.encode("utf-8", "replace")
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def same(meant: "Adapter", kept: "Adapter") -> bool:
    """Whether `kept` makes the change that was meant, bit for bit after the cast to the file's number format."""
    from sdlora.lora.math.rounding import balanced

    if (kept.kind, kept.tensors.keys()) != (meant.kind, meant.tensors.keys()):
        return False
    formats = {value.dtype for value in kept.tensors.values() if value.is_floating_point()}
    meant = balanced(meant, min(formats, key=lambda each: each.itemsize)) if formats else meant
    for role, value in kept.tensors.items():
        expected = meant.tensors[role].detach().cpu().to(value.dtype).double()
        factor = meant.scale / kept.scale if role == "up" else 1.0
        if not (expected.flatten() * factor == value.double().flatten()).all():
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
        wrong += [module] if shapes_differ or not same(adapter, again[module]) else []
    wrong += tensors  # that nobody wrote
    if wrong:
        raise UserError(f"{Path(path).name} was written, but read back it differs in {len(wrong)} modules ({wrong[0]}).",
                        "Check the disk, then resume the run to write it again.")
    return again
