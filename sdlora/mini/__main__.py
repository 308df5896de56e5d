"""`python -m sdlora.mini build | measure | classifier | examples`: make, measure and illustrate the embedded base."""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path

from sdlora.mini.autoencoder import VaeSettings
from sdlora.storage import shipped

WORK = Path(".mini")


def main() -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m sdlora.mini", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="train the base; a stopped build is resumed")
    make.add_argument("--minutes", type=float, default=240.0, help="training time of all sessions together")
    make.add_argument("--from", dest="source", default=None, help="start from this base folder instead of nothing")
    make.add_argument("--vae-from", default=None, help="start the VAE from this folder of a VAE")
    make.add_argument("--vae-steps", type=int, help="steps of the VAE instead of minutes")
    make.add_argument("--energy-weight", type=float, default=VaeSettings.energy_weight, help="of the VAE's loss on fine texture")
    make.add_argument("--unet-steps", type=int, help="steps of the UNet instead of minutes; 0 leaves it out")
    make.add_argument("--out", type=Path, default=WORK / "base", help="folder to write the base to")
    make.add_argument("--device", default="auto", help="auto, cuda, mps or cpu")
    check = commands.add_parser("measure", help="measure a base and write the table of its README")
    check.add_argument("--base", type=Path, default=shipped("assets", "mini"))
    check.add_argument("--vae", type=Path, help="measure this folder of a VAE alone, and write nothing")
    check.add_argument("--examples", type=Path, default=shipped("assets", "examples"))
    check.add_argument("--prompts", type=int, default=128)
    judge = commands.add_parser("classifier", help="train what names the pictures that are measured")
    judge.add_argument("--scenes", type=int, default=18_000)
    judge.add_argument("--epochs", type=int, default=8)
    judge.add_argument("--out", type=Path, default=shipped("assets", "judge.safetensors"))
    sets = commands.add_parser("examples", help="redraw the example sets")
    sets.add_argument("--out", type=Path, default=shipped("assets", "examples"))
    make.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints and caches")
    for command in (make, check, judge):
        command.add_argument("--threads", type=int, help="CPU threads; 1 where other work shares the cores: waiting threads spin")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if getattr(options, "threads", None):
        import torch

        torch.set_num_threads(options.threads)
    {"build": _build, "measure": _measure, "classifier": _classifier, "examples": _examples}[options.command](options)


def _build(options: argparse.Namespace) -> None:
    from sdlora.mini.build import Recipe, build

    recipe = replace(
        Recipe.for_minutes(options.minutes, options.source), vae_source=options.vae_from, vae_steps=options.vae_steps,
        unet_steps=options.unet_steps, vae=VaeSettings(energy_weight=options.energy_weight),
    )
    printed_at, average, before = 0.0, 0.0, ""
    for phase, progress in build(recipe, options.work, options.out, options.device):
        average = 0.98 * average + 0.02 * progress.loss if phase == before else progress.loss
        before = phase
        if time.monotonic() - printed_at > 20:
            printed_at = time.monotonic()
            done = f"{progress.seconds / 60:.1f} min, {progress.pictures} pictures"
            print(f"{phase}: step {progress.step}, loss {average:.4f}, {done}", flush=True)
            with (options.work / "curve.jsonl").open("a", encoding="utf-8") as curve:
                curve.write(json.dumps({"phase": phase, **asdict(progress), "loss": round(average, 5)}) + "\n")
    print(f"written to {options.out}")


def _measure(options: argparse.Namespace) -> None:
    from sdlora.mini.measure import load_vae, measure, reconstruction, write_table

    if options.vae:
        for row in reconstruction(load_vae(options.vae), options.examples):
            print(" | ".join(row), flush=True)
        return
    rows = []
    for row in measure(options.base, options.examples, options.prompts):
        print(" | ".join(row), flush=True)
        rows.append(row)
    write_table(options.base / "README.md", rows, datetime.date.today().isoformat())


def _classifier(options: argparse.Namespace) -> None:
    from sdlora.mini.classifier import write_classifier

    for step, loss in enumerate(write_classifier(options.out, options.scenes, options.epochs)):
        if step % 100 == 0:
            print(f"classifier: step {step}, loss {loss:.3f}", flush=True)
    print(f"written to {options.out}")


def _examples(options: argparse.Namespace) -> None:
    from sdlora.mini.examples import write_examples

    write_examples(options.out)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
