"""The number format of the base's training: bf16 where the processor computes in it, else fp32."""

from __future__ import annotations

import torch


def has_bf16(device: str) -> bool:
    """Whether bf16 is faster than fp32 there. A CPU without it imitates it: a step of the VAE then took 60 s instead of 1."""
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device) -> torch.autocast:
    """A context that computes in bf16 where that is faster."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device.type))
