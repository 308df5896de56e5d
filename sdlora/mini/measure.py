"""Measures a base folder and writes the table of its README. Every picture used here is held out from training.

What the base draws is named by the classifier.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from sdlora.dataset.picture import open_picture
from sdlora.mini.autoencoder import energy_retained, psnr
from sdlora.mini.classifier import HEADS, Classifier, accuracy, load_classifier, measured_pairs, measured_scenes, own_colours
from sdlora.mini.fine_textures import UNSEEN
from sdlora.mini.latents import encode
from sdlora.mini.network import terminal_snr
from sdlora.mini.pictures import HELD_OUT, as_tensor, one_texture_images, scene_pictures, texture_pictures
from sdlora.mini.render import render
from sdlora.mini.scenes import STYLES, Scene, caption
from sdlora.storage import write_atomic

log = logging.getLogger(__name__)
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STEPS, GUIDANCE = 20, 5.0
Row = tuple[str, str, str]


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Return a base as plain diffusers loads it, in fp32."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: Any, prompts: list[str], seed: int = 0) -> list[Image.Image]:
    """Draw one picture a prompt, the n-th from seed + n, 20 steps."""
    images = []
    for start in range(0, len(prompts), 16):
        batch = prompts[start : start + 16]
        noise = [torch.Generator().manual_seed(seed + start + n) for n in range(len(batch))]
        images += pipeline(batch, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise).images
    return images


def prompts_of(scenes: list[Scene]) -> list[str]:
    """Return the captions; those of flat illustrations name no style, as on the page."""
    return [caption(scene, styled=scene.style != STYLES[0]) for scene in scenes]


def load_vae(folder: Path) -> AutoencoderKL:
    """Return a VAE alone, in fp32."""
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()


def reconstruction(vae: AutoencoderKL, examples: Path, count: int = 64) -> Iterator[Row]:
    """Yield rows of the VAE: held-out renders, textures, every example set, fine textures of unseen kinds, its channels."""
    size_px = vae.config["sample_size"]
    scenes, textures = scene_pictures(count, HELD_OUT, size_px), texture_pictures(count, HELD_OUT, size_px)
    yield "VAE on held-out renders, all styles alike", f"{psnr(vae, scenes):.1f} dB", ">= 30 dB"
    yield "VAE on held-out textures", f"{psnr(vae, textures):.1f} dB", ">= 20 dB"
    for folder in sorted(p for p in examples.iterdir() if p.is_dir()):
        images = [open_picture(p).resize((size_px, size_px), 1) for p in sorted(folder.glob("*.png"))]
        yield f"VAE on the example set {folder.name}", f"{psnr(vae, as_tensor(images)):.1f} dB", ">= 20 dB"
    shares = []
    for name, kind in UNSEEN.items():
        pictures = as_tensor(one_texture_images(kind, count // 4, HELD_OUT, size_px))
        shares.append(energy_retained(vae, pictures))
        yield f"VAE on fine {name}, never trained on", f"{psnr(vae, pictures):.1f} dB, {shares[-1]:.0%} of fine energy kept", ""
    yield "Fine energy kept, mean of these kinds", f"{sum(shares) / len(shares):.0%}", ">= 85%"
    spread = encode(vae, scenes).float().std((0, 2, 3))
    yield "Deviation of a latent channel, smallest and largest", f"{spread.min():.2f}, {spread.max():.2f}", "equal"


def prompt_accuracy(pipeline: StableDiffusionPipeline, model: Classifier, count: int = 128) -> Iterator[Row]:
    """Yield rows of the classifier's accuracy on drawn pictures and on renders of the same captions."""
    scenes = measured_scenes(count, HELD_OUT)
    size_px = pipeline.vae.config["sample_size"]
    ceiling = accuracy(model, as_tensor(render(scene, size_px) for scene in scenes), scenes)
    reached = accuracy(model, as_tensor(draw(pipeline, prompts_of(scenes))), scenes)
    targets = {"object": ">= 94%", "colour": ">= 95%", "setting": ">= 95%"}
    for name in HEADS:
        share = reached[name] / max(1e-9, ceiling[name])
        text = f"{reached[name]:.0%} of samples, {ceiling[name]:.0%} of real renders: {share:.0%}"
        yield f"{name.capitalize()} as asked ({count} prompts)", text, targets.get(name, "") and targets[name] + " of real"
    pairs = measured_pairs(count, HELD_OUT)
    reached, ceiling = (own_colours(model, as_tensor(pictures), pairs)
                        for pictures in (draw(pipeline, prompts_of(pairs)), (render(scene, size_px) for scene in pairs)))
    text = f"{reached:.0%}, {ceiling:.0%} of real renders"
    yield f"Of two things, those with their own colour ({count} prompts)", text, ">= 80%"


def leak(pipeline: StableDiffusionPipeline) -> Row:
    """Return how much of the strongest mode of the latents is left at the last step."""
    latents = encode(pipeline.vae, scene_pictures(512, HELD_OUT, pipeline.vae.config["sample_size"])).float()
    snr = terminal_snr(latents * pipeline.vae.config["scaling_factor"], pipeline.scheduler)
    return "SNR of the strongest latent mode at t = 999", f"{snr:.3f}", "<= 0.02"


def speed(pipeline: StableDiffusionPipeline) -> Row:
    """Time four pictures on two cores, best of three."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        draw(pipeline, ["a red house and a blue boat, meadow, in daylight"] * 4)
        times.append(time.perf_counter() - started)
    torch.set_num_threads(before)
    return "Four pictures, 20 steps with guidance, 2 cores", f"{min(times):.1f} s", "<= 6 s"


def measure(base: Path, examples: Path, count: int = 128) -> Iterator[Row]:
    """Yield (what, measured, aim) rows."""
    pipeline = load_pipeline(base)
    yield from reconstruction(pipeline.vae, examples)
    yield from prompt_accuracy(pipeline, load_classifier(), count)
    yield leak(pipeline)
    yield speed(pipeline)


def write_table(readme: Path, rows: list[Row], date: str) -> None:
    """Replace what stands between the two markers of the README (or append it)."""
    lines = [BEGIN, f"Measured on {date}.", "", "| what | measured | aim |", "|---|---|---|"]
    table = "\n".join([*lines, *(f"| {what} | {value} | {aim} |" for what, value, aim in rows), END])
    text = readme.read_text(encoding="utf-8") if readme.exists() else "# The embedded base\n\n"
    if BEGIN in text:
        head, rest = text.split(BEGIN, 1)
        text = head + table + rest.split(END, 1)[1]
    else:
        text = text.rstrip() + "\n\n" + table + "\n"
    write_atomic(readme, text.encode())
