"""Latents and caption features, computed once per picture and caption and stored below HOME/cache.

Knows nothing about LoRA, steps or events. An entry is named by a hash of everything its content depends on, and holds a hash
of its content; one that is damaged or not finite is computed again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sdlora.base.load import Base
from sdlora.dataset.crop import crop_box
from sdlora.dataset.folder import Example
from sdlora.dataset.picture_cache import forget_squares, take_square
from sdlora.errors import UserError
from sdlora.storage import data_folder, write_atomic

VERSION = "1"


@dataclass(frozen=True)
class Items:
    """What the loop learns from, on its device: n pictures and m captions, the last of them "" (for caption dropout)."""
    mean: Tensor  # (n, c, h/f, w/f) fp32, scaled
    std: Tensor  # (n, c, h/f, w/f) fp32
    features: dict[str, Tensor]  # "states" (m, tokens, d), for SDXL also "pooled" (m, p)
    caption_of: list[int]  # n: the caption of each picture
    repeats: list[int]  # n: how often each comes in an epoch
    size_px: int


def cache_latents(base: Base, examples: Iterable[Example], side: int) -> Iterator[tuple[Tensor, Tensor] | UserError]:
    """Yield the posterior (mean, std), each (1, c, side/f, side/f) fp32 on the CPU, of each example's square crop, in order.

    A picture is opened only when its latents are not cached. Yields the UserError of one that cannot be read any more or
    whose latents are not finite.
    """
    vae = content_hash(base.vae.state_dict())
    for example in examples:
        name = entry_name("latents", vae, example.digest, side, crop_box(example.width, example.height))
        entry = read_entry(name)
        if entry is None:
            try:
                square = take_square(example.path, example.name, example.digest, side)
            except UserError as error:
                yield error
                continue
            pixels = torch.from_numpy(numpy.array(square)).permute(2, 0, 1)[None].float() / 127.5 - 1  # (1, 3, side, side)
            # one by one: a batch would make the bits depend on which neighbours were cached already
            entry = store(name, dict(zip(("mean", "std"), base.encode_pictures(pixels), strict=True)))
        yield (entry["mean"], entry["std"]) if finite(entry) else UserError("The base model cannot carry this picture.")
    forget_squares()


def cache_captions(base: Base, captions: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Yield what Base.encode_text returns for each caption alone, (1, ...) on the CPU, in order."""
    encoders = content_hash(*(encoder.state_dict() for encoder in base.text_encoders))
    for caption in captions:
        name = entry_name("captions", encoders, base.dtype, caption)
        yield read_entry(name) or store(name, base.encode_text([caption]))


def entry_name(kind: str, *parts: object) -> str:
    """Return `kind/<hash>`, the name of the entry whose content depends on `parts`."""
    return f"{kind}/{sha256(repr((VERSION, *map(str, parts))).encode()).hexdigest()[:40]}"


def entry_path(name: str) -> Path:
    """Return where the entry `name` lies; it may not exist."""
    return data_folder("cache") / f"{name}.safetensors"


def store(name: str, computed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, after writing them under `name` when they are finite."""
    entry = {part: tensor.cpu().contiguous() for part, tensor in computed.items()}
    if finite(entry):
        write_atomic(entry_path(name), save(entry, {"sha256": content_hash(entry)}))
    return entry


def read_entry(name: str) -> dict[str, Tensor] | None:
    """Return a whole, finite entry, else None."""
    try:
        with safe_open(entry_path(name), "pt") as opened:
            entry = {part: opened.get_tensor(part) for part in opened.keys()}  # noqa: SIM118 - not a dict
            recorded = (opened.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return entry if recorded == content_hash(entry) and finite(entry) else None


def content_hash(*groups: dict[str, Tensor]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of all tensors."""
    digest = sha256()
    for tensors in groups:
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def finite(entry: dict[str, Tensor]) -> bool:
    """Return whether no value is NaN or infinite."""
    return all(bool(tensor.isfinite().all()) for tensor in entry.values())
