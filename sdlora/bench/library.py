"""How long the shelf takes with thousands of files: first scan, later start, search. Knows nothing about the command line.

The files are LoRAs in all that a scan looks at: names, shapes and formats of every module of SD 1.5 and SDXL as kohya writes
them, free text as long as kohya's, sidecars beside every third. Their tensors are holes, which take no room on the disk. One in
ten has ranks of its own for every module, as resized files have, so that its names must be parsed again; of the others ten
hard links lead to each file, which a scan cannot see: it opens and reads every one of them.
"""

import json
import math
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sdlora.errors import UserError
from sdlora.library.database import index_path
from sdlora.library.folders import add_folder
from sdlora.library.scan import scan_library
from sdlora.library.search import list_loras
from sdlora.lora.formats import dialects
from sdlora.lora.formats.module_tables import family_table
from sdlora.lora.formats.writing import header_bytes
from sdlora.processes import child_process
from sdlora.storage import home

NAMES_PER_FILE = 10
OWN_RANKS_EVERY = 10  # every tenth file
SIDECARS_EVERY = 3
PAGE = 60
SYLLABLES = "ka mi ro te lu sa vo ne ji pa do ri".split()
TRAINED = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "_proj", "fc1", "fc2")
KINDS = (("sd1", False), ("sd1", True), ("sdxl", False), ("sdxl", True))  # family, with text encoders
BYTES = {"F16": 2, "BF16": 2, "F32": 4}


@dataclass(frozen=True)
class Result:
    """Seconds, milliseconds and megabytes; `problems` counts files that could not be read (there should be none)."""
    files: int
    problems: int
    scan_s: float
    restart_s: float
    search_ms: float
    search_worst_ms: float
    page_ms: float
    scan_memory_mb: float
    restart_memory_mb: float
    index_mb: float
    files_mb: float


def measure(files: int = 10_000) -> Result:
    """Build `files` LoRA files in a temporary folder, scan them with a warm cache, start again and search; all is removed after.

    Every stage runs in a fresh process. Raises UserError when the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="sdlora-bench-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch, "models", "Lora")
        try:
            written = build(folder, files)
        except OSError as error:
            raise UserError(f"The test files could not be written ({error.strerror}).", "Free some disk space.") from error
        for path in folder.rglob("*.safetensors"):              # the warm cache
            with path.open("rb") as file:
                file.read(8 + int.from_bytes(file.read(8), "little"))
        scanned, again = (stage(name, Path(scratch, "home"), folder) for name in ("scan", "search"))
    return Result(scanned["files"], scanned["problems"], scanned["seconds"], again["seconds"], again["search_ms"],
                  again["worst_ms"], again["page_ms"], scanned["memory_mb"], again["memory_mb"], again["index_mb"], written / 1e6)


def stage(name: str, home_folder: Path, folder: Path) -> dict[str, Any]:
    """Run one stage in a process of its own, which gets the time of its start, and return what it measured."""
    command, options = child_process(["-m", "sdlora.bench.library", name, str(folder), str(time.time())])
    options["env"]["SDLORA_HOME"] = str(home_folder)
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"stage {name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().split("\n")[-1])


def build(folder: Path, files: int) -> int:
    """Write the files, the same ones every time; return the bytes of headers and sidecars."""
    rng = random.Random(1)
    written, number = 0, 0
    while number < files:
        family, text = KINDS[rng.randrange(len(KINDS))]
        own = number % OWN_RANKS_EVERY == 0
        first = None
        for _ in range(1 if own else min(NAMES_PER_FILE - 1, files - number)):
            name = " ".join("".join(rng.choices(SYLLABLES, k=3)) for _ in range(2))
            path = folder / f"set {number % 20:02}" / f"{name} {number}.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            if first is None:
                first, written = path, written + write(path, family, text, rng, own)
            else:
                path.hardlink_to(first)
            if number % SIDECARS_EVERY == 0:
                card = {"activation text": name.split()[0], "notes": f"from {name.title()}", "preferred weight": 0.8}
                written += path.with_suffix(".json").write_text(json.dumps(card), encoding="utf-8")
            number += 1
    return written


def write(path: Path, family: str, text: bool, rng: random.Random, own_ranks: bool) -> int:
    """Write one LoRA file whose tensors are a hole; return the bytes of its header."""
    dtype, rank = rng.choice(list(BYTES)), rng.choice((4, 8, 16, 32, 64, 128))
    metadata, entries, at = free_text(path.stem, family, rank, rng), {}, 0
    for name, shape in sorted(modules(family, text)):
        own_rank = rng.randint(1, rank) if own_ranks else rank
        ones = [1] * (len(shape) - 2)
        parts: tuple[tuple[str, list[int]], ...] = (
            ("alpha", []), ("lora_down.weight", [own_rank, shape[1], *ones]), ("lora_up.weight", [shape[0], own_rank, *ones]))
        for suffix, dims in parts:
            size = BYTES[dtype] * math.prod(dims)
            entries[f"{name}.{suffix}"] = {"dtype": dtype, "shape": dims, "data_offsets": [at, at + size]}
            at += size
    head = header_bytes(metadata, entries)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + at)
    return len(head)


def modules(family: str, text: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Return (kohya name, shape of the weight) of the modules that kohya trains: 192 or 264 of SD 1.5, 722 or 986 of SDXL."""
    return [(dialects.kohya_name(path, family), shape) for path, shape in family_table(family).items()
            if path.endswith(TRAINED) and (text or ":" not in path) and ".resnets." not in path and "add_embedding" not in path]


