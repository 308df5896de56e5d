"""Latents and caption features, computed once per picture and caption and kept on disk below HOME/cache.

Knows nothing about LoRA, steps or events. An entry is named by all that decides it and carries a hash of its content;
one that is damaged, foreign or not finite is computed again.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sdlora.base.load import Base
from sdlora.dataset.crop import crop_box
from sdlora.dataset.folder import Example
from sdlora.dataset.looks import take_square
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
    repeats: list[int]  # n: how often each comes in a round
    size_px: int


def cache_latents(base: Base, examples: Iterable[Example], side: int) -> Iterator[tuple[Tensor, Tensor] | UserError]:
    """Posterior (mean, std), each (1, c, side/f, side/f) fp32 on the CPU, of each example's square crop, in order.

    A picture is opened only when its latents are not there. The UserError of one that cannot be read any more, or that the VAE
    cannot carry (not finite).
    """
    vae = weights_hash([base.vae])
    for example in examples:
        name = key("latents", vae, example.digest, side, crop_box(example.width, example.height))
        entry = read_entry(entry_path(name))
        if entry is None:
            try:
                square = take_square(example.path, example.name, example.digest, side)
            except UserError as gone:
                yield gone
                continue
            pixels = torch.from_numpy(numpy.array(square)).permute(2, 0, 1)[None].float() / 127.5 - 1  # (1, 3, side, side)
            # one by one: a batch would make the bits depend on which neighbours were cached already
            entry = keep(name, dict(zip(("mean", "std"), base.encode_pictures(pixels), strict=True)))
        yield (entry["mean"], entry["std"]) if finite(entry) else UserError("The base model cannot carry this picture.")


def cache_captions(base: Base, captions: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """What Base.encode_text gives for each caption alone, (1, ...) on the CPU, in order."""
    encoders = weights_hash(base.text_encoders)
    for caption in captions:
        yield remembered(key("captions", encoders, base.dtype, caption), lambda caption=caption: base.encode_text([caption]))


def weights_hash(models: Iterable[nn.Module]) -> str:
    """SHA-256 over names and values of all weights: the identity of a VAE or of text encoders."""
    digest = sha256()
    for model in models:
        for name, weight in sorted(model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(as_bytes(weight))
    return digest.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """The raw bytes of a tensor of any dtype, without another copy of a CPU tensor."""
    return memoryview(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())


def key(kind: str, *parts: object) -> str:
    """`kind/<hash>`: the name of the entry that `parts` decide."""
    return f"{kind}/{sha256(repr((VERSION, *map(str, parts))).encode()).hexdigest()[:40]}"


def remembered(name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The cached entry `name`, or what `compute` gives, kept for next time when it is finite. CPU tensors."""
    entry = read_entry(entry_path(name))
    return keep(name, compute()) if entry is None else entry


def keep(name: str, computed: dict[str, Tensor]) -> dict[str, Tensor]:
    """What was computed, on the CPU, and written under `name` when it is finite."""
    entry = {part: tensor.cpu().contiguous() for part, tensor in computed.items()}
    if finite(entry):
        write_atomic(entry_path(name), save(entry, {"sha256": content_hash(entry)}))
    return entry


def entry_path(name: str) -> Path:
    return data_folder("cache", Path(name).parent.name) / f"{Path(name).name}.safetensors"


def read_entry(path: Path) -> dict[str, Tensor] | None:
    """A whole, finite entry, else None."""
    try:
        with safe_open(path, "pt") as opened:
            entry = {part: opened.get_tensor(part) for part in opened.keys()}  # noqa: SIM118 - not a dict
            recorded = (opened.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return entry if recorded == content_hash(entry) and finite(entry) else None


def content_hash(entry: dict[str, Tensor]) -> str:
    """SHA-256 of the values, names, dtypes and shapes of an entry."""
    digest = sha256()
    for part, tensor in sorted(entry.items()):
        digest.update(f"{part} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(as_bytes(tensor))
    return digest.hexdigest()


def finite(entry: dict[str, Tensor]) -> bool:
    """Whether every value is a number."""
    return all(bool(tensor.isfinite().all()) for tensor in entry.values())
