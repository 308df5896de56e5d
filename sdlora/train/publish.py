"""From trained adapters to a published LoRA file: written, read back, shown to change the picture, put on the shelf.

Knows nothing about steps, losses or key names.
"""

import math
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from sdlora.base.load import Base
from sdlora.config import TrainConfig
from sdlora.dataset.folder import Example
from sdlora.dataset.picture import open_picture
from sdlora.draw.apply import Applied
from sdlora.errors import UserError
from sdlora.lora.formats import metadata, writing
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapters
from sdlora.storage import data_folder, slug, write_atomic
from sdlora.train.cache import Items
from sdlora.train.checkpoint_files import file_hash

WEAK_CHANGE = 1e-3  # of the length of the prediction; a finished style is at some hundredths or tenths
STRONG_CHANGE = 1.0


@dataclass(frozen=True)
class Facts:
    """What the metadata of the file says about the training."""
    config: TrainConfig
    base: Base
    examples: tuple[Example, ...]
    step: int
    loss: float | None
    run: str
    created: str
    strength: float = 1.0


def write_lora(path: Path, adapters: Adapters, facts: Facts, cover: Path | None = None) -> Adapters:
    """Write the LoRA file and read it back; return the adapters in the file. Raises UserError when they differ."""
    writing.write(path, adapters, describe(facts, cover), dtype=facts.config.file_dtype, family=facts.base.family)
    return writing.read_back(path, adapters, facts.base.family)


def describe(facts: Facts, cover: Path | None = None) -> dict[str, str]:
    """Return the metadata of the file. Captions stay private: only their hash is in it."""
    base = facts.base
    captions = sha256("\n".join(example.caption for example in facts.examples).encode()).hexdigest()
    training = metadata.Training(len(facts.examples), captions, facts.step, facts.run, facts.created, facts.strength)
    about = metadata.BaseFacts(base.family, base.title, base.identity, base.prediction_type, base.resolution)
    return metadata.build(facts.config, about, training, open_picture(cover) if cover else None)


def publish(folder: Path, out: str | None, adapters: Adapters, facts: Facts, items: Items) -> tuple[Path, list[str]]:
    """Write the finished file and its sidecars to `folder`/result and to `out`, or under a free name on the shelf.

    Returns (the file, warnings). The adapters must be detached from the base. Raises UserError when the file changes
    nothing, does not fit, or cannot be written.
    """
    name = slug(facts.config.name)
    cover = max((folder / "samples").glob("*-0.png"), default=None)
    result = folder / "result" / f"{name}.safetensors"
    change = prediction_change(facts.base, write_lora(result, adapters, facts, cover), items)
    if not math.isfinite(change):
        raise UserError("The style is broken: with it the base's predictions are NaN or infinite.",
                        "Download an earlier checkpoint, or start again with a lower learning rate.")
    if change == 0:
        raise UserError("The style changes nothing: the file leaves every picture of the base as it is.",
                        "Train for more steps, or raise the learning rate.")
    warnings = []
    if change < WEAK_CHANGE:
        warnings.append("The style changes the base very little. More steps or a higher learning rate would show more of it.")
    if change > STRONG_CHANGE:
        warnings.append("The style is over-strong: it overrules the base. An earlier checkpoint will probably look better.")
    target = Path(out) if out else shelf_path(name, result)
    write_atomic(target, result.read_bytes())
    if file_hash(target) != file_hash(result):
        raise UserError(f"{target.name} was read back damaged.", "Check the disk, then resume the run.")
    for path in (result, target):
        metadata.write_sidecars(path, cover)
    return target, warnings


def shelf_path(name: str, result: Path) -> Path:
    """Return HOME/loras/<name>.safetensors, numbered when another LoRA has that name; the same file is not stored twice."""
    shelf = data_folder("loras")
    for number in range(1, 10_000):
        target = shelf / (f"{name}.safetensors" if number == 1 else f"{name}-{number}.safetensors")
        if not target.exists() or file_hash(target) == file_hash(result):
            return target
    raise UserError(f"There are 9,999 styles called {name}.", "Choose another name.")


@torch.no_grad()
def prediction_change(base: Base, adapters: Adapters, items: Items) -> float:
    """Return how far the adapters move the UNet's prediction for one fixed noisy latent, relative to the prediction's norm."""
    noisy = torch.randn(items.mean[:1].shape, generator=torch.Generator().manual_seed(0)).to(base.device)
    timestep = torch.full((1,), 500, device=base.device)
    features = {part: values[:1] for part, values in items.features.items()}
    before = base.predict(noisy, timestep, features, items.size_px).float()
    applied = Applied(base)
    try:
        applied.set([Ingredient(adapters, name="The style")])
        after = base.predict(noisy, timestep, features, items.size_px).float()
    finally:
        applied.clear()
    return float((after - before).norm() / before.norm())