def free_text(name: str, family: str, rank: int, rng: random.Random) -> dict[str, str]:
    """Return metadata as kohya writes it: some sixty settings and the counts of some hundred tags."""
    counts = {"".join(rng.choices(SYLLABLES, k=3)): rng.randint(1, 99) for _ in range(300)}
    settings = {f"ss_setting_{number}": str(number) for number in range(50)}
    return settings | {"ss_output_name": name, "ss_base_model_version": "sd_v1" if family == "sd1" else "sdxl_base_v1-0",
                   "ss_network_dim": str(rank), "ss_tag_frequency": json.dumps({"10_set": counts}),
                   "modelspec.trigger_phrase": name.split()[-1], "modelspec.description": f"A style called {name}."}


def scan(folder: Path) -> dict[str, float]:
    """Time the first scan of all files."""
    began = time.perf_counter()
    add_folder(folder)
    for _ in scan_library():
        pass
    seconds = time.perf_counter() - began
    found = list_loras()
    return {"files": len(found), "problems": sum(bool(entry.problem) for entry in found), "seconds": seconds}


def search(began: float) -> dict[str, float]:
    """Time the first page after a start of Python, then searches as artists make them: parts of words, two words, filters."""
    list_loras(limit=PAGE)
    seconds = time.time() - began
    rng, times_ms = random.Random(2), []
    for number in range(100):
        word = "".join(rng.choices(SYLLABLES, k=3))
        query = (word[:2], word[:4], word, f"{word[:4]} {rng.choice(SYLLABLES)}", f"{word} {number}")[number % 5]
        at = time.perf_counter()
        list_loras(query, sort=rng.choice(("new", "name", "size")), limit=PAGE,
                   family="sdxl" if number % 4 == 0 else "")
        times_ms.append((time.perf_counter() - at) * 1000)
        time.sleep(0.005)                                       # lets the background scan go on
    at = time.perf_counter()
    list_loras(sort="name", limit=PAGE, offset=PAGE * 10)
    return {"seconds": seconds, "search_ms": median(times_ms), "worst_ms": max(times_ms),
            "page_ms": (time.perf_counter() - at) * 1000, "index_mb": index_path().stat().st_size / 1e6}


def memory_mb() -> float:
    """Return the peak memory of this process; 0 where the system does not report it."""
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    home()
    result = scan(Path(sys.argv[2])) if sys.argv[1] == "scan" else search(float(sys.argv[3]))
    sys.stdout.write(json.dumps(result | {"memory_mb": memory_mb()}) + "\n")
