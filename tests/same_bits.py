"""Prove that a refactoring changed no bit: run the same commands on two revisions and compare what they made.

    python tests/same_bits.py BEFORE [AFTER]

BEFORE and AFTER are git revisions; without AFTER the working tree is compared. Trained tensors, losses, pixels, the settings
inside pictures, blended and exported files and reports must be equal; dates, durations and ids of runs may differ.
Compare on one machine with nothing else running: other machines and thread counts give other bits.
"""

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
PROMPT = "proofstyle, a (red house:1.2), meadow, at sunset"
GIVEN = " --json --seed 11"
TRAIN = "train {pictures}/%s --base mini --preset quick --trigger proofstyle --set steps=20" + GIVEN
PAIR = "first.safetensors:0.7 second.safetensors:0.5"
COMMANDS = {
    "train": TRAIN % "stained-glass" + " --name First --set sample_every=10 --out first.safetensors",
    "train another": TRAIN % "woodcut" + " --name Second --set rank=5 --set batch_size=3 --set min_snr_gamma=5 --set alpha=3"
                                         " --set file_dtype=fp32 --out second.safetensors",
    "draw": f"draw '{PROMPT}' --lora first.safetensors:0.9 --count 2 --steps 8 --out drawn" + GIVEN,
    "draw a schedule": f"draw '{PROMPT}' --lora 'first.safetensors:0.9,start=0.2,end=0.8' --sampler 'DPM++ 2M' --negative blue"
                       " --lora 'second.safetensors:0.6,blocks=style only' --steps 8 --out scheduled" + GIVEN,
    "draw over a picture": f"draw '{PROMPT}' --lora second.safetensors --init {{pictures}}/woodcut/{{picture}} --strength 0.6"
                           " --steps 8 --out over" + GIVEN,
    "grid": f"grid '{PROMPT}' --lora first.safetensors --x strength=0,1 --y seed=1,2 --steps 4 --out grid --json",
    "blend": f"blend {PAIR} --out blended.safetensors --json",
    "blend ties": f"blend {PAIR} --method ties --rank 8 --out ties.safetensors --json",
    "blend dare": f"blend {PAIR} --method dare --rank 8 --out dare.safetensors" + GIVEN,
    "export": "convert first.safetensors --to diffusers --out exported.safetensors --json",
    "back": "convert exported.safetensors --to kohya --strip --out back.safetensors --json",
    "resize": "resize first.safetensors --rank 4 --out smaller.safetensors --json",
    "inspect": "inspect blended.safetensors --base mini --json",
}
VOLATILE = re.compile(
    r"(?i)ss_session_id|ss_training_(started|finished)_at|modelspec\.date|sdlora_run|.*hash.*|.*version.*|run|run_id|id|when|date|at|time"
    r"|.*seconds.*|.*speed.*|eta|left|.*memory.*|.*bytes.*|.*per_second.*")


def steady(value):
    """Return a value without what differs from run to run: dates, durations, ids and the hashes of files that hold them."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, dict):
        return {key: steady(one) for key, one in value.items() if not VOLATILE.fullmatch(key)}
    return [steady(one) for one in value] if isinstance(value, list) else value


def numbers(value) -> list[float]:
    """Return the numbers of a printed line in order; its words may change."""
    if isinstance(value, dict | list):
        return [found for one in (value.values() if isinstance(value, dict) else value) for found in numbers(one)]
    return [value] if isinstance(value, int | float) else []


def differences(before, after, where: str) -> list[str]:
    """Return a line for each place where two values differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        return [line for name in names for line in differences(before.get(name), after.get(name), f"{where} / {name}")]
    if isinstance(before, bytes) and isinstance(after, bytes):
        return [] if before == after else [f"{where}: other bytes"]
    return [] if before == after else [f"{where}: {str(before)[:100]} became {str(after)[:100]}"]


def made_of(file: Path) -> object:
    """Return what a file holds, in a form that can be compared."""
    data = file.read_bytes()
    if file.suffix == ".safetensors":
        size = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:8 + size])
        return {"header": steady(header), "tensors": data[8 + size:]}
    if file.suffix == ".png":
        with Image.open(file) as picture:
            return {"size": picture.size, "pixels": picture.tobytes(), "info": steady({**picture.info})}
    return data


def outcome(checkout: Path, folder: Path) -> dict[str, object]:
    """Run every command of a checkout in `folder`; return exit codes, printed lines and files by name."""
    pictures = ROOT / "assets" / "examples"
    picture = next(iter(sorted((pictures / "woodcut").glob("*.jpg")) + sorted((pictures / "woodcut").glob("*.png")))).name
    found: dict[str, object] = {}
    for name, line in COMMANDS.items():
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line.format(pictures=pictures, picture=picture))]
        command = [sys.executable, "-m", "sdlora", *words]
        # a data folder for each: how many samples there is time for follows from speeds that were measured before
        home = folder / "home" / name.replace(" ", "-")
        environment = os.environ | {"PYTHONPATH": str(checkout), "SDLORA_HOME": str(home), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        printed = [steady(json.loads(one)) for one in done.stdout.split("\n") if one.startswith("{")]
        found[f"{name}: exit code"] = done.returncode
        found[f"{name}: printed"] = numbers(printed)
        print(f"  {name}: exit code {done.returncode}, {len(printed)} lines", flush=True)
        if done.returncode:
            print(done.stderr[-2000:])
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in (".safetensors", ".png") and file.is_file()]
    for file in files:
        if "home" not in file.relative_to(folder).parts:
            found[str(file.relative_to(folder))] = made_of(file)
    for file in sorted((folder / "home").glob("*/runs/*/samples/*.png")):
        found[f"{file.relative_to(folder / 'home').parts[0]}: sample {file.name}"] = made_of(file)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work, found = Path(temporary), []
        for side, revision in (("before", given.before), ("after", given.after)):
            checkout = work / "tree" / side if revision else ROOT
            if revision:
                subprocess.run(["git", "worktree", "add", "-q", "--detach", str(checkout), revision], cwd=ROOT, check=True)
            (work / "made").mkdir(exist_ok=True)
            folder = work / "made"
            print(f"{side}: {revision or 'the working tree'}", flush=True)
            try:
                found.append(outcome(checkout, folder))
            finally:
                if revision:
                    subprocess.run(["git", "worktree", "remove", "--force", str(checkout)], cwd=ROOT, check=True)
            folder.rename(work / side)
        different = differences(*found, "made")
    print("\n".join(f"DIFFERENT: {name}" for name in different) or f"the same bits: {len(found[0])} things compared")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())
