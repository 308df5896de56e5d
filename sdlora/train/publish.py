"""From adapters to a file one may say "done" about: written, read back, shown to change the picture, put on the shelf.

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
from sdlora.lora.formats import metadata
from sdlora.lora.formats import reading as lora_file
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapters
from sdlora.storage import data_folder, slug, write_atomic
from sdlora.train.cache import Items
from sdlora.train.checkpoint_files import file_hash

TINY_CHANGE = 1e-3  # of the length of the prediction; a finished style is at some hundredths or tenths
BURNT_CHANGE = 1.0


@dataclass(frozen=True)
class Facts:
    """What the file says about its making."""
    config: TrainConfig
    base: Base
    examples: tuple[Example, ...]
    step: int
    loss: float | None
    run: str
    created: str


def write_lora(path: Path, adapters: Adapters, facts: Facts, cover: Path | None = None) -> Path:
    """Write the LoRA with all it says about itself and compare it with what was meant. Raises UserError."""
    lora_file.write(path, adapters, describe(facts, cover), dtype=facts.config.file_dtype, family=facts.base.family)
    lora_file.verify(path, adapters, facts.base.unet)
    return path


def describe(facts: Facts, cover: Path | None = None) -> dict[str, str]:
    """The metadata of the file. Captions stay private: only their hash is told."""
    base = facts.base
    captions = sha256("\n".join(example.caption for example in facts.examples).encode()).hexdigest()
    making = metadata.Making(len(facts.examples), captions, facts.step, facts.loss, facts.run, facts.created)
    about = metadata.BaseFacts(base.family, base.title, base.identity, base.prediction_type, base.resolution)
    return metadata.build(facts.config, about, making, open_picture(cover) if cover else None)


def publish(folder: Path, out: str | None, adapters: Adapters, facts: Facts, items: Items) -> tuple[Path, list[str]]:
    """The finished file and its sidecars in `folder`/result and at `out`, or under a free name on the shelf.

    Returns (the file, sentences of warning). The adapters must be detached from the base. Raises UserError when the file
    changes nothing, does not fit, or cannot be written.
    """
    name = slug(facts.config.name)
    cover = max((folder / "samples").glob("*-0.png"), default=None)
    result = write_lora(folder / "result" / f"{name}.safetensors", adapters, facts, cover)
    change = movement(facts.base, lora_file.read(result).adapters, items)
    if not math.isfinite(change):
        raise UserError("The style is burnt: with it the base answers with values that are no numbers.",
                        "Download an earlier saved point, or start again with a lower learning rate.")
    if change == 0:
        raise UserError("The style changes nothing: the file leaves every picture of the base as it is.",
                        "Train for more rounds, or raise the learning rate.")
    warnings = []
    if change < TINY_CHANGE:
        warnings.append("The style changes the base very little. More rounds or a higher learning rate would show more of it.")
    if change > BURNT_CHANGE:
        warnings.append("The style overrules the base: an earlier saved point will probably look better.")
    content = result.read_bytes()
    target = Path(out) if out else shelf_place(name, result)
    write_atomic(target, content)
    if file_hash(target) != file_hash(result):
        raise UserError(f"{target.name} was read back damaged.", "Check the disk, then continue the run.")
    for path in (result, target):
        metadata.write_sidecars(path, cover)
    return target, warnings


def shelf_place(name: str, result: Path) -> Path:
    """HOME/loras/<name>.safetensors, numbered when another LoRA has that name; the same file is not kept twice."""
    shelf = data_folder("loras")
    for number in range(1, 10_000):
        target = shelf / (f"{name}.safetensors" if number == 1 else f"{name}-{number}.safetensors")
        if not target.exists() or file_hash(target) == file_hash(result):
            return target
    raise UserError(f"There are 9,999 styles called {name}.", "Choose another name.")


@torch.no_grad()
def movement(base: Base, adapters: Adapters, items: Items) -> float:
    """How far the adapters move the UNet's prediction for one fixed noisy latent, as a share of the prediction's length."""
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
