"""LoRA files and foreign folders for the tests of the shelf."""

import json
import os

import numpy as np
from safetensors.numpy import save_file

ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SDXL = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
OUTPUT = {768: 320, 1024: 320, 128: 128, 2048: 640}


def tensors(width=768, rank=2, value=0.5, name=None):
    name = name or (SDXL if width == 2048 else ATTENTION)
    return {f"{name}.lora_down.weight": np.full((rank, width), value, np.float16),
            f"{name}.lora_up.weight": np.full((OUTPUT.get(width, 320), rank), value, np.float16),
            f"{name}.alpha": np.array(rank, np.float16)}


def lora(path, metadata=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors(**options), path, metadata=metadata)
    return path


def beside(path, suffix, content):
    """A sidecar `name<suffix>` with `content` as JSON."""
    file = path.with_name(path.stem + suffix)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def everything(folder):
    """Names, sizes, dates and bytes of all files below a folder: equal before and after, nothing was touched."""
    return sorted((os.path.relpath(path, folder), path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
                  for path in folder.rglob("*"))
