"""What `bench style` measures: LoRAs trained by `sdlora train` in a process of its own, and pictures drawn with them.

Knows nothing about scores.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdlora.base.load import Base
from sdlora.config import DrawConfig, make
from sdlora.draw.pipeline import Picture, draw
from sdlora.errors import UserError
from sdlora.lora.formats.reading import read
from sdlora.lora.math.blend import Ingredient
from sdlora.mini.autoencoder import decoded, encoded
from sdlora.mini.classifier import measured_scenes
from sdlora.mini.pictures import HELD_OUT, as_tensor
from sdlora.mini.render import render
from sdlora.mini.scenes import Scene, caption
from sdlora.mini.strangers import Stranger
from sdlora.processes import with_source
from sdlora.storage import write_atomic
from sdlora.train.checkpoint_files import LORA, checkpoint_folder, checkpoint_steps

TRIGGER = "qiveltu"
PICTURE_PX = 256
TRAINING_SEED = 40_001
LAYOUTS = 4  # of every held-out prompt: two are the truth, two measure what other real renders reach


@dataclass(frozen=True)
class Trained:
    """A finished training: its file, seconds from start to file, pictures seen, and {step: seconds} of its checkpoints.

    validated: what the run said of its sample pictures, {step: fields of events.Validated}; suggested, verdict: the step it
    suggests, and its sentences.
    """

    file: Path
    folder: Path
    seconds: float
    pictures_seen: int
    checkpoints: dict[int, float]
    validated: dict[int, dict[str, Any]] = field(default_factory=dict)
    suggested: int | None = None
    verdict: tuple[str, ...] = ()

    def file_at(self, step: int) -> Path:
        """Return the LoRA file of a checkpoint."""
        return checkpoint_folder(self.folder, step) / LORA


def held_out(count: int) -> list[Scene]:
    """Return the scenes of the measured prompts, one thing each."""
    return measured_scenes(count, HELD_OUT, plain=1.0)


def layouts(scenes: Sequence[Scene], number: int) -> list[Scene]:
    """Return the same prompts in another arrangement; number: 0 to LAYOUTS - 1."""
    return [replace(scene, layout=(scene.layout + number * 7_919_317) % 2**31) for scene in scenes]


def training_scenes(count: int, seed: int) -> list[Scene]:
    """Return the scenes of the training pictures."""
    return measured_scenes(count, TRAINING_SEED + seed, plain=1.0)


def write_training_set(folder: Path, stranger: Stranger, count: int, seed: int) -> Path:
    """Write `count` captioned pictures of a style, as an artist has them; return the folder."""
    for number, scene in enumerate(training_scenes(count, seed)):
        path = folder / f"{number:02d}.png"
        write_atomic(path, lambda temporary, scene=scene: render(scene, PICTURE_PX, stranger.style).save(temporary, "PNG"))
        write_atomic(path.with_suffix(".txt"), f"[trigger] {caption(scene, styled=False)}".encode())
    return folder


def train(pictures: Path, out: Path, base: str, preset: str, arguments: Sequence[str] = ()) -> Trained:
    """Train as an artist would, on an empty data folder beside `out`. Raises UserError with what the run said when it fails."""
    home = out.with_suffix("")
    command = [sys.executable, "-m", "sdlora", "train", str(pictures), "--base", base, "--preset", preset, "--trigger", TRIGGER,
               "--name", out.stem, "--out", str(out), "--json", *arguments]
    environment = with_source(os.environ) | {"SDLORA_HOME": str(home)}
    began, at, folder, seen, last, validated, judged = time.monotonic(), {}, Path(), 0, {}, {}, {}
    with (
        tempfile.TemporaryFile("w+") as said,  # a pipe that nobody reads meanwhile would fill up and stop the run
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=said, text=True) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            last = json.loads(line)
            if last["event"] == "started":
                folder = Path(last["folder"])
            elif last["event"] == "step":
                seen = last["step"]
            elif last["event"] == "saved":
                at[last["step"]] = time.monotonic() - began
            elif last["event"] == "validated" and last["picture"]:
                validated[last["step"]] = last
            elif last["event"] == "verdict":
                judged = last
        process.wait()
        said.seek(0)
        if last.get("event") != "done":
            why = last.get("message") or said.read().strip()[-500:]
            raise UserError(f"The training of {out.stem} ended without a file.", why)
    batch = json.loads((folder / "spec.json").read_text(encoding="utf-8"))["config"]["batch_size"]
    checkpoints = {step: at[step] for step in checkpoint_steps(folder) if step in at}
    return Trained(out, folder, time.monotonic() - began, seen * batch, checkpoints, validated,
                   judged.get("suggested"), tuple(judged.get("sentences", ())))


def draw_prompts(base: Base, prompts: Sequence[str], count: int, lora: Path | None = None, seed: int = 1000) -> Tensor:
    """Draw `count` pictures of every prompt with at most one LoRA -> (prompts x count, 3, s, s) uint8, prompt by prompt."""
    config = make(DrawConfig, {"prompts": tuple(prompts), "count": count, "seed": seed})
    blend = [Ingredient(read(lora).adapters)] if lora else ()
    return as_tensor(event.image for event in draw(base, config, blend=blend) if isinstance(event, Picture))


def prompts_of(scenes: Sequence[Scene], trigger: bool) -> list[str]:
    """Return the prompts of scenes, with the trigger word in front or without."""
    return [f"{TRIGGER} {caption(scene, styled=False)}" if trigger else caption(scene, styled=False) for scene in scenes]


@torch.no_grad()
def through_vae(base: Base, pictures: Tensor) -> Tensor:
    """Encode and decode (n, 3, s, s) uint8 pictures: the best that the base could draw."""
    out = []
    for batch in pictures.split(16):
        x = (batch.float() / 127.5 - 1).to(base.device)
        y = decoded(base.vae, encoded(base.vae, x).mean)
        out.append(((y.clamp(-1, 1) + 1) * 127.5).round().byte().cpu())
    return torch.cat(out)
