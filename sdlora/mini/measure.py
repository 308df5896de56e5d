"""Measures a base folder and writes the table of its README. Every picture used here is held out from training."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from sdlora.dataset.picture import open_picture
from sdlora.mini import fine
from sdlora.mini.autoencoder import energy_kept, psnr
from sdlora.mini.classifier import HEADS, Classifier, accuracy, exam_scenes, train_classifier
from sdlora.mini.latents import encode
from sdlora.mini.pictures import HELD_OUT, as_tensor, scene_pictures, texture_pictures
from sdlora.mini.render import render
from sdlora.mini.textures import fine_sheet
from sdlora.mini.words import Scene, caption
from sdlora.storage import write_atomic

log = logging.getLogger(__name__)
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STEPS, GUIDANCE = 20, 5.0
Row = tuple[str, str, str]


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """A base as plain diffusers loads it, in fp32."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: StableDiffusionPipeline, prompts: list[str], seed: int = 0) -> list[Image.Image]:
    """One picture a prompt, the n-th from seed + n, 20 steps."""
    images = []
    for start in range(0, len(prompts), 16):
        batch = prompts[start : start + 16]
        noise = [torch.Generator().manual_seed(seed + start + n) for n in range(len(batch))]
        images += pipeline(batch, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise).images
    return images


def judge(folder: Path) -> Classifier:
    """The classifier, from the build folder or trained now."""
    model, path = Classifier(), folder / "classifier.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    for step, loss in enumerate(train_classifier(model)):
        if step % 100 == 0:
            log.info("classifier step %d, loss %.3f", step, loss)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return model


def prompts_of(scenes: list[Scene]) -> list[str]:
    """Captions as the page's examples say them: flat illustrations need no style."""
    return [caption(scene, styled=scene.style != "flat illustration") for scene in scenes]


def load_vae(folder: Path) -> AutoencoderKL:
    """A VAE alone, in fp32."""
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()


def reconstruction(vae: AutoencoderKL, examples: Path, count: int = 64) -> Iterator[Row]:
    """Rows of the VAE: held-out renders, textures, every example set, fine textures of unseen kinds, its channels."""
    size_px = vae.config.sample_size
    scenes, textures = scene_pictures(count, HELD_OUT, size_px), texture_pictures(count, HELD_OUT, size_px)
    yield "VAE on held-out renders, all styles alike", f"{psnr(vae, scenes):.1f} dB", ">= 30 dB"
    yield "VAE on held-out textures", f"{psnr(vae, textures):.1f} dB", ">= 20 dB"
    for folder in sorted(p for p in examples.iterdir() if p.is_dir()):
        images = [open_picture(p).resize((size_px, size_px), 1) for p in sorted(folder.glob("*.png"))]
        yield f"VAE on the example set {folder.name}", f"{psnr(vae, as_tensor(images)):.1f} dB", ">= 20 dB"
    shares = []
    for name, kind in fine.UNSEEN.items():
        pictures = as_tensor(fine_sheet(kind, count // 4, HELD_OUT, size_px))
        shares.append(energy_kept(vae, pictures))
        yield f"VAE on fine {name}, never trained on", f"{psnr(vae, pictures):.1f} dB, {shares[-1]:.0%} of fine energy kept", ""
    yield "Fine energy kept, mean of these kinds", f"{sum(shares) / len(shares):.0%}", ">= 85%"
    spread = encode(vae, scenes).float().std((0, 2, 3))
    yield "Deviation of a latent channel, smallest and largest", f"{spread.min():.2f}, {spread.max():.2f}", "equal"


def obedience(pipeline: StableDiffusionPipeline, model: Classifier, count: int = 128) -> Iterator[Row]:
    """Rows of the classifier's accuracy on samples beside real renders of the same captions."""
    scenes = exam_scenes(count, HELD_OUT)
    size_px = pipeline.vae.config.sample_size
    ceiling = accuracy(model, as_tensor(render(scene, size_px) for scene in scenes), scenes)
    reached = accuracy(model, as_tensor(draw(pipeline, prompts_of(scenes))), scenes)
    aims = {"object": ">= 60%", "colour": ">= 80%", "setting": ">= 80%"}
    for name in HEADS:
        share = reached[name] / max(1e-9, ceiling[name])
        text = f"{reached[name]:.0%} of samples, {ceiling[name]:.0%} of real renders: {share:.0%}"
        yield f"{name.capitalize()} as asked ({count} prompts)", text, aims.get(name, "") and aims[name] + " of real"


@torch.no_grad()
def leak(pipeline: StableDiffusionPipeline) -> Row:
    """How much of the strongest mode of the latents is left at the last step."""
    latents = encode(pipeline.vae, scene_pictures(512, HELD_OUT, pipeline.vae.config.sample_size)).float()
    flat = latents.flatten(1) * pipeline.vae.config.scaling_factor
    flat = flat - flat.mean(0)
    strongest = torch.linalg.matrix_norm(flat, 2).square().item() / len(flat)
    value = pipeline.scheduler.alphas_cumprod[-1].item() * strongest
    return "SNR of the strongest latent mode at t = 999", f"{value:.3f}", "<= 0.02"


def speed(pipeline: StableDiffusionPipeline) -> Row:
    """Seconds for four pictures on two cores, best of three."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    times = []
    for _ in range(3):
        started = time.perf_counter()
        draw(pipeline, ["a red house and a blue boat, meadow, in daylight"] * 4)
        times.append(time.perf_counter() - started)
    torch.set_num_threads(before)
    return "Four pictures, 20 steps with guidance, 2 cores", f"{min(times):.1f} s", "<= 6 s"


def measure(base: Path, examples: Path, work: Path, count: int = 128) -> Iterator[Row]:
    """Yield (what, measured, aim) rows."""
    pipeline = load_pipeline(base)
    yield from reconstruction(pipeline.vae, examples)
    yield from obedience(pipeline, judge(work), count)
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
