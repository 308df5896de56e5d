"""A Stable Diffusion so small that 20 real training steps take less than a second: a diffusers folder with random weights.

Its cross-attention width is mini's, so everything reads it as a "mini". 64 px pictures, 8x8 latents of 4 channels.
"""

import json
import random
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import CLIPTextConfig, CLIPTextModel

from sdlora.storage import shipped

PROMPTS = ("a red house", "a blue boat", "a green tree", "a yellow cat")


def write_base(folder: Path, seed: int = 0) -> Path:
    """Write the tiny base as a diffusers folder; the tokenizer and scheduler are mini's own."""
    torch.manual_seed(seed)
    mini = shipped("assets", "mini")
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(mini / part, folder / part)
    shutil.copy(mini / "model_index.json", folder)
    text = json.loads((mini / "text_encoder" / "config.json").read_text())
    shared = {"vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"}
    CLIPTextModel(CLIPTextConfig(hidden_size=128, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                                 **{key: text[key] for key in shared})).save_pretrained(folder / "text_encoder")
    AutoencoderKL(block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=4,
                  up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4).save_pretrained(folder / "vae")
    UNet2DConditionModel(sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
                         down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=2,
                         up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=128
                         ).save_pretrained(folder / "unet")
    return folder


def write_pictures(folder: Path, count: int = 4, side: int = 64) -> Path:
    """`count` captioned PNGs of coloured shapes, each different."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        dice = random.Random(index)
        colours = [tuple(dice.randrange(256) for _ in range(3)) for _ in range(2)]
        image = Image.new("RGB", (side, side), colours[0])
        ImageDraw.Draw(image).ellipse((dice.randrange(side // 2), 8, side - 8, side - 8), fill=colours[1])
        image.save(folder / f"{index:02d}.png")
        (folder / f"{index:02d}.txt").write_text(PROMPTS[index % len(PROMPTS)])
    return folder


def write_run(folder: Path, base: Path, images: Path, **settings: object) -> Path:
    """A run folder with its spec.json, as jobs.run.create_run makes it: 20 small steps unless told otherwise."""
    config = {"name": "Tiny", "trigger": "tny", "base": str(base), "steps": 20, "rank": 2, "learning_rate": 1e-2,
              "batch_size": 2, "save_every": 10, "sample_every": 10, "sample_steps": 2, "device": "cpu", **settings}
    folder.mkdir(parents=True)
    spec = {"version": 1, "id": folder.name, "images": str(images), "out": None, "config": config,
            "created": "2026-01-01T00:00:00", "set": None}
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder
